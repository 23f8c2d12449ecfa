"""The search of one question, as a generator: it yields programs to be scored and is sent their scores."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import replace

from ..program import Program
from .baselines import BeamOverEdits, RandomPrograms, SingleEditSweep
from .records import Example, ProgramScore, SearchRecord
from .settings import SearchSettings
from .strategy import Strategy
from .tree import SearchTree

_STRATEGIES: dict[str, type[Strategy]] = {
    "mcts": SearchTree,
    "random": RandomPrograms,
    "sweep": SingleEditSweep,
    "beam": BeamOverEdits,
}


def make_strategy(num_layers: int, settings: SearchSettings, seed: int) -> Strategy:
    """The strategy that ``settings.strategy`` names, for one question."""
    return _STRATEGIES[settings.strategy](num_layers, settings, seed)


def question_seed(seed: int, question: str) -> int:
    """Seed of one question's search: the same in every process, on every machine.

    Args:
        seed: Seed of the run.
        question: Id of the question.

    Returns:
        An integer of 48 bits, which every JSON reader keeps exactly.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}:{question}".encode(), digest_size=6).digest(), "big")


def search_question(
    example: Example, num_layers: int, settings: SearchSettings, verify: bool = False
) -> Generator[list[Program], list[float], SearchRecord]:
    """Search one question.

    Args:
        example: The question.
        num_layers: Depth D of the base model.
        settings: Settings of the search.
        verify: Have all valid programs scored once more at the end, and keep the lower score of each.

    Yields:
        Programs to be scored, at least one; it is sent their scores in the same order.

    Returns:
        The record of the question.
    """
    seed = question_seed(settings.seed, example.id)
    strategy = make_strategy(num_layers, settings, seed)
    while (program := strategy.propose()) is not None:
        [reward] = yield [program]
        strategy.record(program, reward)
    programs, flips = strategy.scores(), None
    if verify:
        valid = [entry.program for entry in programs if entry.is_valid]
        again = dict(zip(valid, (yield valid), strict=True)) if valid else {}
        programs = tuple(_lower(entry, again.get(entry.program, entry.score)) for entry in programs)
        flips = len(valid) - sum(entry.is_valid for entry in programs)
    return SearchRecord(example, programs[0].score, programs, seed, flips)


def _lower(entry: ProgramScore, score: float) -> ProgramScore:
    """The entry with the lower of its score and a second one."""
    return min(entry, replace(entry, score=float(score)), key=lambda candidate: candidate.score)
