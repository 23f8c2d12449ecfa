"""The segment router: the paper's prediction network, loss and decoding (arXiv:2606.06574, Sec. 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..program import Op, Program, Segment
from .base import RoutedProgram, Router, RoutingOptions, weighted_mean
from .trunk import LayerQueryTrunk

if TYPE_CHECKING:
    from ..config import PolarConfig

NO_SEGMENT = -100
"""Label of a layer at which no segment starts."""


class SegmentRouter(Router):
    """Predicts where segments start, and what happens to each: skip, keep, or execute 2 … ``max_executions`` times.

    Logits are (batch, layers, 1 + operations): channel 0 is the boundary, channel 1 + n executing the segment n times.

    Args:
        config: A resolved config.
    """

    def __init__(self, config: PolarConfig) -> None:
        super().__init__(config)
        assert config.num_layers is not None
        self.num_layers, self.max_length = config.num_layers, config.max_segment_length
        self.max_executions = config.max_executions
        self.trunk = LayerQueryTrunk(config)
        self.boundary = nn.Linear(config.router_dim, 1)
        self.operation = nn.Linear(config.router_dim, config.max_executions + 1)
        # An untrained router keeps every segment: the standard pass.
        nn.init.zeros_(self.operation.weight)
        with torch.no_grad():
            self.operation.bias.copy_(F.one_hot(torch.tensor(1), config.max_executions + 1))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Boundary and operation logits, (batch, layers, 1 + operations). See :meth:`Router.forward`."""
        layers = self.trunk(features, mask)
        return torch.cat([self.boundary(layers), self.operation(layers)], dim=-1)

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """L_seg + L_op: cross-entropy of the boundaries, and of the operations at true segment starts.

        Args:
            logits: (batch, layers, 1 + operations).
            labels: Executions of the segment that starts at each layer, -100 where none starts, (batch, layers).
            weights: Weight of each example, (batch,).
        """
        starts = labels != NO_SEGMENT
        boundary = F.binary_cross_entropy_with_logits(logits[..., 0], starts.to(logits.dtype), reduction="none")
        operation = F.cross_entropy(logits[..., 1:].transpose(1, 2), labels, ignore_index=NO_SEGMENT, reduction="none")
        per_example = boundary.mean(dim=-1) + operation.sum(dim=-1) / starts.sum(dim=-1).clamp_min(1)
        return weighted_mean(per_example, weights)

    def rank(self, logits: Tensor, num_programs: int, options: RoutingOptions) -> list[list[RoutedProgram]]:
        """Threshold the boundaries at probability 0.5, cap the segments, then search the operations by beam.

        Given the boundaries the segments' operations are independent, so a beam that keeps the best prefixes of every
        depth is exact, with ``max_depth`` too. ``cost_weight`` and ``identity_margin`` do not apply: the published
        router has no price.
        """
        boundaries = (logits[..., 0] >= 0).tolist()
        operations = F.log_softmax(logits[..., 1:].detach().float(), dim=-1).tolist()
        return [
            self._rank_one(starts, log_probs, num_programs, options)
            for starts, log_probs in zip(boundaries, operations, strict=True)
        ]

    def _rank_one(
        self, starts: list[bool], log_probs: list[list[float]], num_programs: int, options: RoutingOptions
    ) -> list[RoutedProgram]:
        spans = self._spans(starts)
        limit = options.max_depth or self.num_layers * self.max_executions
        if min(stop - start for start, stop in spans) > limit:
            raise ConfigError(
                f"max_depth {limit} is below every segment this router cuts for the prompt, the shortest of which has "
                f"{min(stop - start for start, stop in spans)} layers. Raise it."
            )
        # The best prefixes of each depth: with a depth limit, the most probable prefixes alone may spend it too early.
        beam: dict[int, list[tuple[float, tuple[int, ...]]]] = {0: [(0.0, ())]}
        for start, stop in spans:
            grown: dict[int, list[tuple[float, tuple[int, ...]]]] = {}
            for depth, entries in beam.items():
                for times in range(self.max_executions + 1):
                    deeper = depth + times * (stop - start)
                    if deeper <= limit:
                        own = log_probs[start][times]
                        grown.setdefault(deeper, []).extend((p + own, (*choice, times)) for p, choice in entries)
            beam = {depth: sorted(entries, reverse=True)[:num_programs] for depth, entries in grown.items()}
        complete = [(log_prob, depth, choice) for depth, entries in beam.items() for log_prob, choice in entries]
        ranked: dict[Program, RoutedProgram] = {}
        for log_prob, depth, choice in sorted(complete, key=lambda entry: (-entry[0], entry[1])):
            if depth:
                program = Program.from_segments(
                    [_segment(start, stop, times) for (start, stop), times in zip(spans, choice, strict=True)]
                )
                ranked.setdefault(program, RoutedProgram(program, log_prob, log_prob))
        return list(ranked.values())[:num_programs]

    def _spans(self, starts: list[bool]) -> list[tuple[int, int]]:
        """Segments between boundaries, cut where they exceed the longest allowed."""
        cuts = [0]
        for layer in range(1, self.num_layers):
            if starts[layer] or layer - cuts[-1] == self.max_length:
                cuts.append(layer)
        return list(zip(cuts, [*cuts[1:], self.num_layers], strict=True))


def segment_labels(program: Program, max_length: int, max_executions: int) -> list[int]:
    """Supervision of a program: executions of the segment that starts at each layer, -100 where none starts.

    Raises:
        ProgramError: If no segmentation within these limits expresses the program.
    """
    labels = [NO_SEGMENT] * program.num_layers
    for segment in program.segments(max_length, max_executions):
        labels[segment.start] = segment.times
    return labels


def _segment(start: int, stop: int, times: int) -> Segment:
    return Segment(start, stop, (Op.SKIP, Op.KEEP, Op.REPEAT)[min(times, 2)], times)
