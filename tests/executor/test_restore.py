"""After a program the model of every family is exactly as before: after success, after an exception, and nested."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exactness import PROGRAMS, ROWS, base_model, greedy, logits
from families import FAMILIES
from transformers import PreTrainedConfig, PreTrainedModel

from polar_adapter import ProgramError, apply_program
from polar_adapter.executor import find_decoder

SUPPORTED = [
    pytest.param(name, marks=[pytest.mark.slow] if family.tier == "slow" else [])
    for name, family in FAMILIES.items()
    if family.refused is None
]
REPEAT, REORDER = (0, 1, 2, 1, 2, 3, 5), PROGRAMS["reorder"]


def state(model: PreTrainedModel) -> dict[str, Any]:
    """Everything a program may touch, by value and, where another object would be a trace, by identity."""
    modules = dict(model.named_modules())
    configs = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in vars(module).items()
        if isinstance(value, PreTrainedConfig)
    }
    return {
        "tensors": {name: (tensor.data_ptr(), tensor.shape) for name, tensor in model.state_dict().items()},
        "classes": {name: (id(module), type(module)) for name, module in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "plain": {name: plain(vars(module)) for name, module in modules.items()},
        "hooks": {
            name: [dict(v) for k, v in vars(module).items() if k.endswith("_hooks")] for name, module in modules.items()
        },
        "lists": {
            name: [id(layer) for layer in m] for name, m in modules.items() if isinstance(m, torch.nn.ModuleList)
        },
        "configs": {name: (type(c), id(c), c.to_dict(), sorted(vars(c))) for name, c in configs.items()},
    }


def plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Numbers and texts, ``layer_idx`` among them."""
    return {name: value for name, value in attributes.items() if isinstance(value, (int, float, str, bool))}


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for kind, values in before.items():
        assert after[kind] == values, kind


@pytest.mark.parametrize("name", SUPPORTED)
def test_restored_after_success_exception_and_nesting(name):
    model = base_model(name)
    before, outputs = state(model), logits(model)

    with apply_program(model, REPEAT):
        inside = logits(model)
        greedy(model)
    assert_same(before, state(model))

    with pytest.raises(KeyboardInterrupt), apply_program(model, REORDER):
        raise KeyboardInterrupt
    assert_same(before, state(model))

    with pytest.raises(RuntimeError, match="in the middle"), apply_program(model, REPEAT):
        interrupt_the_third_layer(model)
    assert_same(before, state(model))

    with apply_program(model, REPEAT):
        outer = state(model)
        with apply_program(model, REORDER):
            assert not torch.equal(logits(model), inside)
        assert_same(outer, state(model))
        assert torch.equal(logits(model), inside)
    assert_same(before, state(model))
    assert torch.equal(logits(model), outputs)


def interrupt_the_third_layer(model: PreTrainedModel) -> None:
    def fail(module, args):
        raise RuntimeError("in the middle of generate")

    handle = find_decoder(model).layers[2].register_forward_pre_hook(fail)
    try:
        greedy(model)
    finally:
        handle.remove()


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "bart"])
def test_restored_after_rows(name):
    model = base_model(name)
    before, outputs = state(model), logits(model)
    with apply_program(model, ROWS):
        greedy(model)
    assert_same(before, state(model))
    assert torch.equal(logits(model), outputs)


@pytest.mark.parametrize("program", [[], [0, 9], [[0], [1, -1]]], ids=["empty", "out of range", "second row"])
def test_refused_programs_leave_no_trace(program):
    model = base_model("llama")
    before = state(model)
    with pytest.raises(ProgramError), apply_program(model, program):
        pass
    assert_same(before, state(model))


def test_saved_config_is_that_of_the_base(tmp_path):
    model = base_model("gemma2")
    with apply_program(model, REPEAT):
        assert model.config.num_hidden_layers == len(REPEAT)
        assert model.config.layer_types == [model.config.to_dict()["layer_types"][index] for index in REPEAT]
        model.save_pretrained(tmp_path)
    assert torch.equal(logits(type(model).from_pretrained(tmp_path)), logits(model))
