from __future__ import annotations

import json

import pytest

from polar_adapter.errors import ConfigError
from polar_adapter.search import SearchSettings


def test_defaults_are_the_published_values():
    settings = SearchSettings()
    assert (settings.simulations, settings.exploration, settings.random_child) == (200, 1.8, 0.1)
    assert (settings.max_segment_length, settings.max_executions) == (4, 4)
    assert (settings.widening_factor, settings.widening_exponent) == (2.0, 0.5)


def test_round_trip_through_json():
    settings = SearchSettings(mode="skip", max_depth=20, stop_after=3, seed=7, strategy="beam")
    assert SearchSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("strategy", "dfs", "mcts, random, sweep, beam"),
        ("mode", "all", "both, skip, loop"),
        ("simulations", 0, "at least 1"),
        ("simulations", 10.0, "integer"),
        ("simulations", True, "integer"),
        ("max_executions", 1, "at least 2"),
        ("max_executions", 6, "at most 5"),
        ("max_segment_length", 0, "at least 1"),
        ("max_depth", 0, "at least 1"),
        ("stop_after", 0, "at least 1"),
        ("beam_width", 0, "at least 1"),
        ("random_child", 1.5, "between 0 and 1"),
        ("widening_exponent", -0.1, "between 0 and 1"),
        ("exploration", float("inf"), "finite"),
        ("depth_penalty", float("nan"), "finite"),
        ("seed", "zero", "an integer"),
    ],
)
def test_a_value_outside_its_range_is_refused(name, value, allowed):
    with pytest.raises(ConfigError, match=name) as caught:
        SearchSettings(**{name: value})
    assert allowed in str(caught.value)


def test_an_unknown_setting_is_refused():
    with pytest.raises(ConfigError, match="simulation_count"):
        SearchSettings.from_dict({"simulation_count": 5})
