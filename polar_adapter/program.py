"""Programs: which decoder layers run, in which order.

A decoder of depth D is a library of frozen layers 0 … D-1. A *program* is the sequence of layer indices that is
executed in their place (arXiv:2606.06574, Sec. 2). The standard forward pass is the identity program ``0 1 … D-1``.

    >>> program = Program.parse("0-5 6-8x2 12-27", num_layers=28)
    >>> program.depth, program.is_identity
    (28, False)
    >>> str(program)
    '0-5 6-8x2 12-27'

Programs are values: frozen, hashable, comparable, free of torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .errors import ProgramError

MAX_EXECUTIONS = 5
"""Most executions of one segment that :meth:`Program.segments` recognises."""


class Op(str, Enum):
    """What happens to a segment: it runs zero times, once, or several times."""

    SKIP = "skip"
    KEEP = "keep"
    REPEAT = "repeat"


@dataclass(frozen=True, order=True)
class Segment:
    """Layers ``start`` (included) to ``stop`` (excluded) and the number of times they run as a block.

    Args:
        start: First layer of the segment, from 0.
        stop: One past its last layer.
        op: Operation on the segment.
        times: Executions of the block. Only a repeat takes it, and it is 2 or more; skip is 0 and keep is 1.
    """

    start: int
    stop: int
    op: Op = Op.KEEP
    times: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ProgramError(
                f"segment [{self.start}, {self.stop}) holds no layer: start must be at least 0 and stop above start."
            )
        object.__setattr__(self, "op", Op(self.op))
        expected = {Op.SKIP: 0, Op.KEEP: 1, Op.REPEAT: 2}[self.op]
        times = expected if self.times == -1 else self.times
        if times != expected and not (self.op is Op.REPEAT and times > 2):
            raise ProgramError(
                f"segment [{self.start}, {self.stop}) is a {self.op.value} executed {times} times; "
                "skip runs 0 times, keep once, and a repeat 2 times or more."
            )
        object.__setattr__(self, "times", times)

    @property
    def path(self) -> tuple[int, ...]:
        """Layer indices this segment contributes to a program."""
        return tuple(range(self.start, self.stop)) * self.times

    def __len__(self) -> int:
        return self.stop - self.start


_TOKEN = re.compile(r"(\d+)(?:-(\d+))?(?:x(\d+))?")


@dataclass(frozen=True, init=False)
class Program:
    """A sequence of layer indices for a decoder of ``num_layers`` layers.

    Args:
        path: Layer indices in execution order; at least one, each in ``0 … num_layers - 1``.
        num_layers: Depth D of the base model.

    Raises:
        ProgramError: If the path is empty or an index is out of range.
    """

    path: tuple[int, ...]
    num_layers: int

    def __init__(self, path: Iterable[int], num_layers: int) -> None:
        path = tuple(path)
        if isinstance(num_layers, bool) or not isinstance(num_layers, int) or num_layers < 1:
            raise ProgramError(f"num_layers is {num_layers!r}; a decoder has at least one layer.")
        if not path:
            raise ProgramError("the program is empty; it must execute at least one layer.")
        for position, index in enumerate(path):
            if isinstance(index, bool) or not hasattr(index, "__index__"):
                raise ProgramError(f"step {position} of the program is {index!r}; steps are layer indices (integers).")
            if not 0 <= index < num_layers:
                raise ProgramError(
                    f"step {position} of the program runs layer {index}, but the model has {num_layers} layers "
                    f"(0-{num_layers - 1}). Use a program made for this base model."
                )
        object.__setattr__(self, "path", tuple(int(index) for index in path))
        object.__setattr__(self, "num_layers", num_layers)

    @classmethod
    def identity(cls, num_layers: int) -> Program:
        """The standard forward pass of a model with ``num_layers`` layers."""
        return cls(range(num_layers), num_layers)

    @classmethod
    def from_segments(cls, segments: Sequence[Segment], num_layers: int | None = None) -> Program:
        """Compose a program from segments that cover the model from its first layer to its last.

        Args:
            segments: Contiguous segments; the first starts at layer 0.
            num_layers: Depth of the base. Defaults to where the last segment stops.

        Raises:
            ProgramError: If the segments leave a gap, overlap, or end at another depth.
        """
        expected = 0
        for position, segment in enumerate(segments):
            if segment.start != expected:
                raise ProgramError(
                    f"segment {position} starts at layer {segment.start}, but the one before it ends at {expected}. "
                    "Segments must follow each other without gap or overlap; skip layers with Op.SKIP."
                )
            expected = segment.stop
        if num_layers is not None and expected != num_layers:
            raise ProgramError(
                f"segments end at layer {expected}, but the model has {num_layers} layers (0-{num_layers - 1})."
            )
        return cls((index for segment in segments for index in segment.path), num_layers or expected)

    @classmethod
    def parse(cls, text: str, num_layers: int) -> Program:
        """Read the text form: blocks ``a-b``, single layers ``a``, repeats ``a-bxN``, in execution order.

        Args:
            text: For example ``"0-5 6-8x2 9-20 24-27"``: layers 6 to 8 run twice as a block, 21 to 23 not at all.
            num_layers: Depth of the base model.

        Raises:
            ProgramError: If a token is not of this form, or a layer is out of range.
        """
        path: list[int] = []
        for token in text.split():
            match = _TOKEN.fullmatch(token)
            first, last, times = (None if g is None else int(g) for g in match.groups()) if match else (None,) * 3
            if first is None or times == 0:
                raise ProgramError(f"cannot read {token!r} in program {text!r}; write blocks as 6, 6-8 or 6-8x2.")
            last = first if last is None else last
            if last < first or last >= num_layers:
                raise ProgramError(
                    f"block {token!r} of program {text!r} covers layers {first}-{last}, but the model has "
                    f"{num_layers} layers (0-{num_layers - 1}) and blocks run upwards."
                )
            path.extend(list(range(first, last + 1)) * (times or 1))
        return cls(path, num_layers)

    @property
    def depth(self) -> int:
        """Executed layers K."""
        return len(self.path)

    @property
    def is_identity(self) -> bool:
        """Whether this is the standard forward pass."""
        return self.path == tuple(range(self.num_layers))

    @property
    def executions(self) -> tuple[int, ...]:
        """How often each of the D layers runs, by layer."""
        counts = [0] * self.num_layers
        for index in self.path:
            counts[index] += 1
        return tuple(counts)

    def segments(self, max_length: int = 4, max_times: int = MAX_EXECUTIONS) -> tuple[Segment, ...]:
        """The canonical segments of this program: see :func:`polar_adapter.segmentation.segment_path`."""
        from .segmentation import segment_path

        return segment_path(self, max_length=max_length, max_times=max_times)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, ``{"path": [...], "num_layers": D}``."""
        return {"path": list(self.path), "num_layers": self.num_layers}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Program:
        """Inverse of :meth:`to_dict`."""
        try:
            return cls(data["path"], data["num_layers"])
        except (KeyError, TypeError) as error:
            raise ProgramError(f"cannot read a program from {data!r}; it needs 'path' and 'num_layers'.") from error

    def __len__(self) -> int:
        return len(self.path)

    def __str__(self) -> str:
        return " ".join(_blocks(self.path))


def _blocks(path: tuple[int, ...]) -> list[str]:
    """Cut a path into the blocks of its text form, longest stretch covered first at each position."""
    blocks, start = [], 0
    while start < len(path):
        run = _run_length(path, start)
        length, times = max(
            ((length, _repetitions(path, start, length)) for length in range(1, run + 1)),
            key=lambda block: (block[0] * block[1] if block[1] > 1 else 0, block[1]),
        )
        if times == 1:
            length = _run_before_repeat(path, start, run)
        first, last = path[start], path[start] + length - 1
        blocks.append((f"{first}" if length == 1 else f"{first}-{last}") + (f"x{times}" if times > 1 else ""))
        start += length * times
    return blocks


def _run_length(path: tuple[int, ...], start: int) -> int:
    """Length of the ascending run by ones that begins at ``start``."""
    stop = start + 1
    while stop < len(path) and path[stop] == path[stop - 1] + 1:
        stop += 1
    return stop - start


def _repetitions(path: tuple[int, ...], start: int, length: int) -> int:
    """How many times the block ``path[start:start+length]`` follows itself, counting the first."""
    block, times = path[start : start + length], 1
    while path[start + length * times : start + length * (times + 1)] == block:
        times += 1
    return times


def _run_before_repeat(path: tuple[int, ...], start: int, run: int) -> int:
    """Longest prefix of a run that can be written once, without cutting into a repeat that begins inside it."""
    for offset in range(1, run):
        if any(_repetitions(path, start + offset, length) > 1 for length in range(1, run - offset + 1)):
            return offset
    return run
