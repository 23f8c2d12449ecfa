"""DART-Math's questions in five levels of difficulty, by either published convention.

DART-Math (Tong et al., arXiv:2407.13690) measures how often a 7B model fails at each question of the MATH and GSM8K
training sets; it has no discrete levels. The paper's levels DM-1 … DM-5 (2,000 questions each: 1,250 to train, 250 to
validate, 500 to test) were never published as lists of questions, so there are two readings:

- :func:`by_fail_rate`, of the independent reproduction (arXiv:2609.31360): questions of both pools ranked by fail
  rate and cut into five levels of equal size. The only one that yields 2,000 questions a level.
- :func:`by_math_level`, of the search that the paper's authors released later: MATH's own level, taken from the first
  2,000 *responses* of each level, which are far fewer distinct questions.

Numbers on one say little about the other: state which was used.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import ConfigError

Loader = Callable[..., Any]
"""``datasets.load_dataset``, or a stand-in."""

POOLS = ("hkust-nlp/dart-math-pool-math", "hkust-nlp/dart-math-pool-gsm8k")
"""Datasets of responses; each has a companion ``…-query-info`` with the pass rate of every question."""
LEVELS = 5
SIZES = {"train": 1250, "validation": 250, "test": 500}
"""Questions per level and split (paper, App. D)."""
_SEED = 42


def by_fail_rate(load: Loader, split: str, sizes: Mapping[str, int] = SIZES) -> list[dict[str, Any]]:
    """Questions of one split, with ``fail_rate`` and ``level`` ("1" is easiest).

    Args:
        load: Loads a dataset from the Hub.
        split: "train", "validation" or "test".
        sizes: Questions per level and split.

    Raises:
        ConfigError: If there is no such split, or the pools hold too few questions.
    """
    if split not in sizes:
        raise ConfigError(f"DART-Math by fail rate has no split {split!r}; there are {', '.join(sizes)}.")
    questions = []
    for pool in POOLS:
        rates = {row["query_id"]: row["pass_rate"] for row in load(f"{pool}-query-info", split="train")}
        for question in _distinct_questions(load(pool, split="train")):
            if question["query_id"] in rates:
                questions.append(question | {"fail_rate": 1.0 - rates[question["query_id"]]})
    questions.sort(key=lambda question: (question["fail_rate"], question["query_id"]))

    first = sum(size for name, size in sizes.items() if list(sizes).index(name) < list(sizes).index(split))
    chosen = []
    for level in range(1, LEVELS + 1):
        start, stop = (round(cut * len(questions) / LEVELS) for cut in (level - 1, level))
        members = [question | {"level": str(level)} for question in questions[start:stop]]
        if len(members) < sum(sizes.values()):
            raise ConfigError(
                f"level {level} of DART-Math holds {len(members)} questions, {sum(sizes.values())} are needed: the "
                "pools on the Hub are not the ones this convention was made for."
            )
        random.Random(hash((_SEED, level))).shuffle(members)
        chosen += members[first : first + sizes[split]]
    return chosen


def by_math_level(load: Loader, split: str, responses: int = 2000) -> list[dict[str, Any]]:
    """Questions of the MATH pool with MATH's own ``level``.

    Args:
        load: Loads a dataset from the Hub.
        split: Must be "train"; the convention has no other.
        responses: Responses taken from the front of each level, before repeated questions are dropped.

    Raises:
        ConfigError: If another split is asked for.
    """
    if split != "train":
        raise ConfigError(
            f"DART-Math by MATH's level has no split {split!r}, only 'train': its authors cut train, validation and "
            "test by position. Cut the examples yourself, or use 'dart-math'."
        )
    pool = load(POOLS[0], split="train")
    taken: dict[Any, list[int]] = {}
    position = 0
    for batch in pool.select_columns(["query_metadata"]).iter(batch_size=10_000):
        for metadata in batch["query_metadata"]:
            members = taken.setdefault(metadata["level"], [])
            if len(members) < responses:
                members.append(position)
            position += 1
    rows = pool.select(sorted(index for members in taken.values() for index in members))
    return [
        question | {"level": str(question["query_metadata"]["level"])}
        for question in _distinct_questions(rows, extra=["query_metadata"])
    ]


def _distinct_questions(pool: Any, extra: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The first row of each question. A pool has one row per response, hundreds for a question."""
    first: dict[str, int] = {}
    position = 0
    for batch in pool.select_columns(["query_id"]).iter(batch_size=10_000):
        for query_id in batch["query_id"]:
            first.setdefault(query_id, position)
            position += 1
    return list(pool.select(list(first.values())).select_columns(["query_id", "query", "gt_ans", *extra]))
