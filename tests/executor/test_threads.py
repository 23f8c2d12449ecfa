"""Several threads on one model: exact, or waiting for each other; never a wrong token."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from families import build_model
from stacks import NUM_LAYERS, ONE_LAYER, REORDER, REPEAT_AND_SKIP, prompts, snapshot, unrolled_model

from polar_adapter import apply_program
from polar_adapter.executor import active_programs

IDENTITY = tuple(range(NUM_LAYERS))
PROGRAMS = (REORDER, ONE_LAYER, IDENTITY, REPEAT_AND_SKIP)
PATIENCE = 60
"""Seconds after which a thread counts as stuck."""


@pytest.fixture
def model():
    return build_model("llama", num_layers=NUM_LAYERS)


@pytest.fixture(autouse=True)
def _restless():
    """Let threads interrupt each other all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def generate(model, seed, rows=1):
    return model.generate(prompts(rows, seed=seed), max_new_tokens=5, do_sample=False)


def expected(path, seed):
    return generate(unrolled_model("llama", path), seed)


def in_threads(function, arguments):
    """Run a function on each argument, all at once; results in order."""
    with ThreadPoolExecutor(len(arguments)) as pool:
        return [future.result(PATIENCE) for future in [pool.submit(function, each) for each in arguments]]


def test_different_programs_at_once(model):
    before = snapshot(model)
    cases = [(path, seed) for seed in range(3) for path in PROGRAMS]
    wanted = [expected(path, seed) for path, seed in cases]

    def run(case):
        path, seed = case
        with apply_program(model, path):
            return generate(model, seed)

    assert all(map(torch.equal, in_threads(run, cases), wanted))
    assert snapshot(model) == before


def test_rows_at_once(model):
    def run(paths):
        with apply_program(model, paths):
            return generate(model, seed=0, rows=2)

    batches = [(REORDER, ONE_LAYER), (ONE_LAYER, REPEAT_AND_SKIP), (IDENTITY, REORDER)]
    alone = [run(batch) for batch in batches]
    assert all(map(torch.equal, in_threads(run, batches * 2), alone * 2))


def test_one_active_program_for_all_threads(model):
    """A block may hand its work to a pool."""
    wanted = [expected(REORDER, seed) for seed in range(6)]
    with apply_program(model, REORDER):
        results = in_threads(lambda seed: generate(model, seed), range(6))
    assert all(map(torch.equal, results, wanted))


def test_entering_waits_for_the_other_thread(model):
    inside, leave, events = threading.Event(), threading.Event(), []

    def first():
        with apply_program(model, REORDER):
            inside.set()
            leave.wait(PATIENCE)
            events.append("first leaves")

    def second():
        inside.wait(PATIENCE)
        with apply_program(model, ONE_LAYER):
            events.append("second enters")
            return generate(model, seed=0)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(first), pool.submit(second)
        inside.wait(PATIENCE)
        assert not other.done()
        assert torch.equal(generate(model, seed=1), expected(REORDER, seed=1))
        leave.set()
        one.result(PATIENCE)
        assert torch.equal(other.result(PATIENCE), expected(ONE_LAYER, seed=0))
    assert events == ["first leaves", "second enters"]


def test_a_failing_block_lets_the_next_thread_in(model):
    def run(path):
        try:
            with apply_program(model, path):
                if path is REORDER:
                    raise RuntimeError
                return generate(model, seed=0)
        except RuntimeError:
            return None

    results = in_threads(run, [REORDER, ONE_LAYER] * 3)
    assert results[::2] == [None] * 3
    assert all(torch.equal(result, expected(ONE_LAYER, seed=0)) for result in results[1::2])


def test_other_models_do_not_wait(model):
    with apply_program(model, REORDER):
        other = build_model("llama", num_layers=NUM_LAYERS)

        def run(path):
            with apply_program(other, path):
                return generate(other, seed=0)

        (result,) = in_threads(run, [ONE_LAYER])
    assert torch.equal(result, expected(ONE_LAYER, seed=0))


def test_looking_while_others_switch(model):
    """Configs are half changed for a moment: nobody may take that for the model's structure."""
    stop = threading.Event()

    def switch(_):
        while not stop.is_set():
            with apply_program(model, REORDER):
                pass

    def look(_):
        seen = {active_programs(model) for _ in range(150)}
        return {programs and programs[0].path for programs in seen}

    def enter(_):
        for _ in range(50):
            with apply_program(model, ONE_LAYER) as programs:
                assert active_programs(model) == programs

    with ThreadPoolExecutor(3) as pool:
        switching = pool.submit(switch, None)
        looking, entering = pool.submit(look, None), pool.submit(enter, None)
        try:
            entering.result(PATIENCE)
            assert looking.result(PATIENCE) <= {None, REORDER, ONE_LAYER}
        finally:
            stop.set()
        switching.result(PATIENCE)


def test_a_private_block_is_nobody_elses(model):
    with apply_program(model, REORDER, private=True) as programs:
        assert active_programs(model) == programs
        assert in_threads(lambda _: active_programs(model), [0]) == [None]
    with apply_program(model, REORDER) as programs:
        assert in_threads(lambda _: active_programs(model), [0]) == [programs]
