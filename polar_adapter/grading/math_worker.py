"""The process behind :class:`~polar_adapter.grading.MathGrader`: reads questions of equality, writes verdicts.

Run by path, in an interpreter of its own, so that a worker imports neither torch nor the user's script, and starts in
about a second. One JSON object per line in, ``{"reference": …, "answer": …}``; one line out, ``1`` or ``0``.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from functools import lru_cache

from math_verify import parse, verify


@lru_cache(maxsize=4096)
def _parse_reference(reference: str) -> tuple:
    # A reference is an answer, so it is read as one formula; prose is searched for a number only if that fails.
    return tuple(parse(f"\\boxed{{{reference}}}", parsing_timeout=None) or parse(reference, parsing_timeout=None))


def equivalent(reference: str, answer: str) -> bool:
    """Whether ``answer`` (a formula in a box, or text to search) means the same as ``reference``."""
    parsed = parse(answer, parsing_timeout=None)
    return bool(verify(list(_parse_reference(reference)), parsed, timeout_seconds=None))


def _limit_memory(size: int) -> None:
    """Let a number with a billion digits end this process rather than the machine, where the system can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (ImportError, ValueError, OSError):
        return


def main(seconds: float, memory: int) -> None:
    """Serve until the input closes, or an answer takes too long.

    Args:
        seconds: Processor time of one answer, where the system has such timers. More ends this process.
        memory: Address space of this process, bytes.
    """
    verdicts, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory(memory)
    # math-verify's own time limits are off: a Python handler cannot interrupt a big-integer power. The default action
    # of the timer can, because the system carries it out; it also ends a worker whose parent was killed meanwhile.
    set_timer = getattr(signal, "setitimer", None)
    if set_timer is not None:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
    equivalent("x + 1", "\\boxed{1 + x}")  # tables that are built on first use are no part of an answer's time
    print("ready", file=verdicts, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if set_timer is not None:
            set_timer(signal.ITIMER_PROF, seconds)
        try:
            verdict = equivalent(question["reference"], question["answer"])
        except (RecursionError, MemoryError):
            verdict = False
        if set_timer is not None:
            set_timer(signal.ITIMER_PROF, 0)
        print(int(verdict), file=verdicts, flush=True)


if __name__ == "__main__":
    main(seconds=float(sys.argv[1]), memory=int(sys.argv[2]))
