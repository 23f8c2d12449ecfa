"""Chains of modular arithmetic, the problems the embedded base answers: ``7 +3 *2 -2 =`` is ``5``.

A chain starts from a number and applies operations from left to right, modulo 13. How many operations it has is how
hard it is, and the five levels follow from that. Everything is a single whitespace-separated token, so a chain of n
operations is n + 2 tokens long and its answer is one.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import PolarError
from ..search.records import Example

MODULUS = 13
OPERATIONS = ("+1", "+3", "+5", "-2", "*2", "*3", "*5", "*7")
EQUALS = "="

LEVELS: dict[str, range] = {
    "1": range(1, 3),
    "2": range(3, 5),
    "3": range(5, 6),
    "4": range(6, 7),
    "5": range(7, 9),
}
"""Number of operations in the chains of each level."""


@dataclass(frozen=True)
class Chain:
    """A number and the operations applied to it, in order.

    Args:
        start: The number the chain starts from, 0 … 12.
        operations: Members of :data:`OPERATIONS`.
    """

    start: int
    operations: tuple[str, ...]

    @classmethod
    def draw(cls, length: int, rng: random.Random) -> Chain:
        """A chain of ``length`` operations, uniformly among all of them."""
        return cls(rng.randrange(MODULUS), tuple(rng.choices(OPERATIONS, k=length)))

    @property
    def values(self) -> tuple[int, ...]:
        """The running value after each operation; the last is the answer."""
        value, values = self.start, []
        for operation in self.operations:
            operand = int(operation[1:])
            if operation[0] == "*":
                value *= operand
            else:
                value += operand if operation[0] == "+" else -operand
            value %= MODULUS
            values.append(value)
        return tuple(values)

    @property
    def prompt(self) -> str:
        """The text given to the model, for example ``7 +3 *2 -2 =``."""
        return " ".join((str(self.start), *self.operations, EQUALS))

    @property
    def answer(self) -> str:
        """The one token expected after the prompt."""
        return str(self.values[-1])


def generate_chains(
    count: int, seed: int, levels: Sequence[str] | None = None, exclude: Iterable[Example] = ()
) -> list[Example]:
    """Draw distinct problems, the levels taking turns, so that any prefix is as balanced as the whole.

    Within a level each chain length is equally likely, for as long as it has chains left: there are only 104 of one
    operation, and 936 in level 1. No problem comes twice; hold out a test set by excluding the training set.

        >>> train = generate_chains(800, seed=0)
        >>> test = generate_chains(400, seed=1, exclude=train)

    Args:
        count: How many problems.
        seed: Problems of another seed are other problems, but for chance: use ``exclude`` where that matters.
        levels: Keys of :data:`LEVELS`. All five by default.
        exclude: Problems not to be drawn again.

    Returns:
        Examples with ids ``<seed>-<position>``.

    Raises:
        PolarError: If a level does not exist, or too few of its chains are left.
    """
    levels = tuple(LEVELS) if levels is None else tuple(levels)
    if not levels or not set(levels) <= set(LEVELS):
        raise PolarError(f"levels are {levels}; choose one or more of {', '.join(map(repr, LEVELS))}.")
    rng = random.Random(seed)
    taken = {example.prompt for example in exclude}
    supply = {level: _unseen_chains(level, taken, rng) for level in levels}
    examples = []
    for position in range(count):
        level = levels[position % len(levels)]
        chain = next(supply[level], None)
        if chain is None:
            raise PolarError(
                f"level {level} has no chain left after {position} of {count} problems: it has "
                f"{sum(map(_chains_of_length, LEVELS[level])):,} distinct ones, those excluded among them. "
                "Ask for fewer problems, exclude fewer, or leave this level out."
            )
        examples.append(Example(id=f"{seed}-{position}", prompt=chain.prompt, answer=chain.answer, level=level))
    return examples


def _chains_of_length(length: int) -> int:
    return MODULUS * len(OPERATIONS) ** length


def _unseen_chains(level: str, taken: set[str], rng: random.Random) -> Iterator[Chain]:
    """Yield the chains of a level that are not in ``taken``, adding each to it, until there are none."""
    lengths = Counter(len(prompt.split()) - 2 for prompt in taken)
    left = {length: _chains_of_length(length) - lengths[length] for length in LEVELS[level]}
    while lengths_left := [length for length, chains in left.items() if chains > 0]:
        length = rng.choice(lengths_left)
        while (chain := Chain.draw(length, rng)).prompt in taken:
            pass
        taken.add(chain.prompt)
        left[length] -= 1
        yield chain
