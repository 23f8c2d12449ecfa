"""The one module an adapter adds to a model: its routers, by adapter name."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ..config import PolarConfig
from ..executor import Decoder
from ..routers import ROUTERS, Router, RoutingOptions
from .encoders import PromptEncoder, build_encoder


class RouterLayer(nn.Module, BaseTunerLayer):
    """Holds the router networks of a model's adapters. It is never called; the routed model asks it for programs.

    Args:
        decoder: The decoder of the model the routers read prompts for.
    """

    adapter_layer_names = ("polar_networks",)

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.polar_networks = nn.ModuleDict()
        self.configs: dict[str, PolarConfig] = {}
        # Neither the base nor a text encoder may become a child: every registered tensor would be saved.
        self.decoder = decoder
        self.encoders: dict[str, PromptEncoder] = {}

    def add_adapter(self, adapter_name: str, config: PolarConfig) -> None:
        """Create an adapter's router.

        Args:
            adapter_name: Its name.
            config: A config resolved to the base's depth.
        """
        encoder = build_encoder(config, self.decoder.model)
        config.feature_size = encoder.feature_size
        self.encoders[adapter_name] = encoder
        self.configs[adapter_name] = config
        self.polar_networks[adapter_name] = ROUTERS[config.router_type](config)
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter's router. See PEFT."""
        super().delete_adapter(adapter_name)
        self.configs.pop(adapter_name, None)
        self.encoders.pop(adapter_name, None)

    @property
    def active_name(self) -> str | None:
        """The adapter that routes, or None if none does."""
        names = [name for name in self.active_adapters if name in self.polar_networks]
        return names[0] if names and not self.disable_adapters else None

    @property
    def active_config(self) -> PolarConfig:
        """Config of the active adapter."""
        return self.configs[self.active_name]  # type: ignore[index]

    @property
    def active_router(self) -> Router:
        """Network of the active adapter."""
        return self.polar_networks[self.active_name]  # type: ignore[index, return-value]

    def options(self, overrides: dict[str, Any]) -> RoutingOptions:
        """The config's way to choose, with the arguments of this call on top."""
        names = ("cost_weight", "identity_margin", "max_depth")
        return RoutingOptions(**{name: overrides.get(name, getattr(self.active_config, name)) for name in names})

    def logits(self, prompt: Tensor, prompt_mask: Tensor) -> Tensor:
        """Read prompts with the active adapter.

        Args:
            prompt: Token ids (batch, tokens) or embeddings (batch, tokens, hidden).
            prompt_mask: True on the prompt's tokens, (batch, tokens).

        Returns:
            The router's logits, (batch, …).
        """
        encoder = self.encoders[self.active_name]  # type: ignore[index]
        prompt, prompt_mask = last_tokens(prompt, prompt_mask, self.active_config.max_prompt_tokens)
        if not self.active_router.reads_prompt:
            return self.active_router(prompt.new_zeros(*prompt.shape[:2], 1, dtype=torch.float32), prompt_mask)
        with torch.no_grad():
            features, features_mask = encoder.encode(prompt, prompt_mask)
        weight = next(self.active_router.parameters())
        return self.active_router(features.to(weight.device), features_mask.to(weight.device))

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        network = self.polar_networks[adapter_name]
        home = device or next(self.decoder.model.get_input_embeddings().parameters()).device
        if home.type != "meta" and not any(parameter.is_meta for parameter in network.parameters()):
            network.to(home)


def last_tokens(prompt: Tensor, mask: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Pack each row's last ``limit`` prompt tokens to the left, so that padding and answers leave no trace.

    Args:
        prompt: (batch, tokens, …).
        mask: True on the prompt's tokens, (batch, tokens).
        limit: Most tokens to keep.

    Returns:
        The packed prompt (batch, kept, …) and its mask (batch, kept); at least one column.
    """
    mask = mask.bool()
    from_end = mask.flip(1).long().cumsum(1).flip(1)  # 1 on the last prompt token, 2 on the one before, …
    mask = mask & (from_end <= limit)
    width = max(int(mask.sum(1).max()), 1)
    order = torch.argsort((~mask).long(), dim=1, stable=True)[:, :width]
    packed_mask = mask.gather(1, order)
    index = order.view(*order.shape, *[1] * (prompt.dim() - 2)).expand(-1, -1, *prompt.shape[2:])
    return prompt.gather(1, index), packed_mask
