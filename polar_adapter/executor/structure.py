"""Find the decoder's layer list and the configs that describe it, or say why the model cannot be served.

Nothing here looks at a model's name: support is a matter of structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from .loop import INDEX_ATTRIBUTES, Loop, every_module, read_loop
from .remap import original_value
from .syntax import ReadingError

__all__ = ["INDEX_ATTRIBUTES", "Decoder", "find_decoder", "unwrap"]


@dataclass(frozen=True)
class Decoder:
    """Where a model keeps the layers that programs choose from.

    Attributes:
        model: The transformers model, unwrapped.
        layers: Its list of D decoder layers.
        layers_name: Dotted name of that list inside ``model``.
        configs: Every live config object that states the decoder's depth.
        depth_keys: Names under which those configs keep the depth.
        loop: What its own code does with the layers.
    """

    model: PreTrainedModel
    layers: nn.ModuleList
    layers_name: str
    configs: tuple[PreTrainedConfig, ...]
    depth_keys: tuple[str, ...]
    loop: Loop

    @property
    def owner(self) -> nn.Module:
        """The module that holds the layer list and loops over it."""
        return self.model.get_submodule(self.layers_name.rpartition(".")[0])

    @property
    def num_layers(self) -> int:
        """Depth D of the base, whether or not a program is active."""
        return len(self.layers)


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside PEFT, DistributedDataParallel or torch.compile wrappers."""
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        if hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        elif isinstance(getattr(inner, "module", None), nn.Module):
            inner = inner.module
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        else:
            raise UnsupportedModelError(
                f"programs run inside transformers models, but this is a {type(model).__name__}. "
                "Pass a PreTrainedModel, or a PEFT or DistributedDataParallel wrapper around one."
            )
    return inner


def find_decoder(model: nn.Module | Decoder) -> Decoder:
    """Locate the decoder stack of a transformers model.

    Args:
        model: A ``PreTrainedModel``, possibly wrapped; or a decoder found before, which is returned.

    Raises:
        UnsupportedModelError: If no unambiguous layer list exists, or its layers cannot be reordered exactly.
    """
    if isinstance(model, Decoder):
        return model
    base = unwrap(model)
    name = type(base).__name__
    config = _decoder_config(base.config)
    is_encoder_decoder = bool(getattr(base.config, "is_encoder_decoder", False))
    depth_keys = _depth_keys(config)
    depth = original_value(config, depth_keys[0])
    layers_name = _find_layers(base, depth, depth_keys[0], is_encoder_decoder)
    layers = base.get_submodule(layers_name)
    assert isinstance(layers, nn.ModuleList)
    if reason := _why_unsupported(config, layers):
        raise UnsupportedModelError(f"{name} cannot run programs exactly: {reason}")
    owner_name, _, list_name = layers_name.rpartition(".")
    try:
        loop = read_loop(base.get_submodule(owner_name), list_name, getattr(config, depth_keys[0]))
    except ReadingError as reading:
        raise UnsupportedModelError(f"{name} cannot run programs exactly: {reading}") from reading
    configs = _live_configs(base, config, is_encoder_decoder)
    return Decoder(base, layers, layers_name, configs, depth_keys, loop)


def _decoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The live config that describes the decoder: a nested one, or the whole."""
    nested = config.get_text_config(decoder=True)
    # A flat config of an encoder-decoder model answers with a copy.
    return nested if any(value is nested for value in config.__dict__.values()) else config


def _find_layers(base: PreTrainedModel, depth: int, depth_key: str, is_encoder_decoder: bool) -> str:
    """Name of the one list that holds as many layers as the config says."""
    root = base.get_decoder() if hasattr(base, "get_decoder") else base
    lists = _outermost_lists(base, root)
    if not lists and not is_encoder_decoder:
        lists = _outermost_lists(base, base)  # some models call their output head "decoder"
    found = [name for name, length in lists.items() if length == depth]
    if len(found) != 1:
        seen = ", ".join(f"{name} ({length})" for name, length in lists.items()) or "none"
        raise UnsupportedModelError(
            f"{type(base).__name__} states {depth} decoder layers in config.{depth_key}, but {len(found)} of its module "
            f"lists have that length (lists found: {seen}). A program needs exactly one list of layers to choose from."
        )
    return found[0]


def _outermost_lists(base: PreTrainedModel, root: nn.Module) -> dict[str, int]:
    """Lengths of the module lists inside ``root``, except lists within lists: a layer's experts are no layers."""
    lists: dict[int, tuple[str, int]] = {}
    pending: list[tuple[str, nn.Module, bool]] = [("", base, base is root)]
    for name, module, inside in pending:
        if isinstance(module, nn.ModuleList):
            if inside:
                lists.setdefault(id(module), (name, len(module)))
            continue
        for child_name, child in module._modules.items():
            if child is not None:
                pending.append((f"{name}.{child_name}".lstrip("."), child, inside or child is root))
    return dict(lists.values())


def _depth_keys(config: PreTrainedConfig) -> tuple[str, ...]:
    """Attribute names that hold the decoder's depth, as stored in the config's ``__dict__``; the first one is right.

    A decoder cut out of an encoder-decoder model has its depth in ``decoder_layers``, while ``num_hidden_layers``, from
    which caches are sized, is another name of the encoder's.
    """
    names = [n for n in ("num_decoder_layers", "decoder_layers", "decoder_num_hidden_layers") if hasattr(config, n)]
    # T5's decoder stack reads num_layers from its own copy of the config.
    also = "num_layers" if names and config.is_encoder_decoder else "num_hidden_layers"
    if hasattr(config, also):
        names.append(also)
    if not names:
        raise UnsupportedModelError(f"{type(config).__name__} does not say how many decoder layers the model has.")
    return tuple(dict.fromkeys(config.attribute_map.get(name, name) for name in names))


def _live_configs(base: PreTrainedModel, config: PreTrainedConfig, is_encoder_decoder: bool) -> tuple:
    """The text config, and every other copy of it that a module of the decoder holds."""
    holders = every_module(base.get_decoder() if is_encoder_decoder else base)
    candidates = [config, *(module.__dict__.get("config") for module in holders)]
    alike = [c for c in candidates if isinstance(c, PreTrainedConfig) and c.model_type == config.model_type]
    return tuple({id(c): c for c in alike}.values())


def _why_unsupported(config: PreTrainedConfig, layers: nn.ModuleList) -> str | None:
    """The structural reason why this stack cannot be reordered, or None."""
    if getattr(config, "hidden_size_per_layer_input", None):
        return "every layer receives an extra input computed for its position (hidden_size_per_layer_input)."
    if getattr(config, "num_kv_shared_layers", None) or "reuse" in (getattr(config, "kv_sharing_modes", None) or ()):
        return "some layers read the keys and values of other layers (num_kv_shared_layers)."
    if getattr(config, "cross_attention_layers", None):
        return "its forward pass handles cross-attention layers by position (cross_attention_layers)."
    if len({id(layer) for layer in layers._modules.values()}) != len(layers):
        return "the same layer object stands in its layer list more than once."
    return None
