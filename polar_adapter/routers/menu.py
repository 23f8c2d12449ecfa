"""The menu router: how likely is each of a few programs to answer this prompt correctly?

The paper's router learns to imitate valid programs, of which a prompt has many; layer by layer they average to "keep",
and the first choice collapses to the standard pass. Asking for the probability of success of whole programs has no such
average to fall into, and leaves a dial: the choice maximises P(correct) − cost_weight · depth / D.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..program import MAX_EXECUTIONS, Program
from .base import RoutedProgram, Router, RoutingOptions, weighted_mean
from .trunk import LayerQueryTrunk

if TYPE_CHECKING:
    from ..config import PolarConfig

IDENTITY_PRIOR = 2.0
"""Initial log-odds in favour of the standard pass, so that an untrained adapter changes nothing."""


class MenuRouter(Router):
    """Predicts P(correct) for every program of a menu.

    Programs are described by how often each layer runs and where execution jumps to, not by their number in the menu:
    similar programs share what is learned, and a program can be added to the menu of a trained adapter.

    Args:
        config: A resolved config; its menu includes the identity.
    """

    def __init__(self, config: PolarConfig) -> None:
        super().__init__(config)
        assert config.num_layers is not None
        dim = config.router_dim
        self.programs = config.programs
        self.trunk = LayerQueryTrunk(config)
        # What running layer i so many times looks like (column 0 is a skip), and what jumping to it does.
        self.runs = nn.Parameter(torch.randn(config.num_layers, MAX_EXECUTIONS + 1, dim) * dim**-0.5)
        self.jumps = nn.Parameter(torch.zeros(config.num_layers, dim))
        last = nn.Linear(dim, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.score = nn.Sequential(nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim), nn.GELU(), last)
        self.identity_bias = nn.Parameter(torch.tensor(IDENTITY_PRIOR))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Log-odds of each menu program being right, (batch, programs). See :meth:`Router.forward`."""
        layers = self.trunk(features, mask)
        programs = self._describe(self.programs)
        # How the prompt's state of each layer meets what the program does with it, and the program by itself.
        scale = programs.shape[1] ** -0.5
        met = torch.einsum("bld,pld->bpd", layers, programs) * scale + layers.mean(dim=1, keepdim=True)
        alone = (programs.sum(dim=1) * scale).expand_as(met)
        identity = torch.tensor([p.is_identity for p in self.programs], device=met.device)
        return self.score(torch.cat([met, alone], dim=-1)).squeeze(-1) + self.identity_bias * identity

    def _describe(self, programs: tuple[Program, ...]) -> Tensor:
        """What programs do with each layer, (programs, layers, router_dim)."""
        device = self.runs.device
        counts = torch.tensor([p.executions for p in programs], device=device).clamp_max(MAX_EXECUTIONS)
        jumps = torch.tensor([_jumps(p) for p in programs], device=device, dtype=self.jumps.dtype)
        runs = self.runs[torch.arange(counts.shape[1], device=device), counts]
        return runs + jumps.unsqueeze(-1) * self.jumps

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Binary cross-entropy against whether each program was right.

        Args:
            logits: (batch, programs).
            labels: 1 if the program answered correctly, 0 if not, NaN if it was not tried, (batch, programs). Graded
                scores between 0 and 1 are allowed.
            weights: Weight of each example, (batch,).
        """
        if labels.shape != logits.shape:
            raise ConfigError(
                f"labels have {labels.shape[-1]} programs, but the menu has {logits.shape[-1]}. Score the menu again, "
                "or train with the menu that was scored."
            )
        known = ~labels.isnan()
        targets = labels.nan_to_num(0.0).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * known
        return weighted_mean(losses.sum(dim=-1) / known.sum(dim=-1).clamp_min(1), weights)

    def rank(self, logits: Tensor, num_programs: int, options: RoutingOptions) -> list[list[RoutedProgram]]:
        """Order the menu by P(correct) − cost_weight · depth / D, within ``max_depth``. See :meth:`Router.rank`."""
        allowed = [i for i, p in enumerate(self.programs) if options.max_depth is None or p.depth <= options.max_depth]
        if not allowed:
            raise ConfigError(
                f"max_depth {options.max_depth} is below every program of the menu, the shortest of which runs "
                f"{min(p.depth for p in self.programs)} layers. Raise it, or add a shorter program to the menu."
            )
        log_probs = F.logsigmoid(logits.detach().float()).cpu()
        cost = torch.tensor([options.cost_weight * p.depth / p.num_layers for p in self.programs])
        scores = log_probs.exp() - cost
        ranked = []
        for row_scores, row_log_probs in zip(scores.tolist(), log_probs.tolist(), strict=True):
            order = sorted(allowed, key=lambda i: (-row_scores[i], self.programs[i].depth, i))
            identity = next((i for i in order if self.programs[i].is_identity), None)
            if identity is not None and row_scores[order[0]] - row_scores[identity] <= options.identity_margin:
                order.remove(identity)
                order.insert(0, identity)
            ranked.append(
                [RoutedProgram(self.programs[i], row_log_probs[i], row_scores[i]) for i in order[:num_programs]]
            )
        return ranked

    def with_menu(self, programs: tuple[Program, ...]) -> None:
        """Replace the menu. Programs the router was not trained on are scored by their likeness to those it was."""
        if not any(program.is_identity for program in programs):
            raise ConfigError("a menu must include the identity program, so that the router can abstain.")
        self.programs = programs


def _jumps(program: Program) -> list[int]:
    """How often execution arrives at each layer other than from the one before it."""
    arrivals = [0] * program.num_layers
    for previous, index in zip((-1, *program.path), program.path, strict=False):
        arrivals[index] += index != previous + 1
    return arrivals
