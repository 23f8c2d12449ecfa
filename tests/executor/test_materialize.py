"""A materialised program is an independent model that computes the same, saved and loaded too."""

from __future__ import annotations

import pytest
import torch
from exactness import NUM_LAYERS, PADDED, PROGRAMS, PROMPTS, base_model, greedy, logits
from families import FAMILIES
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from polar_adapter import ProgramError, UnsupportedModelError, apply_program, materialize

SUPPORTED = [
    pytest.param(name, marks=[pytest.mark.slow] if family.tier == "slow" else [])
    for name, family in FAMILIES.items()
    if family.refused is None
]
LONG = (0, 1, 2, 1, 2, 3, 5)
"""A program that skips and repeats, and that hybrids can run too."""


@pytest.mark.parametrize("program", [LONG, PROGRAMS["reorder"]], ids=["repeat", "reorder"])
@pytest.mark.parametrize("name", SUPPORTED)
def test_materialized_model_computes_the_program_after_saving_and_loading(name, program, tmp_path):
    base = base_model(name)
    try:
        model = materialize(base, program)
    except UnsupportedModelError:
        if can_be_expressed(name):
            raise
        pytest.skip("the family decides by position what a layer is")
    model.save_pretrained(tmp_path)
    auto_class = AutoModelForCausalLM if FAMILIES[name].model_class is None else type(base)
    loaded = auto_class.from_pretrained(tmp_path)
    with apply_program(base, program):
        expected = logits(base)
    assert torch.equal(logits(model), expected)
    weights = loaded.state_dict()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.state_dict().items())
    # To the bit where memory is laid out alike, which loading does not promise for experts.
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)


def can_be_expressed(name: str) -> bool:
    """Whether a config of the family can describe any layers: not if a formula decides what stands where."""
    family = FAMILIES[name]
    return not (family.by_position or family.derived or family.corrected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "qwen2_moe"])
def test_weights_are_copied_or_shared(name):
    base = base_model(name)
    bases = {tensor.data_ptr() for tensor in base.state_dict().values()}
    copied, shared = materialize(base, LONG), materialize(base, LONG, share_weights=True)
    assert not bases & {tensor.data_ptr() for tensor in copied.state_dict().values()}
    assert {tensor.data_ptr() for tensor in shared.state_dict().values()} <= bases
    assert torch.equal(logits(copied), logits(shared))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_shared_program_drafts_without_changing_the_text(name):
    base = base_model(name)
    assistant = materialize(base, (0, 1, 2, 5), share_weights=True)
    for row in PROMPTS:
        alone = base.generate(row[None], max_new_tokens=12, do_sample=False)
        assisted = base.generate(row[None], max_new_tokens=12, do_sample=False, assistant_model=assistant)
        assert torch.equal(alone, assisted)


def test_materialized_model_is_independent_of_an_active_program():
    base = base_model("llama")
    expected = materialize(base, LONG)
    with apply_program(base, (3, 3)):
        inside = materialize(base, LONG)
    assert inside.config.to_dict() == expected.config.to_dict()
    assert torch.equal(greedy(inside), greedy(expected))
    assert base.config.num_hidden_layers == NUM_LAYERS


def test_generation_settings_and_mode_are_kept():
    base = FAMILIES["llama"].build()
    base.generation_config.max_new_tokens = 3
    assert materialize(base, LONG).generate(PADDED).shape[1] == PADDED.shape[1] + 3
    assert not materialize(base, LONG).training
    assert materialize(base.train(), LONG).training


def test_frozen_weights_stay_frozen():
    base = FAMILIES["llama"].build()
    base.model.layers[1].requires_grad_(False)
    model = materialize(base, (1, 2))
    assert not any(p.requires_grad for p in model.model.layers[0].parameters())
    assert all(p.requires_grad for p in model.model.layers[1].parameters())


@pytest.mark.parametrize(
    ("name", "program", "reason"),
    [
        ("gpt2_scaled", (1, 2), "scaling would change"),
        ("minicpm3", (0, 1), "residual_scale would change"),
        ("deepseek_v3", (3, 0), "only one of them has"),
        ("jamba", (1, 1, 0), "from the layer index by a formula"),
        ("gemma4_text", (0, 1, 2), "would change layer_types"),
        ("t5", (1, 2), "only one of them has"),
    ],
)
def test_refused_where_the_family_cannot_express_it(name, program, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        materialize(base_model(name), program)


def test_adapters_must_be_merged_first():
    model = get_peft_model(FAMILIES["llama"].build(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UnsupportedModelError, match="merge"):
        materialize(model, LONG)
    materialize(model.merge_and_unload(), LONG)


def test_bad_programs():
    with pytest.raises(ProgramError, match="runs layer 9"):
        materialize(base_model("llama"), (0, 9))
    with pytest.raises(ProgramError, match="2 programs were given"):
        materialize(base_model("llama"), [(0, 1), (1, 2)])
