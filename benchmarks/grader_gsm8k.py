"""How right and how fast the math grader is, on every GSM8K training answer.

    python benchmarks/grader_gsm8k.py --data gsm8k/train.jsonl

Each reference is graded against itself in the usual forms, where it must be right, and against changed numbers in the
same forms, where it must be wrong. ``--worker`` withholds the comparison of plain numbers, so that math-verify judges
every answer. Prints the share of right verdicts for each form, and answers per second.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from polar_adapter.grading import MathGrader, math_grader
from polar_adapter.grading.answers import final_answer

FORMS: dict[str, Callable[[int], str]] = {
    "#### 72": lambda n: f"#### {n}",
    r"\boxed{72}": lambda n: rf"\boxed{{{n}}}",
    "The answer is 72.": lambda n: f"The answer is {n}.",
    "72.0": lambda n: f"{n}.0",
    "1,000": lambda n: f"{n:,}",
    "$72": lambda n: f"${n}",
    r"so \boxed{72.00}": lambda n: rf"so \boxed{{{n}.00}}",
    "72 in total": lambda n: f"{n} in total",
}
CHANGES: dict[str, Callable[[int], int]] = {
    "n+1": lambda n: n + 1,
    "10n": lambda n: 10 * n or 10,
    "-n": lambda n: -n or 7,
}


def main() -> None:
    """Grade, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="GSM8K as JSON lines, with question and answer")
    parser.add_argument("--limit", type=int, help="only the first answers")
    parser.add_argument("--worker", action="store_true", help="let math-verify judge plain numbers too")
    arguments = parser.parse_args()
    if arguments.worker:
        math_grader.plain_number = lambda text: None

    answers = [json.loads(line)["answer"] for line in arguments.data.read_text(encoding="utf-8").splitlines()]
    answers = answers[: arguments.limit]
    print(
        f"{len(answers)} answers\n\n{'form':22}{'equal: right':>16}" + "".join(f"{c + ': wrong':>14}" for c in CHANGES)
    )
    with MathGrader() as grader:
        grader.equivalent(r"\boxed{\frac12}", "1/3")  # the start of the worker is not measured
        began, graded = time.perf_counter(), 0
        for form, write in FORMS.items():
            verdicts = {name: 0 for name in ("equal", *CHANGES)}
            for answer in answers:
                number = int(final_answer(answer).text.replace(",", ""))
                verdicts["equal"] += grader.equivalent(write(number), answer)
                for name, change in CHANGES.items():
                    verdicts[name] += not grader.equivalent(write(change(number)), answer)
            graded += len(answers) * len(verdicts)
            print(f"{form:22}" + "".join(f"{100 * right / len(answers):13.2f}%" for right in verdicts.values()))
        seconds = time.perf_counter() - began
        print(f"\n{graded} answers in {seconds:.1f} s, {graded / seconds:.0f} per second, {grader.timeouts} timeouts")


if __name__ == "__main__":
    main()
