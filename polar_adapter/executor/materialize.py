"""Turn a program into a model of its own: K layers, no executor, ``save_pretrained`` works."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from ..program import Program
from .apply import as_programs
from .remap import LAYER_INDEX_LISTS, gathered_lists, true_config
from .structure import INDEX_ATTRIBUTES, Decoder, find_decoder


def materialize(model: nn.Module, program: Program | Sequence[int], share_weights: bool = False) -> PreTrainedModel:
    """Build the unrolled model of a program.

    Args:
        model: The base. Merge adapters such as LoRA first.
        program: One program, or layer indices.
        share_weights: Use the base's own tensors instead of copies, as for an assistant in speculative decoding. Layers
            that repeat then stay tied, and training one model changes the other.

    Returns:
        A model of the base's class with K layers, whose k-th layer holds the weights of layer ``path[k]``.

    Raises:
        ProgramError: If the program does not fit the model.
        UnsupportedModelError: If the family's config cannot express these layers in this order.
    """
    decoder = find_decoder(model)
    (program,) = as_programs(program, decoder.num_layers)
    base = decoder.model
    config = true_config(base.config)
    for part in _matching_configs(config, decoder):
        _describe(part, program, decoder)
    with torch.device("meta"):
        unrolled = type(base)(config)
    new_layers = unrolled.get_submodule(decoder.layers_name)
    for slot, index in enumerate(program.path):
        _check_same_kind(nn.ModuleList.__getitem__(decoder.layers, index), new_layers[slot], index, slot)
    _fill(unrolled, decoder, program, share_weights)
    unrolled.tie_weights()
    unrolled.generation_config = copy.deepcopy(getattr(base, "generation_config", None))
    return unrolled.train(base.training)


def _matching_configs(config: PreTrainedConfig, decoder: Decoder) -> list[PreTrainedConfig]:
    """The parts of a copied config that describe the decoder."""
    parts = [config, *(v for v in config.__dict__.values() if isinstance(v, PreTrainedConfig))]
    return [part for part in parts if part.model_type == decoder.configs[0].model_type]


def _describe(config: PreTrainedConfig, program: Program, decoder: Decoder) -> None:
    lists = gathered_lists(config, program.path, decoder.num_layers)
    for key in decoder.depth_keys:
        if key in config.__dict__:
            setattr(config, key, program.depth)
    for name in LAYER_INDEX_LISTS:
        indices = getattr(config, name, None)
        if isinstance(indices, (list, tuple)) and not isinstance(getattr(type(config), name, None), property):
            setattr(config, name, [slot for slot, index in enumerate(program.path) if index in indices])
    for name, values in lists.items():
        if not isinstance(getattr(type(config), name, None), property):
            setattr(config, name, values)
        elif list(getattr(config, name)) != values:
            raise UnsupportedModelError(
                f"{type(config).__name__} derives {name} from the layer index by a formula, which cannot express program "
                f"'{program}'. Run it with apply_program instead."
            )


def _check_same_kind(layer: nn.Module, built: nn.Module, index: int, slot: int) -> None:
    """Compare a layer with what the family built at its new position: same tensors, same plain settings."""
    there, here = dict(built.named_modules()), dict(layer.named_modules())
    reason = None
    if there.keys() != here.keys():
        reason = f"modules {sorted(there.keys() ^ here.keys())[:4]} differ"
    for name in there.keys() & here.keys():
        ours, theirs = _settings(here[name]), _settings(there[name])
        if reason is None and ours != theirs:
            changed = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
            reason = f"{changed[:4]} of {name or 'the layer'} differ"
    if reason:
        raise UnsupportedModelError(
            f"layer {index} cannot stand at position {slot} of a {type(layer).__name__} stack: {reason}. Its family decides "
            "this by position. Run the program with apply_program instead."
        )


def _settings(module: nn.Module) -> dict[str, Any]:
    """What distinguishes two modules of one class: plain attributes and tensor shapes, but not position and mode."""
    bookkeeping = {*INDEX_ATTRIBUTES, "training", "gradient_checkpointing"}
    plain = {
        name: value
        for name, value in module.__dict__.items()
        if isinstance(value, (bool, int, float, str)) and name not in bookkeeping and not name.startswith("_")
    }
    shapes = {n: tuple(t.shape) for n, t in (*module._parameters.items(), *module._buffers.items()) if t is not None}
    return plain | shapes | {"class": type(module).__qualname__}


def _fill(unrolled: PreTrainedModel, decoder: Decoder, program: Program, share_weights: bool) -> None:
    """Give every tensor of the new model its value: from layer ``path[k]`` in layer k, from its namesake elsewhere."""
    prefix = decoder.layers_name + "."
    for name, module in unrolled.named_modules():
        source_name = name
        if name.startswith(prefix):
            slot, _, rest = name[len(prefix) :].partition(".")
            source_name = f"{prefix}{program.path[int(slot)]}" + (f".{rest}" if rest else "")
        source = decoder.model.get_submodule(source_name)
        for kind in ("_parameters", "_buffers"):
            ours, theirs = getattr(module, kind), getattr(source, kind)
            if ours.keys() != theirs.keys():
                raise UnsupportedModelError(
                    f"module {source_name} holds {sorted(theirs)} where the family's own has {sorted(ours)}. "
                    "Merge or unload adapters and dequantise before materialising."
                )
            for key, tensor in theirs.items():
                ours[key] = tensor if share_weights or tensor is None else _copy(tensor)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    copied = tensor.detach().clone()
    return nn.Parameter(copied, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied
