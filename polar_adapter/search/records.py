"""Search records: what was tried for each question, as values and as lines of JSON.

A records file (:mod:`polar_adapter.search.files`) starts with a header, which says what the scores depend on. Every
further line is a question:

    {"format": "polar-records", "version": 1, "num_layers": 12, "model": "…", …}
    {"id": "17", "prompt": "7 +3 =", "answer": "10", …, "programs": [["0-11", 1.0, 58], ["0-5 8-11", 1.0, 9], …]}

Each entry of ``programs`` is a program's text form, its score and its visits.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import PolarError, RecordsError
from ..program import Program
from .settings import SearchSettings

FORMAT = "polar-records"
VERSION = 1


def is_valid(score: float) -> bool:
    """Whether a score between 0 (wrong) and 1 (right) counts as a right answer."""
    return score > 0.5


@dataclass(frozen=True)
class Example:
    """A question with its reference answer.

    Args:
        id: Name of the question, unique in its data set. Its search is seeded by it.
        prompt: Text the model reads.
        answer: Reference answer, which only the oracle reads.
        level: Difficulty, for tables by level.

    Raises:
        RecordsError: If a field is not text; an id of 17 and one of "17" would be two questions.
    """

    id: str
    prompt: str
    answer: str
    level: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, str) and not (name == "level" and value is None):
                raise RecordsError(
                    f"field {name} of a question is {value!r}; the fields of an Example are text. Pass str({name})."
                )


@dataclass(frozen=True)
class ProgramScore:
    """A program that was tried for a question.

    Args:
        program: The program.
        score: Its reward, from 0 (wrong) to 1 (right).
        visits: How often the search came by it.

    Raises:
        RecordsError: If the score is outside its range.
    """

    program: Program
    score: float
    visits: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.score <= 1:
            raise RecordsError(f"program '{self.program}' has score {self.score}; scores are between 0 and 1.")

    @property
    def is_valid(self) -> bool:
        """Whether the program answers the question."""
        return is_valid(self.score)


@dataclass(frozen=True)
class SearchRecord:
    """All that a search learned about one question.

    Args:
        example: The question.
        identity_score: Score of the standard forward pass.
        programs: Every program tried, valid or not, in order of discovery.
        seed: Seed of this question's search.
        flips: Valid programs that failed when scored again, and now count as invalid. None if they were not.
    """

    example: Example
    identity_score: float
    programs: tuple[ProgramScore, ...]
    seed: int | None = None
    flips: int | None = None

    @property
    def valid(self) -> tuple[Program, ...]:
        """Programs that answer the question, in order of discovery."""
        return tuple(entry.program for entry in self.programs if entry.is_valid)

    @property
    def shortest_valid(self) -> Program | None:
        """The valid program of least depth; the one found first among equals. None if no program is valid."""
        return min(self.valid, key=len, default=None)

    def to_json(self) -> str:
        """One line of a records file, without the line break."""
        programs = [[str(entry.program), entry.score, entry.visits] for entry in self.programs]
        data = asdict(self.example) | {"identity_score": self.identity_score, "seed": self.seed, "flips": self.flips}
        return json.dumps(data | {"programs": programs})

    @classmethod
    def from_json(cls, line: str, num_layers: int) -> SearchRecord:
        """Inverse of :meth:`to_json`.

        Args:
            line: One line of a records file.
            num_layers: Depth of the base model, which the file's header states.

        Raises:
            RecordsError: If the line is no record, or a program does not fit the depth.
        """
        try:
            data = json.loads(line)
            return cls(
                example=Example(**{f.name: data[f.name] for f in fields(Example)}),
                identity_score=float(data["identity_score"]),
                programs=tuple(
                    ProgramScore(Program.parse(text, num_layers), float(score), int(visits))
                    for text, score, visits in data["programs"]
                ),
                seed=data["seed"],
                flips=data["flips"],
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordsError(f"not a search record ({_reason(error)})") from error


@dataclass(frozen=True)
class RecordsHeader:
    """What the scores in a records file depend on.

    Args:
        num_layers: Depth D of the base model.
        model: Hub id or folder of the base model.
        revision: Its revision.
        template: How prompts were built, in whatever words the data layer uses.
        oracle: What scored the programs.
        settings: Settings of the search.
        versions: Package versions. Records from other versions are accepted, with a warning.
    """

    num_layers: int
    model: str | None = None
    revision: str | None = None
    template: str | None = None
    oracle: str | None = None
    settings: SearchSettings = field(default_factory=SearchSettings)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """First line of a records file, without the line break."""
        data = {"format": FORMAT, "version": VERSION} | {f.name: getattr(self, f.name) for f in fields(self)}
        return json.dumps(data | {"settings": self.settings.to_dict(), "versions": dict(self.versions)})

    @classmethod
    def from_json(cls, line: str) -> RecordsHeader:
        """Inverse of :meth:`to_json`.

        Raises:
            RecordsError: If the line is no header, or of a newer format.
        """
        try:
            data = json.loads(line)
            if data["format"] != FORMAT:
                raise RecordsError(f"format is {data['format']!r}, not {FORMAT!r}")
            if data["version"] > VERSION:
                raise RecordsError(
                    f"format version is {data['version']}, and this package reads up to {VERSION}: upgrade it"
                )
            values = {f.name: data[f.name] for f in fields(cls)}
            return cls(**values | {"settings": SearchSettings.from_dict(values["settings"])})
        except (ValueError, TypeError, KeyError) as error:
            raise RecordsError(f"not the header of a records file ({_reason(error)})") from error

    def check_same(self, other: RecordsHeader, where: str) -> None:
        """Refuse to mix records whose scores depend on different things; other versions only draw a warning.

        Args:
            other: Header of the records to be put beside those of ``where``.
            where: The file this header comes from, for the message.

        Raises:
            RecordsError: If a field differs; the message has both values.
        """
        old, new = self._comparable(), other._comparable()
        for name in old:
            if old[name] != new[name]:
                raise RecordsError(
                    f"{where} holds records made with {name} = {old[name]!r}, and {new[name]!r} was given. "
                    "One set of records comes from one search: use the same value, or another file."
                )
        if dict(self.versions) != dict(other.versions):
            warnings.warn(
                f"{where} was written with {dict(self.versions)}, not with {dict(other.versions)}; scores may differ.",
                stacklevel=2,
            )

    def _comparable(self) -> dict[str, Any]:
        """What must agree, by name: every field and every setting, but not the versions."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("settings", "versions")}
        return values | {f"settings.{name}": value for name, value in self.settings.to_dict().items()}


def _reason(error: Exception) -> str:
    """An error as part of another's message; other people's errors say little without their type."""
    return str(error) if isinstance(error, PolarError) else f"{type(error).__name__}: {error}"
