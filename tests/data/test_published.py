from __future__ import annotations

import gzip
import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_adapter.data import read_published, write_published
from polar_adapter.data.json_stream import JSONStream
from polar_adapter.errors import ConfigError, RecordsError
from polar_adapter.program import Program
from polar_adapter.search.records import Example, ProgramScore, SearchRecord

IDENTITY = [0, 1, 2, 3]
SAMPLE = {
    "question": "1 + 1 = ?",
    "gt_ans": "2",
    "final_valid_transitions": [[0, 1, 3], [0, 1, 1, 2, 3]],
    "final_invalid_transitions": [IDENTITY, [0]],
    "initial_transition_metric": 0.0,
}


def sample(**changes):
    return {key: value for key, value in (SAMPLE | changes).items() if value is not None}


def write(path, data, indent=None):
    text = data if isinstance(data, str) else json.dumps(data, indent=indent)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def read(path, **options):
    return list(read_published(path, num_layers=4, **options))


@pytest.mark.parametrize("name", ["samples.json", "samples.json.gz"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "layout",
    [
        lambda records: records,
        lambda records: {"samples": records},
        lambda records: {"SEARCH_ALGO": "mcts", "settings": {"sims": 100}, "samples": records, "n": 2},
        lambda records: {f"q{i}": record for i, record in enumerate(records)},
    ],
    ids=["list", "samples", "samples with header", "object of records"],
)
def test_every_layout_is_read(tmp_path, name, indent, layout):
    path = write(tmp_path / name, layout([sample(), sample(question="2 = ?")]), indent)
    records = read(path)
    assert [record.example.prompt for record in records] == ["1 + 1 = ?", "2 = ?"]
    first = records[0]
    assert first.example.answer == "2"
    assert first.valid == (Program([0, 1, 3], 4), Program([0, 1, 1, 2, 3], 4))
    assert [entry.score for entry in first.programs] == [1.0, 1.0, 0.0, 0.0]
    assert first.identity_score == 0.0


def test_ids_levels_and_aliases(tmp_path):
    info = {"question": "inner?", "ground_truth": 7, "query_id": "math-1", "difficulty": 3, "math_level": 5}
    path = write(tmp_path / "a.json", [sample(question=None, gt_ans=None, sample_info=info), sample(answer="9")])
    inner, outer = read(path)
    assert inner.example == Example("math-1", "inner?", "7", "3")
    assert outer.example == Example("1", "1 + 1 = ?", "2", None)
    keyed = write(tmp_path / "b.json", {"q7": sample()})
    assert read(keyed)[0].example.id == "q7"


def test_questions_can_come_from_elsewhere(tmp_path):
    path = write(tmp_path / "a.json", [sample(question=None, gt_ans=None, sample_info={"query_id": "math-1"})])
    example = Example("math-1", "known?", "7", "1")
    assert read(path, examples=[example])[0].example == example
    with pytest.raises(RecordsError, match="it has no question, and the question 'math-1' is not among the 0 examples"):
        read(path)


def test_trajectory_gives_order_and_visits(tmp_path):
    visits = [IDENTITY, [0], [0, 1, 1, 2, 3], [0]]
    trajectory = [{"path": path, "parent_path": None, "reward": 0.0} for path in visits]
    (record,) = read(write(tmp_path / "a.json", [sample(search_trajectory=trajectory)]))
    assert [(list(entry.program.path), entry.visits) for entry in record.programs] == [
        (IDENTITY, 1),
        ([0], 2),
        ([0, 1, 1, 2, 3], 1),
        ([0, 1, 3], 1),
    ]


@pytest.mark.parametrize(("field", "score"), [("initial_transition_metric", 1.0), ("initial_score", 1), (None, 0.0)])
def test_identity_score_is_added_where_the_lists_lack_it(tmp_path, field, score):
    changes = {"initial_transition_metric": None, "final_invalid_transitions": None} | ({field: score} if field else {})
    (record,) = read(write(tmp_path / "a.json", [sample(**changes)]))
    assert record.identity_score == score
    assert (Program.identity(4) in [entry.program for entry in record.programs]) == (field is not None)


def test_paths_may_be_objects(tmp_path):
    (record,) = read(write(tmp_path / "a.json", [sample(final_valid_transitions=[{"path": [0, 3], "score": 1.0}])]))
    assert record.valid == (Program([0, 3], 4),)


BROKEN = {
    "layer out of range": (sample(final_valid_transitions=[[0, 4]]), "layer 4, but the model has 4 layers"),
    "empty path": (sample(final_valid_transitions=[[]]), "the program is empty"),
    "no number": (sample(final_invalid_transitions=[[0, "1"]]), "not a list of layer indices"),
    "boolean": (sample(final_valid_transitions=[[True]]), "not a list of layer indices"),
    "paths no list": (sample(final_valid_transitions="0-3"), "not a list of paths"),
    "no paths": (sample(final_valid_transitions=None), "no final_valid_transitions"),
    "both": (sample(final_invalid_transitions=[[0, 1, 3]]), "both valid and invalid"),
    "no answer": (sample(gt_ans=None), "no gt_ans"),
    "no object": ("text", "'text', not an object"),
    "score": (sample(initial_transition_metric="high"), "initial score is 'high'"),
    "score out of range": (sample(initial_transition_metric=-1), "initial score is -1"),
    "trajectory": (sample(search_trajectory={"path": [0]}), "not a list of visits"),
    "repeated": (sample(query_id="same"), "question 'same' was read before"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_invalid_records_are_reported_by_place_and_skipped_on_request(tmp_path, case):
    broken, reason = BROKEN[case]
    good, last = sample(query_id="same"), sample(query_id="last")
    path = write(tmp_path / "a.json", {"samples": [good, broken, last]}, indent=1)
    line = json.dumps({"samples": [good]}, indent=1).count("\n")
    with pytest.raises(RecordsError, match=rf"record 1 on line {line}: .*{reason}.*on_error='skip'"):
        read(path)
    with pytest.warns(UserWarning, match=rf"left out .*record 1 on line {line}: .*{reason}"):
        records = read(path, on_error="skip")
    assert [record.example.id for record in records] == ["same", "last"]


def test_records_before_a_broken_one_are_yielded_first(tmp_path):
    reading = read_published(write(tmp_path / "a.json", [sample(), "broken"]), num_layers=4)
    assert next(reading).example.id == "0"
    with pytest.raises(RecordsError, match="record 1"):
        next(reading)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a list or an object"),
        ("12", "expected a list or an object"),
        ('[{"question": ', "line 1: no valid JSON"),
        ("[\n{}\n{}]", "line 3: expected ','"),
        ('[{"a": "unfinished', "Unterminated string"),
        ("[{}, ]", "no valid JSON"),
        ("[{}", "found 'the end of the file'"),
        ("[] []", "expected the end of the file"),
        ('{"a" 1}', "expected ':'"),
        ("{1: 2}", "line 1: expected a key"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_damaged_files_are_refused_even_when_skipping(tmp_path, text, reason, on_error):
    path = write(tmp_path / "a.json", text.replace("{}", json.dumps(SAMPLE)))
    with pytest.raises(RecordsError, match=reason):
        read(path, on_error=on_error)


def test_truncated_gzip_and_missing_file(tmp_path):
    path = write(tmp_path / "a.json.gz", [sample(question="?" * 5000)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecordsError, match="truncated"):
        read(path)
    write(tmp_path / "b.json", "[]").rename(tmp_path / "b.json.gz")
    with pytest.raises(RecordsError, match="not be a gzip"):
        read(tmp_path / "b.json.gz")
    with pytest.raises(RecordsError, match="no file"):
        read(tmp_path / "c.json")
    with pytest.raises(ConfigError, match="'raise' or 'skip'"):
        read(path, on_error="ignore")


def record(index: int, *programs: ProgramScore) -> SearchRecord:
    return SearchRecord(Example(f"q{index}", "¿2 + 2 = ?", "4", "1"), 1.0, programs)


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_written_records_read_back(tmp_path, name):
    records = [
        record(0, ProgramScore(Program.identity(4), 1.0), ProgramScore(Program([0, 3], 4), 0.0)),
        record(1, ProgramScore(Program.identity(4), 1.0), ProgramScore(Program([0, 0, 3], 4), 1.0)),
    ]
    assert write_published(tmp_path / name, records) == 2
    assert read(tmp_path / name) == records
    assert write_published(tmp_path / name, []) == 0
    assert read(tmp_path / name) == []


def test_interrupted_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_published(path, [record(0, ProgramScore(Program.identity(4), 1.0))])
    before = path.read_bytes()

    def interrupted():
        yield record(1, ProgramScore(Program.identity(4), 1.0))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_published(path, interrupted())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_lists_are_streamed(tmp_path):
    path = write(tmp_path / "a.json", {"samples": [sample(padding="x" * 100_000)] * 300})
    tracemalloc.start()
    assert sum(1 for _ in read_published(path, num_layers=4)) == 300
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 3


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    ),
    chunk=st.integers(1, 40),
    indent=st.none() | st.integers(0, 3),
    ascii_only=st.booleans(),
)
def test_stream_reads_what_json_reads(value, chunk, indent, ascii_only):
    text = json.dumps([value, {"key": value}], indent=indent, ensure_ascii=ascii_only)
    stream = JSONStream(io.StringIO(text), chunk)
    values, lines = [], []
    for _ in stream.elements("["):
        lines.append(stream.line)
        values.append(stream.value())
    assert values == json.loads(text)
    assert stream.peek() == ""
    assert lines[0] == (1 if indent is None else 2)
