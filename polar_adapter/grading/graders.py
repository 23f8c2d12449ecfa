"""What a grader is, the ones that need no process of their own, and how to get one by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, PolarError
from .answers import choice_letter
from .math_grader import MathGrader

if TYPE_CHECKING:
    from ..search.records import Example

Grader = Callable[[Sequence[str], "Sequence[Example]"], list[float]]
"""Completions and the examples they answer in; one score in [0, 1] for each out."""


def exact_match(completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
    """1.0 where the completion is the reference answer, character for character, up to white space."""
    return [
        float(completion.split() == example.answer.split())
        for completion, example in zip(completions, examples, strict=True)
    ]


def multiple_choice(completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
    r"""1.0 where the completion chooses the letter of the reference answer.

    ``\boxed{C}``, "The answer is (C).", a leading "C." or "C)", and a last "(C)" are understood.
    """
    return [
        float(choice_letter(completion) == example.answer.strip("() ."))
        for completion, example in zip(completions, examples, strict=True)
    ]


class RewardGrader:
    """A TRL reward function as a grader.

    The function is called as TRL's trainers call it: ``fn(prompts=…, completions=…, <columns>=…)``, everything by
    keyword, and returns one float for each completion, or None where it does not apply.

    Args:
        fn: The reward function. Its rewards must lie in [0, 1]; None counts as 0.
        columns: Dataset columns it reads, by name, and the :class:`Example` field each is filled from. Default: the
            fields under their own names, ``answer``, ``level`` and ``id``.
        conversational: Whether prompts and completions are passed as lists of messages rather than as text, as
            ``trl.rewards.accuracy_reward`` expects.

    Example:
        >>> RewardGrader(accuracy_reward, columns={"solution": "answer"}, conversational=True)
    """

    def __init__(
        self,
        fn: Callable[..., Sequence[float | None]],
        columns: Mapping[str, str] | None = None,
        conversational: bool = False,
    ) -> None:
        self.fn = fn
        self.columns = dict(columns or {"answer": "answer", "level": "level", "id": "id"})
        self.conversational = conversational

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score the completions.

        Raises:
            PolarError: If the function returns another number of rewards, or one outside [0, 1].
        """
        rewards = self.fn(
            prompts=[self._as_input("user", example.prompt) for example in examples],
            completions=[self._as_input("assistant", completion) for completion in completions],
            **{column: [getattr(example, field) for example in examples] for column, field in self.columns.items()},
        )
        name = getattr(self.fn, "__name__", type(self.fn).__name__)
        if len(rewards) != len(completions):
            raise PolarError(
                f"reward function {name} returned {len(rewards)} rewards for {len(completions)} completions; "
                "it must return one float or None for each."
            )
        scores = [0.0 if reward is None or math.isnan(reward) else float(reward) for reward in rewards]
        for completion, score in zip(completions, scores, strict=True):
            if not 0.0 <= score <= 1.0:
                raise PolarError(
                    f"reward function {name} returned {score} for completion {completion[:80]!r}; a score lies in "
                    "[0, 1], where 1 means right. Rescale the reward, or grade with a function of correctness alone."
                )
        return scores

    def _as_input(self, role: str, text: str) -> Any:
        return [{"role": role, "content": text}] if self.conversational else text


GRADERS: dict[str, Callable[[], Grader]] = {
    "exact": lambda: exact_match,
    "choice": lambda: multiple_choice,
    "math": MathGrader,
}
"""Graders by name, each a factory: a ``"math"`` grader owns a worker process."""


def get_grader(name: str) -> Grader:
    """The grader called ``"exact"``, ``"choice"`` or ``"math"``.

    Raises:
        ConfigError: If there is no grader of this name.
    """
    if name not in GRADERS:
        raise ConfigError(f"no grader is called {name!r}; there are {', '.join(map(repr, GRADERS))}.")
    return GRADERS[name]()
