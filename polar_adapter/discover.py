"""From questions to programs: ``search_programs`` finds them, ``mine_menu`` picks the few worth routing to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .executor import find_decoder
from .program import Program
from .scoring import GenerationOracle
from .search import (
    Example,
    Records,
    RecordsHeader,
    RecordWriter,
    SearchRecord,
    SearchSettings,
    best_static,
    choose_menu,
    pool_programs,
    read_records,
    run_search,
    score_programs,
    search_progress,
)


def search_programs(
    model: Any,
    tokenizer: Any,
    dataset: Sequence[Example],
    output: str | Path | None = None,
    settings: SearchSettings | None = None,
    oracle: Any = None,
    concurrent: int = 64,
    verify: bool = False,
    show_progress: bool = True,
) -> Records:
    """Search programs for every question; stop at any time and call again to go on.

    Args:
        model: The frozen base, possibly wrapped.
        tokenizer: Its tokenizer.
        dataset: The questions; see :func:`polar_adapter.data.load_examples`.
        output: Records file (JSON lines). Finished questions in it are kept and not searched again. None keeps the
            records in memory only.
        settings: Settings of the search.
        oracle: Scores (question, program) pairs; by default greedy answers graded by exact match.
        concurrent: Questions that advance together.
        verify: Score valid programs again in another batch before trusting them.
        show_progress: Draw a progress bar.

    Returns:
        All records of ``output``, or those of this call without it.

    Raises:
        RecordsError: If ``output`` holds records of another search.
        UnsupportedModelError: If the model cannot run programs exactly.
    """
    settings = settings or SearchSettings()
    oracle = oracle or GenerationOracle(model, tokenizer)
    header = records_header(model, oracle, settings)
    writer = None if output is None else RecordWriter(output, header)
    with writer or nullcontext(), search_progress() if show_progress else nullcontext() as progress:
        found = run_search(
            dataset, header.num_layers, oracle, settings, writer, concurrent, verify=verify, progress=progress
        )
    return Records(header, tuple(found)) if output is None else read_records(output, header.num_layers)


def records_header(model: Any, oracle: Any, settings: SearchSettings) -> RecordsHeader:
    """What the scores of a search depend on."""
    decoder = find_decoder(model)
    template = getattr(oracle, "template", None)
    return RecordsHeader(
        num_layers=decoder.num_layers,
        model=decoder.model.name_or_path or None,
        revision=getattr(decoder.model.config, "_commit_hash", None),
        template=None if template is None else json.dumps(template.to_dict()),
        oracle=getattr(oracle, "name", type(oracle).__name__),
        settings=settings,
        versions={name: version(name) for name in ("torch", "transformers")},
    )


@dataclass(frozen=True)
class MinedMenu:
    """A menu and what it was judged by.

    Attributes:
        programs: The menu, the identity first.
        static: The best single program of the pool, the strongest policy that does not read the prompt.
        records: Every menu program scored on every question: what a menu router learns from.
    """

    programs: tuple[Program, ...]
    static: Program
    records: tuple[SearchRecord, ...]


def mine_menu(
    records: Sequence[SearchRecord],
    questions: Sequence[Example],
    oracle: Any,
    size: int = 12,
    pool_size: int = 96,
    pool_questions: int = 250,
    cost_weight: float = 0.05,
) -> MinedMenu:
    """Choose a menu from search records and score it on training questions.

    Args:
        records: Search records.
        questions: Training questions, those searched or more.
        oracle: Scores (question, program) pairs.
        size: Most programs in the menu.
        pool_size: Programs from the records to choose among.
        pool_questions: Questions on which the pool is compared.
        cost_weight: Price of executing D layers, in right answers.
    """
    scored = score_programs(questions[:pool_questions], pool_programs(list(records), pool_size), oracle)
    menu = choose_menu(scored, size, cost_weight)
    return MinedMenu(tuple(menu), best_static(scored), tuple(score_programs(questions, menu, oracle)))
