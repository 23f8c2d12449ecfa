"""Turn a program into a model of its own: K layers, no executor, ``save_pretrained`` works."""

from __future__ import annotations

import copy
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import ProgramError, UnsupportedModelError
from ..program import Program
from .apply import ProgramLike, as_programs
from .remap import gathered, nested_configs, true_config
from .structure import INDEX_ATTRIBUTES, Decoder, find_decoder

LAYER_INDEX_LISTS = ("mlp_only_layers", "moe_layers", "attn_layer_indices", "full_attn_idxs", "cross_layers")
"""Config attributes that list layers of one kind."""

LEADING_LAYERS = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
"""Config attributes that count layers of one kind before all others."""


def materialize(model: nn.Module, program: ProgramLike, share_weights: bool = False) -> PreTrainedModel:
    """Build the unrolled model of a program.

    Args:
        model: The base. Merge adapters such as LoRA first.
        program: One program, its text form, or layer indices.
        share_weights: Use the base's own tensors instead of copies, as for an assistant in speculative decoding. Layers
            that repeat then stay tied, and training one model changes the other.

    Returns:
        A model of the base's class with K layers, whose k-th layer holds the weights of layer ``path[k]``. It saves and
        loads like any model.

    Raises:
        ProgramError: If the program does not fit the model.
        UnsupportedModelError: If the family's config cannot express these layers in this order.
    """
    decoder = find_decoder(model)
    programs = as_programs(program, decoder.num_layers)
    if len(programs) > 1:
        raise ProgramError(f"{len(programs)} programs were given; a model of its own is built from one program.")
    program = programs[0]
    config = _describe(decoder, program)
    with torch.device("meta"):
        unrolled = type(decoder.model)(config)
    built = unrolled.get_submodule(decoder.layers_name)._modules
    for slot, index in enumerate(program.path):
        _check_same_kind(decoder.layers[index], built[str(slot)], index, slot)
    _fill(unrolled, decoder, program, share_weights)
    unrolled.tie_weights()
    if decoder.model.can_generate():
        unrolled.generation_config = copy.deepcopy(decoder.model.generation_config)
    return unrolled.train(decoder.model.training)


def _describe(decoder: Decoder, program: Program) -> PreTrainedConfig:
    """A config of the program's K layers, which reads the same after it was saved."""
    config = true_config(decoder.model.config)
    for part in nested_configs(config):
        if part.model_type == decoder.configs[0].model_type:
            _change(part, decoder, program)
    try:
        kept = type(config).from_dict(config.to_dict()).to_dict()
    except (ValueError, StrictDataclassError) as error:
        raise UnsupportedModelError(
            f"{type(config).__name__} does not allow the layers of program '{program}': {error} "
            "Run it with apply_program instead."
        ) from error
    if changed := sorted(name for name, value in config.to_dict().items() if kept.get(name) != value):
        raise UnsupportedModelError(
            f"{type(config).__name__} would change {', '.join(changed)} when the layers of program '{program}' are saved "
            "and loaded. Run it with apply_program instead."
        )
    return config


def _change(config: PreTrainedConfig, decoder: Decoder, program: Program) -> None:
    """Make a config of the base's D layers one of the program's."""
    path, own = program.path, config.__dict__
    values = gathered(config, path, decoder.num_layers)
    # An encoder may have its depth under one of the other keys.
    for key in decoder.depth_keys[:1] if config.is_encoder_decoder else decoder.depth_keys:
        if key in own:
            setattr(config, key, program.depth)
    for name in LAYER_INDEX_LISTS:
        if isinstance(own.get(name), (list, tuple)):
            setattr(config, name, [slot for slot, index in enumerate(path) if index in own[name]])
    for name in LEADING_LAYERS:
        if isinstance(own.get(name), int):
            setattr(config, name, sum(index < own[name] for index in path))
    if "attention_types" in own:  # of which gpt_neo derives attention_layers
        config.attention_types = [[[kind], 1] for kind in values["attention_layers"]]
    for name, value in values.items():
        if not isinstance(getattr(type(config), name, None), property):
            setattr(config, name, value)
        elif list(getattr(config, name)) != value:
            raise UnsupportedModelError(
                f"{type(config).__name__} derives {name} from the layer index by a formula, which cannot express program "
                f"'{program}'. Run it with apply_program instead."
            )


def _check_same_kind(layer: nn.Module, built: nn.Module | None, index: int, slot: int) -> None:
    """Compare a layer with what the family built at its new position: the same modules, tensors and plain settings."""
    here, there = dict(layer.named_modules()), dict(built.named_modules()) if built is not None else {}
    if differing := sorted(here.keys() ^ there.keys()):
        reason = f"only one of them has {', '.join(differing[:4])}"
    else:
        changed = [f"{name}.{key}".lstrip(".") for name in here for key in _differences(here[name], there[name])]
        reason = f"{', '.join(changed[:4])} would change" if changed else ""
    if reason:
        raise UnsupportedModelError(
            f"layer {index} is not what {type(layer).__name__} is at position {slot}: {reason}. Either its family decides "
            "that by position, then run the program with apply_program instead; or adapters or quantisation changed the "
            "layer, then merge or undo them first."
        )


def _differences(one: nn.Module, other: nn.Module) -> list[str]:
    ours, theirs = _settings(one), _settings(other)
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


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
