"""The whole method on the embedded base, in under two minutes: search, train, evaluate, save, load, generate."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from .adapter import get_polar_model
from .config import PolarConfig
from .data import PromptTemplate
from .discover import MinedMenu, mine_menu, search_programs
from .embedded import generate_chains, load_embedded_base
from .evaluation import Evaluation, RouterPolicy, StaticPolicy, evaluate_policies, evaluation_table, program_figure
from .evaluation.report import program_bar
from .hub import save_adapter
from .program import Program
from .scoring import GenerationOracle
from .search import Example, Records, SearchSettings
from .training import PolarTrainer, RouterCollator

TEMPLATE = PromptTemplate.plain()


@dataclass(frozen=True)
class QuickstartSettings:
    """Sizes of the run; the defaults take about a minute and a half on two cores.

    Attributes:
        train_questions: Questions the menu router trains on.
        searched_questions: Of these, how many are searched.
        test_questions: Held-out questions.
        simulations: Programs tried per searched question.
        menu_size: Most programs in the menu.
        menu_cost_weight: Price of a full pass when the menu is chosen.
        cost_weight: Price of a full pass when the router chooses; it keeps the mean depth below the base's.
        menu_epochs: Passes over the training set for the menu router.
        segment_epochs: Passes for the segment router.
        seed: Seed of everything.
    """

    train_questions: int = 800
    searched_questions: int = 100
    test_questions: int = 500
    simulations: int = 64
    menu_size: int = 12
    menu_cost_weight: float = 0.6
    cost_weight: float = 0.5
    menu_epochs: int = 20
    segment_epochs: int = 3
    seed: int = 0


def run_quickstart(
    output: str | Path, settings: QuickstartSettings | None = None, console: Console | None = None
) -> Path:
    """Discover programs, train both routers, evaluate them, save the menu adapter and use it from a fresh process.

    Args:
        output: Folder for the adapter, ``programs.png`` and ``evaluation.json``.
        settings: Sizes of the run.
        console: Where to print.

    Returns:
        The folder.
    """
    settings, console = settings or QuickstartSettings(), console or Console()
    output = Path(output)
    started = time.perf_counter()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    set_seed(settings.seed)
    # The base is so small that a second thread costs more than it brings, several times more on a busy machine.
    torch.set_num_threads(1)
    console.print(
        "[bold]The embedded base[/bold]: 12 layers, chains of arithmetic modulo 13, built to be elastic in depth."
    )
    base, tokenizer = load_embedded_base()
    train = generate_chains(settings.train_questions, settings.seed)
    test = generate_chains(settings.test_questions, settings.seed + 1, exclude=train)
    oracle = GenerationOracle(base, tokenizer, template=TEMPLATE, max_new_tokens=1)

    with stage(console, f"1. Search programs for {settings.searched_questions} training questions"):
        # Few simulations on a model that answers much: go deep early, and let length decide among the right.
        search = SearchSettings(
            simulations=settings.simulations, exploration=0.3, depth_penalty=2.0, seed=settings.seed
        )
        searched = train[: settings.searched_questions]
        records = search_programs(base, tokenizer, searched, settings=search, oracle=oracle, concurrent=len(searched))
    with stage(console, f"2. Choose a menu and score it on {len(train)} training questions"):
        menu = mine_menu(records.records, train, oracle, settings.menu_size, cost_weight=settings.menu_cost_weight)
    for program in menu.programs:
        console.print(f"   {program_bar(program)}  {program}  ({program.depth} layers)")
    with stage(console, "3. Train the menu router, and the paper's segment router beside it"):
        routed, segment = train_routers(tokenizer, records, menu, settings)
    with stage(console, f"4. Evaluate on {len(test)} held-out questions"):
        evaluation = evaluate_policies(
            [
                StaticPolicy("base", Program.identity(records.header.num_layers)),
                StaticPolicy("static", menu.static),
                RouterPolicy("segment", segment, tokenizer, TEMPLATE),
                RouterPolicy("router", routed, tokenizer, TEMPLATE),
            ],
            test,
            oracle,
            oracle_at=[5],
        )
    console.print(evaluation_table(evaluation))
    save(routed, evaluation, output, settings)
    with stage(console, "5. Load the adapter in a fresh process and generate"):
        answers = generate_in_fresh_process(output, _one_per_level(test))
    check_answers(answers, routed, tokenizer, _one_per_level(test))
    console.print(answers_table(answers, _one_per_level(test)))
    console.print(
        f"Took {time.perf_counter() - started:.0f} s. Adapter, figure and evaluation.json are in {output.resolve()}"
    )
    return output


def train_routers(tokenizer: Any, records: Records, menu: MinedMenu, settings: QuickstartSettings) -> tuple[Any, Any]:
    """Train a menu router on the scored menu and a segment router on the valid programs of the search."""
    size: dict[str, Any] = {"router_dim": 64, "router_dropout": 0.0}
    texts = [str(program) for program in menu.programs]
    recipes = (
        (PolarConfig(menu=texts, cost_weight=settings.cost_weight, **size), menu.records, settings.menu_epochs),
        (PolarConfig(router_type="segment", max_executions=4, **size), records, settings.segment_epochs),
    )
    trained = []
    for config, supervision, epochs in recipes:
        base, _ = load_embedded_base()
        model = get_polar_model(base, config)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=64,
                learning_rate=2e-3,
                lr_scheduler_type="cosine",
                warmup_steps=10,
                seed=settings.seed,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=not sys.stderr.isatty(),
            )
            collator = RouterCollator(tokenizer, TEMPLATE)
            trainer = PolarTrainer(model, arguments, supervision, data_collator=collator, processing_class=tokenizer)
            trainer.remove_callback(PrinterCallback)  # its summary is for logs
            trainer.train()
        trained.append(model.eval())
    return trained[0], trained[1]


def save(model: Any, evaluation: Evaluation, output: Path, settings: QuickstartSettings) -> None:
    """Write the adapter, its card, the figure and the evaluation."""
    output.mkdir(parents=True, exist_ok=True)
    program_figure(evaluation, output / "programs.png")
    data = f"{settings.train_questions} generated chains of arithmetic modulo 13, seed {settings.seed}."
    save_adapter(model, output, evaluation.to_dict(), data, "programs.png")


def generate_in_fresh_process(adapter: Path, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """What ``polar-adapter generate`` prints for these prompts, in a process that knows only the folder."""
    command = [sys.executable, "-m", "polar_adapter", "generate", "--adapter", str(adapter), "--plain", "--json"]
    prompts = [example.prompt for example in examples]
    finished = subprocess.run([*command, *prompts], capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"loading the adapter in a fresh process failed:\n{finished.stderr}")
    return json.loads(finished.stdout)


def check_answers(answers: Sequence[dict[str, Any]], model: Any, tokenizer: Any, examples: Sequence[Example]) -> None:
    """The fresh process must have chosen the programs this one chooses."""
    inputs = TEMPLATE.encode(examples, tokenizer).to(model.device)
    with torch.inference_mode():
        expected = [str(row[0].program) for row in model.route(**inputs)]
    loaded = [answer["program"] for answer in answers]
    if loaded != expected:
        raise RuntimeError(f"the loaded adapter chooses {loaded}, but the trained one {expected}.")


def answers_table(answers: Sequence[dict[str, Any]], examples: Sequence[Example]) -> Table:
    """Prompts with the base's answer, the adapter's, and the program that gave it."""
    table = Table(title="Generated by the loaded adapter")
    for name in ("prompt", "right", "base", "adapter", "program", "layers"):
        table.add_column(name, justify="right" if name == "layers" else "left")
    for answer, example in zip(answers, examples, strict=True):
        program = Program.parse(answer["program"], answer["num_layers"])
        table.add_row(
            example.prompt, example.answer, answer["base"], answer["text"], program_bar(program), str(program.depth)
        )
    return table


def _one_per_level(examples: Sequence[Example]) -> list[Example]:
    return list({example.level: example for example in reversed(examples)}.values())[::-1]


@contextmanager
def stage(console: Console, title: str) -> Iterator[None]:
    """Print a step of the run and how long it took."""
    console.print(f"[bold]{title}[/bold]")
    started = time.perf_counter()
    yield
    console.print(f"   {time.perf_counter() - started:.1f} s")
