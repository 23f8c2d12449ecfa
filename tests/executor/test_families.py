"""Every decoder family: exact in every mode, or refused with the reason.

The fast tier runs the families of every day; ``--slow`` runs the whole registry.
"""

from __future__ import annotations

import pytest
import torch
from exactness import NUM_LAYERS, PADDED, PROGRAMS, PROMPTS, ROWS, base_model, compare, compare_rows, logits, runnable
from families import FAMILIES, build_model

from polar_adapter import ProgramError, UnsupportedModelError, apply_program
from polar_adapter.executor import find_decoder
from polar_adapter.executor.support import inspect_model

SUPPORTED = [
    pytest.param(name, marks=[pytest.mark.slow] if family.tier == "slow" else [])
    for name, family in FAMILIES.items()
    if family.refused is None
]
REFUSED = [name for name, family in FAMILIES.items() if family.refused]
WITHOUT_ATTENTION = {"jamba": (0, 2), "bamba": (0, 2, 3), "lfm2": (2, 2), "qwen3_next": (4,), "nemotron_h": (0, 2, 3)}
"""For hybrids, programs that run none of their attention layers."""


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("name", SUPPORTED)
def test_program_equals_unrolled_model(name, program):
    if not runnable(name, program):
        pytest.skip("the program runs no attention layer of this hybrid")
    outcomes = compare(name, program)
    assert {mode: o for mode, o in outcomes.items() if o != "equal" and not o.startswith("not offered")} == {}
    if "equal" not in outcomes.values():
        pytest.skip(outcomes["forward"])


@pytest.mark.parametrize("name", SUPPORTED)
def test_rows_with_different_programs_equal_each_row_alone(name):
    if find_decoder(base_model(name)).loop.carried:
        with pytest.raises(UnsupportedModelError, match="from layer to layer"), apply_program(base_model(name), ROWS):
            pass
    else:
        assert compare_rows(name) == "equal"


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name):
    report = inspect_model(FAMILIES[name].config(range(NUM_LAYERS)))
    assert not report.supported
    assert FAMILIES[name].refused in report.reason


@pytest.mark.parametrize("name", WITHOUT_ATTENTION)
def test_hybrid_needs_an_attention_layer(name):
    with (
        pytest.raises(ProgramError, match="none of the model's attention layers"),
        apply_program(base_model(name), WITHOUT_ATTENTION[name]),
    ):
        pass


def test_images_are_refused_where_layers_get_them_by_position():
    model = base_model("qwen3_vl").model.language_model
    features = {
        "visual_pos_masks": torch.ones(3, 7, dtype=torch.bool),
        "deepstack_visual_embeds": [torch.zeros(21, 32)],
    }
    with apply_program(model, PROGRAMS["skip-first"]):
        model(PROMPTS)
        with pytest.raises(UnsupportedModelError, match="deepstack_visual_embeds"):
            model(PROMPTS, **features)
    with apply_program(model, PROGRAMS["identity"]):
        inside = model(PROMPTS, **features).last_hidden_state
    assert torch.equal(inside, model(PROMPTS, **features).last_hidden_state)
    assert not model._forward_pre_hooks


def test_models_built_from_the_same_family_are_the_same():
    assert torch.equal(logits(build_model("llama")), logits(build_model("llama")))


def test_programs_of_the_registry_differ():
    """A comparison of equal things proves nothing: the programs used here give different texts."""
    base = base_model("llama")
    results = []
    for program in PROGRAMS.values():
        with apply_program(base, program):
            results.append(base.generate(PADDED, max_new_tokens=8, do_sample=False))
    assert len({tuple(r.flatten().tolist()) for r in results}) == len(PROGRAMS)
