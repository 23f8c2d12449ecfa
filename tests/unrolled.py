"""The reference of every exactness test: a program's model, built without the package under test.

A fresh model of K layers is built from a fresh config and its k-th layer loads the weights of the base's layer
``path[k]``, strictly. What a program computes must equal what this model computes.
"""

from __future__ import annotations

import copy
import re

import torch
from tiny import Family, Path
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel


def build_unrolled(family: Family, base: PreTrainedModel, path: Path, num_layers: int) -> PreTrainedModel:
    """Build the unrolled model of a program.

    Args:
        family: How to make configs of the base's family.
        base: The base, whose weights are read.
        path: The program.
        num_layers: Depth of the base.
    """
    config = family.config(path)
    unrolled = family.model_type(config)(config).eval()
    prefix = layer_prefix(base, num_layers)
    layers = unrolled.get_submodule(prefix)
    if family.by_position:
        _place_by_kind(layers, family, path, num_layers, prefix, config)

    weights: dict[str, dict[str, torch.Tensor]] = {str(index): {} for index in range(num_layers)}
    outside = {}
    for name, tensor in base.state_dict().items():
        if name.startswith(prefix + "."):
            index, _, rest = name[len(prefix) + 1 :].partition(".")
            weights[index][rest] = tensor
        else:
            outside[name] = tensor
    for slot, index in enumerate(path):
        layers[slot].load_state_dict(weights[str(index)], strict=True)
    missing, unexpected = unrolled.load_state_dict(outside, strict=False)
    assert not unexpected
    assert all(name.startswith(prefix + ".") for name in missing)
    unrolled.generation_config = copy.deepcopy(base.generation_config)
    if family.cache_depth_key:
        setattr(config, family.cache_depth_key, len(path))
    return unrolled


def layer_prefix(model: PreTrainedModel, num_layers: int) -> str:
    """Dotted name of the decoder's layers: the outermost numbered modules of which there are ``num_layers``.

    The vision towers of the tests have another depth than the decoder; encoders go by their name.
    """
    numbers: dict[str, set[int]] = {}
    for name in model.state_dict():
        if (match := re.match(r"(.*?)\.(\d+)\.", name)) and not re.match(r"(model\.)?encoder\.", name):
            numbers.setdefault(match[1], set()).add(int(match[2]))
    (prefix,) = [name for name, found in numbers.items() if found == set(range(num_layers))]
    return prefix


def _place_by_kind(
    layers: nn.ModuleList, family: Family, path: Path, num_layers: int, prefix: str, config: PreTrainedConfig
) -> None:
    """Replace layers by those that the family builds at their position in the base, renumbered.

    For families that decide by position what a layer is ("the first two are dense").
    """
    base_config = family.config(range(num_layers))
    donors = family.model_type(base_config)(base_config).eval().get_submodule(prefix)
    for slot, index in enumerate(path):
        layers[slot] = copy.deepcopy(donors[index])
        for module in layers[slot].modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = slot
            if isinstance(getattr(module, "config", None), PreTrainedConfig):
                module.config = config
