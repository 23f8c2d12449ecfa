"""Load examples from a known dataset, from any other on the Hub, or from local files."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..search.records import Example
from .sources import SOURCES, Column, Row, Source

_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_QUESTIONS = ("question", "prompt", "problem", "query")
_ANSWERS = ("answer", "gt_ans", "target")
_FIELDS = ("question", "answer", "level", "id")


def load_examples(
    name: str | Path | Source,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int | None = None,
    columns: str | Mapping[str, str] | None = None,
) -> list[Example]:
    """Load questions with their reference answers.

    Args:
        name: A name in :data:`SOURCES`, a :class:`Source`, a local file (JSON, JSON lines, CSV, Parquet), a local
            folder of such files, or a dataset on the Hub as ``user/name``.
        split: Split to load. Default: the source's own, and "train" for others.
        limit: Most examples to return.
        seed: Shuffle with this seed before the limit is applied. Default: dataset order.
        columns: How rows become examples, where ``name`` does not say: the name of a known source with the same
            columns, or a mapping from ``question``, ``answer``, ``level`` and ``id`` to columns. Default: columns
            called question (or prompt, problem, query), answer (or gt_ans, target), level and id.

    Returns:
        Examples with unique ids; an id does not depend on ``limit`` or ``seed``.

    Raises:
        ConfigError: If the name is unknown, a column is missing, an answer is empty, or ids repeat.
        ImportError: If the ``datasets`` library is not installed.

    Example:
        >>> load_examples("gsm8k", split="test", limit=100, seed=0)
        >>> load_examples("my_problems.csv", columns={"question": "text", "answer": "solution"})
    """
    source = _resolve(name)
    is_known = isinstance(name, Source) or str(name) in SOURCES
    if isinstance(columns, str):
        source = replace(
            _known(columns), path=source.path, configs=source.configs, split=source.split, rows=source.rows
        )
    split = split or source.split
    rows = source.rows(_load_dataset, split) if source.rows else _read_rows(source, split)
    if not isinstance(columns, str):
        source = replace(source, **({} if is_known else _usual_columns(rows)) | _checked(columns or {}))
    order = list(range(len(rows)))
    if seed is not None:
        random.Random(seed).shuffle(order)
    prefix = f"{name}-{split}" if str(name) in SOURCES else split
    examples = [example_from_row(rows[i], source, f"{prefix}-{i}") for i in order[:limit]]
    _check_unique(examples, source)
    return examples


def example_from_row(row: Row, source: Source, position: str) -> Example:
    """One row of a dataset as an example.

    Args:
        row: Values by column.
        source: The columns to read.
        position: Id of the example if the source has no id column; named in errors.

    Raises:
        ConfigError: If a column is missing, or the question or answer is empty.
    """
    try:
        question, answer, level, identifier = (
            _text(column, row) for column in (source.question, source.answer, source.level, source.id)
        )
    except KeyError as error:
        raise ConfigError(
            f"{source.path} has no column {error}; its columns are {', '.join(map(repr, row))}. Say which to read: "
            "columns={'question': …, 'answer': …}, or the name of a known dataset with the same columns."
        ) from error
    if question is None or answer is None:
        raise ConfigError(
            f"{source.path}, row {position}: the {'question' if question is None else 'answer'} is empty in "
            f"{str(dict(row))[:200]}. Remove the row, or read another column."
        )
    return Example(id=identifier or position, prompt=question, answer=answer, level=level)


def _text(column: Column | None, row: Row) -> str | None:
    if column is None:
        return None
    value = row[column] if isinstance(column, str) else column(row)
    return None if value is None else str(value).strip() or None


def _resolve(name: str | Path | Source) -> Source:
    """The source a name means; of local files and strangers on the Hub only the path is known."""
    if isinstance(name, Source):
        return name
    if str(name) in SOURCES:
        return SOURCES[str(name)]
    path = Path(name).expanduser()
    on_hub = isinstance(name, str) and name.count("/") == 1 and name[0] not in "./~" and _builder(path) is None
    if not path.exists() and not on_hub:
        raise ConfigError(
            f"there is no dataset called {str(name)!r}, and no such file or folder. Known names are "
            f"{', '.join(SOURCES)}; give one of them, a local path, or a dataset on the Hub as user/name."
        )
    return Source(path=str(path), question=_QUESTIONS[0], answer=_ANSWERS[0])


def _known(name: str) -> Source:
    if name not in SOURCES:
        raise ConfigError(f"columns={name!r} names no known dataset; there are {', '.join(SOURCES)}.")
    return SOURCES[name]


def _builder(path: Path) -> str | None:
    """The loader for a local file, by its ending, or None."""
    return _BUILDERS.get(Path(path.name.removesuffix(".gz")).suffix)


def _read_rows(source: Source, split: str) -> Sequence[Row]:
    path = Path(source.path)
    if path.is_file():
        builder = _builder(path)
        if builder is None:
            raise ConfigError(f"cannot read {path}: its ending is none of {', '.join(_BUILDERS)} (or these with .gz).")
        options = {"delimiter": "\t"} if ".tsv" in path.suffixes else {}
        return _load_dataset(builder, data_files=str(path), split=split, **options)
    parts = [_load_dataset(source.path, *filter(None, [config]), split=split) for config in source.configs]
    return parts[0] if len(parts) == 1 else [row for part in parts for row in part]


def _load_dataset(path: str, *args: Any, **kwargs: Any) -> Any:
    """``datasets.load_dataset``, imported when it is first needed."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ImportError(
            "loading datasets needs datasets. Install it with: pip install polar-adapter[train]"
        ) from error
    return load_dataset(path, *args, **kwargs)


def _usual_columns(rows: Sequence[Row]) -> dict[str, Column | None]:
    """The usual names that exist among the columns; where none does, the first, which the error will then name."""
    found = set(rows[0]) if len(rows) else set()
    return {
        "question": next((name for name in _QUESTIONS if name in found), _QUESTIONS[0]),
        "answer": next((name for name in _ANSWERS if name in found), _ANSWERS[0]),
        "level": "level" if "level" in found else None,
        "id": "id" if "id" in found else None,
    }


def _checked(columns: Mapping[str, str]) -> dict[str, Any]:
    if unknown := sorted(set(columns) - set(_FIELDS)):
        raise ConfigError(f"columns has the keys {', '.join(unknown)}; it maps {', '.join(_FIELDS)} to columns.")
    return dict(columns)


def _check_unique(examples: Sequence[Example], source: Source) -> None:
    seen = set()
    for example in examples:
        if example.id in seen:
            raise ConfigError(
                f"two questions of {source.path} have the id {example.id!r}; records tell questions apart by it. Name "
                "another column with columns={'id': …}."
            )
        seen.add(example.id)
