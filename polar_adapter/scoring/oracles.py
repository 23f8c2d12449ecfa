"""The oracles: greedy answers graded against the reference, and the reference's likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..data import PromptTemplate
from ..errors import UnsupportedModelError
from ..grading import Grader, exact_match
from .batches import GenerationBatches, Pair, PromptFan


class GenerationOracle:
    """Generate the greedy answer under the program and grade it.

    Args:
        model: The base, possibly wrapped.
        tokenizer: Its tokenizer.
        grader: Scores completions; see :mod:`polar_adapter.grading`.
        template: How a question becomes a prompt.
        max_new_tokens: Tokens to generate. With 1, for answers of a single token, all programs of a prompt share one
            forward pass; that is many times faster.
        batch_size: Pairs per batch; by default 512 for single tokens and 64 otherwise.
    """

    name = "generation"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        grader: Grader = exact_match,
        template: PromptTemplate | None = None,
        max_new_tokens: int = 50,
        batch_size: int | None = None,
    ) -> None:
        self.tokenizer, self.grader = tokenizer, grader
        self.template = template or PromptTemplate()
        self.max_new_tokens = max_new_tokens
        self.fan = PromptFan(model, batch_size or 512) if max_new_tokens == 1 else None
        self.batches = GenerationBatches(model, tokenizer, batch_size or 64, max_new_tokens=max_new_tokens)

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        """Score pairs: 1 for a right answer, 0 for a wrong one, or what the grader says between."""
        return self.grader(self.answers(pairs), [example for example, _ in pairs])

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Greedy completions of pairs, in order."""
        if self.fan is not None:
            try:
                return self._single_tokens(self.fan, pairs)
            except UnsupportedModelError:
                self.fan = None  # this family's layers cannot be fanned out; one program per row always works
        return self.batches(pairs, self._encode)

    def _single_tokens(self, fan: PromptFan, pairs: Sequence[Pair]) -> list[str]:
        answers = [""] * len(pairs)
        for positions, logits in fan(pairs, self._encode):
            texts = self.tokenizer.batch_decode(logits[:, -1].argmax(-1, keepdim=True), skip_special_tokens=True)
            for position, text in zip(positions, texts, strict=True):
                answers[position] = text
        return answers

    def _encode(self, examples: Sequence[Any]) -> Any:
        return self.template.encode(examples, self.tokenizer)


class LikelihoodOracle:
    """Teacher-forced probability of the reference answer: one forward pass, no generation.

    Args:
        model: The base, possibly wrapped.
        tokenizer: Its tokenizer.
        template: How a question becomes a prompt.
        batch_size: Pairs per forward pass.
    """

    name = "likelihood"

    def __init__(
        self, model: Any, tokenizer: Any, template: PromptTemplate | None = None, batch_size: int = 512
    ) -> None:
        self.tokenizer, self.template = tokenizer, template or PromptTemplate()
        self.fan = PromptFan(model, batch_size)

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        """Score pairs by P(answer | prompt), the product over its tokens.

        Raises:
            UnsupportedModelError: If the model's layers cannot be fanned out over programs.
        """
        answers = {example: self._answer_ids(example.answer) for example, _ in pairs}
        longest = max(map(len, answers.values()))
        scores = [0.0] * len(pairs)
        for positions, logits in self.fan(pairs, lambda examples: self._encode(examples, answers), keep=longest + 1):
            log_probs = logits.float().log_softmax(-1)
            for position, row in zip(positions, log_probs, strict=True):
                ids = torch.tensor(answers[pairs[position][0]], device=row.device)
                # The answer ends the sequence: position t predicts token t + 1, and the last one predicts nothing here.
                predicted = row[-len(ids) - 1 : -1].gather(1, ids.unsqueeze(1))
                scores[position] = predicted.sum().exp().item()
        return scores

    def _answer_ids(self, answer: str) -> list[int]:
        return self.tokenizer(answer, add_special_tokens=False)["input_ids"]

    def _encode(self, examples: Sequence[Any], answers: dict[Any, list[int]]) -> Any:
        rows = []
        for example in examples:
            prompt = self.template.encode([example], self.tokenizer)["input_ids"][0].tolist()
            rows.append({"input_ids": prompt + answers[example]})
        return self.tokenizer.pad(rows, padding=True, padding_side="left", return_tensors="pt")
