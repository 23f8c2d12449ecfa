"""Discover programs: search strategies, the loop that runs them, and records of what they found.

Nothing here runs a model. Execution comes in through an ``evaluate`` callable that scores (question, program) pairs.
"""

from __future__ import annotations

from .files import Records, RecordWriter, iterate_records, read_header, read_records
from .menu import best_static, choose_menu, pool_programs, score_programs
from .progress import search_progress
from .question import make_strategy, question_seed
from .records import Example, ProgramScore, RecordsHeader, SearchRecord
from .runner import Evaluate, SearchProgress, run_search
from .settings import SearchSettings
from .tree import SearchTree

__all__ = [
    "Evaluate",
    "Example",
    "ProgramScore",
    "RecordWriter",
    "Records",
    "RecordsHeader",
    "SearchProgress",
    "SearchRecord",
    "SearchSettings",
    "SearchTree",
    "best_static",
    "choose_menu",
    "iterate_records",
    "make_strategy",
    "pool_programs",
    "question_seed",
    "read_header",
    "read_records",
    "run_search",
    "score_programs",
    "search_progress",
]
