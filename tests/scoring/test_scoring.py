"""Batched scoring gives what each question and program give alone."""

from __future__ import annotations

import random

import pytest
import torch
from families import build_model

from polar_adapter import Program, ProgramError, UnsupportedModelError, apply_program
from polar_adapter.data import PromptTemplate
from polar_adapter.embedded import generate_chains, load_embedded_base
from polar_adapter.executor import fan_out
from polar_adapter.scoring import GenerationOracle, LikelihoodOracle

PLAIN = PromptTemplate.plain()


def random_programs(count, num_layers, seed=0, longest=9):
    rng = random.Random(seed)
    return [
        Program([rng.randrange(num_layers) for _ in range(rng.randint(1, longest))], num_layers) for _ in range(count)
    ]


def left_padded(rows=4, length=6):
    torch.manual_seed(0)
    ids, mask = torch.randint(1, 60, (rows, length)), torch.ones(rows, length, dtype=torch.long)
    for row in range(rows):
        mask[row, : row % 3] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "gpt_neox", "opt", "qwen2_moe", "falcon"])
def test_fan_out_equals_each_program_alone(family):
    model, inputs = build_model(family, num_layers=6), left_padded()
    programs = [[*random_programs(3 + row, 6, seed=row), Program.identity(6)] for row in range(4)]
    with torch.no_grad(), fan_out(model, programs):
        logits = model(**inputs, use_cache=False).logits
    position = 0
    for row, own in enumerate(programs):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        for program in own:
            with torch.no_grad(), apply_program(model, program):
                expected = model(**alone, use_cache=False).logits[0]
            real = alone["attention_mask"][0].bool()
            torch.testing.assert_close(logits[position][real], expected[real], atol=2e-5, rtol=1e-4)
            position += 1
    assert position == len(logits)


def test_fan_out_restores_the_model_and_runs_shared_prefixes_once():
    model, inputs = build_model("llama", num_layers=6), left_padded()
    before = model(**inputs).logits
    calls = []
    hooks = [
        layer.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
        for layer in model.model.layers
    ]
    programs = [[Program.parse(text, 6) for text in ("0-5", "0-4", "0-4 4-5")] for _ in range(4)]
    with torch.no_grad(), fan_out(model, programs):
        model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    # 5 shared layers, then layer 5 once, layer 4 again and layer 5 after it; one more row to probe the first layer.
    assert sum(calls) == 4 * (5 + 1 + 2) + 1
    assert torch.equal(model(**inputs).logits, before)


def test_fan_out_refuses_what_it_cannot_tell_apart():
    model, inputs = build_model("bloom", num_layers=4), left_padded()
    with pytest.raises(UnsupportedModelError, match="which rows"), fan_out(model, [[Program.identity(4)]] * 4):
        model(**inputs, use_cache=False)
    with pytest.raises(ProgramError, match="made for 6 layers"), fan_out(model, [[Program.identity(6)]]):
        pass
    with pytest.raises(ProgramError, match="given for 2 prompts"), fan_out(model, [[Program.identity(4)]] * 2):
        model(**inputs, use_cache=False)


@pytest.fixture(scope="module")
def embedded():
    return load_embedded_base()


def pairs_of(count=10, per_question=6):
    programs = [*random_programs(per_question, 12, seed=5, longest=18), Program.identity(12)]
    return [(example, program) for example in generate_chains(count, seed=3) for program in programs]


def test_single_token_answers_equal_generate_one_by_one(embedded):
    model, tokenizer = embedded
    pairs = pairs_of()
    fast = GenerationOracle(model, tokenizer, template=PLAIN, max_new_tokens=1).answers(pairs)
    rows = GenerationOracle(model, tokenizer, template=PLAIN, max_new_tokens=2, batch_size=16).answers(pairs)
    for (example, program), answer, longer in zip(pairs, fast, rows, strict=True):
        inputs = PLAIN.encode([example], tokenizer)
        with apply_program(model, program):
            tokens = model.generate(**inputs, max_new_tokens=2, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert answer == tokenizer.decode(tokens[:1], skip_special_tokens=True)
        assert longer == tokenizer.decode(tokens, skip_special_tokens=True)


def test_repeated_pairs_and_any_batch_size_agree(embedded):
    model, tokenizer = embedded
    pairs = pairs_of(count=4)
    pairs += pairs[::3]
    scores = [
        GenerationOracle(model, tokenizer, template=PLAIN, max_new_tokens=1, batch_size=size)(pairs)
        for size in (1, 5, 512)
    ]
    assert scores[0] == scores[1] == scores[2]
    assert {0.0, 1.0} == set(scores[0])


def test_a_family_that_cannot_fan_out_is_scored_row_by_row(embedded):
    _, tokenizer = embedded
    model = build_model("bloom", num_layers=4)
    pairs = [(example, program) for example in generate_chains(3, 0) for program in random_programs(3, 4)]
    oracle = GenerationOracle(model, tokenizer, template=PLAIN, max_new_tokens=1)
    assert len(oracle(pairs)) == 9
    assert oracle.fan is None


def test_likelihood_is_the_teacher_forced_probability(embedded):
    model, tokenizer = embedded
    pairs = pairs_of(count=4, per_question=3)
    scores = LikelihoodOracle(model, tokenizer, PLAIN)(pairs)
    for (example, program), score in zip(pairs, scores, strict=True):
        inputs = PLAIN.encode([example], tokenizer)
        answer = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad(), apply_program(model, program):
            log_probs = model(**inputs).logits[0, -1].log_softmax(-1)
        assert score == pytest.approx(log_probs[answer[0]].exp().item(), abs=1e-5)
