"""Oracles that need no model: a program is right or wrong by the layers it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from polar_adapter.program import Program
from polar_adapter.search import Evaluate, Example

NUM_LAYERS = 12


def examples(count: int) -> list[Example]:
    return [Example(f"q{number}", f"question {number}", str(number), level=str(number % 3)) for number in range(count)]


def scored_by(is_right: Callable[[Example, Program], bool]) -> Evaluate:
    """An evaluate callable from a rule for one pair."""

    def evaluate(pairs: Sequence[tuple[Example, Program]]) -> list[float]:
        return [float(is_right(example, program)) for example, program in pairs]

    return evaluate


def needs_two_edits(example: Example, program: Program) -> bool:
    """Right if and only if layer 3 runs twice and layer 7 not at all."""
    return program.executions[3] == 2 and program.executions[7] == 0


def own_layer(example: Example, program: Program) -> bool:
    """Right if the layer that belongs to the question is repeated, or skipped for every third question."""
    number = int(example.answer)
    count = program.executions[number % NUM_LAYERS]
    return count == 0 if number % 3 == 0 else count > 1
