"""Make a config describe the K steps of a program instead of the D layers of its model.

``generate()``, caches and masks read depth and per-layer settings from the config. While a program is active the live
config objects are changed in place: the depth becomes K and every per-layer list is gathered through the program. What a
config *serialises* stays true throughout: ``save_pretrained`` in the middle of a program writes the D-layer model.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from transformers import PreTrainedConfig

PER_LAYER_LISTS = (
    "activation_sparsity_pattern",
    "attention_layers",
    "indexer_types",
    "kv_sharing_modes",
    "layer_rope_theta",
    "layer_types",
    "layers_block_type",
    "layers_num_experts",
    "mlp_layer_types",
    "moe_topk",
    "no_rope_layers",
    "num_attention_heads_per_layer",
    "num_key_value_heads_per_layer",
    "sliding_windows",
    "swiglu_limits",
    "swiglu_limits_shared",
)
"""Config attributes with one entry per layer. Known by name: a list that happens to have D entries may mean something else."""

_SAVED = "_polar_original"


class _Absent:
    """Stands for an attribute that the config did not have. A class, because deepcopy leaves classes as they are."""


def original_value(config: PreTrainedConfig, key: str) -> Any:
    """What the config says when no program is active."""
    saved = config.__dict__.get(_SAVED, {})
    if saved.get(key) is _Absent:  # a property, which derives it from values that are now remapped
        return getattr(true_config(config), key)
    return saved[key] if key in saved else getattr(config, key)


def gathered(config: PreTrainedConfig, path: Sequence[int], num_layers: int) -> dict[str, Any]:
    """What the config says of every single layer, gathered through a program."""
    values: dict[str, Any] = {}
    for name in PER_LAYER_LISTS:
        entries = getattr(config, name, None)
        if isinstance(entries, (list, tuple)) and len(entries) == num_layers:
            values[name] = [entries[index] for index in path]
    if (spec := config.__dict__.get("_heterogeneity_spec")) is not None:
        overrides = spec.per_layer_overrides
        moved = {slot: overrides[index] for slot, index in enumerate(path) if index in overrides}
        values["_heterogeneity_spec"] = dataclasses.replace(spec, per_layer_overrides=moved)
    return values


def nested_configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A config and all configs inside it."""
    yield config
    for value in config.__dict__.values():
        if isinstance(value, PreTrainedConfig):
            yield from nested_configs(value)


def remap_config(config: PreTrainedConfig, path: Sequence[int], num_layers: int, depth_keys: Sequence[str]) -> None:
    """Describe the steps of ``path`` in place. :func:`restore_config` undoes it.

    Args:
        config: A config that describes ``num_layers`` layers. One that is remapped already is left alone.
        path: Layer index of every step.
        num_layers: Depth D.
        depth_keys: Attributes that hold the depth.
    """
    if _SAVED in config.__dict__:
        return
    changes = gathered(config, path, num_layers)
    changes |= {key: len(path) for key in depth_keys if key in config.__dict__}
    # A property that derives its list from the depth cannot be assigned: a subclass answers in its place.
    derived = tuple(name for name in changes if isinstance(getattr(type(config), name, None), property))
    saved = {name: config.__dict__.get(name, _Absent) for name in changes}
    saved["__class__"] = type(config)
    config.__dict__[_SAVED] = saved  # first: from here on restore_config can undo
    config_class: Any = type(config)
    config.__class__ = _remapped_class(config_class, derived)
    config.__dict__.update(changes)


def restore_config(config: PreTrainedConfig) -> None:
    """Undo :func:`remap_config`, exactly. A config that describes its model is left alone."""
    saved = config.__dict__.get(_SAVED, {})
    for name, value in saved.items():
        if name == "__class__":
            config.__class__ = value
        elif value is _Absent:
            config.__dict__.pop(name, None)
        elif name in config.__dict__:  # get_text_config() renames attributes of a copy
            config.__dict__[name] = value
    config.__dict__.pop(_SAVED, None)


def true_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """An independent copy that describes the D layers, whether or not a program is active."""
    duplicate = copy.deepcopy(config)
    for part in nested_configs(duplicate):
        restore_config(part)
    return duplicate


@cache
def _remapped_class(config_class: type[PreTrainedConfig], derived: tuple[str, ...]) -> type:
    """A subclass of a config class that answers ``derived`` properties from ``__dict__`` and serialises what it was."""

    def to_dict(self) -> dict[str, Any]:
        if _SAVED not in self.__dict__:
            return config_class.to_dict(self)
        return true_config(self).to_dict()

    def stored(name: str) -> property:
        return property(lambda self: self.__dict__[name])

    namespace: dict[str, Any] = {name: stored(name) for name in derived}
    namespace |= {
        "to_dict": to_dict,
        "__module__": config_class.__module__,
        "__qualname__": config_class.__qualname__,
        "__doc__": config_class.__doc__,
    }
    return type(config_class.__name__, (config_class,), namespace)
