"""Run searches: many questions advance together, one evaluation call per round.

A round takes what all active questions want scored and scores it in one call, so that a forward batch can hold many
questions and programs. What is found for a question depends on its seed and its scores alone: not on its neighbours,
their number, or whether the run was stopped and continued.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ..errors import PolarError
from ..program import Program
from .files import RecordWriter
from .question import search_question
from .records import Example, SearchRecord
from .settings import SearchSettings

Evaluate = Callable[[Sequence[tuple[Example, Program]]], Sequence[float]]
"""Scores (question, program) pairs: one number per pair, from 0 for a wrong answer to 1 for a right one.

Called once per round with at least one pair; it cuts what it is given into batches as it needs, since a question that
is being verified brings all its valid programs at once. Results do not depend on ``concurrent`` as far as the score of
a pair does not depend on the other pairs.
"""


@dataclass(frozen=True)
class SearchProgress:
    """How far a run is.

    Args:
        done: Questions finished by this run.
        total: Questions this run has to search.
        resumed: Further questions, which the records file held before.
        evaluations: Pairs evaluated by this run.
        fraction: Share of the work done, 0 to 1; unfinished questions count by the share of their budget spent.
        solved: Questions among ``done`` with a valid program.
        saved_depth: Mean over ``solved`` of D − depth of the shortest valid program, in layers; 0 without any.
    """

    done: int
    total: int
    resumed: int
    evaluations: int
    fraction: float
    solved: int
    saved_depth: float


def run_search(
    examples: Sequence[Example],
    num_layers: int,
    evaluate: Evaluate,
    settings: SearchSettings | None = None,
    writer: RecordWriter | None = None,
    concurrent: int = 64,
    verify: bool = False,
    progress: Callable[[SearchProgress], None] | None = None,
) -> list[SearchRecord]:
    """Search programs for every question.

    May be interrupted at any time: ``writer``'s file then holds the finished questions, and a call with the same
    arguments searches the others.

    Args:
        examples: The questions.
        num_layers: Depth D of the base model.
        evaluate: Scores pairs; see :data:`Evaluate`.
        settings: Settings of the search; None takes the defaults.
        writer: Receives each record as its question finishes. Questions it already holds are left out.
        concurrent: Questions that advance together. It changes the speed, not the result.
        verify: Score the valid programs of a question once more when it finishes, beside other pairs than before, and
            keep the lower score. In low precision a program may be right only in the batch it was found in.
        progress: Called after every round.

    Returns:
        The records of the questions searched by this call, in the order of ``examples``.

    Raises:
        PolarError: If ids repeat, or ``evaluate`` returns another number of scores or one outside 0 … 1.
        RecordsError: If ``writer`` is for another depth or other settings, or knows another question under an id.
    """
    settings = settings or SearchSettings()
    if concurrent < 1:
        raise PolarError(f"concurrent is {concurrent}; at least one question advances at a time.")
    _check_ids(examples)
    if writer is not None:
        given = replace(writer.header, num_layers=num_layers, settings=settings)
        writer.header.check_same(given, where=str(writer.path))

    waiting = deque(example for example in examples if writer is None or not writer.is_finished(example))
    run = _Run(total=len(waiting), resumed=len(examples) - len(waiting), simulations=settings.simulations)
    while waiting or run.active:
        while waiting and len(run.active) < concurrent:
            run.active.append(_ActiveQuestion(waiting.popleft(), num_layers, settings, verify))
        for record in run.advance(evaluate):
            if writer is not None:
                writer.write(record)
        if progress is not None:
            progress(run.progress())
    return [run.finished[example.id] for example in examples if example.id in run.finished]


class _ActiveQuestion:
    """A question under search: what it wants scored next, and in the end its record."""

    def __init__(self, example: Example, num_layers: int, settings: SearchSettings, verify: bool) -> None:
        self.example = example
        self.spent = 0
        self._search = search_question(example, num_layers, settings, verify)
        self.wanted = next(self._search)

    def advance(self, scores: list[float]) -> SearchRecord | None:
        """Take the scores of the wanted programs; the record comes back with the last of them."""
        self.spent += len(scores)
        try:
            self.wanted = self._search.send(scores)
        except StopIteration as finish:
            return finish.value
        return None


class _Run:
    """The state of one run: active and finished questions, and the tallies of its progress."""

    def __init__(self, total: int, resumed: int, simulations: int) -> None:
        self.active: list[_ActiveQuestion] = []
        self.finished: dict[str, SearchRecord] = {}
        self._total, self._resumed, self._simulations = total, resumed, simulations
        self._evaluations = 0
        self._saved_layers: list[int] = []

    def advance(self, evaluate: Evaluate) -> list[SearchRecord]:
        """One round: score what the active questions want; returns the records of those that finish."""
        pairs = [(question.example, program) for question in self.active for program in question.wanted]
        scores = deque(evaluate(pairs))
        if len(scores) != len(pairs):
            raise PolarError(f"evaluate was given {len(pairs)} pairs and returned {len(scores)} scores; one per pair.")
        self._evaluations += len(pairs)
        active, records = [], []
        for question in self.active:
            record = question.advance([scores.popleft() for _ in question.wanted])
            if record is None:
                active.append(question)
            else:
                records.append(record)
        self.active = active
        for record in records:
            self.finished[record.example.id] = record
            if record.shortest_valid is not None:
                self._saved_layers.append(record.shortest_valid.num_layers - record.shortest_valid.depth)
        return records

    def progress(self) -> SearchProgress:
        done = len(self.finished)
        under_way = sum(min(1.0, question.spent / self._simulations) for question in self.active)
        return SearchProgress(
            done=done,
            total=self._total,
            resumed=self._resumed,
            evaluations=self._evaluations,
            fraction=(done + under_way) / self._total,
            solved=len(self._saved_layers),
            saved_depth=fmean(self._saved_layers) if self._saved_layers else 0.0,
        )


def _check_ids(examples: Sequence[Example]) -> None:
    repeated = [name for name, count in Counter(example.id for example in examples).items() if count > 1]
    if repeated:
        raise PolarError(f"{len(repeated)} ids stand for several questions, such as {repeated[0]!r}; make ids unique.")
