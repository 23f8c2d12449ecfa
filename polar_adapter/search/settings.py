"""How a search is run: one frozen value, with the source of every default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import ConfigError
from ..program import MAX_EXECUTIONS

STRATEGIES = ("mcts", "random", "sweep", "beam")
MODES = ("both", "skip", "loop")


@dataclass(frozen=True)
class SearchSettings:
    """Settings of the offline search for programs (arXiv:2606.06574, App. B).

    The tree search selects by ``UCB(π) = R/v + exploration · sqrt(ln V / v) − depth_penalty · |π| / D``, with V
    simulations in all. The paper gives the formula and the edits, but neither constant nor the number of simulations.

    Args:
        strategy: ``"mcts"``, the tree search, or a baseline it has to beat at the same budget: ``"random"`` programs of
            the grammar, a ``"sweep"`` over single edits, a ``"beam"`` over edits.
        mode: Edits allowed: ``"skip"``, ``"loop"`` or ``"both"`` (the three searches of the paper's Table 1).
        simulations: Programs evaluated per question, the standard pass included. 200 in CoLa (arXiv:2507.07996). A
            program met again costs nothing.
        exploration: c of UCB. 1.8 in Dr.LLM (arXiv:2510.12773).
        depth_penalty: λ of UCB, in right answers per model depth. At CoLa's 5 and Dr.LLM's 3, skipping a third of the
            layers weighs as much as being right or more, so short wrong programs are visited over right ones. At 1 it
            takes a whole depth: being right comes first, and length ranks programs that are equally right.
        random_child: ε, the chance at each step down the tree of trying a random unexplored edit instead of selecting.
            0.1 in CoLa.
        max_segment_length: Most layers of one edit, k ≤ 4 in the paper. Above 4 the programs leave the default grammar
            of the segment router.
        max_executions: Most executions of a repeated segment, 2 to 5. r ≤ 4 in the paper.
        widening_factor: A node with v visits may have ``widening_factor · v ** widening_exponent`` children: the
            hundreds of edits of the root exceed any budget. 2 in RE-PoLar (arXiv:2609.31360).
        widening_exponent: See ``widening_factor``. 0.5 in RE-PoLar.
        beam_width: Programs kept by ``strategy="beam"``; a round tries ``beam_width²`` new edits of them.
        max_depth: Most executed layers of a program. The standard pass is evaluated whatever its depth.
        stop_after: Finish a question once this many valid programs besides the standard pass are known. None spends
            the whole budget.
        seed: Seed of the run. Every question derives its own from it and from its id.

    Raises:
        ConfigError: If a value is outside its range.
    """

    strategy: str = "mcts"
    mode: str = "both"
    simulations: int = 200
    exploration: float = 1.8
    depth_penalty: float = 1.0
    random_child: float = 0.1
    max_segment_length: int = 4
    max_executions: int = 4
    widening_factor: float = 2.0
    widening_exponent: float = 0.5
    beam_width: int = 8
    max_depth: int | None = None
    stop_after: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_choice("strategy", STRATEGIES)
        self._check_choice("mode", MODES)
        for name in ("simulations", "max_segment_length", "beam_width"):
            self._check_integer(name, low=1)
        for name in ("max_depth", "stop_after"):
            if getattr(self, name) is not None:
                self._check_integer(name, low=1)
        self._check_integer("max_executions", low=2, high=MAX_EXECUTIONS)
        self._check_integer("seed")
        self._check_number("exploration", high=math.inf)
        self._check_number("depth_penalty", high=math.inf)
        self._check_number("random_child", high=1)
        self._check_number("widening_factor", high=math.inf)
        self._check_number("widening_exponent", high=1)

    def to_dict(self) -> dict[str, Any]:
        """JSON form: every field by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSettings:
        """Inverse of :meth:`to_dict`; fields that are missing take their default.

        Raises:
            ConfigError: If ``data`` names a setting that does not exist, or a value is outside its range.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in data if name not in known]
        if unknown:
            raise ConfigError(f"unknown search settings {', '.join(unknown)}; the settings are {', '.join(known)}.")
        return cls(**data)

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise ConfigError(f"search setting {name} is {value!r}; choose one of {', '.join(choices)}.")

    def _check_integer(self, name: str, low: int | None = None, high: int | None = None) -> None:
        value = getattr(self, name)
        fits = isinstance(value, int) and not isinstance(value, bool)
        if not fits or (low is not None and value < low) or (high is not None and value > high):
            allowed = "an integer" if low is None else f"an integer of at least {low}"
            allowed += "" if high is None else f" and at most {high}"
            raise ConfigError(f"search setting {name} is {value!r}; it must be {allowed}.")

    def _check_number(self, name: str, high: float) -> None:
        value = getattr(self, name)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not (fits and 0 <= value <= high):
            allowed = "a finite number of at least 0" if high == math.inf else f"a number between 0 and {high}"
            raise ConfigError(f"search setting {name} is {value!r}; it must be {allowed}.")
