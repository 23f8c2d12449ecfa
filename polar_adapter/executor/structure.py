"""Find the decoder's layer list and the configs that describe it, or say why the model cannot be served.

Nothing here looks at a model's name: support is a matter of structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError

INDEX_ATTRIBUTES = ("layer_idx", "layer_id")
"""Names under which a layer's modules remember their position, which is also their cache slot."""


@dataclass(frozen=True)
class Decoder:
    """Where a model keeps the layers that programs choose from.

    Attributes:
        model: The transformers model, unwrapped.
        layers: Its list of D decoder layers.
        layers_name: Dotted name of that list inside ``model``.
        configs: Every live config object that states the decoder's depth.
        depth_keys: Names under which those configs keep the depth.
    """

    model: PreTrainedModel
    layers: nn.ModuleList
    layers_name: str
    configs: tuple[PreTrainedConfig, ...]
    depth_keys: tuple[str, ...]

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
    is_encoder_decoder = bool(getattr(base.config, "is_encoder_decoder", False))
    config = base.config if is_encoder_decoder else base.config.get_text_config(decoder=True)
    depth_keys = _depth_keys(config, is_encoder_decoder)
    root = base.get_decoder() if hasattr(base, "get_decoder") else base
    stacks = [(n, m) for n, m in base.named_modules() if isinstance(m, nn.ModuleList) and _is_inside(m, root)]
    # Lists within lists (a layer's experts, say) are not stacks of layers.
    outermost = [(n, m) for n, m in stacks if not any(n.startswith(f"{other}.") for other, _ in stacks if other != n)]
    depth = _true_depth(config, depth_keys[0])
    found = [(n, m) for n, m in outermost if len(m) == depth]
    if len(found) != 1:
        seen = ", ".join(f"{n} ({len(m)})" for n, m in outermost) or "none"
        raise UnsupportedModelError(
            f"{name} states {depth} decoder layers in config.{depth_keys[0]}, but {len(found)} of its module lists have "
            f"that length (lists found: {seen}). A program needs exactly one list of layers to choose from."
        )
    layers_name, layers = found[0]
    if reason := _why_unsupported(config, layers):
        raise UnsupportedModelError(f"{name} cannot run programs exactly: {reason}")
    return Decoder(base, layers, layers_name, _live_configs(base, config, is_encoder_decoder), depth_keys)


def _is_inside(module: nn.Module, root: nn.Module) -> bool:
    return any(module is other for other in root.modules())


def _depth_keys(config: PreTrainedConfig, is_encoder_decoder: bool) -> tuple[str, ...]:
    """Attribute names that hold the decoder's depth, as stored in the config's ``__dict__``."""
    mapped = config.attribute_map
    if not is_encoder_decoder:
        return (mapped.get("num_hidden_layers", "num_hidden_layers"),)
    names = [n for n in ("num_decoder_layers", "decoder_layers") if hasattr(config, n)]
    if not names:
        raise UnsupportedModelError(f"{type(config).__name__} does not say how many decoder layers the model has.")
    # T5's decoder stack reads num_layers from its own copy of the config.
    return tuple(dict.fromkeys(mapped.get(n, n) for n in (*names, "num_layers") if hasattr(config, n)))


def _true_depth(config: PreTrainedConfig, key: str) -> int:
    from .remap import original_value

    return original_value(config, key)


def _live_configs(base: PreTrainedModel, config: PreTrainedConfig, is_encoder_decoder: bool) -> tuple:
    """The text config, and every other copy of it that a module of the decoder holds."""
    holders = base.get_decoder().modules() if is_encoder_decoder else base.modules()
    candidates = [config, *(getattr(module, "config", None) for module in holders)]
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
