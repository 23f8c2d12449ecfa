"""A tiny routed model whose router has something to say."""

from __future__ import annotations

import torch
from families import build_model
from torch import Tensor, nn

from polar_adapter import PolarConfig, get_polar_model

MENU = ["0-3", "0-2x2 3-5", "0-1 4-5", "0-4 5x3"]


def tiny_base(family: str = "llama") -> nn.Module:
    return build_model(family, num_layers=6)


def config(**changes) -> PolarConfig:
    return PolarConfig(**{"menu": MENU, "router_dim": 32, **changes})


def opinionated(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random router weights under which prompts get different programs; deterministic."""
    model.eval()
    for attempt in range(100):
        torch.manual_seed(100 * seed + attempt)
        for name, parameter in model.named_parameters():
            if "polar_networks" in name and parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.5)
        if len({row[0].program for row in model.route(**prompts())}) >= 3:
            return model
    raise AssertionError("no random router chooses three different programs")


def routed(seed: int = 3, **changes) -> nn.Module:
    return opinionated(get_polar_model(tiny_base(), config(**changes)), seed)


def prompts(rows: int = 6, length: int = 7, seed: int = 0) -> dict[str, Tensor]:
    """Left-padded prompts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(1, 60, (rows, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    for row in range(rows):
        attention_mask[row, : row % 4] = 0
    return {"input_ids": input_ids * attention_mask, "attention_mask": attention_mask}
