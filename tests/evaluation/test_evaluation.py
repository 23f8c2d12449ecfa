"""Policies compared on equal terms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from polar_adapter import ConfigError, Program
from polar_adapter.evaluation import (
    Policy,
    StaticPolicy,
    evaluate_policies,
    evaluation_table,
    paired_bootstrap,
    program_figure,
)
from polar_adapter.evaluation.report import operation_shares, program_bar
from polar_adapter.search import Example

D = 6
IDENTITY, SHORT, LONG = (Program.parse(text, D) for text in ("0-5", "0-2", "0-5 3-5"))
EXAMPLES = [Example(str(i), f"q{i}", "a", level=str(1 + i % 2)) for i in range(40)]


class Ranked(Policy):
    name = "router"

    def choose(self, examples, num_programs):
        return [[SHORT, LONG, IDENTITY][:num_programs] for _ in examples]


def oracle(pairs):
    """SHORT answers level 1, LONG level 2, the standard pass every fourth question."""
    right = {SHORT: lambda e: e.level == "1", LONG: lambda e: e.level == "2", IDENTITY: lambda e: int(e.id) % 4 == 0}
    return [float(right[program](example)) for example, program in pairs]


def evaluation():
    return evaluate_policies([StaticPolicy("base", IDENTITY), Ranked()], EXAMPLES, oracle, oracle_at=[2])


def test_accuracy_depth_and_identity_rate():
    report = evaluation().to_dict()
    overall, levels = report["overall"], report["levels"]
    assert overall["base"] == {"accuracy": 0.25, "mean_depth": 6.0, "identity_rate": 1.0}
    assert overall["router"] == {"accuracy": 0.5, "mean_depth": 3.0, "identity_rate": 0.0}
    assert overall["oracle@2"]["accuracy"] == 1.0
    assert overall["oracle@2"]["mean_depth"] == (3 + 9) / 2
    assert levels["1"]["router"]["accuracy"] == 1.0
    assert levels["2"]["router"]["accuracy"] == 0.0
    assert overall["router_minus_base"]["mean"] == pytest.approx(0.25)


def test_each_pair_is_evaluated_once():
    seen = []

    def counting(pairs):
        seen.extend(pairs)
        return oracle(pairs)

    evaluate_policies(
        [StaticPolicy("base", IDENTITY), StaticPolicy("static", SHORT), Ranked()], EXAMPLES, counting, [3]
    )
    assert len(seen) == len(set(seen)) == 3 * len(EXAMPLES)


@pytest.mark.parametrize("policies", [[StaticPolicy("static", SHORT)], [StaticPolicy("base", IDENTITY)] * 2])
def test_comparisons_need_a_base_and_distinct_names(policies):
    with pytest.raises(ConfigError, match="cannot be compared"):
        evaluate_policies(policies, EXAMPLES, oracle)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
@settings(max_examples=30, deadline=None)
def test_intervals_hold_the_mean_and_are_antisymmetric(rows):
    ours, theirs = ([float(row[i]) for row in rows] for i in (0, 1))
    forward, backward = paired_bootstrap(ours, theirs), paired_bootstrap(theirs, ours)
    assert forward.low <= forward.mean <= forward.high
    assert forward.mean == pytest.approx(-backward.mean)
    assert forward.low == pytest.approx(-backward.high, abs=0.05)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        ours, theirs = rng.random(80) < 0.7, rng.random(80) < 0.5
        interval = paired_bootstrap(ours, theirs, resamples=1000, seed=trial)
        covered += interval.low <= 0.2 <= interval.high
    assert 180 <= covered <= 199


def test_unpaired_scores_are_refused():
    with pytest.raises(ValueError, match="paired"):
        paired_bootstrap([1.0], [1.0, 0.0])


def test_table_and_figure_show_what_was_measured(tmp_path):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(evaluation_table(evaluation()))
    console.file.close()
    text = console.export_text()
    assert "+25.0 [" in text
    assert "router" in text
    program_figure(evaluation(), tmp_path / "programs.png")
    assert (tmp_path / "programs.png").read_bytes().startswith(b"\x89PNG")


def test_shares_and_bars():
    skipped, kept, repeated = operation_shares([SHORT, LONG])
    assert list(skipped) == [0, 0, 0, 0.5, 0.5, 0.5]
    assert list(kept) == [1, 1, 1, 0, 0, 0]
    assert list(repeated) == [0, 0, 0, 0.5, 0.5, 0.5]
    assert program_bar(Program.parse("0 1x3 4-5x2", D)) == "▁▅··▃▃"
