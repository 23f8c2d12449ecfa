"""The embedded base, the problems it answers, and the script that trains it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from polar_adapter import PolarError, apply_program
from polar_adapter.embedded import BASE_PATH, LEVELS, MODULUS, OPERATIONS, Chain, generate_chains, load_embedded_base

SCRIPT = Path(__file__).parent.parent / "examples" / "train_embedded_base.py"


@pytest.fixture(scope="module")
def base():
    return load_embedded_base()


def answers(base, prompts: list[str]) -> list[str]:
    """Greedy answers, generated in one left-padded batch."""
    model, tokenizer = base
    inputs = tokenizer(prompts, padding=True, return_tensors="pt")
    output = model.generate(**inputs)[:, inputs.input_ids.shape[1] :]
    return tokenizer.batch_decode(output, skip_special_tokens=True)


def accuracy(base, examples) -> float:
    given = answers(base, [example.prompt for example in examples])
    return sum(answer == example.answer for answer, example in zip(given, examples, strict=True)) / len(examples)


class TestChains:
    def test_known_chain(self):
        chain = Chain(7, ("+3", "*2", "-2"))
        assert chain.prompt == "7 +3 *2 -2 ="
        assert chain.values == (10, 7, 5)
        assert chain.answer == "5"

    def test_values_stay_in_range_below_zero(self):
        assert Chain(0, ("-2", "-2")).values == (11, 9)

    def test_same_seed_same_problems_and_prefixes_agree(self):
        assert generate_chains(50, seed=3) == generate_chains(50, seed=3)
        assert generate_chains(20, seed=3) == generate_chains(50, seed=3)[:20]

    def test_levels_are_balanced_and_have_their_lengths(self):
        examples = generate_chains(100, seed=0)
        for level, lengths in LEVELS.items():
            members = [example for example in examples if example.level == level]
            assert len(members) == 20
            assert {len(example.prompt.split()) - 2 for example in members} == set(lengths)

    def test_problems_are_distinct_and_another_seed_is_fresh(self):
        examples = generate_chains(1000, seed=0)
        prompts = {example.prompt for example in examples}
        assert len(prompts) == len({example.id for example in examples}) == 1000
        others = generate_chains(1000, seed=1, levels=["3", "4", "5"])
        assert len(prompts & {example.prompt for example in others}) < 5

    def test_excluded_problems_do_not_return(self):
        train = generate_chains(600, seed=0, levels=["1"])
        test = generate_chains(336, seed=0, levels=["1"], exclude=train)
        assert len({example.prompt for example in (*train, *test)}) == 936

    def test_an_exhausted_level_says_so(self):
        train = generate_chains(930, seed=0, levels=["1"])
        with pytest.raises(PolarError, match=r"level 1 has no chain left after 6 of 7 problems: it has 936 distinct"):
            generate_chains(7, seed=1, levels=["1"], exclude=train)

    @pytest.mark.parametrize("levels", [["6"], [], ["1", "easy"]])
    def test_unknown_levels_are_refused(self, levels):
        with pytest.raises(PolarError, match="choose one or more of '1', '2', '3', '4', '5'"):
            generate_chains(1, seed=0, levels=levels)


class TestTokenizer:
    def test_every_word_is_one_token(self, base):
        _, tokenizer = base
        for word in (*OPERATIONS, *map(str, range(MODULUS)), "="):
            (token,) = tokenizer(word)["input_ids"]
            assert token != tokenizer.unk_token_id

    def test_round_trip(self, base):
        _, tokenizer = base
        for example in generate_chains(20, seed=5):
            assert tokenizer.decode(tokenizer(example.prompt)["input_ids"]) == example.prompt

    def test_pads_on_the_left(self, base):
        _, tokenizer = base
        rows = tokenizer(["1 +1 =", "1 +1 +1 ="], padding=True)
        assert rows["attention_mask"] == [[0, 1, 1, 1], [1, 1, 1, 1]]
        assert rows["input_ids"][0][0] == tokenizer.pad_token_id


class TestBase:
    def test_folder_is_small(self):
        assert sum(file.stat().st_size for file in BASE_PATH.iterdir()) <= 2_000_000

    def test_is_an_ordinary_llama_of_12_layers_in_float32(self, base):
        model, _ = base
        assert type(model).__name__ == "LlamaForCausalLM"
        assert len(model.model.layers) == model.config.num_hidden_layers == 12
        assert model.dtype == torch.float32
        assert not model.training

    def test_loads_without_network(self, tmp_path):
        code = (
            "import socket\n"
            "def refuse(*args): raise AssertionError('the network was used')\n"
            "socket.socket.connect = socket.getaddrinfo = refuse\n"
            "from polar_adapter.embedded import load_embedded_base\n"
            "print(sum(p.numel() for p in load_embedded_base()[0].parameters()))"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert run.returncode == 0, run.stderr
        assert int(run.stdout) < 500_000

    def test_batched_answers_equal_single_ones(self, base):
        prompts = [example.prompt for example in generate_chains(10, seed=7)]
        assert answers(base, prompts) == [answers(base, [prompt])[0] for prompt in prompts]

    def test_solves_some_levels_and_not_others(self, base):
        by_level = {level: accuracy(base, generate_chains(80, seed=11, levels=[level])) for level in LEVELS}
        assert min(by_level["1"], by_level["2"]) >= 0.95
        assert by_level["5"] <= 0.4
        assert 0.55 <= sum(by_level.values()) / len(by_level) <= 0.75

    def test_is_elastic_in_depth(self, base):
        model, _ = base
        easy, hard = generate_chains(80, seed=12, levels=["1"]), generate_chains(80, seed=12, levels=["4"])
        with apply_program(model, [0, 1, 2, 3, 4, 5, 10, 11]):
            assert accuracy(base, easy) >= 0.95
        before = accuracy(base, hard)
        with apply_program(model, [*range(6), *range(2, 12)]):
            assert accuracy(base, hard) >= before + 0.2

    def test_figures_in_the_card_are_the_measured_ones(self):
        figures, card = json.loads((BASE_PATH / "figures.json").read_text()), (BASE_PATH / "README.md").read_text()
        assert "elastic in depth" in card
        for row in (*figures["levels"].values(), figures["overall"]):
            assert f"| {row['base_accuracy']:.1%} | {row['valid_program']:.1%} |" in card


class TestScript:
    @staticmethod
    def run(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        toy = ("--steps", "3", "--batch-size", "8", "--problems", "10", "--programs", "3")
        command = [sys.executable, str(SCRIPT), "--output", str(output), *toy, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    @pytest.mark.parametrize("kind", [(), ("--plain",)])
    def test_trains_end_to_end(self, tmp_path, kind):
        run = self.run(tmp_path / "model", "--layers", "8", "--no-check", *kind)
        assert run.returncode == 0, run.stderr
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert len(model.model.layers) == 8
        assert json.loads((tmp_path / "model" / "figures.json").read_text())["num_layers"] == 8

    def test_fails_if_the_base_is_not_what_was_promised(self, tmp_path):
        run = self.run(tmp_path / "model")
        assert run.returncode == 1
        assert "This is not the base the package promises: the standard pass solves" in run.stderr

    def test_refuses_a_depth_no_loop_gives(self, tmp_path):
        run = self.run(tmp_path / "model", "--layers", "7")
        assert run.returncode == 2
        assert "give an even number, 6 or more" in run.stderr
        assert not (tmp_path / "model").exists()
