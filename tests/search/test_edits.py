from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_adapter.errors import ConfigError
from polar_adapter.program import Op, Program, Segment
from polar_adapter.search import SearchSettings
from polar_adapter.search.edits import EditSpace


def walk(space: EditSpace, rng: random.Random, steps: int) -> list[tuple[Program, list[Segment]]]:
    """A random walk of edits from the identity: each program with the edits that led to it."""
    program, edits = space.identity, []
    visited = [(program, edits)]
    for _ in range(steps):
        choices = space.edits(program)
        if not choices:
            break
        edit = rng.choice(choices)
        program, edits = space.apply(program, edit, rng), [*edits, edit]
        visited.append((program, edits))
    return visited


@given(
    num_layers=st.integers(1, 40),
    mode=st.sampled_from(["both", "skip", "loop"]),
    max_executions=st.integers(2, 5),
    seed=st.integers(0, 2**32),
)
def test_every_reachable_program_is_in_the_grammar(num_layers, mode, max_executions, seed):
    space = EditSpace(num_layers, SearchSettings(mode=mode, max_executions=max_executions))
    for program, _ in walk(space, random.Random(seed), steps=30):
        segments = program.segments(max_length=4, max_times=max_executions)
        forbidden = {"both": (), "skip": (Op.REPEAT,), "loop": (Op.SKIP,)}[mode]
        assert not any(segment.op in forbidden for segment in segments)
        assert len(program) >= 1


@given(num_layers=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_edits_compose_as_segments(num_layers, seed):
    """Adding edits one by one is the same as composing all of them with kept layers in between."""
    space = EditSpace(num_layers, SearchSettings())
    for program, edits in walk(space, random.Random(seed), steps=10):
        taken = {layer: edit for edit in edits for layer in range(edit.start, edit.stop)}
        segments = {taken.get(layer, Segment(layer, layer + 1)) for layer in range(num_layers)}
        assert Program.from_segments(sorted(segments)) == program


@given(num_layers=st.integers(2, 12), seed=st.integers(0, 2**32))
def test_the_order_of_edits_does_not_matter(num_layers, seed):
    rng = random.Random(seed)
    space = EditSpace(num_layers, SearchSettings())
    program, edits = walk(space, rng, steps=4)[-1]
    rng.shuffle(edits)
    other = space.identity
    for edit in edits:
        other = space.apply(other, edit, rng) if edit in space.edits(other) else other
    assert other == program


def test_adjacent_skips_are_the_one_longer_skip():
    space, rng = EditSpace(8, SearchSettings()), random.Random(0)
    twice = space.apply(space.apply(space.identity, Segment(0, 2, Op.SKIP), rng), Segment(2, 4, Op.SKIP), rng)
    assert twice == space.apply(space.identity, Segment(0, 4, Op.SKIP), rng)


def test_all_edits_of_the_identity_are_offered():
    edits = EditSpace(28, SearchSettings()).edits(Program.identity(28))
    assert len(edits) == len(set(edits)) == (28 + 27 + 26 + 25) * 4  # lengths 1-4, skipped or run 2-4 times


def test_one_layer_is_always_left():
    space = EditSpace(3, SearchSettings(mode="skip"))
    assert Segment(0, 3, Op.SKIP) not in space.edits(space.identity)
    assert space.edits(Program((1,), 3)) == []


@given(num_layers=st.integers(1, 20), max_depth=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_programs_keep_the_depth_budget(num_layers, max_depth, seed):
    space = EditSpace(num_layers, SearchSettings(max_depth=max_depth))
    visited = walk(space, random.Random(seed), steps=10)
    assert all(program.depth <= max_depth for program, _ in visited[1:])
    assert len(visited) > 1 or num_layers == max_depth == 1


def test_repeats_alone_cannot_meet_a_budget_below_the_model():
    with pytest.raises(ConfigError, match="max_depth"):
        EditSpace(12, SearchSettings(mode="loop", max_depth=11))
