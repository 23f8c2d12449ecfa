"""Routers learn from records with ordinary TrainingArguments."""

from __future__ import annotations

import math
import os

import pytest
import torch
from peft import PeftModel
from transformers import Trainer, TrainingArguments

from polar_adapter import ConfigError, PolarConfig, Program, RecordsError, get_polar_model
from polar_adapter.data import PromptTemplate
from polar_adapter.embedded import generate_chains, load_embedded_base
from polar_adapter.search import ProgramScore, SearchRecord
from polar_adapter.training import PolarTrainer, RouterCollator, menu_examples, router_examples, segment_examples

PLAIN = PromptTemplate.plain()
SHORT, LONG = Program.parse("0-5 10-11", 12), Program.parse("0-1 2-5x2 6-11", 12)
IDENTITY = Program.identity(12)


def records(count=40):
    """Short chains are answered by SHORT, long ones by LONG: something to learn."""
    return [
        SearchRecord(
            example,
            0.0,
            (
                ProgramScore(IDENTITY, 0.0),
                ProgramScore(SHORT, float(example.level in "12")),
                ProgramScore(LONG, float(example.level in "345")),
            ),
        )
        for example in generate_chains(count, seed=0)
    ]


def polar(router_type="menu", **changes):
    base, tokenizer = load_embedded_base()
    menu = [str(SHORT), str(LONG)] if router_type == "menu" else None
    torch.manual_seed(0)
    config = PolarConfig(router_type=router_type, menu=menu, router_dim=32, router_dropout=0.0, **changes)
    return get_polar_model(base, config), tokenizer


def arguments(folder, **changes):
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 20,
        "learning_rate": 3e-3,
        "num_train_epochs": 12,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "use_cpu": True,
    }
    return TrainingArguments(**{**defaults, **changes})


@pytest.mark.parametrize("router_type", ["menu", "segment"])
def test_a_router_learns_which_program_suits_a_prompt(tmp_path, router_type):
    model, tokenizer = polar(router_type)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    trainer = PolarTrainer(
        model, arguments(tmp_path, num_train_epochs=30), records(100), processing_class=tokenizer, template=PLAIN
    )
    trainer.train()
    held_out = generate_chains(100, seed=7)
    chosen = [row[0].program for row in model.route(**PLAIN.encode(held_out, tokenizer))]
    expected = [SHORT if example.level in "12" else LONG for example in held_out]
    assert sum(a == b for a, b in zip(chosen, expected, strict=True)) > 85
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_menu_metrics_tell_what_choosing_would_score(tmp_path):
    model, tokenizer = polar()
    data = records(60)
    settings = arguments(tmp_path, num_train_epochs=40)
    trainer = PolarTrainer(model, settings, data, data, processing_class=tokenizer, template=PLAIN)
    before = trainer.evaluate()
    assert before["eval_pass@1"] == 0.0
    assert before["eval_identity_rate"] == 1.0
    assert before["eval_mean_depth"] == 12.0
    trainer.train()
    after = trainer.evaluate()
    chosen = [row[0].program for row in model.eval().route(**PLAIN.encode([r.example for r in data], tokenizer))]
    right = [program in record.valid for program, record in zip(chosen, data, strict=True)]
    assert after["eval_pass@1"] == pytest.approx(sum(right) / len(right))
    assert after["eval_pass@1"] > 0.8


def test_checkpoints_hold_the_adapter_only_and_resume_exactly(tmp_path):
    def run(folder, **changes):
        model, tokenizer = polar()
        settings = arguments(folder, save_strategy="steps", save_steps=3, max_steps=6, **changes)
        trainer = PolarTrainer(model, settings, records(), processing_class=tokenizer, template=PLAIN)
        return model, trainer

    straight, trainer = run(tmp_path / "straight")
    trainer.train()
    checkpoint = tmp_path / "straight" / "checkpoint-3"
    assert "adapter_model.safetensors" in os.listdir(checkpoint)
    assert not any(name.startswith(("model", "pytorch_model")) for name in os.listdir(checkpoint))
    resumed, trainer = run(tmp_path / "resumed")
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.state.global_step == 6
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_best_checkpoint_is_chosen_by_pass_at_1(tmp_path):
    model, tokenizer = polar()
    settings = arguments(
        tmp_path,
        save_strategy="epoch",
        eval_strategy="epoch",
        num_train_epochs=3,
        load_best_model_at_end=True,
        metric_for_best_model="pass@1",
    )
    trainer = PolarTrainer(model, settings, records(), records(), processing_class=tokenizer, template=PLAIN)
    trainer.train()
    assert trainer.state.best_metric == trainer.evaluate()["eval_pass@1"]


def test_a_stock_trainer_works_too(tmp_path):
    model, tokenizer = polar()
    settings = arguments(tmp_path, remove_unused_columns=False, max_steps=2)
    examples = menu_examples(records(), (IDENTITY, SHORT, LONG))
    trainer = Trainer(model, settings, train_dataset=examples, data_collator=RouterCollator(tokenizer, PLAIN))
    assert "program_labels" in trainer.label_names
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = PeftModel.from_pretrained(load_embedded_base()[0], tmp_path / "saved")
    inputs = PLAIN.encode(generate_chains(20, seed=1), tokenizer)
    assert loaded.route(**inputs) == model.eval().route(**inputs)


def test_segment_examples_weigh_and_drop_as_documented():
    reorder, triple = Program([3, 0, 1], 12), Program.parse("0-1x3 2-11", 12)
    record = SearchRecord(
        generate_chains(1, 0)[0], 1.0, tuple(ProgramScore(p, 1.0) for p in (IDENTITY, SHORT, reorder, triple))
    )
    assert [entry.weight for entry in segment_examples([record])] == [0.3, 1.0]
    assert [entry.weight for entry in segment_examples([record], max_executions=3)] == [0.3, 1.0, 1.0]
    normalized = segment_examples([record], normalize=True)
    assert sum(entry.weight for entry in normalized) == pytest.approx(1.0)


def test_menu_labels_are_nan_where_nothing_was_tried():
    (entry,) = menu_examples(records(1), (IDENTITY, SHORT, Program.parse("0-2", 12)))
    assert entry.labels[:2] == [0.0, 1.0]
    assert math.isnan(entry.labels[2])
    assert menu_examples(records(1), (Program.parse("0-2", 12),)) == []


def test_what_cannot_be_trained_is_refused(tmp_path):
    base, tokenizer = load_embedded_base()
    with pytest.raises(ConfigError, match="get_polar_model"):
        PolarTrainer(base, arguments(tmp_path), records(), processing_class=tokenizer)
    static = get_polar_model(base, PolarConfig(router_type="static", menu=["0-5"]))
    with pytest.raises(ConfigError, match="nothing to train"):
        PolarTrainer(static, arguments(tmp_path), records(), processing_class=tokenizer)
    other = SearchRecord(generate_chains(1, 0)[0], 1.0, (ProgramScore(Program.identity(8), 1.0),))
    with pytest.raises(RecordsError, match="searched on a model of 8 layers"):
        router_examples([other], PolarConfig(num_layers=12))
    failed = SearchRecord(generate_chains(1, 0)[0], 0.0, (ProgramScore(IDENTITY, 0.0),))
    with pytest.raises(RecordsError, match="none of 1 records"):
        router_examples([failed], PolarConfig(num_layers=12, router_type="segment"))
