"""The static router: one program for every prompt. It covers pruned, looped and hand-written programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import ConfigError
from .base import RoutedProgram, Router, RoutingOptions

if TYPE_CHECKING:
    from ..config import PolarConfig


class StaticRouter(Router):
    """Always the same program; nothing to learn.

    Args:
        config: A resolved config with one program in its menu.
    """

    reads_prompt = False

    def __init__(self, config: PolarConfig) -> None:
        super().__init__(config)
        (self.program,) = config.programs

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Nothing, once per prompt: (batch, 0)."""
        return features.new_zeros(len(features), 0)

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """A static router has no loss.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("a static router has nothing to train; use router_type='menu' or 'segment'.")

    def rank(self, logits: Tensor, num_programs: int, options: RoutingOptions) -> list[list[RoutedProgram]]:
        """The program, for every prompt. See :meth:`Router.rank`."""
        if options.max_depth is not None and self.program.depth > options.max_depth:
            raise ConfigError(
                f"the static program runs {self.program.depth} layers, above max_depth {options.max_depth}."
            )
        return [[RoutedProgram(self.program, 0.0, 0.0)] for _ in range(len(logits))]
