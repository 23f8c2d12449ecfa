"""Intervals: how sure is a difference measured on these questions?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean: The mean over the questions.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def paired_bootstrap(
    ours: Sequence[float], theirs: Sequence[float], resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean difference between two policies on the same questions.

    Questions are drawn again with replacement, each with both its scores: what makes a question hard is common to both
    policies and cancels.

    Args:
        ours: Score of one policy on each question.
        theirs: Score of the other, on the same questions in the same order.
        resamples: Number of resamples.
        level: Coverage.
        seed: Seed of the resampling.

    Returns:
        Mean of ours − theirs and its interval.

    Raises:
        ValueError: If the lengths differ or there are no questions.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"paired scores are needed, but {len(ours)} and {len(theirs)} were given.")
    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    # The resampled mean depends on how often each distinct difference is drawn: a multinomial, cheaper than indices.
    values, counts = np.unique(differences, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(differences), counts / len(differences), size=resamples)
    low, high = np.quantile(draws @ values / len(differences), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high))
