"""What tree search has to beat at the same number of evaluations."""

from __future__ import annotations

from collections import deque

from ..program import Program
from .settings import SearchSettings
from .strategy import Strategy

MAX_REDRAWS = 1000
"""Draws of known programs in a row after which random search takes the grammar for exhausted."""


class RandomPrograms(Strategy):
    """Random programs of the grammar: one to D / ``max_segment_length`` random edits, whatever the rewards say."""

    def _next(self) -> Program | None:
        for _ in range(MAX_REDRAWS):
            program = self._draw()
            if program not in self.rewards:
                return program
        return None

    def _draw(self) -> Program:
        program = self.space.identity
        most = max(1, program.num_layers // self.settings.max_segment_length)
        for _ in range(self.random.randint(1, most)):
            edits = self.space.edits(program)
            if not edits:
                break
            program = self.space.apply(program, self.random.choice(edits), self.random)
        return program


class SingleEditSweep(Strategy):
    """Every single edit of the identity once, in random order.

    Where one edit does not meet the depth budget, random skips complete it.
    """

    def __init__(self, num_layers: int, settings: SearchSettings, seed: int) -> None:
        super().__init__(num_layers, settings, seed)
        self._edits = self.space.edits(self.space.identity)
        self.random.shuffle(self._edits)

    def _next(self) -> Program | None:
        while self._edits:
            program = self.space.apply(self.space.identity, self._edits.pop(), self.random)
            if program not in self.rewards:
                return program
        return None


class BeamOverEdits(Strategy):
    """Beam search: each round tries ``beam_width²`` new edits of the best ``beam_width`` programs so far.

    Programs rank by reward − ``depth_penalty`` · depth / D, the tree's own exchange rate.
    """

    def __init__(self, num_layers: int, settings: SearchSettings, seed: int) -> None:
        super().__init__(num_layers, settings, seed)
        self._round: deque[Program] = deque()

    def _next(self) -> Program | None:
        if not self._round:
            self._round.extend(self._new_round())
        return self._round.popleft() if self._round else None

    def _new_round(self) -> list[Program]:
        width = self.settings.beam_width
        beam = sorted(self.rewards, key=self._rank, reverse=True)[:width]
        candidates: dict[Program, None] = {}
        for program in beam:
            children = [self.space.apply(program, edit, self.random) for edit in self.space.edits(program)]
            new = [child for child in children if child not in self.rewards and child not in candidates]
            self.random.shuffle(new)
            candidates.update(dict.fromkeys(new[: width**2 // len(beam)]))
        return list(candidates)

    def _rank(self, program: Program) -> float:
        return self.rewards[program] - self.settings.depth_penalty * program.depth / program.num_layers
