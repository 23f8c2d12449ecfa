"""Edits: the moves of every search strategy.

A program under search is the identity with non-overlapping edits, each a segment that is skipped or repeated; edits are
added in any order. The path alone says which layers are taken, namely those that do not run exactly once, so a program
reached by two edit sequences is one state.
"""

from __future__ import annotations

import random

from ..errors import ConfigError
from ..program import Op, Program, Segment
from .settings import SearchSettings


class EditSpace:
    """The programs reachable by edits, and the edits between them.

    Args:
        num_layers: Depth D of the base model.
        settings: Mode, segment length, executions and depth budget are read.

    Raises:
        ConfigError: If no edit allowed by the mode can meet the depth budget.
    """

    def __init__(self, num_layers: int, settings: SearchSettings) -> None:
        self.identity = Program.identity(num_layers)
        self.max_depth = settings.max_depth or num_layers * settings.max_executions
        if settings.mode == "loop" and self.max_depth < num_layers:
            raise ConfigError(
                f"search settings allow repeats only (mode 'loop') and at most {self.max_depth} executed layers, but "
                f"the model has {num_layers} already. Raise max_depth or use mode 'both' or 'skip'."
            )
        self._edits = [
            (edit, (1 << edit.stop) - (1 << edit.start), len(edit) * (edit.times - 1))
            for edit in _all_edits(num_layers, settings)
        ]

    def edits(self, program: Program) -> list[Segment]:
        """Edits that can be added to a program: on untouched layers, and within the depth budget.

        A program over the budget, which only the identity can be, takes edits that shorten it.
        """
        touched = sum(1 << layer for layer, count in enumerate(program.executions) if count != 1)
        depth = program.depth
        longest = max(self.max_depth, depth - 1)
        return [edit for edit, mask, growth in self._edits if not mask & touched and 0 < depth + growth <= longest]

    def apply(self, program: Program, edit: Segment, rng: random.Random) -> Program:
        """The program with one edit added; while it is over the depth budget, further random edits shorten it."""
        program = _replace(program, edit)
        while program.depth > self.max_depth:
            program = _replace(program, rng.choice(self.edits(program)))
        return program


def _all_edits(num_layers: int, settings: SearchSettings) -> list[Segment]:
    """Every skip and every repeat of up to ``max_segment_length`` layers that the mode allows."""
    operations: list[tuple[Op, int]] = []
    if settings.mode != "loop":
        operations.append((Op.SKIP, 0))
    if settings.mode != "skip":
        operations.extend((Op.REPEAT, times) for times in range(2, settings.max_executions + 1))
    return [
        Segment(start, start + length, op, times)
        for length in range(1, min(settings.max_segment_length, num_layers) + 1)
        for start in range(num_layers - length + 1)
        for op, times in operations
    ]


def _replace(program: Program, edit: Segment) -> Program:
    """Put the edit in the place of its layers, which the program runs once each."""
    # Edited segments stay in layer order, so the steps before the edit are exactly those of the layers below it.
    position = sum(program.executions[: edit.start])
    path = program.path[:position] + edit.path + program.path[position + len(edit) :]
    return Program(path, program.num_layers)
