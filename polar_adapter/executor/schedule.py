"""One sequence of steps for the different programs of a batch's rows.

Rows run together: the programs are merged into a common supersequence, and each row uses the steps that spell its own
program. Pure functions on tuples; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Path = tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """Steps to run, and for each step the programs that use it.

    Attributes:
        path: Layer index of every step.
        users: For every step, one bool per merged program.
    """

    path: Path
    users: tuple[tuple[bool, ...], ...]

    @property
    def is_uniform(self) -> bool:
        """Whether every program uses every step."""
        return all(all(row) for row in self.users)


@lru_cache(maxsize=256)
def merge_programs(paths: tuple[Path, ...]) -> Schedule:
    """Merge programs into a short common supersequence.

    The shortest one is NP-hard to find for many programs. Two greedy rules are tried and the shorter result is kept:
    *lowest layer first*, optimal for programs that only skip and good for repeats of one block, and *most remaining work
    first* (weighted majority merge), better when repeats of different lengths overlap.

    Args:
        paths: Layer indices of each program, in order; duplicates are allowed.

    Returns:
        A schedule of which every program is a subsequence, no longer than all of them together.
    """

    def lowest_layer(waiting: dict[int, int]) -> int:
        return min(waiting)

    def most_remaining(waiting: dict[int, int]) -> int:
        return max(waiting, key=lambda layer: (waiting[layer], -layer))

    return min((_merge(paths, rule) for rule in (lowest_layer, most_remaining)), key=lambda s: len(s.path))


def _merge(paths: Sequence[Path], choose) -> Schedule:
    """Run the layer that ``choose`` picks from {next layer: steps remaining behind it} until all programs are done."""
    positions = [0] * len(paths)
    steps: list[int] = []
    users: list[tuple[bool, ...]] = []
    while True:
        waiting: dict[int, int] = {}
        for path, position in zip(paths, positions, strict=True):
            if position < len(path):
                waiting[path[position]] = waiting.get(path[position], 0) + len(path) - position
        if not waiting:
            return Schedule(tuple(steps), tuple(users))
        layer = choose(waiting)
        served = tuple(p < len(path) and path[p] == layer for path, p in zip(paths, positions, strict=True))
        positions = [p + s for p, s in zip(positions, served, strict=True)]
        steps.append(layer)
        users.append(served)
