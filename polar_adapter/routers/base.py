"""The interface every router implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..program import Program

if TYPE_CHECKING:
    from ..config import PolarConfig


@dataclass(frozen=True)
class RoutedProgram:
    """A program a router proposes for one prompt.

    Attributes:
        program: The program.
        log_prob: Natural log of the probability the router gives it: that it answers correctly (menu), or that it is
            the program to run (segment, static).
        score: What the ranking is by; higher is better.
    """

    program: Program
    log_prob: float
    score: float


@dataclass(frozen=True)
class RoutingOptions:
    """How to choose among programs; defaults come from the config, overrides from ``generate()`` and ``route()``.

    Attributes:
        cost_weight: Price of D executed layers, in units of probability.
        identity_margin: Gain over the standard pass below which the standard pass is kept.
        max_depth: Most layers a program may execute, or None.
    """

    cost_weight: float = 0.0
    identity_margin: float = 0.0
    max_depth: int | None = None


class Router(nn.Module, ABC):
    """Scores programs for prompts. Subclasses are built from a resolved :class:`~polar_adapter.PolarConfig`."""

    reads_prompt = True
    """Whether :meth:`forward` needs token features at all."""

    @abstractmethod
    def __init__(self, config: PolarConfig) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Score programs, or the parts they are made of.

        Args:
            features: Token features of the prompts, (batch, tokens, feature_size), any float dtype.
            mask: True on real tokens, (batch, tokens).

        Returns:
            Logits, (batch, …); their meaning is the subclass's.
        """

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Supervised loss.

        Args:
            logits: What :meth:`forward` returned.
            labels: Targets, (batch, …).
            weights: Weight of each example, (batch,).

        Returns:
            Scalar.
        """

    @abstractmethod
    def rank(self, logits: Tensor, num_programs: int, options: RoutingOptions) -> list[list[RoutedProgram]]:
        """Turn logits into programs.

        Args:
            logits: What :meth:`forward` returned.
            num_programs: How many programs to return per prompt; fewer if there are fewer.
            options: How to choose.

        Returns:
            For each prompt, distinct programs, the one to run first.
        """


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of per-example values (batch,), weighted if weights (batch,) are given."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp_min(1e-8)
