"""Menus are picked for what programs can do, not for what they were lucky in."""

from __future__ import annotations

import random

import pytest

from polar_adapter import Program, RecordsError
from polar_adapter.search import ProgramScore, SearchRecord, best_static, choose_menu, pool_programs, score_programs

from .synthetic import examples

D = 12
IDENTITY, EASY, HARD = Program.identity(D), Program.parse("0-3 10-11", D), Program.parse("0-1 2-5x2 6-11", D)
LUCKY = [Program([i, i], D) for i in range(10)]


def evaluate(pairs):
    """EASY answers even questions, HARD odd ones, and each lucky program one question in ten."""
    scores = []
    for example, program in pairs:
        number = int(example.id)
        if program in LUCKY:
            scores.append(float(random.Random(f"{number} {program}").random() < 0.1))
        else:
            scores.append(float({EASY: number % 2 == 0, HARD: number % 2 == 1}.get(program, False)))
    return scores


def scored(count=200):
    return score_programs(numbered(count), [IDENTITY, *LUCKY, EASY, HARD], evaluate)


def numbered(count):
    from dataclasses import replace

    return [replace(example, id=str(i)) for i, example in enumerate(examples(count))]


def test_every_program_is_scored_on_every_question():
    records = scored(10)
    assert [record.example.id for record in records] == [str(i) for i in range(10)]
    assert all(len(record.programs) == 13 for record in records)
    assert all((EASY in record.valid) == (int(record.example.id) % 2 == 0) for record in records)
    assert all(record.identity_score == 0.0 for record in records)


def test_the_menu_holds_what_answers_and_not_what_was_lucky():
    menu = choose_menu(scored(), size=3, cost_weight=0.05)
    assert menu[0] == IDENTITY
    assert set(menu[1:]) == {EASY, HARD}
    # Taken as they are, the scores fill a larger menu with luck.
    assert set(choose_menu(scored(), size=8, cost_weight=0.05, rank=0)) & set(LUCKY)


def test_a_high_price_keeps_long_programs_out():
    assert HARD not in choose_menu(scored(), size=3, cost_weight=2.0)


def test_the_best_static_program_is_right_most_often():
    records = scored(201)
    assert best_static(records) == EASY
    assert best_static(records, max_depth=3) in LUCKY


def test_the_pool_takes_turns_among_depths():
    example = numbered(1)[0]
    programs = [EASY, HARD, *LUCKY]
    records = [SearchRecord(example, 0.0, tuple(ProgramScore(program, 1.0) for program in programs))]
    pool = pool_programs(records, size=4)
    assert pool[0] == IDENTITY
    assert {program.depth for program in pool[1:]} == {2, 6, 16}
    with pytest.raises(RecordsError, match="run a search first"):
        pool_programs([])
