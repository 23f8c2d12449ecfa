"""What the commands do beyond calling one function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from .adapter import get_polar_model
from .config import PolarConfig
from .data import PromptTemplate
from .discover import mine_menu, records_header
from .executor import find_decoder
from .hub import save_adapter
from .search import Example, read_records
from .training import PolarTrainer, RouterCollator


def train_adapter(model: Any, tokenizer: Any, questions: Sequence[Example], oracle: Any, arguments: Any) -> None:
    """Train a router from search records and save it.

    Args:
        model: The base.
        tokenizer: Its tokenizer.
        questions: Training questions; a menu router has its menu scored on them.
        oracle: Scores (question, program) pairs as the search did.
        arguments: ``records``, ``output``, ``router``, ``menu_size``, ``cost_weight``, ``router_dim``, ``epochs``,
            ``learning_rate``, ``train_batch_size`` and ``seed``, as the command line names them.
    """
    set_seed(arguments.seed)
    records = read_records(arguments.records, find_decoder(model).num_layers)
    expected = records_header(model, oracle, records.header.settings)
    records.header.check_same(expected, where=str(arguments.records))
    config = PolarConfig(
        router_type=arguments.router, cost_weight=arguments.cost_weight, router_dim=arguments.router_dim
    )
    supervision: Any = records
    data = f"{len(records)} questions, searched by {records.header.settings.strategy}."
    if arguments.router == "menu":
        mined = mine_menu(records.records, questions, oracle, arguments.menu_size, cost_weight=arguments.cost_weight)
        config.menu, supervision = [str(program) for program in mined.programs], mined.records
        data += f" The menu was scored on {len(questions)} questions."
        print(f"best static program of the pool: {mined.static}")
    else:
        config.max_executions = records.header.settings.max_executions
    routed = get_polar_model(model, config)
    training = TrainingArguments(
        output_dir=str(arguments.output / "checkpoints"),
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=arguments.train_batch_size,
        learning_rate=arguments.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        seed=arguments.seed,
        save_strategy="no",
        report_to=[],
    )
    collator = RouterCollator(tokenizer, oracle.template)
    PolarTrainer(routed, training, supervision, data_collator=collator, processing_class=tokenizer).train()
    save_adapter(routed, arguments.output, training_data=data)


def answer_prompts(
    model: Any, tokenizer: Any, prompts: Sequence[str], template: PromptTemplate, max_new_tokens: int, **choice: Any
) -> list[dict[str, Any]]:
    """Greedy answers of an adapter and of its base.

    Args:
        model: A PeftModel with a polar adapter.
        tokenizer: The base's tokenizer.
        prompts: Questions.
        template: How they become prompts.
        max_new_tokens: Tokens to generate.
        **choice: ``cost_weight``, ``identity_margin``, ``max_depth``.

    Returns:
        For each prompt ``prompt``, ``text``, ``base``, ``program`` (text form) and ``num_layers``.
    """
    examples = [Example(id=str(i), prompt=prompt, answer="") for i, prompt in enumerate(prompts)]
    inputs = template.encode(examples, tokenizer).to(find_decoder(model).model.device)

    def texts(**options: Any) -> list[str]:
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, **options)
        return tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    routed = texts(**choice)
    programs = model.last_programs
    with model.disable_adapter():
        plain = texts()
    return [
        {"prompt": prompt, "text": text, "base": base, "program": str(program), "num_layers": program.num_layers}
        for prompt, text, base, program in zip(prompts, routed, plain, programs, strict=True)
    ]
