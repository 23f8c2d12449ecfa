"""Evaluate policies on equal terms: the same questions, the same oracle, paired intervals."""

from __future__ import annotations

from .harness import Evaluation, PolicyResult, evaluate_policies, evaluate_programs, evaluate_router
from .metrics import Interval, paired_bootstrap
from .policies import Policy, RouterPolicy, StaticPolicy
from .report import evaluation_table, program_figure

__all__ = [
    "Evaluation",
    "Interval",
    "Policy",
    "PolicyResult",
    "RouterPolicy",
    "StaticPolicy",
    "evaluate_policies",
    "evaluate_programs",
    "evaluate_router",
    "evaluation_table",
    "paired_bootstrap",
    "program_figure",
]
