"""Files in the published supervision format: ``merged_mcts_samples.json``, plain or gzipped.

Shared by the authors' release (github.com/tianyi-lab/PoLar) and by the independent reproduction
(github.com/DATEXIS/RE-PoLar, which publishes about ten million programs in it). A file is a list of records, an object
with such a list under ``samples``, or an object whose values are records. Each record has

- ``question`` and ``gt_ans`` (aliases: ``ground_truth``, ``answer``; also inside ``sample_info``),
- ``final_valid_transitions`` and ``final_invalid_transitions``, lists of paths,
- ``initial_transition_metric`` or ``initial_score``, the score of the standard forward pass,
- optionally ``query_id``, and ``search_trajectory`` with one entry per visit.

The format knows neither the depth of the base nor anything between right and wrong.
"""

from __future__ import annotations

import gzip
import json
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TextIO

from ..errors import ConfigError, RecordsError
from ..search.records import Example, SearchRecord
from .json_stream import JSONStream
from .published_record import Sample, to_record, to_sample


def read_published(
    path: str | Path,
    num_layers: int,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    examples: Iterable[Example] = (),
) -> Iterator[SearchRecord]:
    """Read a file of the published format, record by record.

    Args:
        path: A ``.json`` or ``.json.gz`` file. Lists are read as a stream; an object of records is held whole.
        num_layers: Depth of the base model, which the format does not state.
        on_error: What to do about an invalid record: raise, or warn with its place and leave it out.
        examples: Questions by id, for files that name questions without repeating them (the reproduction's hold only
            ``sample_info.query_id``: give ``load_examples("dart-math", split=…)`` of all three splits).

    Yields:
        Records whose programs score 0 or 1, in order of discovery where the file has it, else valid programs first.
        The standard pass counts as right or wrong by the list it is in; if it is in neither it is added with its
        initial score, and if there is none, it counts as wrong.

    Raises:
        RecordsError: If the file is missing, no JSON, or truncated, which cannot be skipped; or if a record is invalid.
    """
    if on_error not in ("raise", "skip"):
        raise ConfigError(f"on_error is {on_error!r}; it is 'raise' or 'skip'.")
    known = {example.id: example for example in examples}
    seen: set[str] = set()
    for sample in _read_samples(Path(path)):
        try:
            record = to_record(sample, num_layers, known)
            if record.example.id in seen:
                raise RecordsError(f"question {record.example.id!r} was read before")
        except RecordsError as error:
            message = f"{path}, record {sample.key!r} on line {sample.line}: {error}"
            if on_error == "raise":
                raise RecordsError(f"{message}. Correct it, or leave such records out with on_error='skip'.") from error
            warnings.warn(f"left out {message}", stacklevel=2)
            continue
        seen.add(record.example.id)
        yield record


def write_published(path: str | Path, records: Iterable[SearchRecord]) -> int:
    """Write records in the published format, ``{"samples": […]}``, one record per line.

    Visits, flips and seeds have no place in the format; scores become right or wrong.

    Args:
        path: Target; gzipped if it ends in ``.gz``. It appears only when complete.
        records: What to write, read as a stream.

    Returns:
        How many records were written.
    """
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.unfinished")
    count = 0
    try:
        with _open(unfinished, "wt", is_gzip=path.suffix == ".gz") as file:
            file.write('{"samples": [')
            for record in records:
                file.write(",\n" if count else "\n")
                json.dump(to_sample(record), file, ensure_ascii=False)
                count += 1
            file.write("\n]}\n")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def _open(path: Path, mode: str, is_gzip: bool) -> TextIO:
    return (gzip.open if is_gzip else open)(path, mode, encoding="utf-8")  # type: ignore[return-value]


def _read_samples(path: Path) -> Iterator[Sample]:
    try:
        with _open(path, "rt", is_gzip=path.suffix == ".gz") as file:
            yield from _samples(JSONStream(file))
    except FileNotFoundError as error:
        raise RecordsError(f"there is no file {path}.") from error
    except (EOFError, OSError, zlib.error) as error:
        raise RecordsError(f"{path} cannot be read ({error}); it may be truncated, or not be a gzip file.") from error
    except ValueError as error:
        raise RecordsError(f"{path}, {error}. The file is damaged; what follows cannot be read.") from error


def _samples(stream: JSONStream) -> Iterator[Sample]:
    opening = stream.peek()
    if opening == "[":
        yield from _elements(stream)
    elif opening == "{":
        # Which of the two objects this is shows only at its end, unless the list of samples turns up.
        members: list[Sample] | None = []
        for key in stream.elements("{"):
            if key == "samples" and stream.peek() == "[":
                members = None
                yield from _elements(stream)
                continue
            member = Sample(key, stream.line, stream.value())
            if members is not None:
                members.append(member)
        yield from members or ()
    else:
        raise ValueError(f"line {stream.line}: expected a list or an object of records")
    if stream.peek():
        raise ValueError(f"line {stream.line}: expected the end of the file")


def _elements(stream: JSONStream) -> Iterator[Sample]:
    for key in stream.elements("["):
        yield Sample(key, stream.line, stream.value())
