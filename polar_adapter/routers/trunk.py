"""The network under every learned router: one query per decoder layer reads the prompt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..config import PolarConfig


class LayerQueryTrunk(nn.Module):
    """Layer queries, cross-attention to the prompt, and a small transformer over layer positions.

    The body of the prediction network of arXiv:2606.06574, Sec. 3.2: features are projected to ``router_dim``; D
    learned queries attend to them; ``router_blocks`` transformer blocks relate the layers to each other. Unlike the
    paper's encoder, token embeddings do not know their place, so with ``encoder="base"`` positions are added.

    Args:
        config: A resolved config.
    """

    def __init__(self, config: PolarConfig) -> None:
        super().__init__()
        dim, heads = config.router_dim, config.router_heads
        assert config.feature_size is not None
        assert config.num_layers is not None
        self.adds_positions = config.encoder == "base"
        self.project = nn.Sequential(nn.LayerNorm(config.feature_size), nn.Linear(config.feature_size, dim))
        self.queries = nn.Parameter(torch.randn(config.num_layers, dim) * dim**-0.5)
        self.cross_attention = nn.MultiheadAttention(dim, heads, dropout=config.router_dropout, batch_first=True)
        block = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, config.router_dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(
            block, config.router_blocks, norm=nn.LayerNorm(dim), enable_nested_tensor=False
        )

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Read prompts.

        Args:
            features: (batch, tokens, feature_size), any float dtype.
            mask: True on real tokens, (batch, tokens); at least one per row.

        Returns:
            State of every layer, (batch, layers, router_dim).
        """
        tokens = self.project(features.to(self.queries.dtype))
        if self.adds_positions:
            positions = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
            tokens = tokens + sinusoids(positions, tokens.shape[-1]).to(tokens.dtype)
        queries = self.queries.expand(len(tokens), -1, -1)
        read, _ = self.cross_attention(queries, tokens, tokens, key_padding_mask=~mask, need_weights=False)
        return self.blocks(queries + read)


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Sine and cosine position features, (…, dim), for integer positions (…)."""
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-math.log(10_000.0) / dim))
    angles = positions.unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
