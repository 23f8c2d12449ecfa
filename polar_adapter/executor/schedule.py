"""One sequence of steps for the different programs of a batch's rows.

Rows run together: the programs are merged into a common supersequence, and each row uses the steps that spell its own
program. Pure functions on tuples; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Path = tuple[int, ...]

END = -1
"""No layer: what a program waits for once it is done."""


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

    The shortest one is NP-hard to find for many programs. Running the lowest waiting layer first is optimal where
    programs only skip; what repeats make it run too often, :func:`_without_spare_steps` takes out again. On random
    programs the result is within 2 % of folding exact pairwise merges, at half their price.

    Args:
        paths: Layer indices of each program, in order; duplicates are allowed.

    Returns:
        A schedule of which every program is a subsequence, no longer than all of them together.
    """
    distinct = tuple(dict.fromkeys(paths))
    if len(distinct) == 1:
        return Schedule(distinct[0], ((True,) * len(paths),) * len(distinct[0]))
    steps = _without_spare_steps(_lowest_layer_first(distinct), distinct)
    columns = {path: _steps_of(path, steps) for path in distinct}
    return Schedule(steps, tuple(zip(*(columns[path] for path in paths), strict=True)))


def _lowest_layer_first(paths: Sequence[Path]) -> Path:
    """Run the lowest layer that some program waits for, until none waits."""
    queues = [(*path, END) for path in paths]
    positions = [0] * len(paths)
    steps: list[int] = []
    while waiting := [layer for queue, p in zip(queues, positions, strict=True) if (layer := queue[p]) != END]:
        layer = min(waiting)
        steps.append(layer)
        positions = [p + (queue[p] == layer) for queue, p in zip(queues, positions, strict=True)]
    return tuple(steps)


def _without_spare_steps(steps: Path, paths: Sequence[Path]) -> Path:
    """Drop, from first to last, every step without which each program still finds its own steps in order."""
    reversed_queues = [(*path[::-1], END) for path in paths]
    behind = [[0] * len(paths)]  # how many layers at the end of each path the steps from here on can run
    for layer in reversed(steps):
        behind.append([n + (queue[n] == layer) for queue, n in zip(reversed_queues, behind[-1], strict=True)])
    queues = [(*path, END) for path in paths]
    positions = [0] * len(paths)
    kept: list[int] = []
    for layer, rest in zip(steps, behind[-2::-1], strict=True):
        if any(p + n < len(path) for path, p, n in zip(paths, positions, rest, strict=True)):
            kept.append(layer)
            positions = [p + (queue[p] == layer) for queue, p in zip(queues, positions, strict=True)]
    return tuple(kept)


def _steps_of(path: Path, steps: Path) -> list[bool]:
    """Which steps a program uses: for each of its layers, the first that has not passed."""
    queue, position, used = (*path, END), 0, []
    for layer in steps:
        used.append(queue[position] == layer)
        position += used[-1]
    return used
