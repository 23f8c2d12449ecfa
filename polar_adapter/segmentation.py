"""From a flat path back to segments: the deterministic parse that supervises the paper's router.

A path seldom has one segmentation. The canonical one has the fewest segments; among those the fewest skips; among those
the larger segments earlier. Segments run in order, so a cut before layer ``i`` falls after exactly the steps that run
layers below ``i``: the parse is a shortest path over at most D + 1 cuts.
"""

from __future__ import annotations

from .errors import ProgramError
from .program import MAX_EXECUTIONS, Op, Program, Segment


def segment_path(program: Program, max_length: int = 4, max_times: int = MAX_EXECUTIONS) -> tuple[Segment, ...]:
    """Parse a program into contiguous segments, each skipped, kept, or repeated as a block.

    Args:
        program: The program to parse.
        max_length: Most layers in one segment (K_max of the paper, 4).
        max_times: Most executions of a repeated segment.

    Returns:
        Segments that cover all layers in order, and whose paths concatenate to the program's.

    Raises:
        ProgramError: If no segmentation expresses the path, as for a reordering. Such a program still runs.
    """
    depth = program.num_layers
    steps_below = [0] * (depth + 1)
    for layer, count in enumerate(program.executions):
        steps_below[layer + 1] = steps_below[layer] + count

    # best[start]: ((segments, skips, -first length), first segment) of the cheapest parse of layers start … D-1.
    best: dict[int, tuple[tuple[int, int, int], Segment | None]] = {depth: ((0, 0, 0), None)}
    for start in range(depth - 1, -1, -1):
        options = []
        for stop in range(start + 1, min(start + max_length, depth) + 1):
            steps = program.path[steps_below[start] : steps_below[stop]]
            times = len(steps) // (stop - start)
            if stop in best and times <= max_times and steps == tuple(range(start, stop)) * times:
                (count, skips, _), _ = best[stop]
                op = Op.SKIP if times == 0 else Op.KEEP if times == 1 else Op.REPEAT
                cost = (count + 1, skips + (op is Op.SKIP), start - stop)
                options.append((cost, Segment(start, stop, op, times)))
        if options:
            best[start] = min(options, key=lambda option: option[0])

    if 0 not in best:
        raise ProgramError(
            f"program '{program}' of a {depth}-layer model is no sequence of segments of up to {max_length} layers, "
            f"each skipped, kept or executed up to {max_times} times. It can be run, but the segment router cannot "
            "learn it."
        )
    segments: list[Segment] = []
    while (segment := best[segments[-1].stop if segments else 0][1]) is not None:
        segments.append(segment)
    return tuple(segments)
