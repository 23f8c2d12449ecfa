"""A program equals its unrolled model in every way a model can be used."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from families import build_model
from stacks import (
    FAMILY_NAMES,
    NUM_LAYERS,
    ONE_LAYER,
    PROGRAMS,
    REORDER,
    REPEAT_AND_SKIP,
    base_model,
    prompts,
    run_seeded,
    unrolled_model,
)
from transformers import ContinuousBatchingConfig, DynamicCache, GenerationConfig, QuantizedCache, StaticCache
from unrolled import layer_prefix

from polar_adapter import apply_program

GREEDY = {"max_new_tokens": 8, "do_sample": False}
STATIC = {"cache_implementation": "static", "disable_compile": True}


def generating(rows=3, **options):
    return lambda model: model.generate(prompts(rows).to(model.device), **{**GREEDY, **options})


def left_padded(model):
    ids, mask = prompts(), torch.ones(3, 7, dtype=torch.long)
    mask[0, :3] = mask[2, :5] = 0
    return model.generate(ids * mask, attention_mask=mask, **GREEDY)


def own_cache(cache_class, **options):
    def generate(model):
        cache = cache_class(config=model.config, **options)
        return model.generate(prompts(), past_key_values=cache, **GREEDY)

    return generate


def two_turns(model):
    first = model.generate(prompts(), return_dict_in_generate=True, **GREEDY)
    second = torch.cat([first.sequences, prompts(seed=1)[:, :3]], dim=1)
    return model.generate(second, past_key_values=first.past_key_values, **GREEDY)


def prompt_lookup(model):
    return model.generate(prompts(1).repeat(1, 3), prompt_lookup_num_tokens=3, **GREEDY)


def from_embeddings(model):
    return model.generate(inputs_embeds=model.get_input_embeddings()(prompts()), **GREEDY)


def token_by_token(model):
    """A decode loop of one's own, in the style of every inference server."""
    cache, logits = DynamicCache(config=model.config), []
    for token in prompts().unbind(dim=1):
        logits.append(model(token[:, None], past_key_values=cache, use_cache=True).logits)
    return torch.cat(logits, dim=1)


MODES = {
    "greedy": generating(),
    "uncached": generating(use_cache=False),
    "left padding": left_padded,
    "sampling": generating(do_sample=True, top_k=20, temperature=1.5),
    "sampling, 3 sequences": generating(do_sample=True, num_return_sequences=3),
    "beams": generating(num_beams=3, num_return_sequences=2),
    "beam sampling": generating(do_sample=True, num_beams=3),
    "static cache": generating(**STATIC),
    "own dynamic cache": own_cache(DynamicCache),
    "own static cache": own_cache(StaticCache, max_cache_len=24),
    "token by token": token_by_token,
    "two turns": two_turns,
    "chunked prefill": generating(prefill_chunk_size=3),
    "chunked prefill, static": generating(prefill_chunk_size=3, **STATIC),
    "prompt lookup": prompt_lookup,
    "early exit": generating(rows=1, assistant_early_exit=1),
    "guidance": generating(guidance_scale=1.5),
    "from embeddings": from_embeddings,
}


@pytest.mark.parametrize("path", PROGRAMS, ids=str)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_forward_is_bit_equal(family, path):
    model, ids = base_model(family), prompts()
    with torch.no_grad(), apply_program(model, path):
        logits = model(ids).logits
    assert torch.equal(logits, unrolled_model(family, path)(ids).logits)


CASES = [("llama", REPEAT_AND_SKIP), ("gemma2", REORDER)]
MORE_CASES = [(family, path) for family in FAMILY_NAMES for path in PROGRAMS if (family, path) not in CASES]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(("family", "path"), [*CASES, *(pytest.param(*c, marks=pytest.mark.slow) for c in MORE_CASES)])
def test_generation(family, path, mode):
    model = base_model(family)
    expected = run_seeded(mode, unrolled_model(family, path))
    with torch.no_grad(), apply_program(model, path):
        assert torch.equal(run_seeded(mode, model), expected)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_programs_differ(family):
    """Otherwise equality would show nothing."""
    model, texts = base_model(family), set()
    for path in (range(NUM_LAYERS), *PROGRAMS):
        with apply_program(model, path):
            texts.add(str(generating()(model).tolist()))
    assert len(texts) == 1 + len(PROGRAMS)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_cached_equals_uncached(family):
    model = base_model(family)
    with apply_program(model, REORDER):
        assert torch.equal(MODES["greedy"](model), MODES["uncached"](model))


def test_quantized_cache():
    mode = own_cache(QuantizedCache, backend="fp8")
    expected = mode(unrolled_model("llama", REORDER))
    model = base_model("llama")
    with apply_program(model, REORDER):
        assert torch.equal(mode(model), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="transformers offloads caches from an accelerator only")
@pytest.mark.parametrize("cache", ["offloaded", "offloaded_static"])
def test_offloaded_cache(cache):
    mode = generating(cache_implementation=cache, disable_compile=True)
    model, reference = (copy.deepcopy(m).cuda() for m in (base_model("llama"), unrolled_model("llama", REORDER)))
    expected = mode(reference)
    with apply_program(model, REORDER):
        assert torch.equal(mode(model), expected)


def test_static_cache_of_another_program_is_not_reused():
    """generate() makes static caches as long as the longest before; that length must not outlive the block."""
    model = build_model("llama", num_layers=NUM_LAYERS)
    generating(max_new_tokens=30, **STATIC)(model)
    with apply_program(model, REORDER):
        assert not hasattr(model, "_previous_max_cache_length")
        generating(**STATIC)(model)
    assert model._previous_max_cache_length == 36


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_hidden_states_and_attentions(family):
    model, ids = base_model(family), prompts()
    options = {"output_hidden_states": True, "output_attentions": True}
    reference = unrolled_model(family, REORDER)
    implementation = model.config._attn_implementation
    for each in (model, reference):
        each.set_attn_implementation("eager")
    try:
        with torch.no_grad(), apply_program(model, REORDER):
            output = model(ids, **options)
        expected = reference(ids, **options)
    finally:
        for each in (model, reference):
            each.set_attn_implementation(implementation)
    assert len(output.hidden_states) == len(REORDER) + 1
    assert len(output.attentions) == len(REORDER)
    for name in ("hidden_states", "attentions"):
        assert all(map(torch.equal, output[name], expected[name]))


def test_early_exit_drafts_with_the_first_steps():
    model = build_model("llama", num_layers=NUM_LAYERS)
    runs = Counter()
    layers = model.get_submodule(layer_prefix(model, NUM_LAYERS))
    for index in range(NUM_LAYERS):
        layers[index].register_forward_hook(lambda *_, index=index: runs.update([index]))
    with apply_program(model, REORDER):
        MODES["early exit"](model)
    # Drafts run step 0 (layer 5) alone, verification runs all; layers 2 and 1 stand twice in the program.
    assert runs[5] > runs[0] == runs[3] == runs[4] == runs[1] / 2 == runs[2] / 2


def assisted_by_other(model):
    return model.generate(prompts(1), assistant_model=base_model("qwen2_moe"), **GREEDY)


def as_assistant(model):
    return base_model("qwen2_moe").generate(prompts(1), assistant_model=model, **GREEDY)


def assisted_sampling(model):
    return model.generate(prompts(1), assistant_model=base_model("qwen2_moe"), max_new_tokens=8, do_sample=True)


@pytest.mark.parametrize("mode", [assisted_by_other, as_assistant, assisted_sampling])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_assisted_generation(family, mode):
    model = base_model(family)
    expected = run_seeded(mode, unrolled_model(family, REORDER))
    with apply_program(model, REORDER):
        assert torch.equal(run_seeded(mode, model), expected)


def test_lossless_self_speculation_with_an_early_program():
    """A model under a program drafts for another copy of itself; the text is the base's own."""
    base, drafter = base_model("llama"), build_model("llama", num_layers=NUM_LAYERS)
    alone = base.generate(prompts(1), **GREEDY)
    with apply_program(drafter, ONE_LAYER):
        assert torch.equal(base.generate(prompts(1), assistant_model=drafter, **GREEDY), alone)


def test_continuous_batching():
    config = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=-1)
    small = ContinuousBatchingConfig(page_size=8, num_blocks=16, max_batch_tokens=32)

    def generate(model):
        outputs = model.generate_batch(prompts().tolist(), generation_config=config, continuous_batching_config=small)
        return [outputs[request].generated_tokens for request in sorted(outputs)]

    model = base_model("llama")
    expected = generate(unrolled_model("llama", REORDER))
    with apply_program(model, REORDER):
        assert generate(model) == expected


def test_autocast():
    model, ids = base_model("llama"), prompts()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with apply_program(model, REORDER):
            logits = model(ids).logits
        assert torch.equal(logits, unrolled_model("llama", REORDER)(ids).logits)


def gradients_by_layer(model, path, num_layers):
    """Gradient of every parameter of the base, those of a layer's copies summed."""
    prefix = layer_prefix(model, len(path))
    sums: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        if name.startswith(prefix + "."):
            slot, _, rest = name[len(prefix) + 1 :].partition(".")
            name = f"{prefix}.{path[int(slot)]}.{rest}"
        sums[name] = sums[name] + parameter.grad if name in sums else parameter.grad.clone()
    return sums


@pytest.mark.parametrize("backward_inside", [True, False], ids=["backward inside", "backward after the block"])
@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["stored", "reentrant", "non-reentrant"])
@pytest.mark.parametrize("family", ["llama", "gpt2", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_training_gradients(family, checkpointing, backward_inside):
    """gpt2 has dropout: equal gradients also mean the same random stream."""
    path, ids = REPEAT_AND_SKIP, prompts()
    model = build_model(family, num_layers=NUM_LAYERS).train()
    reference = unrolled_model(family, path).train()
    reference.zero_grad()
    run_seeded(lambda: reference(ids, labels=ids).loss.backward())
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()

    def step():
        with apply_program(model, path):
            loss = model(ids, labels=ids, use_cache=False).loss
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()

    run_seeded(step)
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    theirs = gradients_by_layer(reference.eval(), path, NUM_LAYERS)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


def test_checkpointing_runs_each_layer_again():
    model = build_model("llama", num_layers=NUM_LAYERS).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    runs = Counter()
    for index, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, index=index: runs.update([index]))
    with apply_program(model, REPEAT_AND_SKIP):
        model(prompts(), labels=prompts()).loss.backward()
    assert runs == Counter(REPEAT_AND_SKIP * 2)


def test_two_programs_in_one_backward():
    """As in self-distillation: one graph holds passes under different programs."""
    model, ids = build_model("llama", num_layers=NUM_LAYERS), prompts()
    grads = []
    for paths in ([REORDER], [ONE_LAYER], [REORDER, ONE_LAYER]):
        model.zero_grad()
        losses = []
        for path in paths:
            with apply_program(model, path):
                losses.append(model(ids, labels=ids).loss)
        sum(losses).backward()
        grads.append(model.model.layers[3].mlp.up_proj.weight.grad.clone())
    torch.testing.assert_close(grads[0] + grads[1], grads[2])
