"""Programs, segments and the parse between them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_adapter import Op, Program, ProgramError, Segment

DEPTHS = st.integers(min_value=1, max_value=40)


@st.composite
def programs(draw, depths=DEPTHS, max_size=60) -> Program:
    """Any path, whether or not segments express it."""
    depth = draw(depths)
    return Program(draw(st.lists(st.integers(0, depth - 1), min_size=1, max_size=max_size)), depth)


@st.composite
def segmentations(draw, max_depth=40, max_length=4, max_times=5) -> list[Segment]:
    """Segments that cover a model and run at least one layer."""
    segments: list[Segment] = []
    while not segments or (segments[-1].stop < max_depth and draw(st.booleans())):
        start = segments[-1].stop if segments else 0
        length = draw(st.integers(1, min(max_length, max_depth - start)))
        segments.append(segment(start, length, draw(st.integers(0, max_times))))
    if all(each.op is Op.SKIP for each in segments):
        segments[0] = segment(0, len(segments[0]), 1)
    return segments


def segment(start: int, length: int, times: int) -> Segment:
    return Segment(start, start + length, (Op.SKIP, Op.KEEP)[times] if times < 2 else Op.REPEAT, times)


def every_segmentation(path: tuple[int, ...], depth: int, max_length: int, max_times: int) -> Iterator[list[Segment]]:
    """All segmentations of a path, by trying everything."""

    def extend(segments: list[Segment], start: int, rest: tuple[int, ...]) -> Iterator[list[Segment]]:
        if start == depth:
            if not rest:
                yield segments
            return
        for length in range(1, min(max_length, depth - start) + 1):
            for times in range(max_times + 1):
                block = tuple(range(start, start + length)) * times
                if rest[: len(block)] == block:
                    yield from extend([*segments, segment(start, length, times)], start + length, rest[len(block) :])

    return extend([], 0, path)


def preference(segments: list[Segment]) -> tuple:
    """Fewest segments; then fewest skips; then larger segments earlier."""
    return len(segments), sum(s.op is Op.SKIP for s in segments), [-len(s) for s in segments]


class TestForms:
    @given(programs())
    def test_text_round_trip(self, program):
        assert Program.parse(str(program), program.num_layers) == program

    @given(segmentations())
    def test_text_round_trip_of_segments(self, segments):
        program = Program.from_segments(segments)
        assert Program.parse(str(program), program.num_layers) == program

    @given(programs())
    def test_json_round_trip(self, program):
        assert Program.from_dict(json.loads(json.dumps(program.to_dict()))) == program

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ([0, 1, 2, 3], "0-3"),
            ([2], "2"),
            ([3, 3, 3], "3x3"),
            ([0, 1, 2, 1, 2, 3], "0 1-2x2 3"),
            ([3, 2, 1], "3 2 1"),
            ([0, 1, 3], "0-1 3"),
        ],
    )
    def test_text_is_what_one_would_write(self, path, text):
        assert str(Program(path, 4)) == text

    def test_text_in_other_words_is_the_same_program(self):
        assert Program.parse(" 0-0   1 1-1x1 ", 2) == Program([0, 1, 1], 2)


class TestValues:
    @given(programs())
    def test_equal_programs_are_one_key(self, program):
        twin = Program(list(program.path), program.num_layers)
        assert {program: 1}[twin] == 1
        assert program != Program(program.path, program.num_layers + 1)

    def test_nothing_can_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            Program([0], 1).path = (0,)
        with pytest.raises(dataclasses.FrozenInstanceError):
            Segment(0, 1).stop = 2

    @given(programs())
    def test_executions_count_the_steps_of_every_layer(self, program):
        assert sum(program.executions) == program.depth == len(program)
        assert all(program.path.count(layer) == times for layer, times in enumerate(program.executions))

    @given(DEPTHS)
    def test_identity(self, depth):
        program = Program.identity(depth)
        assert program.is_identity
        assert program.depth == depth
        assert not Program([*program.path, 0], depth).is_identity

    @given(programs())
    def test_no_torch_integers_inside(self, program):
        assert all(type(index) is int for index in program.path)


class TestSegments:
    @given(segmentations())
    def test_parse_gives_back_the_program(self, segments):
        program = Program.from_segments(segments)
        parsed = program.segments()
        assert Program.from_segments(parsed, program.num_layers) == program
        assert preference(parsed) <= preference(segments)
        assert all(len(s) <= 4 and s.times <= 5 for s in parsed)

    @given(segmentations(max_depth=6, max_length=3, max_times=3))
    def test_parse_is_the_best_of_all(self, segments):
        program = Program.from_segments(segments)
        best = min(every_segmentation(program.path, program.num_layers, 3, 3), key=preference)
        assert list(program.segments(max_length=3, max_times=3)) == best

    @given(programs(depths=st.integers(1, 5), max_size=8))
    def test_refused_only_if_no_segmentation_exists(self, program):
        found = list(every_segmentation(program.path, program.num_layers, 2, 3))
        if found:
            assert list(program.segments(max_length=2, max_times=3)) == min(found, key=preference)
        else:
            with pytest.raises(ProgramError, match="can be run"):
                program.segments(max_length=2, max_times=3)

    @pytest.mark.parametrize(
        "path",
        [
            [i % 128 for i in range(128)],
            [i for i in range(128) if i % 3],
            [layer for start in range(0, 128, 4) for layer in list(range(start, start + 4)) * 5],
        ],
        ids=["identity", "skips", "five-times-each"],
    )
    def test_128_layers_take_milliseconds(self, path):
        program, seconds = Program(path, 128), []
        for _ in range(5):
            start = time.perf_counter()
            program.segments()
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < 0.02

    def test_blocks_executed_six_times_have_no_segment(self):
        assert Program([0] * 5, 1).segments() == (Segment(0, 1, Op.REPEAT, 5),)
        with pytest.raises(ProgramError, match="no sequence of segments"):
            Program([0] * 6, 1).segments()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Program([], 4), "empty; it must execute at least one layer"),
        (lambda: Program([4], 4), r"runs layer 4, but the model has 4 layers \(0-3\)"),
        (lambda: Program([-1], 4), "runs layer -1"),
        (lambda: Program([0, "1"], 4), "step 1 of the program is '1'"),
        (lambda: Program([True], 4), "is True; steps are layer indices"),
        (lambda: Program([1.0], 4), "is 1.0; steps are layer indices"),
        (lambda: Program([0], 0), "num_layers is 0"),
        (lambda: Program([0], True), "num_layers is True"),
        (lambda: Program.parse("", 4), "empty"),
        (lambda: Program.parse("0-1 two", 4), "cannot read 'two'"),
        (lambda: Program.parse("0x0", 4), "cannot read '0x0'"),
        (lambda: Program.parse("0--1", 4), "cannot read '0--1'"),
        (lambda: Program.parse("2-1", 4), "blocks run upwards"),
        (lambda: Program.parse("2-9", 4), "covers layers 2-9, but the model has 4 layers"),
        (lambda: Program.from_dict({"path": [0]}), "needs 'path' and 'num_layers'"),
        (lambda: Program.from_dict({"path": 3, "num_layers": 4}), "cannot read a program"),
        (lambda: Program.from_segments([]), "num_layers is 0"),
        (lambda: Program.from_segments([Segment(1, 2)]), "segment 0 starts at layer 1"),
        (lambda: Program.from_segments([Segment(0, 1), Segment(2, 3)]), "segment 1 starts at layer 2"),
        (lambda: Program.from_segments([Segment(0, 2)], num_layers=4), "segments end at layer 2"),
        (lambda: Program.from_segments([Segment(0, 2, Op.SKIP)]), "empty"),
        (lambda: Segment(2, 2), "holds no layer"),
        (lambda: Segment(-1, 2), "holds no layer"),
        (lambda: Segment(0, 2, Op.REPEAT, 1), "executed 1 times"),
        (lambda: Segment(0, 2, Op.KEEP, 2), "executed 2 times"),
        (lambda: Segment(0, 2, Op.SKIP, 1), "executed 1 times"),
    ],
)
def test_errors_say_what_was_given(make, message):
    with pytest.raises(ProgramError, match=message):
        make()
