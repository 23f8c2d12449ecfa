"""One record of the published supervision format, and its translation to a search record and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import PolarError, RecordsError
from ..program import Program
from ..search.records import Example, ProgramScore, SearchRecord

_ANSWERS = ("gt_ans", "ground_truth", "answer")
_QUESTIONS = ("question", "query")
_SCORES = ("initial_transition_metric", "initial_score")


class Sample(NamedTuple):
    """A record as it stands in the file: its index or key there, the line it starts on, its value."""

    key: int | str
    line: int
    value: Any


def to_record(sample: Sample, num_layers: int, known: Mapping[str, Example]) -> SearchRecord:
    """Translate a record from a file.

    Args:
        sample: The record.
        num_layers: Depth of the base model.
        known: Questions by id, for records that do not repeat theirs.

    Raises:
        RecordsError: If it is invalid; the message says how, not where.
    """
    data = sample.value
    if not isinstance(data, dict):
        raise RecordsError(f"it is {_shown(data)}, not an object")
    valid, invalid = (_paths(data, name) for name in ("final_valid_transitions", "final_invalid_transitions"))
    if valid is None:
        raise RecordsError("it has no final_valid_transitions")
    scores = dict.fromkeys(valid, 1.0)
    for path in invalid or ():
        if scores.setdefault(path, 0.0) == 1.0:
            raise RecordsError(f"path {list(path)} is both valid and invalid")
    identity = Program.identity(num_layers).path
    initial = _initial_score(data)
    if identity not in scores and initial is not None:
        scores[identity] = initial
    visits = _visits(data)
    found = {path: place for place, path in enumerate(visits)}
    entries = [
        ProgramScore(_program(path, num_layers), scores[path], visits.get(path, 1))
        for path in sorted(scores, key=lambda path: found.get(path, len(found)))
    ]
    return SearchRecord(
        example=_example(sample, data, known),
        identity_score=scores.get(identity, 0.0),
        programs=tuple(entries),
    )


def to_sample(record: SearchRecord) -> dict[str, Any]:
    """Translate a search record to a value of the format."""
    example = record.example
    return {
        "query_id": example.id,
        "question": example.prompt,
        "gt_ans": example.answer,
        "initial_transition_metric": record.identity_score,
        "initial_score": record.identity_score,
        "final_valid_transitions": [list(entry.program.path) for entry in record.programs if entry.is_valid],
        "final_invalid_transitions": [list(entry.program.path) for entry in record.programs if not entry.is_valid],
        "sample_info": {"query_id": example.id, "difficulty": example.level},
    }


def _example(sample: Sample, data: Mapping[str, Any], known: Mapping[str, Example]) -> Example:
    info = data.get("sample_info")
    info = info if isinstance(info, dict) else {}
    question, answer = _first(data, info, _QUESTIONS), _first(data, info, _ANSWERS)
    named = _first(data, info, ("query_id", "sample_id"))
    identifier = str(sample.key if named is None else named)
    if question is None or answer is None:
        if identifier in known:
            return known[identifier]
        raise RecordsError(
            f"it has no {'question' if question is None else 'gt_ans'}, and the question {identifier!r} is not among "
            f"the {len(known)} examples given"
        )
    level = _first(data, info, ("difficulty", "level", "math_level"))
    return Example(identifier, str(question), str(answer), None if level is None else str(level))


def _first(data: Mapping[str, Any], info: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The first of several names that holds something, in the record itself or its ``sample_info``."""
    values = (place.get(name) for place in (data, info) for name in names)
    return next((value for value in values if value is not None and value != ""), None)


def _paths(data: Mapping[str, Any], name: str) -> list[tuple[Any, ...]] | None:
    """A list of paths, each a list of layers or ``{"path": […]}``; None if the record has none of this name."""
    paths = data.get(name)
    if paths is None:
        return None
    if not isinstance(paths, list):
        raise RecordsError(f"{name} is {_shown(paths)}, not a list of paths")
    return [_path(entry, name) for entry in paths]


def _path(entry: Any, name: str) -> tuple[Any, ...]:
    path = entry.get("path") if isinstance(entry, dict) else entry
    if not isinstance(path, list) or not all(type(layer) is int for layer in path):
        raise RecordsError(f"{name} holds {_shown(entry)}, not a list of layer indices")
    return tuple(path)


def _program(path: tuple[int, ...], num_layers: int) -> Program:
    try:
        return Program(path, num_layers)
    except PolarError as error:
        raise RecordsError(str(error).rstrip(".")) from error


def _initial_score(data: Mapping[str, Any]) -> float | None:
    score = next((data[name] for name in _SCORES if data.get(name) is not None), None)
    if score is not None and not (isinstance(score, int | float) and 0 <= score <= 1):
        raise RecordsError(f"the initial score is {_shown(score)}, not a number from 0 to 1")
    return None if score is None else float(score)


def _visits(data: Mapping[str, Any]) -> Counter[tuple[Any, ...]]:
    """How often the search came by each path, in order of its first visit."""
    trajectory = data.get("search_trajectory") or []
    if not isinstance(trajectory, list):
        raise RecordsError(f"search_trajectory is {_shown(trajectory)}, not a list of visits")
    return Counter(_path(visit, "search_trajectory") for visit in trajectory)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
