"""Everything PEFT and transformers do with adapters, done to this one."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys

import peft
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, PeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapter.helpers import MENU, config, opinionated, prompts, routed, tiny_base
from polar_adapter import AdapterError, PolarConfig, UnsupportedModelError, get_polar_model

GREEDY = {"max_new_tokens": 6, "do_sample": False}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A base and an adapter on disk, with what the adapter generates and chooses."""
    folder = tmp_path_factory.mktemp("saved")
    tiny_base().save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    model = opinionated(get_polar_model(base, config()), seed=3)
    model.save_pretrained(folder / "adapter")
    text = model.generate(**prompts(), **GREEDY)
    assert len(set(model.last_programs)) > 1
    return folder, text, model.last_programs


def lora(base, seed=1):
    torch.manual_seed(seed)
    return peft.get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)).eval()


def test_get_peft_model_is_get_polar_model(saved):
    model = peft.get_peft_model(tiny_base(), PolarConfig(menu=MENU, router_dim=32))
    assert type(model) is PeftModelForCausalLM
    assert list(model.state_dict()) == list(routed().state_dict())


@pytest.mark.parametrize("loader", ["from_pretrained", "low_cpu", "renamed", "auto_peft", "load_adapter", "auto_model"])
def test_every_loader_gives_the_same_programs_and_text(saved, loader):
    folder, text, programs = saved
    adapter = folder / "adapter"
    if loader == "auto_peft":
        model = AutoPeftModelForCausalLM.from_pretrained(adapter)
    elif loader == "auto_model":
        model = AutoModelForCausalLM.from_pretrained(adapter)
    else:
        base = AutoModelForCausalLM.from_pretrained(folder / "base")
        if loader == "load_adapter":
            base.load_adapter(str(adapter))
            model = base
        elif loader == "renamed":
            model = PeftModel.from_pretrained(base, adapter, adapter_name="other")
        else:
            model = PeftModel.from_pretrained(base, adapter, low_cpu_mem_usage=loader == "low_cpu")
    assert torch.equal(model.generate(**prompts(), **GREEDY), text)
    assert model.last_programs == programs


def test_a_fresh_process_gives_the_same_text(saved):
    folder, text, programs = saved
    code = (
        "import sys, json, torch, polar_adapter\n"
        "from peft import AutoPeftModelForCausalLM\n"
        "model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "inputs = {name: torch.tensor(rows) for name, rows in json.loads(sys.argv[2]).items()}\n"
        "text = model.generate(**inputs, max_new_tokens=6, do_sample=False)\n"
        "print(json.dumps([text.tolist(), [str(program) for program in model.last_programs]]))\n"
    )
    inputs = json.dumps({name: value.tolist() for name, value in prompts().items()})
    finished = subprocess.run(
        [sys.executable, "-c", code, str(folder / "adapter"), inputs], capture_output=True, text=True, check=True
    )
    assert json.loads(finished.stdout.splitlines()[-1]) == [text.tolist(), [str(program) for program in programs]]


@pytest.mark.parametrize("merged", [False, True])
def test_one_file_serves_a_bare_base_lora_and_merged_lora(saved, merged):
    folder, _, programs = saved
    inner = lora(AutoModelForCausalLM.from_pretrained(folder / "base"))
    keys = set(inner.state_dict())
    plain = inner.generate(**prompts(), **GREEDY)
    base = inner.merge_and_unload() if merged else inner
    model = PeftModel.from_pretrained(base, folder / "adapter")
    model.generate(**prompts(), **GREEDY)
    assert model.last_programs == programs
    with model.disable_adapter():
        assert torch.equal(model.generate(**prompts(), **GREEDY), plain)
    model.save_pretrained(folder / f"again-{merged}")
    first, second = load_file(folder / "adapter" / WEIGHTS), load_file(folder / f"again-{merged}" / WEIGHTS)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    if not merged:
        inner.save_pretrained(folder / "lora")
        assert all("lora_" in name for name in load_file(folder / "lora" / WEIGHTS))
        assert inner.peft_config["default"].peft_type == "LORA"
        assert set(model.unload().state_dict()) == keys


def test_lora_under_the_router_decides_the_text(saved):
    folder, _, programs = saved
    model = PeftModel.from_pretrained(lora(AutoModelForCausalLM.from_pretrained(folder / "base")), folder / "adapter")
    text = model.generate(**prompts(), **GREEDY)
    merged = lora(AutoModelForCausalLM.from_pretrained(folder / "base")).merge_and_unload()
    from polar_adapter import apply_program

    with apply_program(merged, programs):
        assert torch.equal(merged.generate(**prompts(), **GREEDY), text)


def test_only_the_router_is_saved(saved):
    folder, *_ = saved
    tensors = load_file(folder / "adapter" / WEIGHTS)
    assert all(name.startswith("base_model.model.program_router.polar_networks.") for name in tensors)
    model = routed()
    assert sum(t.numel() for t in tensors.values()) == model.get_nb_trainable_parameters()[0]
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["menu"] == ["0-5", *MENU]


def test_only_the_router_trains():
    model = routed()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "polar_networks" in name}
    inner = lora(tiny_base())
    before = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    get_polar_model(inner, config())
    assert {name for name, parameter in inner.named_parameters() if parameter.requires_grad} == before


def test_named_adapters_add_set_delete():
    model = routed()
    model.add_adapter("static", PolarConfig(router_type="static", menu=["0-2"]))
    model.set_adapter("static")
    model.generate(**prompts(), **GREEDY)
    assert {str(program) for program in model.last_programs} == {"0-2"}
    model.set_adapter("default")
    model.generate(**prompts(), **GREEDY)
    assert {str(program) for program in model.last_programs} != {"0-2"}
    model.delete_adapter("static")
    assert list(model.peft_config) == ["default"]
    assert not any("static" in name for name in model.state_dict())


def test_status_reports_the_router():
    model = routed()
    status = model.get_model_status()
    assert status.enabled is True
    assert status.active_adapters == ["default"]
    (layer,) = model.get_layer_status()
    assert layer.module_type == "RouterLayer"


def test_unload_gives_back_the_base():
    base = tiny_base()
    keys, cls, logits = list(base.state_dict()), type(base), base(**prompts()).logits
    model = opinionated(get_polar_model(base, config()))
    back = model.unload()
    assert back is base
    assert type(back) is cls
    assert list(back.state_dict()) == keys
    assert torch.equal(back(**prompts()).logits, logits)
    assert not any(name.startswith(("_polar", "program_router", "peft_config")) for name in back.__dict__)


def test_merging_is_refused():
    for method in ("merge_and_unload", "merge_adapter"):
        with pytest.raises(UnsupportedModelError, match="materialize"):
            getattr(routed(), method)()


def test_deepcopy_routes_alike_and_independently():
    model = routed()
    twin = copy.deepcopy(model)
    text = model.generate(**prompts(), **GREEDY)
    assert torch.equal(twin.generate(**prompts(), **GREEDY), text)
    opinionated(twin, seed=9)
    assert torch.equal(model.generate(**prompts(), **GREEDY), text)
    assert twin.base_model.router_layer.decoder.model is twin.get_base_model()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_bases(dtype):
    model = opinionated(get_polar_model(tiny_base().to(dtype), config()), seed=3)
    router = model.base_model.router_layer.active_router
    assert all(parameter.dtype == torch.float32 for parameter in router.parameters())
    assert model.generate(**prompts(), **GREEDY).shape == (6, 13)
    model.to(dtype)
    model.generate(**prompts(), **GREEDY)


def test_depth_mismatch_is_refused(saved, tmp_path):
    from families import build_model

    with pytest.raises(ValueError, match="made for a base of 6 layers, but this model has 4"):
        PeftModel.from_pretrained(build_model("llama", num_layers=4), saved[0] / "adapter")


def damage(folder, tmp_path, how):
    target = tmp_path / "damaged"
    shutil.copytree(folder / "adapter", target)
    weights = target / WEIGHTS
    if how == "no weights":
        weights.unlink()
    elif how == "pickle":
        weights.unlink()
        torch.save({}, target / "adapter_model.bin")
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "garbage":
        weights.write_bytes(b"\x00" * 64)
    elif how == "missing tensor":
        tensors = load_file(weights)
        tensors.popitem()
        save_file(tensors, weights)
    elif how == "shape":
        tensors = load_file(weights)
        name = next(n for n in tensors if tensors[n].dim() == 2)
        tensors[name] = tensors[name][:1].contiguous()
        save_file(tensors, weights)
    return target


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no weights", "holds no adapter_model.safetensors"),
        ("pickle", "never loaded"),
        ("truncated", "truncated or damaged"),
        ("garbage", "truncated or damaged"),
        ("missing tensor", "1 tensors are missing"),
        ("shape", "has shape"),
    ],
)
def test_damaged_adapters_are_refused(saved, tmp_path, how, message):
    base = AutoModelForCausalLM.from_pretrained(saved[0] / "base")
    with pytest.raises(AdapterError, match=message):
        PeftModel.from_pretrained(base, damage(saved[0], tmp_path, how))


def test_peft_tables_have_the_shape_this_package_fills():
    from peft import mapping

    hint = "PEFT changed its tables: update polar_adapter/adapter/registration.py"
    for table in ("CONFIG", "TUNER", "PREFIX"):
        entries = getattr(mapping, f"PEFT_TYPE_TO_{table}_MAPPING", None)
        assert isinstance(entries, dict), hint
        assert "LORA" in entries, hint
        assert "POLAR" in entries, hint
