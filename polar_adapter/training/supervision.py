"""From search records to what a router learns from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..config import PolarConfig
from ..data import PromptTemplate
from ..errors import ProgramError, RecordsError
from ..program import Program
from ..routers.segment import segment_labels
from ..search.records import Example, SearchRecord


@dataclass(frozen=True)
class RouterExample:
    """One example of a router's training set.

    Attributes:
        example: The question; the router reads its prompt.
        labels: The router's targets, as its ``loss`` documents them.
        weight: Weight in the loss.
    """

    example: Example
    labels: Sequence[float] | Sequence[int]
    weight: float = 1.0


def router_examples(records: Iterable[SearchRecord], config: PolarConfig, **options: Any) -> list[RouterExample]:
    """Examples for the router a config describes.

    Args:
        records: Search records of the config's base.
        config: A config resolved to its base.
        **options: As for :func:`segment_examples`.

    Raises:
        RecordsError: If the records are for another depth, or hold nothing this router can learn from.
    """
    records = list(records)
    for record in records:
        depth = record.programs[0].program.num_layers
        if depth != config.num_layers:
            raise RecordsError(
                f"question {record.example.id!r} was searched on a model of {depth} layers, but the router is for "
                f"{config.num_layers}. Search with this base."
            )
    if config.router_type == "menu":
        examples = menu_examples(records, config.programs)
    else:
        examples = segment_examples(records, config.max_segment_length, config.max_executions, **options)
    if not examples:
        raise RecordsError(
            f"none of {len(records)} records holds anything a {config.router_type} router can learn from. A menu "
            "router needs its menu scored on the questions, a segment router valid programs within its grammar."
        )
    return examples


def menu_examples(records: Iterable[SearchRecord], menu: Sequence[Program]) -> list[RouterExample]:
    """One example per question: the score of every menu program, NaN where it was not tried.

    Args:
        records: Records in which menu programs were tried; score the whole menu with
            :func:`polar_adapter.search.menu.score_programs` for labels without gaps.
        menu: The programs, in the order of the router's menu.
    """
    examples = []
    for record in records:
        scores = {entry.program: entry.score for entry in record.programs}
        labels = [scores.get(program, math.nan) for program in menu]
        if not all(map(math.isnan, labels)):
            examples.append(RouterExample(record.example, labels))
    return examples


def segment_examples(
    records: Iterable[SearchRecord],
    max_length: int = 4,
    max_executions: int = 2,
    identity_weight: float = 0.3,
    normalize: bool = False,
) -> list[RouterExample]:
    """One example per valid program, as the paper trains.

    Args:
        records: Search records.
        max_length: Longest segment of the router's grammar.
        max_executions: Most executions of a segment in it. Programs outside the grammar are left out.
        identity_weight: Weight of the standard pass where a shorter valid program exists; 0.30 in the authors' command.
        normalize: Give every question the same total weight.
    """
    examples = []
    for record in records:
        shorter = any(program.depth < program.num_layers for program in record.valid)
        labelled = []
        for program in record.valid:
            try:
                labels = segment_labels(program, max_length, max_executions)
            except ProgramError:
                continue
            labelled.append((labels, identity_weight if program.is_identity and shorter else 1.0))
        total = sum(weight for _, weight in labelled) if normalize else 1.0
        examples += [RouterExample(record.example, labels, weight / total) for labels, weight in labelled]
    return examples


@dataclass
class RouterCollator:
    """Batch router examples: prompts as left-padded ids, targets as ``program_labels``.

    Args:
        tokenizer: The base's tokenizer.
        template: How a question becomes a prompt; the one the records were made with.
    """

    tokenizer: Any
    template: PromptTemplate = field(default_factory=PromptTemplate)

    def __call__(self, examples: Sequence[RouterExample]) -> dict[str, torch.Tensor]:
        """Tensors for the routed model's ``forward``: input_ids, attention_mask, program_labels, program_weights."""
        batch = dict(self.template.encode([entry.example for entry in examples], self.tokenizer))
        batch["program_labels"] = torch.tensor([list(entry.labels) for entry in examples])
        batch["program_weights"] = torch.tensor([entry.weight for entry in examples])
        return batch
