from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_adapter.errors import RecordsError
from polar_adapter.program import Program
from polar_adapter.search import Example, ProgramScore, RecordsHeader, SearchRecord, SearchSettings, question_seed

NUM_LAYERS = 6

programs = st.lists(st.integers(0, NUM_LAYERS - 1), min_size=1, max_size=15).map(lambda path: Program(path, NUM_LAYERS))
entries = st.builds(ProgramScore, programs, st.floats(0, 1), st.integers(1, 500))
texts = st.text(st.characters())  # line breaks, quotes, lone surrogates
records = st.builds(
    SearchRecord,
    st.builds(Example, texts, texts, texts, st.none() | texts),
    st.floats(0, 1),
    st.lists(entries, max_size=5).map(tuple),
    st.none() | st.integers(0, 2**48 - 1),
    st.none() | st.integers(0, 9),
)


@given(records)
def test_a_record_is_one_line_and_comes_back(record):
    line = record.to_json()
    assert "\n" not in line
    assert line.isascii()
    assert SearchRecord.from_json(line, NUM_LAYERS) == record


def test_programs_are_readable_in_the_file():
    record = SearchRecord(Example("1", "2+2", "4"), 0.0, (ProgramScore(Program.parse("0-2x2 5", 6), 1.0, 3),))
    assert json.loads(record.to_json())["programs"] == [["0-2x2 5", 1.0, 3]]


def test_valid_programs_and_the_shortest():
    scores = [("0-5", 1.0), ("0-1", 0.5), ("2-5", 1.0), ("0-3", 0.9), ("0", 0.0)]
    entries = tuple(ProgramScore(Program.parse(text, 6), score) for text, score in scores)
    record = SearchRecord(Example("1", "p", "a"), 1.0, entries)
    assert [str(program) for program in record.valid] == ["0-5", "2-5", "0-3"]
    assert str(record.shortest_valid) == "2-5"
    assert SearchRecord(record.example, 0.0, ()).shortest_valid is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ('{"id": "1", "prompt": "p", "answer": "a", "level": null, "programs": [["0-9", 1.0, 1]]}', "has 6 layers"),
        ('{"id": "1", "prompt": "p", "answer": "a", "level": null, "programs": [["0-5", 7.0, 1]]}', "between 0 and 1"),
        ('{"id": 1, "prompt": "p", "answer": "a", "level": null, "programs": []}', "text"),
    ],
)
def test_a_line_that_is_no_record_is_refused(line, reason):
    line = line.replace('"programs"', '"identity_score": 0, "seed": 1, "flips": null, "programs"')
    with pytest.raises(RecordsError, match="not a search record") as caught:
        SearchRecord.from_json(line, NUM_LAYERS)
    assert reason in str(caught.value)


def test_examples_are_text():
    with pytest.raises(RecordsError, match="field id"):
        Example(17, "p", "a")


def test_the_header_round_trips():
    header = RecordsHeader(12, "model", "rev", "chat", "generation", SearchSettings(seed=3), {"torch": "2.13"})
    assert RecordsHeader.from_json(header.to_json()) == header
    data = json.loads(header.to_json())
    assert (data["format"], data["version"], data["settings"]["seed"]) == ("polar-records", 1, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "'other'"),
        ({"version": 2}, "upgrade"),
        ({"settings": {"x": 1}}, "unknown search settings"),
    ],
)
def test_a_foreign_header_is_refused(change, reason):
    line = json.dumps(json.loads(RecordsHeader(12).to_json()) | change)
    with pytest.raises(RecordsError, match=reason):
        RecordsHeader.from_json(line)


def test_seeds_are_stable_and_differ_by_question():
    assert question_seed(0, "q1") == 151567832615717  # a new value would change every search ever run
    assert len({question_seed(seed, f"q{i}") for seed in range(3) for i in range(100)}) == 300
