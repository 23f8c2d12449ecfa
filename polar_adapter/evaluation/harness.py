"""Run policies over the same questions and compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError
from ..program import Program
from ..search.records import Example, is_valid
from ..search.runner import Evaluate
from .metrics import Interval, paired_bootstrap
from .policies import Policy, RouterPolicy, StaticPolicy


@dataclass(frozen=True)
class PolicyResult:
    """What a policy did on each question.

    Attributes:
        name: Name of the policy.
        programs: Ranked programs of each question.
        right: For each question, whether each of its programs answered it.
        oracle: Count a question if any of its programs is right (oracle@k: judged with the answer key), at the depth of
            the shortest right one; otherwise the first choice counts.
    """

    name: str
    programs: tuple[tuple[Program, ...], ...]
    right: tuple[tuple[bool, ...], ...]
    oracle: bool = False

    @property
    def scores(self) -> list[float]:
        """1 for each question answered, else 0."""
        return [float(any(row) if self.oracle else row[0]) for row in self.right]

    @property
    def depths(self) -> list[int]:
        """Executed layers for each question."""
        depths = []
        for programs, right in zip(self.programs, self.right, strict=True):
            solved = [program.depth for program, ok in zip(programs, right, strict=True) if ok]
            depths.append(min(solved) if self.oracle and solved else programs[0].depth)
        return depths

    def summary(self, rows: Sequence[int]) -> dict[str, float]:
        """Accuracy (a fraction), mean depth (layers) and identity rate of the first choice, over some questions."""
        scores, depths = self.scores, self.depths
        return {
            "accuracy": float(np.mean([scores[row] for row in rows])),
            "mean_depth": float(np.mean([depths[row] for row in rows])),
            "identity_rate": float(np.mean([self.programs[row][0].is_identity for row in rows])),
        }


@dataclass(frozen=True)
class Evaluation:
    """Policies on the same questions.

    Attributes:
        examples: The questions.
        results: What each policy did, by its name; ``"base"`` is the standard pass.
    """

    examples: tuple[Example, ...]
    results: dict[str, PolicyResult]

    @property
    def levels(self) -> dict[str, list[int]]:
        """Question positions by level, in order."""
        names = sorted({example.level for example in self.examples if example.level is not None})
        return {name: [i for i, example in enumerate(self.examples) if example.level == name] for name in names}

    def difference(self, ours: str, theirs: str = "base", rows: Sequence[int] | None = None) -> Interval:
        """Paired difference in accuracy between two policies, with its 95 % interval."""
        rows = range(len(self.examples)) if rows is None else rows
        a, b = self.results[ours].scores, self.results[theirs].scores
        return paired_bootstrap([a[row] for row in rows], [b[row] for row in rows])

    def to_dict(self) -> dict[str, Any]:
        """JSON form: per policy accuracy, mean depth and identity rate, overall and by level, with paired intervals."""
        everything = range(len(self.examples))
        return {
            "questions": len(self.examples),
            "overall": self._section(everything),
            "levels": {name: self._section(rows) for name, rows in self.levels.items()},
        }

    def _section(self, rows: Sequence[int]) -> dict[str, Any]:
        section: dict[str, Any] = {name: result.summary(rows) for name, result in self.results.items()}
        for name in self.results:
            if name != "base":
                section[f"{name}_minus_base"] = asdict(self.difference(name, "base", rows))
        return section


def evaluate_policies(
    policies: Sequence[Policy], examples: Sequence[Example], evaluate: Evaluate, oracle_at: Sequence[int] = ()
) -> Evaluation:
    """Run policies over questions.

    Each distinct (question, program) pair is evaluated once, whichever policies chose it.

    Args:
        policies: The policies; one named ``"base"`` runs the standard pass and is what intervals compare with.
        examples: Held-out questions.
        evaluate: Scores pairs; see :mod:`polar_adapter.scoring`.
        oracle_at: For each k, add ``oracle@k`` of the last policy: any of its k first programs is right.

    Raises:
        ConfigError: If no policy is named ``"base"``, names repeat, or there are no questions.
    """
    names = [policy.name for policy in policies]
    if "base" not in names or len(set(names)) != len(names) or not examples:
        raise ConfigError(
            f"policies {names} on {len(examples)} questions cannot be compared; one must be named 'base', names must "
            "differ, and there must be questions."
        )
    widest = max([1, *oracle_at])
    chosen = {p.name: p.choose(examples, widest if p is policies[-1] else 1) for p in policies}
    pairs = list(
        dict.fromkeys(
            (e, program) for rows in chosen.values() for e, row in zip(examples, rows, strict=True) for program in row
        )
    )
    verdicts = {pair: is_valid(score) for pair, score in zip(pairs, evaluate(pairs), strict=True)}

    def result(name: str, rows: list[list[Program]], oracle: bool = False) -> PolicyResult:
        right = tuple(tuple(verdicts[e, program] for program in row) for e, row in zip(examples, rows, strict=True))
        return PolicyResult(name, tuple(map(tuple, rows)), right, oracle)

    results = {name: result(name, rows) for name, rows in chosen.items()}
    for k in oracle_at:
        name = f"oracle@{k}"
        results[name] = result(name, [row[:k] for row in chosen[names[-1]]], oracle=True)
    return Evaluation(tuple(examples), results)


def evaluate_programs(programs: Mapping[str, Program], examples: Sequence[Example], oracle: Evaluate) -> Evaluation:
    """Evaluate fixed programs beside the standard pass.

    Args:
        programs: Programs by name; ``"base"`` is added.
        examples: Questions.
        oracle: A scoring oracle.
    """
    identity = Program.identity(next(iter(programs.values())).num_layers)
    named = {"base": identity, **programs}
    return evaluate_policies([StaticPolicy(name, program) for name, program in named.items()], examples, oracle)


def evaluate_router(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    oracle: Any,
    static: Program | None = None,
    oracle_at: int = 5,
    **choice: Any,
) -> Evaluation:
    """Evaluate a trained adapter beside its base.

    Args:
        model: A model with an active polar adapter.
        tokenizer: The base's tokenizer.
        examples: Held-out questions.
        oracle: A scoring oracle, whose template the router reads too.
        static: Best static program, chosen on training data.
        oracle_at: k of oracle@k.
        **choice: ``cost_weight``, ``identity_margin``, ``max_depth``; the config's by default.

    Returns:
        Policies ``base``, ``static`` (if given), ``router`` (first choice, pass@1) and ``oracle@k``.
    """
    from ..executor import find_decoder

    identity = Program.identity(find_decoder(model).num_layers)
    policies: list[Policy] = [StaticPolicy("base", identity)]
    if static is not None:
        policies.append(StaticPolicy("static", static))
    policies.append(RouterPolicy("router", model, tokenizer, oracle.template, choice=choice))
    return evaluate_policies(policies, examples, oracle, oracle_at=[oracle_at])
