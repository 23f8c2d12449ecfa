"""A batch whose rows run different programs equals its rows, each run alone by its unrolled model.

Batches of different sizes take different paths through a matrix product, so logits of a row are compared closely and
not to the bit; tokens are compared exactly.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from families import build_model
from stacks import NUM_LAYERS, REORDER, REPEAT_AND_SKIP, base_model, prompts, run_seeded, unrolled_model
from transformers import StaticCache

from polar_adapter import apply_program
from polar_adapter.errors import ProgramError, UnsupportedModelError
from polar_adapter.executor import merge_programs

IDENTITY = tuple(range(NUM_LAYERS))
SKIP_FIRST = (1, 2, 4, 4, 5)
ROWS = (IDENTITY, REPEAT_AND_SKIP, SKIP_FIRST, IDENTITY)
"""Two rows share a program: they are one group of the schedule, not two."""

GREEDY = {"max_new_tokens": 6, "do_sample": False}
FAST = ["llama", "gemma2", "qwen2_moe", "gpt2", "jamba"]
OTHERS = [
    "mistral",
    "gemma3_text",
    "bloom",
    "mpt",
    "mixtral",
    "gpt_oss",
    "deepseek_v3",
    "bamba",
    "falcon_h1",
    "mamba2",
    "lfm2",
    "nemotron_h",
    "qwen3_next",
    "bart",
]
families = pytest.mark.parametrize("family", [*FAST, *(pytest.param(f, marks=pytest.mark.slow) for f in OTHERS)])


@cache
def padded():
    """Prompts of different lengths, padded on the left."""
    ids, mask = prompts(len(ROWS)), torch.ones(len(ROWS), 7, dtype=torch.long)
    mask[1, :3] = mask[2, :1] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def row_of(inputs, row):
    return {name: tensor[row : row + 1] for name, tensor in inputs.items()}


def reference(family, row):
    return unrolled_model(family, ROWS[row])


def check_generation(family, inputs, per_row=1, **options):
    """Every row's sequences equal those of its own model; shorter ones are filled with padding."""
    model, options = base_model(family), {**GREEDY, **options}
    with apply_program(model, ROWS):
        together = model.generate(**inputs, **options)
    assert len(together) == len(ROWS) * per_row
    for row in range(len(ROWS)):
        alone = reference(family, row).generate(**row_of(inputs, row), **options)
        mine = together[row * per_row : (row + 1) * per_row]
        assert torch.equal(mine[:, : alone.shape[1]], alone)
        assert (mine[:, alone.shape[1] :] == 0).all()
    return together


@families
def test_logits(family):
    model, inputs = base_model(family), padded()
    if model.config.is_encoder_decoder:
        inputs = {**inputs, "decoder_input_ids": prompts(len(ROWS), seed=1)}
    with torch.no_grad(), apply_program(model, ROWS):
        together = model(**inputs).logits
    for row in range(len(ROWS)):
        alone = reference(family, row)(**row_of(inputs, row)).logits[0]
        real = slice(None) if model.config.is_encoder_decoder else inputs["attention_mask"][row].bool()
        torch.testing.assert_close(together[row][real], alone[real], rtol=1e-4, atol=1e-4)


@families
def test_greedy_with_left_padding(family):
    check_generation(family, padded())


def test_rows_do_not_all_say_the_same():
    """Otherwise equality would show nothing."""
    model = base_model("llama")
    same_prompt = prompts(1).repeat(len(ROWS), 1)
    with apply_program(model, ROWS):
        texts = model.generate(same_prompt, **GREEDY)
    assert len({str(row.tolist()) for row in texts}) == len(set(ROWS))


@pytest.mark.parametrize(
    ("options", "per_row"),
    [
        ({"use_cache": False}, 1),
        ({"num_beams": 3}, 1),
        ({"num_beams": 3, "num_return_sequences": 2}, 2),
        ({"cache_implementation": "static", "disable_compile": True}, 1),
        ({"prefill_chunk_size": 3}, 1),
        ({"guidance_scale": 1.5}, 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else str(value),
)
@pytest.mark.parametrize("family", FAST[:3])
def test_modes(family, options, per_row):
    check_generation(family, padded(), per_row, **options)


@pytest.mark.parametrize("family", ["llama", "gemma2", "jamba"])
def test_rows_that_finish_early(family):
    with apply_program(base_model(family), ROWS):
        answers = base_model(family).generate(**padded(), **GREEDY)[:, 7:]
    # The second word of one row and the fourth of another end the text.
    ends = [answers[1, 1].item(), answers[0, 3].item()]
    together = check_generation(family, padded(), eos_token_id=ends, pad_token_id=0)
    lengths = (together[:, 7:] != 0).sum(dim=1)
    assert lengths.min() <= 2 < lengths.max()


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize("family", ["llama", "qwen2_moe"])
def test_sampling(family, sequences):
    """One random stream serves all rows: the same draws from each row's own distribution give the same tokens."""
    model, ids = base_model(family), prompts(len(ROWS))

    def generate():
        options = {"do_sample": True, "top_k": 0, "max_new_tokens": 6, "num_return_sequences": sequences}
        with apply_program(model, ROWS):
            return model.generate(ids, **options)

    @torch.no_grad()
    def row_by_row():
        tokens = ids.repeat_interleave(sequences, dim=0)
        for _ in range(6):
            rows = [reference(family, i // sequences)(row[None]).logits[0, -1] for i, row in enumerate(tokens)]
            drawn = torch.multinomial(torch.stack(rows).softmax(dim=-1), num_samples=1)
            tokens = torch.cat([tokens, drawn], dim=1)
        return tokens

    assert torch.equal(run_seeded(generate), run_seeded(row_by_row))


def test_own_cache_and_two_turns():
    model, ids, more = base_model("gemma2"), prompts(len(ROWS)), prompts(len(ROWS), 3, seed=1)

    def converse(model, ids, more):
        cache = StaticCache(config=model.config, max_cache_len=32)
        first = model.generate(ids, past_key_values=cache, **GREEDY)
        return model.generate(torch.cat([first, more], dim=1), past_key_values=cache, **GREEDY)

    with apply_program(model, ROWS):
        together = converse(model, ids, more)
    for row in range(len(ROWS)):
        alone = converse(reference("gemma2", row), ids[row : row + 1], more[row : row + 1])
        assert torch.equal(together[row : row + 1], alone)


def test_hidden_states_are_those_of_the_schedule():
    model = base_model("llama")
    schedule = merge_programs(ROWS)
    with torch.no_grad(), apply_program(model, ROWS):
        states = model(prompts(len(ROWS)), output_hidden_states=True).hidden_states
    assert len(states) == len(schedule.path) + 1
    for step, users in enumerate(schedule.users[:-1]):
        kept = [torch.equal(states[step][row], states[step + 1][row]) for row in range(len(ROWS))]
        assert kept == [not user for user in users]


@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["stored", "reentrant", "non-reentrant"])
@pytest.mark.parametrize("family", ["llama", "qwen2_moe"])
def test_gradients_are_the_sum_of_the_rows_own(family, checkpointing):
    ids = prompts(len(ROWS))

    def gradients(batches):
        model = build_model(family, num_layers=NUM_LAYERS).train()
        if checkpointing is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
            model.enable_input_require_grads()
        for rows, program in batches:
            with apply_program(model, program):
                (model(ids[rows], labels=ids[rows], use_cache=False).loss * len(ids[rows])).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    together = gradients([(slice(None), ROWS)])
    alone = gradients([(slice(row, row + 1), program) for row, program in enumerate(ROWS)])
    assert together.keys() == alone.keys()
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-3, atol=1e-4, msg=name)


def test_one_distinct_program_takes_the_uniform_path():
    model = base_model("llama")
    with apply_program(model, [REORDER] * 3) as programs:
        assert len(programs) == 1
        steps = list(model.model.layers)
        assert len(steps) == len(REORDER)
        assert not any(hasattr(step, "_polar_rows") for step in steps)
        # Nothing ties it to three rows.
        assert torch.equal(
            model.generate(prompts(2), **GREEDY), unrolled_model("llama", REORDER).generate(prompts(2), **GREEDY)
        )


def test_rows_of_one_program_share_steps():
    model = base_model("llama")
    with apply_program(model, ROWS):
        steps = len(list(model.model.layers))
    assert steps == len(merge_programs(tuple(dict.fromkeys(ROWS))).path)


def test_a_batch_of_another_size_is_refused():
    model = base_model("llama")
    with apply_program(model, ROWS), pytest.raises(ProgramError, match=r"4 programs .* 3 rows"):
        model(prompts(3))


def test_state_beside_the_hidden_states_is_refused():
    """T5 hands the position bias of its first layer from step to step."""
    with pytest.raises(UnsupportedModelError, match="position_bias"), apply_program(base_model("t5"), ROWS):
        pytest.fail("the block must not begin")


def test_layers_that_return_a_list():
    check_generation("openai-gpt", padded())
