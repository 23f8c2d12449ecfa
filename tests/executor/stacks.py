"""Models, programs and inputs that the executor's tests share."""

from __future__ import annotations

from functools import cache

import torch
from families import FAMILIES, build_model
from transformers import PreTrainedModel
from unrolled import build_unrolled

NUM_LAYERS = 6
FAMILY_NAMES = ("llama", "gemma2", "qwen2_moe")
"""A plain decoder, one whose layers alternate between a window of 4 tokens and all, and a mixture of experts."""

REPEAT_AND_SKIP = (0, 1, 2, 1, 2, 3, 5)
REORDER = (5, 0, 2, 2, 4, 1, 1, 3)
ONE_LAYER = (3,)
SAME_DEPTH = (0, 2, 2, 3, 5, 4)
PROGRAMS = (REPEAT_AND_SKIP, REORDER, ONE_LAYER, SAME_DEPTH)


@cache
def base_model(family: str) -> PreTrainedModel:
    """A base that no test may change."""
    return build_model(family, num_layers=NUM_LAYERS)


@cache
def unrolled_model(family: str, path: tuple[int, ...]) -> PreTrainedModel:
    """The reference of a program of :func:`base_model`."""
    return build_unrolled(FAMILIES[family], base_model(family), path, NUM_LAYERS)


def prompts(rows: int = 3, tokens: int = 7, seed: int = 0) -> torch.Tensor:
    """Token ids without padding, (rows, tokens)."""
    return torch.randint(1, 64, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def run_seeded(function, *args):
    """Call a function with the same random stream every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return function(*args)


def snapshot(model: PreTrainedModel) -> dict:
    """All that a program touches while it is active; by identity, where another object would be a trace."""
    modules = dict(model.named_modules())
    return {
        "parameters": {name: tensor.data_ptr() for name, tensor in model.state_dict().items()},
        "modules": {name: (id(module), type(module)) for name, module in modules.items()},
        "attributes": {name: _by_identity(module.__dict__) for name, module in modules.items()},
        "hooks": {name: list(module._forward_pre_hooks) for name, module in modules.items()},
        "loops": {name: list(map(id, m)) for name, m in modules.items() if isinstance(m, torch.nn.ModuleList)},
        "config": (type(model.config), _by_identity(model.config.__dict__), model.config.to_dict()),
    }


def _by_identity(attributes: dict) -> dict:
    return {name: id(value) for name, value in attributes.items()}
