"""Mathematical equality of answers, judged by math-verify in a process that can be killed.

math-verify limits its own time with SIGALRM, which raises in any thread but the first, and which Python cannot deliver
while a big-integer power runs. Here the limit is enforced from outside: an answer that takes too long costs its worker
its life and scores 0. The limit counts processor time, so that a busy machine does not turn right answers into wrong
ones; a second limit, on the clock, keeps the promise never to hang.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, PolarError
from .answers import final_answer, plain_number, same_number

if TYPE_CHECKING:
    from ..search.records import Example

_WORKER = Path(__file__).with_name("math_worker.py")
_SECONDS_TO_START = 120.0
_CLOCK_PER_TIMEOUT = 10 if hasattr(signal, "setitimer") else 1


class MathGrader:
    r"""1.0 where a completion's answer equals the reference: numbers, fractions, LaTeX, sets, intervals, units.

    The answer of a completion is its last ``\boxed{…}``, else what follows ``####``, else what follows "the answer
    is", else the whole text. Two plain numbers are compared at once; everything else goes to the worker, and each pair
    of reference and answer only the first time.

    Safe to call from any thread (calls take turns), and to use as a context manager; the worker also ends with the
    grader or the interpreter, whichever comes first.

    Args:
        timeout: Seconds of processor time one answer may take; then it scores 0 and the worker is replaced. On the
            clock the limit is ten times as long (on Windows, which has no such timer, it is ``timeout``).
        boxed_only: Score completions without a box 0 unread, as the authors' evaluation does.
        memory: Most address space of the worker, bytes, on systems that can limit it.

    Attributes:
        timeouts: Answers so far that took too long, or took their worker down.

    Raises:
        ImportError: If math-verify is not installed.
    """

    def __init__(self, timeout: float = 3.0, boxed_only: bool = False, memory: int = 2 << 30) -> None:
        if find_spec("math_verify") is None:
            raise ImportError("MathGrader needs math-verify. Install it with: pip install polar-adapter[grade]")
        if timeout <= 0:
            raise ConfigError(f"timeout is {timeout} seconds; it must be above 0.")
        self.timeout = timeout
        self.boxed_only = boxed_only
        self.memory = memory
        self.timeouts = 0
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._remembered = lru_cache(maxsize=1 << 16)(self._ask_worker)

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Score completions against the answers of their examples."""
        return [
            float(self.equivalent(completion, example.answer))
            for completion, example in zip(completions, examples, strict=True)
        ]

    def equivalent(self, completion: str, reference: str) -> bool:
        """Whether a completion gives the reference answer.

        Args:
            completion: Text that states an answer somewhere.
            reference: The right answer, bare or as a solution that ends in ``\\boxed{…}`` or ``#### …``.
        """
        answer, right = final_answer(completion), final_answer(reference)
        if not answer.text or not right.text or (self.boxed_only and not answer.is_boxed):
            return False
        number, right_number = plain_number(answer.text), plain_number(right.text)
        if number is not None and right_number is not None:
            return same_number(number, right_number)
        formula = f"\\boxed{{{answer.text}}}" if answer.is_boxed else answer.text
        return answer.text == right.text or self._remembered(right.text, formula)

    def _ask_worker(self, reference: str, answer: str) -> bool:
        with self._lock:
            if self._worker is None or not self._worker.usable:
                self._worker = _Worker(self.timeout, self.memory)
            verdict = self._worker.ask(reference, answer)
            self.timeouts += verdict is None
            return bool(verdict)

    def close(self) -> None:
        """End the worker. The grader stays usable and starts another when it needs one."""
        with self._lock:
            if self._worker is not None:
                self._worker.stop()
                self._worker = None

    def __enter__(self) -> MathGrader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.timeout, self.boxed_only, self.memory)


class _Worker:
    """One worker process: answers one question at a time, or dies trying."""

    def __init__(self, timeout: float, memory: int) -> None:
        self._timeout = timeout
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER), str(timeout), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.stop = weakref.finalize(self, _end, self._process)
        if self._read(_SECONDS_TO_START) is None:
            raise PolarError(
                f"the grading worker ended before it was ready (exit code {self._process.returncode}); "
                f"its error stands above. It can be tried by hand: {sys.executable} {_WORKER} 3 {memory}"
            )

    @property
    def usable(self) -> bool:
        """Whether the process lives and belongs to this one: a fork must not share its pipes."""
        return self.stop.alive and self._process.poll() is None and self._owner == os.getpid()

    def ask(self, reference: str, answer: str) -> bool | None:
        """Whether the two are equal; None if the worker did not live to tell."""
        assert self._process.stdin is not None  # it was opened as a pipe
        try:
            self._process.stdin.write(json.dumps({"reference": reference, "answer": answer}) + "\n")
            self._process.stdin.flush()
            verdict = self._read(self._timeout * _CLOCK_PER_TIMEOUT)
        except OSError:  # the worker died while idle
            verdict = None
        except BaseException:
            self.stop()  # an interrupted exchange leaves a verdict behind that would answer the next question
            raise
        return None if verdict is None else verdict == "1"

    def _read(self, seconds: float) -> str | None:
        """The next line of the worker, or None once it is dead; after ``seconds`` it is."""
        assert self._process.stdout is not None  # it was opened as a pipe
        executioner = threading.Timer(seconds, self._process.kill)
        executioner.daemon = True
        executioner.start()
        try:
            line = self._process.stdout.readline()
        finally:
            executioner.cancel()
            executioner.join()
        if not line:
            self.stop()
            return None
        return line.strip()


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a worker and leave no zombie and no open pipe."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None  # both were opened as pipes
        try:
            pipe.close()
        except OSError:
            continue  # the last question was never delivered
