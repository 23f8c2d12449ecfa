"""The commands, end to end on the embedded base."""

from __future__ import annotations

import json

import pytest

from polar_adapter.cli import main

CHAINS = ["--model", "embedded", "--dataset", "chains", "--plain", "--max-new-tokens", "1"]


@pytest.mark.parametrize("command", ["quickstart", "search", "train", "evaluate", "generate", "inspect"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "usage: polar-adapter" in capsys.readouterr().out


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    main(["search", *CHAINS, "--limit", "10", "--simulations", "10", "--output", str(path)])
    return path


@pytest.fixture(scope="module", params=["menu", "segment"])
def adapter(request, records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / request.param
    size = ["--limit", "30", "--router-dim", "16", "--epochs", "1", "--menu-size", "4"]
    main(["train", *CHAINS, *size, "--router", request.param, "--records", str(records), "--output", str(folder)])
    return folder


def test_search_writes_records_and_goes_on_where_it_was(records, capsys):
    lines = records.read_text().splitlines()
    assert len(lines) == 11
    before = records.read_text()
    main(["search", *CHAINS, "--limit", "10", "--simulations", "10", "--output", str(records)])
    assert records.read_text() == before
    assert "10 questions" in capsys.readouterr().out


def test_train_saves_an_adapter_with_a_card(adapter):
    assert {path.name for path in adapter.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    card = (adapter / "README.md").read_text()
    assert "base_model_relation: adapter" in card
    assert "library_name: polar_adapter" in card


def test_evaluate_prints_a_table_and_writes_json(adapter, tmp_path, capsys):
    target = tmp_path / "evaluation.json"
    questions = ["--dataset", "chains", "--plain", "--max-new-tokens", "1", "--limit", "20", "--split", "test"]
    main(["evaluate", "--adapter", str(adapter), *questions, "--static", "0-7 10-11", "--json", str(target)])
    assert "static" in capsys.readouterr().out
    overall = json.loads(target.read_text())["overall"]
    assert {"base", "static", "router", "oracle@5", "router_minus_base"} <= overall.keys()


def test_generate_shows_both_answers(adapter, capsys):
    main(["generate", "--adapter", str(adapter), "--plain", "--json", "7 +3 =", "2 *5 *5 ="])
    first, second = json.loads(capsys.readouterr().out)
    assert first["base"] == "10"
    assert second["prompt"] == "2 *5 *5 ="
    main(["generate", "--adapter", str(adapter), "--plain", "--max-depth", "12", "7 +3 ="])
    assert "adapter:" in capsys.readouterr().out


def test_inspect_says_where_the_layers_are(capsys):
    main(["inspect", "embedded"])
    assert "12" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--adapter", "/nowhere", "--model", "embedded", "x"], "nowhere"),
        (["train", *CHAINS, "--records", "/nowhere.jsonl", "--output", "/tmp/x"], "no search records"),
        (["search", *CHAINS, "--strategy", "luck", "--output", "/tmp/never.jsonl"], "strategy"),
        (["search", *CHAINS, "--grader", "taste", "--output", "/tmp/never.jsonl"], "no grader"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("polar-adapter: ")
    assert message in error


def test_a_broken_line_is_named(records, tmp_path, capsys):
    broken = tmp_path / "broken.jsonl"
    lines = records.read_text().splitlines()
    broken.write_text("\n".join([*lines[:3], "{oops", *lines[3:]]) + "\n")
    with pytest.raises(SystemExit):
        main(["train", *CHAINS, "--records", str(broken), "--output", str(tmp_path / "adapter")])
    assert "broken.jsonl, line 4" in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()
