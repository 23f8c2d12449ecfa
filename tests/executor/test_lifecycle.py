"""Blocks begin and end cleanly, and follow whatever happens to the model meanwhile."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from families import build_model
from peft import LoraConfig, get_peft_model
from stacks import (
    NUM_LAYERS,
    ONE_LAYER,
    REORDER,
    REPEAT_AND_SKIP,
    base_model,
    prompts,
    run_seeded,
    snapshot,
    unrolled_model,
)
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from unrolled import build_unrolled, layer_prefix

from polar_adapter import apply_program, materialize
from polar_adapter.errors import ProgramError
from polar_adapter.executor import active_programs, find_decoder
from polar_adapter.executor import apply as apply_module

ROWS = (REORDER, ONE_LAYER, REPEAT_AND_SKIP)


@pytest.fixture
def model():
    return build_model("llama", num_layers=NUM_LAYERS)


def logits(model, ids=None):
    with torch.no_grad():
        return model(prompts() if ids is None else ids).logits


def text(model, rows=3):
    return model.generate(prompts(rows), max_new_tokens=6, do_sample=False)


# The end of a block


@pytest.mark.parametrize("program", [REORDER, ROWS], ids=["uniform", "rows"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "jamba"])
def test_the_model_is_as_before(family, program):
    model = build_model(family, num_layers=NUM_LAYERS)
    before, output = snapshot(model), logits(model)
    with apply_program(model, program):
        assert not torch.equal(logits(model), output)
        text(model)
    assert snapshot(model) == before
    assert torch.equal(logits(model), output)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_inside_generate_ends_the_block(model, error):
    before, passes = snapshot(model), []

    def interrupt(*_):
        passes.append(1)
        if len(passes) == 3:
            raise error

    handle = model.model.layers[2].mlp.up_proj.register_forward_hook(interrupt)
    with pytest.raises(error), apply_program(model, REORDER):
        text(model)
    handle.remove()
    assert snapshot(model) == before


def test_layers_and_names_stay_those_of_the_base(model):
    names, layers = list(model.state_dict()), list(model.model.layers)
    with apply_program(model, REORDER):
        assert list(model.state_dict()) == names
        assert len(model.model.layers) == NUM_LAYERS
        assert all(model.model.layers[index] is layers[index] for index in range(-NUM_LAYERS, NUM_LAYERS))
        assert len(list(model.model.layers)) == len(REORDER)
        assert [layer.self_attn.layer_idx for layer in model.model.layers[:3]] == [0, 1, 2]
    assert [layer.self_attn.layer_idx for layer in layers] == list(range(NUM_LAYERS))


def test_no_parameter_is_copied(model):
    pointers = {parameter.data_ptr() for parameter in model.parameters()}
    with apply_program(model, [REORDER, REPEAT_AND_SKIP]):
        for step in model.model.layers:
            assert {parameter.data_ptr() for parameter in step.parameters()} <= pointers
            assert {buffer.data_ptr() for buffer in step.buffers()} <= {b.data_ptr() for b in model.buffers()}


# Blocks inside blocks


def test_nesting(model):
    before, outer, inner = snapshot(model), unrolled_model("llama", REORDER), unrolled_model("llama", ONE_LAYER)
    assert active_programs(model) is None
    with apply_program(model, REORDER) as programs:
        assert active_programs(model) == programs
        with apply_program(model, ONE_LAYER) as innermost:
            assert active_programs(model) == innermost
            assert torch.equal(text(model), text(inner))
        assert active_programs(model) == programs
        with pytest.raises(ProgramError), apply_program(model, [NUM_LAYERS]):
            pass
        assert torch.equal(text(model), text(outer))
    assert snapshot(model) == before


def test_nesting_on_parts_of_the_model(model):
    """The same layers, reached through two models."""
    before = snapshot(model)
    with apply_program(model.model, REORDER):
        with apply_program(model, ONE_LAYER):
            assert torch.equal(text(model), text(unrolled_model("llama", ONE_LAYER)))
        assert torch.equal(text(model), text(unrolled_model("llama", REORDER)))
    assert snapshot(model) == before


def holding(model, program):
    with apply_program(model, program):
        yield


def test_generators_that_hold_blocks_end_in_any_order(model):
    before = snapshot(model)
    first, second = holding(model, REORDER), holding(model, ONE_LAYER)
    next(first)
    next(second)
    first.close()
    assert torch.equal(text(model), text(unrolled_model("llama", ONE_LAYER)))
    second.close()
    assert snapshot(model) == before


@pytest.mark.parametrize("step", ["remap_config", "programmed_class", "Steps"])
def test_a_failure_while_entering_leaves_the_outer_program(model, step, monkeypatch):
    def fail(*_):
        raise MemoryError

    before = snapshot(model)
    with apply_program(model, REORDER):
        with monkeypatch.context() as patch:
            real, calls = getattr(apply_module, step), []
            # Only entering fails; putting the outer program back works as it did before.
            patch.setattr(apply_module, step, lambda *a: fail() if not calls and not calls.append(1) else real(*a))
            with pytest.raises(MemoryError), apply_program(model, ONE_LAYER):
                pytest.fail("the block must not begin")
        assert torch.equal(text(model), text(unrolled_model("llama", REORDER)))
    assert snapshot(model) == before


def test_a_failure_at_the_second_config_leaves_the_model_as_before(monkeypatch):
    """T5 has two live configs: the model's and its decoder's copy."""
    model = build_model("t5", num_layers=NUM_LAYERS)
    before, calls, real = snapshot(model), [], apply_module.remap_config
    assert len(find_decoder(model).configs) == 2

    def fail_at_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise MemoryError
        real(*arguments)

    monkeypatch.setattr(apply_module, "remap_config", fail_at_second)
    with pytest.raises(MemoryError), apply_program(model, REORDER):
        pytest.fail("the block must not begin")
    assert snapshot(model) == before


@pytest.mark.parametrize("program", [[], [[]], [NUM_LAYERS], [-1], [[0], [NUM_LAYERS]]], ids=str)
def test_programs_that_do_not_fit_are_refused(model, program):
    before = snapshot(model)
    with pytest.raises(ProgramError), apply_program(model, program):
        pytest.fail("the block must not begin")
    assert snapshot(model) == before


# Copies


@pytest.mark.parametrize("program", [REORDER, ROWS], ids=["uniform", "rows"])
def test_deepcopy_inside_a_block(model, program):
    before = snapshot(model)
    with apply_program(model, program):
        expected = text(model)
        duplicate = copy.deepcopy(model)
        assert torch.equal(text(duplicate), expected)
    assert snapshot(model) == before
    # The copy was made while the program was active, and goes on running it.
    assert torch.equal(text(duplicate), expected)
    with apply_program(duplicate, ONE_LAYER):
        assert torch.equal(text(duplicate), text(unrolled_model("llama", ONE_LAYER)))
    assert torch.equal(text(duplicate), expected)
    with torch.no_grad():
        duplicate.model.layers[3].mlp.up_proj.weight.zero_()
    assert not torch.equal(text(duplicate), expected)
    with apply_program(model, program):
        assert torch.equal(text(model), expected)


def test_deepcopy_outside_a_block_is_plain(model):
    with apply_program(model, REORDER):
        text(model)
    duplicate = copy.deepcopy(model)
    assert torch.equal(text(duplicate), text(model))
    assert type(duplicate.model.layers) is torch.nn.ModuleList


# Changes of the model while a program is active


@pytest.mark.parametrize("program", [REORDER, ROWS], ids=["uniform", "rows"])
def test_a_new_dtype_reaches_the_steps(model, program):
    with apply_program(model, program):
        text(model)
        model.to(torch.float64)
        inside = logits(model)
    assert inside.dtype == torch.float64
    with apply_program(model, program):
        assert torch.equal(logits(model), inside)


def test_updated_and_replaced_weights_reach_the_steps(model):
    with apply_program(model, REORDER):
        text(model)
        with torch.no_grad():
            model.model.layers[2].mlp.up_proj.weight.mul_(2)
            model.model.layers[1].self_attn.q_proj = torch.nn.Linear(32, 32, bias=False)
            model.model.layers[4].mlp = copy.deepcopy(model.model.layers[0].mlp)
        inside = logits(model)
    assert torch.equal(inside, logits(build_unrolled_of(model, REORDER)))


def build_unrolled_of(model, path):
    from families import FAMILIES

    return build_unrolled(FAMILIES["llama"], model, path, NUM_LAYERS)


def test_mode_and_hooks_reach_the_steps():
    model = build_model("gpt2", num_layers=NUM_LAYERS)
    with apply_program(model, REORDER):
        text(model)
        model.train()
        assert all(module.training for step in model.transformer.h for module in step.modules())
        first, second = run_seeded(logits, model), run_seeded(logits, model)
        assert torch.equal(first, second)
        assert not torch.equal(first, logits(model)), "dropout is off"
        model.eval()
        seen = []
        handle = model.transformer.h[2].register_forward_hook(lambda module, *_: seen.append(module.attn.layer_idx))
        logits(model)
        handle.remove()
        assert seen == [slot for slot, index in enumerate(REORDER) if index == 2]


def with_lora(model):
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    return adapted.eval()


@pytest.mark.parametrize("program", [REORDER, ROWS], ids=["uniform", "rows"])
def test_lora_before_inside_and_merged(model, program):
    plain = logits(model)
    with apply_program(model, program):
        without = logits(model)
        adapted = with_lora(model)
        inside = logits(adapted)
        with adapted.disable_adapter():
            assert torch.equal(logits(adapted), without)
    with apply_program(adapted, program):
        assert torch.equal(logits(adapted), inside)
        assert not torch.allclose(inside, without)
    merged = adapted.merge_and_unload()
    with apply_program(merged, program):
        torch.testing.assert_close(logits(merged), inside, rtol=1e-3, atol=1e-3)
    assert not torch.equal(logits(merged), plain)


def test_lora_trains_inside_a_program(model):
    """Gradients of an adapter on a layer that runs twice are those of both runs."""
    adapted, ids = with_lora(model), prompts()
    with apply_program(adapted, REORDER):
        adapted(ids, labels=ids).loss.backward()
    gradients = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
    assert all((gradient != 0).any() for gradient in gradients.values() if gradient is not None)
    trained = {name.split(".layers.")[1].split(".")[0] for name, gradient in gradients.items() if gradient is not None}
    assert trained == {str(index) for index in set(REORDER)}


def test_a_layer_with_its_own_forward(model):
    """Kernel libraries patch single modules this way."""
    layer = model.model.layers[2]
    plain_forward = type(layer).forward

    def doubled(self, hidden_states, *args, **kwargs):
        return plain_forward(self, hidden_states * 2, *args, **kwargs)

    plain = {}
    for program in ([2], [2, 2], [0, 2]):
        with apply_program(model, program):
            plain[str(program)] = logits(model)
    layer.forward = doubled.__get__(layer)
    for program in ([2], [2, 2], [0, 2]):
        with apply_program(model, program):
            assert not torch.equal(logits(model), plain[str(program)])
    with apply_program(model, [[2], [2, 2], [0, 2]]):
        together = logits(model)
    for row, program in enumerate(([2], [2, 2], [0, 2])):
        with apply_program(model, program):
            torch.testing.assert_close(together[row], logits(model)[row])


# Accelerate


@pytest.mark.parametrize("program", [REORDER, ROWS], ids=["uniform", "rows"])
@pytest.mark.parametrize("placement", ["cpu_offload", "device_map"])
def test_offloaded_models(model, placement, program, tmp_path):
    with apply_program(model, program):
        expected = text(model)
    if placement == "cpu_offload":
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        on_disk = {f"model.layers.{index}": "disk" if index % 2 else "cpu" for index in range(NUM_LAYERS)}
        rest = dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
        dispatch_model(model, {**rest, **on_disk}, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    with apply_program(model, program):
        assert torch.equal(text(model), expected)
        assert model.model.layers[1].mlp.up_proj.weight.device.type == "meta"
    with apply_program(model, range(NUM_LAYERS)):
        assert torch.equal(text(model), text(base_model("llama")))


def test_offloading_that_begins_inside_a_block(model):
    with apply_program(model, REORDER):
        expected = text(model)
        cpu_offload(model, execution_device=torch.device("cpu"))
        assert torch.equal(text(model), expected)


# Saving


@pytest.mark.parametrize("family", ["llama", "gemma2", "jamba", "bart"])
def test_save_pretrained_inside_a_block_saves_the_base(family, tmp_path):
    model = build_model(family, num_layers=NUM_LAYERS)
    model.save_pretrained(tmp_path / "before")
    with apply_program(model, REPEAT_AND_SKIP):
        model.save_pretrained(tmp_path / "inside")
        model.config.save_pretrained(tmp_path / "config alone")
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "inside" / name).read_text() == (tmp_path / "before" / name).read_text()
    assert (tmp_path / "config alone/config.json").read_text() == (tmp_path / "before/config.json").read_text()
    if family == "llama":
        reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "inside").eval()
        assert torch.equal(logits(reloaded), logits(model))


def test_a_trainer_inside_a_block_saves_the_base(model, tmp_path):
    data = [{"input_ids": row, "labels": row} for row in prompts(4)]
    arguments = TrainingArguments(
        tmp_path,
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    with apply_program(model, REORDER):
        trainer = Trainer(model=model, args=arguments, train_dataset=data)
        trainer.train()
        trainer.save_model(tmp_path / "final")
    for folder in ("checkpoint-1", "checkpoint-2", "final"):
        reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert reloaded.config.num_hidden_layers == NUM_LAYERS
    assert torch.equal(logits(reloaded.eval()), logits(model.eval()))


def test_materialize_inside_a_block_reads_the_base(model):
    with apply_program(model, ONE_LAYER):
        built = materialize(model, REORDER)
    assert torch.equal(logits(built), logits(unrolled_model("llama", REORDER)))


# torch.compile


def decode(call, model, program):
    """Prefill eagerly, then decode two tokens by ``call``."""
    from transformers import StaticCache

    with torch.no_grad(), apply_program(model, program):
        cache = StaticCache(config=model.config, max_cache_len=12)
        output, outputs = model(prompts(), past_key_values=cache), []
        for position in (7, 8):
            token = output.logits[:, -1:].argmax(-1)
            output = call(token, past_key_values=cache, cache_position=torch.tensor([position]))
            outputs.append(output.logits)
    return torch.cat(outputs, dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_decoding_and_switching_programs(backend):
    from torch._dynamo.utils import counters

    model = build_model("llama", num_layers=3)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    graphs = []
    for program in (
        [0, 1, 2],
        [0, 0, 2, 1],
        [[0, 1], [1, 2], [0, 2]],
        [2, 0, 1],
        [1, 1, 0, 2],
        [[0, 1], [1, 2], [0, 2]],
    ):
        expected = decode(model, model, program)
        torch.testing.assert_close(decode(compiled, model, program), expected, rtol=1e-4, atol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    # Programs of one length share their graph, and one that comes back finds its own.
    assert graphs[2:] == [graphs[2]] * 4


@pytest.mark.slow
def test_a_layer_compiled_on_its_own(model):
    expected = {}
    for program in (REORDER, ROWS):
        with apply_program(model, program):
            expected[program] = text(model)
    for index in range(NUM_LAYERS):
        if index % 2:
            model.model.layers[index].compile(backend="eager")
        else:
            model.model.layers[index] = torch.compile(model.model.layers[index], backend="eager")
    for program, tokens in expected.items():
        with apply_program(model, program):
            assert torch.equal(text(model), tokens)


def test_the_layer_list_is_found_under_wrappers(model):
    assert find_decoder(with_lora(model)).layers_name == layer_prefix(base_model("llama"), NUM_LAYERS)
