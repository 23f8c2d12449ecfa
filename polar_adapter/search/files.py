"""Records files: written question by question, safe to kill, read back whole.

A file is JSON lines, described in :mod:`polar_adapter.search.records`. A last line without its line break is one whose
writer was killed; nothing else in a file is ever partial.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..errors import RecordsError
from .records import FORMAT, Example, RecordsHeader, SearchRecord

_HEADER_START = f'{{"format": "{FORMAT}"'.encode()


@dataclass(frozen=True)
class Records:
    """The records of one search, and what they depend on. Iterates over its records."""

    header: RecordsHeader
    records: tuple[SearchRecord, ...]

    def __iter__(self) -> Iterator[SearchRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def read_records(path: str | Path, num_layers: int | None = None, allow_truncated: bool = False) -> Records:
    """Read search records.

    Args:
        path: A records file, or a folder of ``*.jsonl`` shards of one search.
        num_layers: Depth of the model the records are for; None accepts any.
        allow_truncated: Leave out a last line that its writer could not finish, instead of refusing the file.

    Returns:
        The header, and all records in file order.

    Raises:
        RecordsError: If a file is missing, broken, truncated, made for another depth, of another search than the
            shard before it, or repeats a question.
    """
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise RecordsError(f"no search records at {path}; give a records file or a folder of *.jsonl files.")
    header = read_header(files[0])
    if num_layers is not None and header.num_layers != num_layers:
        raise RecordsError(
            f"the records at {path} are for a model with {header.num_layers} layers, but this model has {num_layers}. "
            "Programs name layers by number: search again with this model."
        )
    records: dict[str, tuple[SearchRecord, Path]] = {}
    for file in files:
        if file != files[0]:
            header.check_same(read_header(file), where=str(files[0]))
        for record in iterate_records(file, allow_truncated):
            if record.example.id in records:
                raise RecordsError(
                    f"question {record.example.id!r} is in {records[record.example.id][1]} and again in {file}. "
                    "Remove one of the two."
                )
            records[record.example.id] = (record, file)
    return Records(header, tuple(record for record, _ in records.values()))


def read_header(path: str | Path) -> RecordsHeader:
    """Read the header of one records file.

    Raises:
        RecordsError: If the first line is not a complete header.
    """
    with open(path, "rb") as file:
        line = file.readline()
    try:
        return RecordsHeader.from_json(line.decode())
    except ValueError as error:
        raise RecordsError(f"{path}, line 1: {error}. Give a file written by a search.") from error


def iterate_records(path: str | Path, allow_truncated: bool = False) -> Iterator[SearchRecord]:
    """Read one records file record by record.

    Args:
        path: The file.
        allow_truncated: As for :func:`read_records`.

    Raises:
        RecordsError: As for :func:`read_records`, when the reading gets there.
    """
    num_layers = read_header(path).num_layers
    with open(path, "rb") as file:
        file.readline()
        for number, line in enumerate(file, start=2):
            if not line.endswith(b"\n"):
                if allow_truncated:
                    return
                raise RecordsError(
                    f"{path}, line {number}: the file ends inside a record, because its search was stopped. Run the "
                    "same search again to finish it, or pass allow_truncated=True to read the finished questions."
                )
            try:
                record = SearchRecord.from_json(line.decode(), num_layers)
            except ValueError as error:
                raise RecordsError(
                    f"{path}, line {number}: {error}. The file was changed after it was written: delete the line and "
                    "run the same search again, which searches that question anew."
                ) from error
            yield record


class RecordWriter:
    """Append records to a file, each on disk before the next question is finished.

    Opening a file that a killed search left behind continues it: a partial last line is dropped.

    Args:
        path: The file; its folders are created.
        header: What the records depend on.

    Raises:
        RecordsError: If the file is no records file, is broken, or holds the records of another search.
    """

    def __init__(self, path: str | Path, header: RecordsHeader) -> None:
        self.path = Path(path)
        self.header = header
        self._examples: dict[str, Example] = {}
        resumes = self._holds_header()
        if resumes:
            self._resume()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered, so that nothing of a line that failed is left behind to be written later.
        self._file = open(self.path, "ab" if resumes else "wb", buffering=0)  # noqa: SIM115
        if not resumes:
            self._append(header.to_json())

    @property
    def finished(self) -> frozenset[str]:
        """Ids of the questions in the file."""
        return frozenset(self._examples)

    def is_finished(self, example: Example) -> bool:
        """Whether the file holds this question.

        Raises:
            RecordsError: If it holds another question under the same id.
        """
        known = self._examples.get(example.id, example)
        if known != example:
            raise RecordsError(
                f"{self.path} holds {known} and the search was given {example}. The data changed since: use another "
                "file, or ids that do not depend on the order of the data."
            )
        return example.id in self._examples

    def write(self, record: SearchRecord) -> None:
        """Append one record and wait until it is on disk.

        Raises:
            RecordsError: If the question is in the file already.
        """
        if self.is_finished(record.example):
            raise RecordsError(f"question {record.example.id!r} is already in {self.path}.")
        self._append(record.to_json())
        self._examples[record.example.id] = record.example

    def close(self) -> None:
        """Close the file. It is complete after every :meth:`write`; this only releases it."""
        self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _holds_header(self) -> bool:
        """Whether there is a file with a first line to respect; a records file killed within its header has none."""
        if not self.path.exists():
            return False
        with open(self.path, "rb") as file:
            line = file.readline()
        return line.endswith(b"\n") or not (line.startswith(_HEADER_START) or _HEADER_START.startswith(line))

    def _resume(self) -> None:
        """Check the file, note its questions, and only then cut off a partial last line."""
        read_header(self.path).check_same(self.header, where=str(self.path))
        for record in iterate_records(self.path, allow_truncated=True):
            self._examples[record.example.id] = record.example
        with open(self.path, "r+b") as file:
            file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))

    def _append(self, line: str) -> None:
        size, rest = self._file.tell(), memoryview(line.encode() + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException:  # A full disk or Ctrl-C must not leave half a line for the next record to continue.
            self._file.truncate(size)
            self._file.seek(size)
            raise
