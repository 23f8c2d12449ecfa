"""Menus: a few programs that together answer most questions.

A menu is chosen from search records in two steps. A *pool* of programs that answered several questions is scored on all
of them, since a search tries each program on few questions and its record would flatter luck. From these scores the
menu is picked greedily: each step adds the program that gains most, a question being worth the best price-adjusted
valid program the menu has for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..errors import RecordsError
from ..program import Program
from .records import Example, ProgramScore, SearchRecord, is_valid
from .runner import Evaluate


def pool_programs(records: Sequence[SearchRecord], size: int = 128) -> list[Program]:
    """The programs valid for most questions; shorter ones first among equals. The identity is always among them.

    Args:
        records: Search records of one base.
        size: How many programs.

    Raises:
        RecordsError: If there are no records.
    """
    if not records:
        raise RecordsError("there are no search records to take programs from; run a search first.")
    counts = Counter(program for record in records for program in record.valid)
    ranked = sorted(counts, key=lambda program: (-counts[program], program.depth, program.path))
    identity = Program.identity(records[0].programs[0].program.num_layers)
    return [identity, *(program for program in ranked if not program.is_identity)][:size]


def score_programs(
    examples: Sequence[Example], programs: Sequence[Program], evaluate: Evaluate, chunk: int = 64
) -> list[SearchRecord]:
    """Score every program on every question.

    Args:
        examples: The questions.
        programs: The programs, the identity among them.
        evaluate: Scores pairs.
        chunk: Questions per call of ``evaluate``.

    Returns:
        One record per question, in order, each with all the programs.
    """
    records = []
    for start in range(0, len(examples), chunk):
        batch = examples[start : start + chunk]
        scores = iter(evaluate([(example, program) for example in batch for program in programs]))
        for example in batch:
            tried = tuple(ProgramScore(program, next(scores)) for program in programs)
            identity = next((entry.score for entry in tried if entry.program.is_identity), float("nan"))
            records.append(SearchRecord(example, identity, tried))
    return records


def choose_menu(records: Sequence[SearchRecord], size: int = 16, cost_weight: float = 0.05) -> list[Program]:
    """Pick a menu by greedy coverage with a price on depth.

    Args:
        records: The same programs scored on many questions, as :func:`score_programs` returns.
        size: Most programs in the menu; fewer if no further one gains anything.
        cost_weight: Price of executing D layers, in right answers.

    Returns:
        The menu; the identity first, then in order of choice.
    """
    programs = [entry.program for entry in records[0].programs]
    worth = {
        program: [
            (1.0 - cost_weight * program.depth / program.num_layers) if is_valid(record.programs[i].score) else 0.0
            for record in records
        ]
        for i, program in enumerate(programs)
    }
    identity = Program.identity(programs[0].num_layers)
    menu, best = [identity], list(worth.get(identity, [0.0] * len(records)))
    while len(menu) < size:
        gains = {
            program: sum(max(w - b, 0.0) for w, b in zip(values, best, strict=True))
            for program, values in worth.items()
            if program not in menu
        }
        chosen = max(gains, key=lambda program: (gains[program], -program.depth, program.path), default=None)
        if chosen is None or gains[chosen] <= 1e-9:
            break
        menu.append(chosen)
        best = [max(w, b) for w, b in zip(worth[chosen], best, strict=True)]
    return menu


def best_static(records: Sequence[SearchRecord], max_depth: int | None = None) -> Program:
    """The program that answers most questions, the shorter one among equals.

    Args:
        records: The same programs scored on many questions.
        max_depth: Only programs of at most this depth.
    """
    programs = [entry.program for entry in records[0].programs]
    right = {
        program: sum(is_valid(record.programs[i].score) for record in records)
        for i, program in enumerate(programs)
        if max_depth is None or program.depth <= max_depth
    }
    return max(right, key=lambda program: (right[program], -program.depth, program.path))
