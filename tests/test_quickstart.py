"""The quickstart at toy size; its promises at full size behind the slow marker."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from polar_adapter.quickstart import QuickstartSettings, run_quickstart

POLICIES = {"base", "static", "segment", "router", "oracle@5"}
TOY = QuickstartSettings(
    train_questions=60,
    searched_questions=10,
    test_questions=50,
    simulations=12,
    menu_size=4,
    menu_epochs=1,
    segment_epochs=1,
)


def test_a_small_run_leaves_what_it_promises(tmp_path):
    output = run_quickstart(tmp_path / "out", TOY, Console(quiet=True))
    names = {path.name for path in output.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "programs.png", "evaluation.json"} <= names
    report = json.loads((output / "evaluation.json").read_text())
    sections = [report["overall"], *report["levels"].values()]
    assert list(report["levels"]) == ["1", "2", "3", "4", "5"]
    for section in sections:
        assert section.keys() >= POLICIES
        assert all(0 <= section[name]["accuracy"] <= 1 and section[name]["mean_depth"] >= 1 for name in POLICIES)
        assert 0 <= section["router"]["identity_rate"] <= 1
        assert section["router_minus_base"].keys() == {"mean", "low", "high"}
    card = (output / "README.md").read_text()
    assert "programs.png" in card
    assert "| router |" in card


@pytest.mark.slow
def test_the_first_choice_is_worth_taking(tmp_path):
    output = run_quickstart(tmp_path / "out", console=Console(quiet=True))
    overall = json.loads((output / "evaluation.json").read_text())["overall"]
    assert overall["router_minus_base"]["mean"] >= 0.15
    assert overall["router_minus_base"]["low"] > 0
    assert overall["router"]["mean_depth"] <= 11
