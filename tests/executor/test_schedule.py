"""Schedules: every program is spelled by its own steps, in few steps altogether."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polar_adapter.executor import merge_programs

paths = st.lists(st.integers(0, 5), min_size=1, max_size=9).map(tuple)
batches = st.lists(paths, min_size=1, max_size=5).map(tuple)


@given(batches)
def test_steps_of_each_row_spell_its_program(batch):
    schedule = merge_programs(batch)
    assert len(schedule.users) == len(schedule.path)
    for row, path in enumerate(batch):
        spelled = [layer for layer, users in zip(schedule.path, schedule.users, strict=True) if users[row]]
        assert tuple(spelled) == path


@given(batches)
def test_length_lies_between_the_longest_program_and_all_together(batch):
    steps = len(merge_programs(batch).path)
    assert max(map(len, batch)) <= steps <= sum(map(len, set(batch)))


@given(batches)
def test_no_step_serves_nobody(batch):
    assert all(any(users) for users in merge_programs(batch).users)


@given(paths, st.integers(1, 4))
def test_one_distinct_program_is_its_own_schedule(path, rows):
    schedule = merge_programs((path,) * rows)
    assert schedule.path == path
    assert schedule.is_uniform


@given(batches)
def test_duplicate_rows_cost_nothing_and_share_their_steps(batch):
    once, twice = merge_programs(batch), merge_programs(batch + batch)
    assert twice.path == once.path
    assert all(users[: len(batch)] == users[len(batch) :] for users in twice.users)


@given(st.lists(st.sets(st.integers(0, 7), min_size=1).map(lambda kept: tuple(sorted(kept))), min_size=1, max_size=6))
def test_programs_that_only_skip_take_no_more_steps_than_layers_in_use(batch):
    assert merge_programs(tuple(batch)).path == tuple(sorted({layer for path in batch for layer in path}))


def test_repeats_of_different_programs_share_their_steps():
    # Running the lowest waiting layer first gives 0 0 1 0 1, of which the second 0 is to spare.
    schedule = merge_programs(((0, 1, 0, 1), (0, 0)))
    assert schedule.path == (0, 1, 0, 1)
    assert not schedule.is_uniform


@given(batches)
def test_no_step_is_to_spare(batch):
    path = merge_programs(batch).path
    for step in range(len(path)):
        shorter = path[:step] + path[step + 1 :]
        assert not all(is_subsequence(program, shorter) for program in batch)


def is_subsequence(program, steps):
    rest = iter(steps)
    return all(layer in rest for layer in program)
