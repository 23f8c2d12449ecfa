"""Menus: a few programs that together answer most questions.

A menu is chosen from search records in two steps. A *pool* of programs of all depths is scored on a common set of
questions, since a search tries each program on few, and its record would flatter luck. From these scores the menu is
picked greedily: each step adds the program that gains most, a question being worth the best P(correct) − price of depth
the menu has for it.

With a dozen short programs something answers almost any question by chance, and no router could know which. P(correct)
is not the 0 or 1 that was measured, but its low-rank approximation: what a question has in common with others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from ..errors import RecordsError
from ..program import Program
from .records import Example, ProgramScore, SearchRecord, is_valid
from .runner import Evaluate


def pool_programs(records: Sequence[SearchRecord], size: int = 128) -> list[Program]:
    """The programs valid for most questions, the depths taking turns. The identity is always the first.

    Long programs are right more often, and a pool of the most often right would hold nothing else.

    Args:
        records: Search records of one base.
        size: How many programs.

    Raises:
        RecordsError: If there are no records.
    """
    if not records:
        raise RecordsError("there are no search records to take programs from; run a search first.")
    counts = Counter(program for record in records for program in record.valid)
    identity = Program.identity(records[0].programs[0].program.num_layers)
    by_depth: dict[int, list[Program]] = {}
    for program in sorted(counts.keys() - {identity}, key=lambda p: (-counts[p], p.path)):
        by_depth.setdefault(program.depth, []).append(program)
    turns = zip_longest(*(by_depth[depth] for depth in sorted(by_depth)))
    return [identity, *(program for turn in turns for program in turn if program is not None)][:size]


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


def choose_menu(
    records: Sequence[SearchRecord], size: int = 16, cost_weight: float = 0.05, rank: int = 6
) -> list[Program]:
    """Pick a menu by greedy coverage with a price on depth.

    Args:
        records: The same programs scored on many questions, as :func:`score_programs` returns.
        size: Most programs in the menu; fewer if no further one gains anything.
        cost_weight: Price of executing D layers, in right answers.
        rank: Rank of the approximation that tells P(correct) from luck; 0 takes the scores as they are.

    Returns:
        The menu; the identity first, then in order of choice.
    """
    programs = [entry.program for entry in records[0].programs]
    scores = np.array([[entry.score for entry in record.programs] for record in records], dtype=float)
    depths = np.array([program.depth / program.num_layers for program in programs])
    worth = (low_rank(scores, rank) if rank else scores) - cost_weight * depths
    menu = [programs.index(Program.identity(programs[0].num_layers))]
    best = worth[:, menu[0]]
    while len(menu) < min(size, len(programs)):
        gains = np.maximum(worth - best[:, None], 0.0).sum(axis=0)
        chosen = int(gains.argmax())
        if gains[chosen] <= 1e-9:
            break
        menu.append(chosen)
        best = np.maximum(best, worth[:, chosen])
    return [programs[index] for index in menu]


def low_rank(scores: np.ndarray, rank: int) -> np.ndarray:
    """Best approximation of ``rank`` to the deviations from each program's mean, clipped to probabilities.

    Args:
        scores: 0 to 1, (questions, programs).
        rank: Number of directions kept.
    """
    mean = scores.mean(axis=0)
    left, values, right = np.linalg.svd(scores - mean, full_matrices=False)
    return np.clip(mean + (left[:, :rank] * values[:rank]) @ right[:rank], 0.0, 1.0)


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
