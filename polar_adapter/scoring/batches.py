"""Run many (question, program) pairs in few forward passes.

Two ways. :class:`PromptFan` runs each prompt once and fans out into its programs, sharing common prefixes: for one
forward pass per pair, that is, single-token answers and likelihoods. :class:`GenerationBatches` generates with one
program per row. Both give what each pair gives alone, up to the rounding of batched arithmetic.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..executor import apply_program, fan_out, find_decoder
from ..program import Program
from ..search.records import Example

Pair = tuple[Example, Program]


class PromptFan:
    """Last-position logits of every pair, prompts and program prefixes shared.

    Args:
        model: The base, possibly wrapped; programs are pinned, so a router does not interfere.
        batch_size: Most pairs per forward pass.
    """

    def __init__(self, model: Any, batch_size: int = 512) -> None:
        self.model, self.batch_size = model, batch_size
        self.decoder = find_decoder(model)
        self.takes_positions = "position_ids" in inspect.signature(type(self.decoder.model).forward).parameters

    def __call__(self, pairs: Sequence[Pair], encode: Any, keep: int = 1) -> Iterator[tuple[list[int], Tensor]]:
        """Yield positions in ``pairs`` and their logits (pairs, keep, vocabulary), batch by batch.

        Args:
            pairs: Questions and programs.
            encode: From examples to left-padded model inputs.
            keep: How many last positions to return.
        """
        by_question: dict[Example, dict[Program, list[int]]] = {}
        for position, (example, program) in enumerate(pairs):
            by_question.setdefault(example, {}).setdefault(program, []).append(position)
        questions = sorted(by_question, key=lambda example: len(example.prompt))
        for batch in _fill(questions, [len(by_question[example]) for example in questions], self.batch_size):
            programs = [list(by_question[example]) for example in batch]
            inputs = encode(batch).to(self.decoder.model.device)
            if self.takes_positions:
                # As generate() does: a model of absolute positions must not count the padding.
                inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
            with torch.inference_mode(), fan_out(self.decoder, programs):
                logits = self.model(**inputs, use_cache=False, logits_to_keep=keep).logits
            positions = [
                by_question[example][program] for example, row in zip(batch, programs, strict=True) for program in row
            ]
            repeats = torch.tensor([len(same) for same in positions], device=logits.device)
            yield [position for same in positions for position in same], logits.repeat_interleave(repeats, dim=0)


class GenerationBatches:
    """Greedy completions of every pair, one program per row.

    Args:
        model: The base, possibly wrapped.
        tokenizer: Its tokenizer.
        batch_size: Rows per call of ``generate()``.
        generation: Further arguments of ``generate()``.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int = 64, **generation: Any) -> None:
        self.model, self.tokenizer, self.batch_size, self.generation = model, tokenizer, batch_size, generation
        self.decoder = find_decoder(model)

    def __call__(self, pairs: Sequence[Pair], encode: Any) -> list[str]:
        """Completions in the order of ``pairs``.

        Args:
            pairs: Questions and programs.
            encode: From examples to left-padded model inputs.
        """
        # Rows with like programs share a batch: the schedule that merges them is short.
        order = sorted(range(len(pairs)), key=lambda i: (pairs[i][1].path, len(pairs[i][0].prompt)))
        completions = [""] * len(pairs)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            inputs = encode([pairs[i][0] for i in batch]).to(self.decoder.model.device)
            with apply_program(self.decoder, [pairs[i][1] for i in batch]):
                tokens = self.model.generate(**inputs, do_sample=False, **self.generation)
            texts = self.tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for i, text in zip(batch, texts, strict=True):
                completions[i] = text
        return completions


def _fill(examples: Sequence[Example], sizes: Sequence[int], limit: int) -> Iterator[list[Example]]:
    """Consecutive questions in batches whose sizes add up to at most ``limit``; a larger one is a batch by itself."""
    batch: list[Example] = []
    total = 0
    for example, size in zip(examples, sizes, strict=True):
        if batch and total + size > limit:
            yield batch
            batch, total = [], 0
        batch.append(example)
        total += size
    if batch:
        yield batch
