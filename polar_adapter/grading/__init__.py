"""Graders: was this completion right?

A grader takes completions and the examples they answer, and returns one score in [0, 1] for each. Three ship by name
(``"exact"``, ``"choice"``, ``"math"``); any reward function written for TRL becomes one through :class:`RewardGrader`.
"""

from __future__ import annotations

from .graders import GRADERS, Grader, RewardGrader, exact_match, get_grader, multiple_choice
from .math_grader import MathGrader

__all__ = ["GRADERS", "Grader", "MathGrader", "RewardGrader", "exact_match", "get_grader", "multiple_choice"]
