"""What holds for every strategy, and what sets each baseline apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_adapter.errors import PolarError
from polar_adapter.program import Program
from polar_adapter.search import SearchSettings, make_strategy
from polar_adapter.search.settings import STRATEGIES
from polar_adapter.search.strategy import Strategy


def exhaust(strategy: Strategy, is_right=lambda program: False, limit: int = 10_000) -> list[Program]:
    """Run a strategy to its end."""
    proposed = []
    while (program := strategy.propose()) is not None:
        proposed.append(program)
        strategy.record(program, float(is_right(program)))
        assert len(proposed) < limit
    return proposed


def right_if_even(program: Program) -> bool:
    return sum(program.path) % 2 == 0


@pytest.mark.parametrize("name", STRATEGIES)
@given(num_layers=st.integers(1, 14), simulations=st.integers(1, 60), seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=25)
def test_identity_first_nothing_twice_within_the_budget(name, num_layers, simulations, seed, data):
    mode = data.draw(st.sampled_from(["both", "skip", "loop"]))
    config = SearchSettings(strategy=name, simulations=simulations, mode=mode)
    strategy = make_strategy(num_layers, config, seed)
    proposed = exhaust(strategy, right_if_even)
    assert proposed[0].is_identity
    assert len(set(proposed)) == len(proposed) <= simulations
    assert [entry.program for entry in strategy.scores()] == proposed
    assert all(entry.score == right_if_even(entry.program) and entry.visits >= 1 for entry in strategy.scores())


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_seed_decides(name):
    config = SearchSettings(strategy=name, simulations=60)
    runs = [exhaust(make_strategy(12, config, seed), right_if_even) for seed in (5, 5, 6)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_small_space_is_exhausted_and_stays_so(name):
    """Two layers, skipped or run up to two times; the sweep makes one edit, random search D / 4 but at least one."""
    strategy = make_strategy(2, SearchSettings(strategy=name, max_executions=2), seed=0)
    found = {program.path for program in exhaust(strategy)}
    single = {(0, 1), (1,), (0,), (0, 0, 1), (0, 1, 1), (0, 1, 0, 1)}
    double = {(1, 1), (0, 0), (0, 0, 1, 1)}
    assert found == (single | double if name in ("mcts", "beam") else single)
    assert strategy.propose() is None


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_depth_budget_below_the_model(name):
    config = SearchSettings(strategy=name, simulations=80, max_depth=8)
    proposed = exhaust(make_strategy(12, config, seed=1))
    assert len(proposed) > 20
    assert all(program.depth <= 8 for program in proposed[1:])


@pytest.mark.parametrize("name", STRATEGIES)
def test_stop_after_counts_valid_programs_besides_the_identity(name):
    strategy = make_strategy(12, SearchSettings(strategy=name, stop_after=3), seed=0)
    exhaust(strategy, right_if_even)
    assert sum(entry.is_valid for entry in strategy.scores()[1:]) == 3
    assert strategy.scores()[-1].is_valid


def test_a_proposal_stands_until_it_is_recorded():
    strategy = make_strategy(12, SearchSettings(), seed=0)
    assert strategy.propose() is strategy.propose()


@pytest.mark.parametrize("reward", [-0.1, 1.1, float("nan")])
def test_rewards_outside_the_unit_interval_are_refused(reward):
    strategy = make_strategy(12, SearchSettings(), seed=0)
    with pytest.raises(PolarError, match="between 0"):
        strategy.record(strategy.propose(), reward)


def test_a_reward_for_something_else_is_refused():
    strategy = make_strategy(12, SearchSettings(), seed=0)
    with pytest.raises(PolarError, match="nothing was proposed"):
        strategy.record(Program.identity(12), 1.0)
    strategy.propose()
    with pytest.raises(PolarError, match="'0-11' was proposed"):
        strategy.record(Program((0,), 12), 1.0)


def test_the_sweep_makes_single_edits():
    proposed = exhaust(make_strategy(12, SearchSettings(strategy="sweep"), seed=0))
    assert len(proposed) == 1 + (12 + 11 + 10 + 9) * 4
    for program in proposed[1:]:
        assert sum(segment.times != 1 for segment in program.segments()) == 1


def test_the_beam_builds_on_its_best_programs():
    """Once a program that runs layer 2 twice is known, edits of it are tried, and most of those are right too."""
    config = SearchSettings(strategy="beam", beam_width=4, simulations=150)
    strategy = make_strategy(12, config, seed=0)
    exhaust(strategy, lambda program: program.executions[2] == 2)
    valid = [entry.is_valid for entry in strategy.scores()[1:]]
    assert sum(valid[:16]) < 8
    assert sum(valid[-48:]) > 40
