"""Datasets this package knows by name: where each lives, and how its rows become examples.

A source is a row of a table. Columns are named, or computed from the row by a function of one line; nothing here loads
anything (:mod:`polar_adapter.data.loading` does). Licences are those the dataset cards state; none of the data ships
with this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..grading.answers import boxed, final_answer
from . import dart_math

Row = Mapping[str, Any]
Column = str | Callable[[Row], Any]
"""A column's name, or a function from a row to the value. None as a value means that the row has none."""


@dataclass(frozen=True)
class Source:
    """One dataset.

    Args:
        path: Dataset on the Hub, or a local file or folder.
        question: Column with the question.
        answer: Column with the bare reference answer.
        level: Column with the difficulty or kind of question, for tables by level.
        id: Column with a unique name. Default: position in the split.
        configs: Configurations to load, one after the other.
        split: Split that is loaded unless another is asked for.
        grader: Name of the grader its answers need.
        licence: Licence stated by the dataset card.
        note: What to know before using it.
        rows: Reads the rows of a split, for datasets that are assembled from several.
    """

    path: str
    question: Column
    answer: Column
    level: Column | None = None
    id: Column | None = None
    configs: tuple[str | None, ...] = (None,)
    split: str = "train"
    grader: str = "math"
    licence: str = "unknown"
    note: str = ""
    rows: Callable[[dart_math.Loader, str], Sequence[Row]] | None = None


def _without_units(answer: str) -> str:
    """ASDiv's ``"5 (years old); 15 (years old)"`` as ``"5, 15"``."""
    return ", ".join(part.partition("(")[0].strip() for part in answer.split(";"))


def _whole(number: float | str) -> str:
    """A number without the ``.0`` that a float column gives to whole ones."""
    value = float(number)
    return str(int(value)) if value.is_integer() else str(value)


def _sentences(body: str, question: str) -> str:
    """A problem stated in two columns as one text; SVAMP's bodies do not all end with a full stop."""
    body = body.strip()
    return f"{body if body[-1:] in '.?!' else body + '.'} {question.strip()}".strip()


def _with_options(row: Row) -> str:
    """A question and its lettered options. MMLU-Pro pads short lists with "N/A"."""
    options = [option for option in row["options"] if option != "N/A"]
    return "\n".join([row["question"], *(f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))])


SOURCES: dict[str, Source] = {
    "gsm8k": Source(
        path="openai/gsm8k",
        configs=("main",),
        question="question",
        answer=lambda row: final_answer(row["answer"]).text.replace(",", ""),
        licence="MIT",
    ),
    "svamp": Source(
        path="ChilleD/SVAMP",
        question=lambda row: _sentences(row["Body"], row["Question"]),
        answer=lambda row: _whole(row["Answer"]),
        level="Type",
        id="ID",
        licence="MIT",
    ),
    "math": Source(
        path="EleutherAI/hendrycks_math",
        configs=(
            "algebra",
            "counting_and_probability",
            "geometry",
            "intermediate_algebra",
            "number_theory",
            "prealgebra",
            "precalculus",
        ),
        question="problem",
        answer=lambda row: boxed(row["solution"]),
        level=lambda row: row["level"].removeprefix("Level ").replace("?", "") or None,
        licence="MIT",
        note="Mirror of the MATH data set; the original repository was taken down.",
    ),
    "dart-math": Source(
        path=dart_math.POOLS[0],
        question="query",
        answer="gt_ans",
        level="level",
        id="query_id",
        licence="MIT",
        rows=dart_math.by_fail_rate,
        note="Five levels of equal size by fail rate over MATH and GSM8K, 1,250 / 250 / 500 questions a level: the "
        "reconstruction of the independent reproduction (arXiv:2609.31360). Downloads 2 GB.",
    ),
    "dart-math-released": Source(
        path=dart_math.POOLS[0],
        question="query",
        answer="gt_ans",
        level="level",
        id="query_id",
        licence="MIT",
        rows=dart_math.by_math_level,
        note="MATH's own level of each question, as in the search that the paper's authors released; no splits. "
        "Downloads 1 GB.",
    ),
    "asdiv": Source(
        path="EleutherAI/asdiv",
        question=lambda row: _sentences(row["body"], row["question"]),
        answer=lambda row: _without_units(row["answer"]),
        level="solution_type",
        split="validation",
        licence="CC-BY-NC-4.0",
        note="For evaluation, whole corpus; one answer in ten is no number. Non-commercial.",
    ),
    "mawps": Source(
        path="MU-NLPC/Calc-mawps",
        question="question",
        answer="result",
        id="id",
        split="test",
        licence="MIT",
        note="The release that the paper cites, by Kadlčík et al. (arXiv:2305.15017).",
    ),
    "mmlu-pro": Source(
        path="TIGER-Lab/MMLU-Pro",
        question=_with_options,
        answer="answer",
        level="category",
        id="question_id",
        split="test",
        grader="choice",
        licence="MIT",
        note="Levels are subjects. Prompt it with DIRECT_CHOICE.",
    ),
}
"""Known datasets by name."""
