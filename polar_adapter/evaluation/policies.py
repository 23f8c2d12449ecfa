"""Policies: ways to choose programs for questions. Each is a name and a function from questions to ranked programs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data import PromptTemplate
from ..executor import find_decoder
from ..program import Program
from ..search.records import Example


class Policy(ABC):
    """Chooses programs without seeing answers."""

    name: str

    @abstractmethod
    def choose(self, examples: Sequence[Example], num_programs: int) -> list[list[Program]]:
        """Ranked programs for each question, the one to run first.

        Args:
            examples: The questions; a policy reads their prompts only.
            num_programs: Most programs per question.
        """


@dataclass
class StaticPolicy(Policy):
    """The same program for every question; with the identity, the base.

    Args:
        name: Name in tables.
        program: The program.
    """

    name: str
    program: Program

    def choose(self, examples: Sequence[Example], num_programs: int) -> list[list[Program]]:
        """See :meth:`Policy.choose`."""
        return [[self.program] for _ in examples]


@dataclass
class RouterPolicy(Policy):
    """What a trained adapter chooses.

    Args:
        name: Name in tables.
        model: A model with an active polar adapter.
        tokenizer: The base's tokenizer.
        template: How questions become prompts.
        batch_size: Prompts per routing pass.
        choice: ``cost_weight``, ``identity_margin``, ``max_depth``; the config's by default.
    """

    name: str
    model: Any
    tokenizer: Any
    template: PromptTemplate = field(default_factory=PromptTemplate)
    batch_size: int = 64
    choice: dict[str, Any] = field(default_factory=dict)

    def choose(self, examples: Sequence[Example], num_programs: int) -> list[list[Program]]:
        """See :meth:`Policy.choose`."""
        device = find_decoder(self.model).model.device
        chosen: list[list[Program]] = []
        for start in range(0, len(examples), self.batch_size):
            inputs = self.template.encode(examples[start : start + self.batch_size], self.tokenizer).to(device)
            ranked = self.model.route(**inputs, num_programs=num_programs, **self.choice)
            chosen += [[routed.program for routed in row] for row in ranked]
        return chosen
