from __future__ import annotations

import dataclasses
import os

import pytest

from polar_adapter.errors import RecordsError
from polar_adapter.program import Program
from polar_adapter.search import (
    ProgramScore,
    RecordsHeader,
    RecordWriter,
    SearchRecord,
    SearchSettings,
    iterate_records,
    read_records,
)

from .synthetic import NUM_LAYERS, examples

HEADER = RecordsHeader(NUM_LAYERS, model="base", oracle="synthetic")
RECORDS = [
    SearchRecord(example, 1.0, (ProgramScore(Program.identity(NUM_LAYERS), 1.0, 4),), seed=number)
    for number, example in enumerate(examples(3))
]


@pytest.fixture
def path(tmp_path):
    """A file with all records."""
    path = tmp_path / "records.jsonl"
    write(path, RECORDS)
    return path


def write(path, records, header=HEADER):
    with RecordWriter(path, header) as writer:
        for record in records:
            writer.write(record)


def test_what_is_written_is_read(path):
    assert list(read_records(path)) == RECORDS
    assert read_records(path, num_layers=NUM_LAYERS).header == HEADER
    assert list(iterate_records(path)) == RECORDS


def test_each_record_is_on_disk_at_once(tmp_path):
    with RecordWriter(tmp_path / "new" / "records.jsonl", HEADER) as writer:
        for count in range(3):
            assert len(read_records(writer.path)) == count
            writer.write(RECORDS[count])


def test_a_writer_continues_from_any_cut(path, monkeypatch):
    """Whatever byte a killed writer stopped at, the finished questions stay and the others can be added."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    line_ends = [offset for offset, byte in enumerate(whole) if byte == ord("\n")]
    for cut in {*range(0, len(whole), 13), *line_ends, *(end + 1 for end in line_ends)}:
        path.write_bytes(whole[:cut])
        complete = max(0, whole[:cut].count(b"\n") - 1)
        with RecordWriter(path, HEADER) as writer:
            assert writer.finished == {record.example.id for record in RECORDS[:complete]}
            assert path.read_bytes() == b"".join(lines[: complete + 1])
            for record in RECORDS[complete:]:
                writer.write(record)
        assert path.read_bytes() == whole


def test_a_truncated_file_is_read_on_request_only(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RecordsError, match=r"line 4.*allow_truncated"):
        read_records(path)
    assert list(read_records(path, allow_truncated=True)) == RECORDS[:2]


@pytest.mark.parametrize("allow_truncated", [False, True])
def test_a_broken_line_is_named(path, allow_truncated):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:20] + b"\n", lines[3]]))
    with pytest.raises(RecordsError, match=r"records.jsonl, line 3: .*delete the line"):
        read_records(path, allow_truncated=allow_truncated)
    before = path.read_bytes()
    with pytest.raises(RecordsError, match="line 3"):
        RecordWriter(path, HEADER)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_layers": 28}, "num_layers = 12, and 28"),
        ({"model": "other"}, "model = 'base', and 'other'"),
        ({"settings": SearchSettings(seed=1)}, "settings.seed = 0, and 1"),
        ({"template": "chat"}, "template = None, and 'chat'"),
    ],
)
def test_another_search_is_not_appended(path, change, named):
    before = path.read_bytes()
    with pytest.raises(RecordsError, match=named):
        RecordWriter(path, dataclasses.replace(HEADER, **change))
    assert path.read_bytes() == before


def test_other_versions_are_accepted_with_a_warning(path):
    with pytest.warns(UserWarning, match="2.14"):
        RecordWriter(path, dataclasses.replace(HEADER, versions={"torch": "2.14"})).close()


@pytest.mark.parametrize("content", [b'{"my": "data"}', b'{"my": "data"}\n', b"PK\x03\x04\xff\xfe"])
def test_a_foreign_file_is_never_touched(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(RecordsError, match="line 1"):
        RecordWriter(path, HEADER)
    with pytest.raises(RecordsError, match="line 1"):
        read_records(path)
    assert path.read_bytes() == content


def test_another_depth_is_refused(path):
    with pytest.raises(RecordsError, match="12 layers, but this model has 28"):
        read_records(path, num_layers=28)


def test_nothing_there(tmp_path):
    for missing in (tmp_path, tmp_path / "no.jsonl"):
        with pytest.raises(RecordsError, match="no search records"):
            read_records(missing)


def test_shards_are_read_as_one(tmp_path):
    write(tmp_path / "0.jsonl", RECORDS[:1])
    write(tmp_path / "1.jsonl", RECORDS[1:])
    assert list(read_records(tmp_path)) == RECORDS


def test_shards_of_two_searches_are_not_mixed(tmp_path):
    write(tmp_path / "0.jsonl", RECORDS[:1])
    write(tmp_path / "1.jsonl", RECORDS[1:], dataclasses.replace(HEADER, oracle="likelihood"))
    with pytest.raises(RecordsError, match="oracle"):
        read_records(tmp_path)


def test_a_question_in_two_shards_is_reported(tmp_path):
    write(tmp_path / "0.jsonl", RECORDS[:2])
    write(tmp_path / "1.jsonl", RECORDS[1:])
    with pytest.raises(RecordsError, match=r"'q1'.*0.jsonl.*1.jsonl"):
        read_records(tmp_path)


def test_a_question_is_written_once(path):
    with RecordWriter(path, HEADER) as writer, pytest.raises(RecordsError, match="'q0'"):
        writer.write(RECORDS[0])


def test_changed_data_under_an_old_id_is_refused(path):
    with RecordWriter(path, HEADER) as writer, pytest.raises(RecordsError, match="The data changed"):
        writer.is_finished(dataclasses.replace(RECORDS[0].example, prompt="another question"))


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_no_half_line(tmp_path, monkeypatch, failure):
    path = tmp_path / "records.jsonl"
    with RecordWriter(path, HEADER) as writer:

        def fail(descriptor):
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(type(failure)):
                writer.write(RECORDS[0])
        assert len(read_records(path)) == 0
        writer.write(RECORDS[0])
    assert list(read_records(path)) == RECORDS[:1]
