"""Where a completion states its answer, and what can be read from it without algebra.

Everything here is linear in the length of the text: completions come from mutilated models and may hold anything.
"""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction
from typing import NamedTuple

_ANNOUNCEMENT = r"answer(?:\s+is|\s*[:=])[\s:*]*"
_ANNOUNCED = re.compile(_ANNOUNCEMENT, re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)")
_BARE_BOX = re.compile(r"\s*([^\s${}\\]+)")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,9}|[0-9]{1,30})?(?:\.[0-9]{0,30})?")
_LEADING_CHOICE = re.compile(r"\s*[*$({]*([A-Z])(?:[.):,*}$]|\s*(?:\n|$))")
_ANNOUNCED_CHOICE = re.compile(rf"(?i:{_ANNOUNCEMENT})[$(]?([A-Z])\b")
_CHOICE_IN_PARENTHESES = re.compile(r"\(([A-Z])\)")


def boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{…}`` (or ``\fbox{…}``, or ``\boxed 5``) whose braces balance; None without one."""
    stop = len(text)
    for box in reversed(list(_BOX.finditer(text))):
        content = _braced(text[box.end() : stop])
        if content is not None:
            return content
        stop = box.start()
    return None


def _braced(text: str) -> str | None:
    """Content of the brace that opens ``text``, or its first word when no brace opens it."""
    opened = text.lstrip()
    if not opened.startswith("{"):
        bare = _BARE_BOX.match(text)
        return bare.group(1) if bare else None
    depth = 0
    for brace in re.finditer(r"[{}]", opened):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return opened[1 : brace.start()].strip()
    return None


class Answer(NamedTuple):
    """What a text answers, and whether it says so in a box."""

    text: str
    is_boxed: bool


def final_answer(text: str) -> Answer:
    r"""The part of a text that states its answer: the last box, else after ``####``, else after "answer is", else all.

    Args:
        text: A completion, a reference solution, or a bare answer.

    Returns:
        For example ``"72"`` from ``r"so \boxed{72}"``, from ``"… #### 72"`` and from ``"The answer is 72."``.
    """
    content = boxed(text)
    if content is not None:
        return Answer(content, True)
    _, marker, tail = text.rpartition("####")
    if not marker:
        announced = _last(_ANNOUNCED, text)
        if announced is None:
            return Answer(text.strip(), False)
        tail = text[announced.end() :]
    return Answer(tail.strip().partition("\n")[0], False)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = deque(pattern.finditer(text), maxlen=1)
    return matches[0] if matches else None


def plain_number(text: str) -> Fraction | None:
    r"""Value of a text that is nothing but a decimal number; None for anything that needs a parser.

    Thousands separators (``1,000``, ``1{,}000``), a currency sign, dollar-sign maths and a full stop are understood;
    fractions, percentages, powers and units are left to the grader.
    """
    number = text.strip().removesuffix(".").strip("$ ").removeprefix("\\$")
    number = number.replace("{,}", ",").replace("\\!", "").replace("−", "-")
    if not _NUMBER.fullmatch(number) or not any(character.isdigit() for character in number):
        return None
    return Fraction(number.replace(",", "").rstrip("."))


def same_number(left: Fraction, right: Fraction) -> bool:
    """Equality of two plain numbers, to six decimal places as in math-verify."""
    return left == right or round(left, 6) == round(right, 6)


def choice_letter(text: str) -> str | None:
    r"""The option a completion chooses: ``\boxed{C}``, "The answer is (C).", "C. 12 cm", "… so (C)"; None without one.

    A capital that begins a sentence ("A train …") is not a choice.
    """
    content = boxed(text)
    if content is not None:
        chosen = _LEADING_CHOICE.match(content.removeprefix("\\text"))
    else:
        chosen = _last(_ANNOUNCED_CHOICE, text) or _LEADING_CHOICE.match(text) or _last(_CHOICE_IN_PARENTHESES, text)
    return chosen.group(1) if chosen else None
