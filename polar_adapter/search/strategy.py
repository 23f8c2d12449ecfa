"""What every search strategy does: propose a program, learn its reward, within a budget."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

from ..errors import PolarError
from ..program import Program
from .edits import EditSpace
from .records import ProgramScore, is_valid
from .settings import SearchSettings


class Strategy(ABC):
    """Search one question: alternate :meth:`propose` and :meth:`record` until nothing is proposed.

    The identity is proposed first and no program twice. Two strategies with the same arguments that are told the same
    rewards propose the same programs.

    Args:
        num_layers: Depth D of the base model.
        settings: Settings of the search; the budget is ``settings.simulations`` programs.
        seed: Seed of this question.
    """

    def __init__(self, num_layers: int, settings: SearchSettings, seed: int) -> None:
        self.settings = settings
        self.space = EditSpace(num_layers, settings)
        self.random = random.Random(seed)
        self.rewards: dict[Program, float] = {}
        self._pending: Program | None = None

    @abstractmethod
    def _next(self) -> Program | None:
        """A program without a reward, after the identity; None when there is none left."""

    def _visits(self, program: Program) -> int:
        """How often the strategy came by a program."""
        return 1

    def propose(self) -> Program | None:
        """The next program to evaluate, or None when the search is over.

        Until its reward is recorded the same program is proposed again.
        """
        if self._pending is None and not self._is_over():
            self._pending = self._next() if self.rewards else self.space.identity
        return self._pending

    def record(self, program: Program, reward: float) -> None:
        """Take the reward of the proposed program.

        Args:
            program: What :meth:`propose` returned.
            reward: Between 0 and 1; above 0.5 the program counts as valid.

        Raises:
            PolarError: If another program was proposed, or the reward is outside its range.
        """
        if self._pending is None or program != self._pending:
            proposed = "nothing" if self._pending is None else f"'{self._pending}'"
            raise PolarError(f"a reward came for program '{program}', but {proposed} was proposed; record proposals.")
        if not 0 <= reward <= 1:
            raise PolarError(
                f"program '{program}' got reward {reward}; rewards are between 0 (wrong) and 1 (right). "
                "Scale what the evaluate callable returns."
            )
        self._pending = None
        self.rewards[program] = float(reward)

    def scores(self) -> tuple[ProgramScore, ...]:
        """Every evaluated program in order of discovery, the identity first."""
        return tuple(ProgramScore(program, reward, self._visits(program)) for program, reward in self.rewards.items())

    def _is_over(self) -> bool:
        if len(self.rewards) >= self.settings.simulations:
            return True
        if self.settings.stop_after is None:
            return False
        valid = sum(is_valid(reward) for program, reward in self.rewards.items() if not program.is_identity)
        return valid >= self.settings.stop_after
