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
    """Serve until the input closes.

    Args:
        seconds: Time limit of one answer. The parent enforces it; here it only ends a worker whose parent is gone.
        memory: Address space of this process, bytes.
    """
    verdicts, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory(memory)
    # math-verify's own time limits are off: Python handlers cannot interrupt a big-integer power. The default action
    # of the alarm can, because the system carries it out.
    alarm = getattr(signal, "setitimer", None)
    if alarm is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    print("ready", file=verdicts, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if alarm is not None:
            alarm(signal.ITIMER_REAL, 2 * seconds + 1)
        try:
            verdict = equivalent(question["reference"], question["answer"])
        except (RecursionError, MemoryError):
            verdict = False
        if alarm is not None:
            alarm(signal.ITIMER_REAL, 0)
        print(int(verdict), file=verdicts, flush=True)


if __name__ == "__main__":
    main(seconds=float(sys.argv[1]), memory=int(sys.argv[2]))
