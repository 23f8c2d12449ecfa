"""A routed model chooses on the prompt alone and runs its choice exactly."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from adapter.helpers import MENU, config, prompts, routed, tiny_base
from polar_adapter import ConfigError, PolarConfig, Program, apply_program, get_polar_model

GREEDY = {"max_new_tokens": 6, "do_sample": False}


def test_an_untrained_adapter_changes_nothing():
    base = tiny_base()
    inputs = prompts()
    expected_text, expected_logits = base.generate(**inputs, **GREEDY), base(**inputs).logits
    for router_type in ("menu", "segment"):
        model = get_polar_model(tiny_base(), config(router_type=router_type)).eval()
        assert torch.equal(model.generate(**inputs, **GREEDY), expected_text)
        assert torch.equal(model(**inputs).logits, expected_logits)
        assert all(program.is_identity for program in model.last_programs)


def test_each_row_runs_the_program_of_its_own_prompt():
    model, inputs = routed(), prompts()
    text = model.generate(**inputs, **GREEDY)
    programs = model.last_programs
    assert len(set(programs)) > 1, "the test needs prompts that are routed differently"
    base = tiny_base()
    for row, program in enumerate(programs):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        with apply_program(base, program):
            assert torch.equal(base.generate(**alone, **GREEDY)[0], text[row])


@pytest.mark.parametrize("router_type", ["menu", "segment"])
def test_padding_leaves_no_trace(router_type):
    model, inputs = routed(router_type=router_type), prompts()
    together = model.route(**inputs, num_programs=3)
    for row, ranked in enumerate(together):
        ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()].unsqueeze(0)
        for padded in (ids, torch.cat([ids, torch.zeros_like(ids)], dim=1)):
            mask = (padded != 0).long()
            (alone,) = model.route(padded, mask, num_programs=3)
            assert [r.program for r in alone] == [r.program for r in ranked]


def test_beams_and_return_sequences_follow_their_prompt():
    model, inputs = routed(), prompts(rows=3)
    text = model.generate(**inputs, **GREEDY, num_beams=3, num_return_sequences=2)
    base = tiny_base()
    for row, program in enumerate(model.last_programs):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        with apply_program(base, program):
            expected = base.generate(**alone, **GREEDY, num_beams=3, num_return_sequences=2)
        assert torch.equal(expected, text[2 * row : 2 * row + 2])


def test_an_answer_does_not_change_the_program():
    model, inputs = routed(), prompts(rows=4)
    expected = [row[0].program for row in model.route(**inputs)]
    answer = torch.randint(1, 60, (4, 5))
    ids = torch.cat([inputs["input_ids"], answer], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(answer)], dim=1)
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], dim=1)
    model(ids, attention_mask=mask, labels=labels)
    assert list(model.last_programs) == expected
    prompt_mask = torch.cat([inputs["attention_mask"], torch.zeros_like(answer)], dim=1)
    model(ids, attention_mask=mask, prompt_mask=prompt_mask)
    assert list(model.last_programs) == expected
    # Without a boundary everything is prompt; some of these answers do change the choice.
    model(ids, attention_mask=mask)
    assert list(model.last_programs) != expected


def test_rows_without_a_prompt_get_the_standard_pass():
    model, inputs = routed(), prompts(rows=2)
    model(**inputs, labels=inputs["input_ids"])
    assert all(program.is_identity for program in model.last_programs)


def test_a_conversation_keeps_the_program_of_its_cache():
    model = routed()
    inputs = {name: value[:1] for name, value in prompts(length=5).items()}
    cache = DynamicCache(config=model.config)
    first = model.generate(**inputs, **GREEDY, past_key_values=cache)
    program = model.last_programs
    for turn in range(3):
        ids = torch.cat([first, torch.full((1, 4), 7 + turn)], dim=1)
        second = model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY, past_key_values=cache)
        assert model.last_programs == program
        with model.use_program(program):
            assert torch.equal(model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY), second)
        first = second


def test_a_manual_decode_loop_keeps_its_program():
    model = routed()
    inputs = {name: value[:1] for name, value in prompts(length=5).items()}
    expected = model.generate(**inputs, **GREEDY)
    program, ids, cache = model.last_programs, inputs["input_ids"], None
    text = ids
    for _ in range(6):
        outputs = model(ids, past_key_values=cache, use_cache=True)
        cache, ids = outputs.past_key_values, outputs.logits[:, -1:].argmax(-1)
        text = torch.cat([text, ids], dim=1)
        assert model.last_programs == program
    assert torch.equal(text, expected)


def test_choice_arguments_override_the_config():
    model, inputs = routed(), prompts()
    shallow = model.route(**inputs, max_depth=4)
    assert all(row[0].program.depth <= 4 for row in shallow)
    model.generate(**inputs, **GREEDY, max_depth=4)
    assert [row[0].program for row in shallow] == list(model.last_programs)
    assert all(row[0].program.is_identity for row in model.route(**inputs, identity_margin=10.0))
    dear = model.route(**inputs, cost_weight=1000.0)
    assert all(row[0].program.depth == 4 for row in dear)
    with pytest.raises(TypeError, match="cost"):
        model.route(**inputs, costs=1.0)


def test_rankings_are_sorted_and_distinct():
    for ranked in routed().route(**prompts(), num_programs=5, identity_margin=-10.0):
        assert len({r.program for r in ranked}) == len(ranked) == 5
        assert [r.score for r in ranked] == sorted((r.score for r in ranked), reverse=True)


def test_use_program_pins_and_disable_adapter_runs_the_base():
    model, inputs = routed(), prompts()
    base = tiny_base()
    with model.use_program(Program.parse("0-2", 6)):
        pinned = model.generate(**inputs, **GREEDY)
        assert set(model.last_programs) == {Program.parse("0-2", 6)}
        assert len(model.last_programs) == len(inputs["input_ids"])
    with apply_program(base, [0, 1, 2]):
        assert torch.equal(base.generate(**inputs, **GREEDY), pinned)
    with model.disable_adapter():
        assert torch.equal(model.generate(**inputs, **GREEDY), base.generate(**inputs, **GREEDY))
        assert torch.equal(model(**inputs).logits, base(**inputs).logits)
        assert all(program.is_identity for program in model.last_programs)


def test_dropout_does_not_reach_the_choice():
    model, inputs = routed(router_dropout=0.5), prompts()
    expected = model.route(**inputs)
    model.train()
    assert all(model.route(**inputs) == expected for _ in range(5))
    assert model.base_model.router_layer.active_router.training


def test_embeddings_route_like_the_ids_they_come_from():
    model, inputs = routed(), prompts()
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    by_embeds = model.route(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
    assert by_embeds == model.route(**inputs)
    with pytest.raises(ConfigError, match="input_ids"):
        model.route()


def test_long_prompts_are_read_from_their_end():
    model = routed(max_prompt_tokens=4)
    ids = torch.randint(1, 60, (1, 12))
    assert model.route(ids) == model.route(ids[:, -4:])


def test_first_layers_of_the_base_as_encoder():
    model, inputs = routed(encoder_layers=2), prompts()
    model.generate(**inputs, **GREEDY)
    ids = inputs["input_ids"][3:4, 3:]
    assert model.route(ids)[0][0].program == model.last_programs[3]


def test_static_router_runs_its_program():
    model = get_polar_model(tiny_base(), config(router_type="static", menu=["0-2 2 3-5"])).eval()
    inputs = prompts()
    text = model.generate(**inputs, **GREEDY)
    base = tiny_base()
    with apply_program(base, [0, 1, 2, 2, 3, 4, 5]):
        assert torch.equal(base.generate(**inputs, **GREEDY), text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router_type": "oracle"}, "known routers"),
        ({"menu": ["0-6"]}, "covers layers 0-6"),
        ({"num_layers": 8}, "made for a base of 8 layers"),
        ({"router_dim": 30}, "multiple"),
        ({"max_depth": 0}, "max_depth"),
        ({"max_executions": 9}, "at most 5"),
        ({"router_type": "static", "menu": None}, "list of one"),
    ],
)
def test_bad_configs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        get_polar_model(tiny_base(), config(**changes))


def test_a_refused_config_leaves_the_base_untouched():
    base = tiny_base()
    cls, keys = type(base), list(base.state_dict())
    with pytest.raises(ValueError, match="covers layers"):
        get_polar_model(base, config(menu=["0-9"]))
    assert type(base) is cls
    assert list(base.state_dict()) == keys


def test_the_menu_always_offers_the_standard_pass():
    model = get_polar_model(tiny_base(), PolarConfig(menu=MENU, router_dim=16))
    assert model.active_peft_config.menu == ["0-5", *MENU]
    assert model.active_peft_config.num_layers == 6
