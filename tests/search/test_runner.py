from __future__ import annotations

import io
import multiprocessing
import os
import signal
from itertools import pairwise

import pytest
from rich.console import Console

from polar_adapter.errors import PolarError, RecordsError
from polar_adapter.search import (
    RecordsHeader,
    RecordWriter,
    SearchSettings,
    read_records,
    run_search,
    search_progress,
)
from polar_adapter.search.settings import STRATEGIES

from .synthetic import NUM_LAYERS, examples, own_layer, scored_by

SETTINGS = SearchSettings(simulations=30)
HEADER = RecordsHeader(NUM_LAYERS, settings=SETTINGS)
QUESTIONS = examples(13)


def search(**options):
    arguments = {"evaluate": scored_by(own_layer), "settings": SETTINGS} | options
    return run_search(QUESTIONS, NUM_LAYERS, **arguments)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_records_are_complete(strategy):
    records = search(settings=SearchSettings(simulations=30, strategy=strategy))
    assert [record.example for record in records] == QUESTIONS
    for record in records:
        assert len(record.programs) == 30
        assert record.programs[0].program.is_identity
        assert record.identity_score == record.programs[0].score
        for entry in record.programs:
            assert entry.score == own_layer(record.example, entry.program)
    assert sum(bool(record.valid) for record in records) >= 8


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("stop_after", [None, 2])
def test_concurrency_changes_nothing_but_the_batches(verify, stop_after):
    settings = SearchSettings(simulations=30, stop_after=stop_after)
    runs = [search(concurrent=concurrent, settings=settings, verify=verify) for concurrent in (1, 4, 64)]
    assert runs[0] == runs[1] == runs[2]


def test_order_and_company_change_nothing():
    records = search()
    assert run_search(QUESTIONS[::-1], NUM_LAYERS, scored_by(own_layer), SETTINGS) == records[::-1]
    assert run_search(QUESTIONS[5:6], NUM_LAYERS, scored_by(own_layer), SETTINGS) == records[5:6]


def test_questions_with_the_same_rewards_try_different_programs():
    tried = [
        {entry.program for entry in record.programs} for record in search(evaluate=lambda pairs: [0.0] * len(pairs))
    ]
    assert all(len(one & other) < 20 for one, other in pairwise(tried))


def test_a_round_is_one_call():
    sizes = []

    def evaluate(pairs):
        sizes.append(len(pairs))
        return scored_by(own_layer)(pairs)

    search(evaluate=evaluate, concurrent=10)
    assert sizes == [10] * 30 + [3] * 30


@pytest.mark.parametrize("concurrent", [1, 4])
def test_an_interrupted_search_continues(tmp_path, concurrent):
    quiet = search()
    calls = 0

    def interrupted(pairs):
        nonlocal calls
        calls += 1
        if calls % 70 == 0:
            raise KeyboardInterrupt
        return scored_by(own_layer)(pairs)

    path = tmp_path / "records.jsonl"
    interruptions = 0
    while True:
        with RecordWriter(path, HEADER) as writer:
            try:
                search(evaluate=interrupted, writer=writer, concurrent=concurrent)
                break
            except KeyboardInterrupt:
                interruptions += 1
                assert len(read_records(path)) == len(writer.finished)
    assert interruptions > 0
    assert sorted(read_records(path), key=lambda record: QUESTIONS.index(record.example)) == quiet


def killed_search(path: str, kill_after: int) -> None:
    """Search, and be killed in the middle of an evaluation."""
    calls = 0

    def evaluate(pairs):
        nonlocal calls
        calls += 1
        if calls > kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return scored_by(own_layer)(pairs)

    with RecordWriter(path, HEADER) as writer:
        search(evaluate=evaluate, writer=writer, concurrent=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_killed_search_continues_without_repeating_questions(tmp_path):
    path = tmp_path / "records.jsonl"
    kills = 0
    while True:
        child = multiprocessing.get_context("fork").Process(target=killed_search, args=(path, 50))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        kills += 1
        with open(path, "ab") as file:  # the torn line of a writer killed while it wrote
            file.write(b'{"id": "q')
    assert kills >= 3
    assert sorted(read_records(path), key=lambda record: QUESTIONS.index(record.example)) == search()


def test_a_finished_search_evaluates_nothing(tmp_path):
    def never(pairs):
        raise AssertionError("evaluated a finished question")

    with RecordWriter(tmp_path / "records.jsonl", HEADER) as writer:
        search(writer=writer)
        assert search(writer=writer, evaluate=never) == []


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (RecordsHeader(28, settings=SETTINGS), "num_layers"),
        (RecordsHeader(NUM_LAYERS, settings=SearchSettings(simulations=31)), "settings.simulations = 31, and 30"),
    ],
)
def test_a_writer_for_something_else_is_refused(tmp_path, header, named):
    with RecordWriter(tmp_path / "records.jsonl", header) as writer, pytest.raises(RecordsError, match=named):
        search(writer=writer)


def test_verification_drops_programs_that_were_lucky():
    """A pair scored a second time fails for even questions: those lose all, the others keep all."""
    seen = set()

    def evaluate(pairs):
        scores = [own_layer(*pair) and (pair not in seen or int(pair[0].answer) % 2 == 1) for pair in pairs]
        seen.update(pairs)
        return [float(score) for score in scores]

    trusting, verified = search(), search(evaluate=evaluate, verify=True)
    for before, after in zip(trusting, verified, strict=True):
        lucky = int(before.example.answer) % 2 == 0
        assert before.flips is None
        assert after.flips == (len(before.valid) if lucky else 0)
        assert after.valid == (() if lucky else before.valid)
        assert [entry.program for entry in after.programs] == [entry.program for entry in before.programs]


def test_an_identity_that_flips_counts_as_wrong():
    scores = iter([1.0, 0.0])
    [record] = run_search(
        QUESTIONS[:1], NUM_LAYERS, lambda pairs: [next(scores)], SearchSettings(simulations=1), verify=True
    )
    assert (record.identity_score, record.flips, record.valid) == (0.0, 1, ())


def test_verification_sees_other_batches():
    """Programs are verified beside others than those they were found with."""
    batches = []

    def evaluate(pairs):
        batches.append(frozenset(pairs))
        return [1.0] * len(pairs)

    search(evaluate=evaluate, verify=True, concurrent=4)
    assert len(batches) == len(set(batches))


@pytest.mark.parametrize(
    ("evaluate", "named"),
    [
        (lambda pairs: [1.0], "returned 1 scores"),
        (lambda pairs: [2.0] * len(pairs), "between 0"),
        (lambda pairs: [float("nan")] * len(pairs), "between 0"),
    ],
)
def test_broken_scores_are_refused(evaluate, named):
    with pytest.raises(PolarError, match=named):
        search(evaluate=evaluate)


def test_bad_arguments():
    with pytest.raises(PolarError, match="'q3'"):
        run_search([*QUESTIONS, QUESTIONS[3]], NUM_LAYERS, scored_by(own_layer))
    with pytest.raises(PolarError, match="concurrent"):
        search(concurrent=0)
    assert run_search([], NUM_LAYERS, scored_by(own_layer)) == []


def test_progress_counts_what_happens(tmp_path):
    states = []
    with RecordWriter(tmp_path / "records.jsonl", HEADER) as writer:
        run_search(QUESTIONS[:2], NUM_LAYERS, scored_by(own_layer), SETTINGS, writer)
        records = search(writer=writer, progress=states.append, concurrent=4, verify=True)
    last = states[-1]
    solved = [record for record in records if record.valid]
    assert (last.done, last.total, last.resumed, last.fraction) == (11, 11, 2, 1.0)
    assert last.evaluations == sum(len(record.programs) + len(record.valid) for record in records)
    assert last.solved == len(solved)
    saved = [NUM_LAYERS - record.shortest_valid.depth for record in solved]
    assert last.saved_depth == pytest.approx(sum(saved) / len(saved))
    assert all(one.fraction <= other.fraction <= 1 for one, other in pairwise(states))
    assert 0 < states[0].fraction < states[len(states) // 2].fraction < 1


def test_the_progress_bar_draws():
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with search_progress(console) as progress:
        search(progress=progress)
    text = console.file.getvalue()
    assert "13/13 questions" in text
    assert "layers saved" in text
