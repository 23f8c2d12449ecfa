"""The ``polar-adapter`` command: parse, call, print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import AdapterError, PolarError

DESCRIPTION = """Program-of-Layers adapters for frozen language models (arXiv:2606.06574).

The usual order: search finds programs for questions, train learns which program suits a prompt, evaluate compares the
adapter with its base, generate uses it. quickstart does all of it on the base that ships with the package."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: Arguments; those of the process by default.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (PolarError, OSError) as error:
        # A user's mistake is one line, not a traceback.
        print(f"polar-adapter: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            "polar-adapter: interrupted. A search goes on where it was when the same command is run again.",
            file=sys.stderr,
        )
        sys.exit(130)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser("polar-adapter", description=DESCRIPTION, formatter_class=_Help)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = _add(commands, "quickstart", _quickstart, "the whole method on the embedded base, in under two minutes")
    command.add_argument("--output", type=Path, default=Path("polar-quickstart"), help="folder for adapter and figures")
    command.add_argument("--seed", type=int, default=0, help="seed of everything")

    command = _add(commands, "search", _search, "search programs for the questions of a dataset")
    _add_model(command)
    _add_questions(command)
    command.add_argument("--output", type=Path, required=True, help="records file (JSON lines); continued if it exists")
    command.add_argument("--simulations", type=int, default=200, help="programs tried per question")
    command.add_argument("--strategy", default="mcts", help="mcts, random, sweep or beam")
    command.add_argument("--mode", default="both", help="edits allowed: both, skip or loop")
    command.add_argument("--max-executions", type=int, default=4, help="most executions of a repeated segment, 2 to 5")
    command.add_argument("--max-depth", type=int, help="most executed layers of a program")
    command.add_argument("--concurrent", type=int, default=64, help="questions that advance together")
    command.add_argument("--verify", action="store_true", help="score valid programs again in another batch")

    command = _add(commands, "train", _train, "train a router from search records and save it as an adapter")
    _add_model(command)
    _add_questions(command)
    command.add_argument("--records", type=Path, required=True, help="records file or folder that search wrote")
    command.add_argument("--output", type=Path, required=True, help="adapter folder")
    command.add_argument("--router", default="menu", choices=("menu", "segment"), help="kind of router")
    command.add_argument("--menu-size", type=int, default=16, help="most programs in the menu")
    command.add_argument("--cost-weight", type=float, default=0.05, help="price of one full pass, as a probability")
    command.add_argument("--router-dim", type=int, default=256, help="width of the router")
    command.add_argument("--epochs", type=float, default=10, help="passes over the training questions")
    command.add_argument("--learning-rate", type=float, default=1e-3, help="peak of the cosine schedule")
    command.add_argument("--train-batch-size", type=int, default=64, help="questions per step")

    command = _add(commands, "evaluate", _evaluate, "compare an adapter with its base on held-out questions")
    command.add_argument("--adapter", type=Path, required=True, help="adapter folder")
    _add_model(command, required=False)
    _add_questions(command)
    command.add_argument("--static", help="best static program, chosen on training data, in text form")
    command.add_argument("--cost-weight", type=float, help="override the adapter's price of one full pass")
    command.add_argument("--max-depth", type=int, help="hard limit on executed layers")
    command.add_argument("--json", type=Path, dest="json_path", help="also write the evaluation here")

    command = _add(commands, "generate", _generate, "answer prompts with an adapter, beside its base")
    command.add_argument("prompts", nargs="+", metavar="PROMPT", help="prompts")
    command.add_argument("--adapter", required=True, help="adapter folder or Hub id")
    _add_model(command, required=False)
    _add_prompting(command)
    command.add_argument("--cost-weight", type=float, help="override the adapter's price of one full pass")
    command.add_argument("--max-depth", type=int, help="hard limit on executed layers")
    command.add_argument("--json", action="store_true", help="print JSON")

    command = _add(commands, "inspect", _inspect, "say whether a model can run programs, and where its layers are")
    command.add_argument("model", help="model folder or Hub id; 'embedded' for the base that ships with the package")
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps paragraphs and shows defaults."""


def _add(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", formatter_class=_Help
    )
    command.set_defaults(run=run)
    return command


def _add_model(command: argparse.ArgumentParser, required: bool = True) -> None:
    text = "base model: folder, Hub id, or 'embedded' for the one that ships with the package"
    command.add_argument(
        "--model", required=required, help=text + ("" if required else "; by default the adapter's own")
    )
    command.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    command.add_argument("--device", help="device to run on; by default the accelerator if there is one")


def _add_prompting(command: argparse.ArgumentParser) -> None:
    command.add_argument("--plain", action="store_true", help="prompts are the questions verbatim, without instruction")
    command.add_argument("--max-new-tokens", type=int, default=50, help="tokens to generate")


def _add_questions(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dataset", required=True, help="dataset name, file or folder; 'chains' for the embedded base"
    )
    command.add_argument("--split", help="split of the dataset")
    command.add_argument("--limit", type=int, help="most questions")
    command.add_argument("--seed", type=int, default=0, help="seed of the selection and of the search")
    command.add_argument("--grader", help="exact, choice or math; by default the dataset's own")
    _add_prompting(command)


def _quickstart(arguments: argparse.Namespace) -> None:
    from .quickstart import QuickstartSettings, run_quickstart

    run_quickstart(arguments.output, QuickstartSettings(seed=arguments.seed))


def _search(arguments: argparse.Namespace) -> None:
    from .discover import search_programs
    from .search import SearchSettings

    model, tokenizer = _load(arguments)
    names = ("simulations", "strategy", "mode", "max_executions", "max_depth", "seed")
    settings = SearchSettings(**{name: getattr(arguments, name) for name in names})
    records = search_programs(
        model,
        tokenizer,
        _questions(arguments),
        arguments.output,
        settings,
        _oracle(arguments, model, tokenizer),
        arguments.concurrent,
        arguments.verify,
    )
    solved = [record.shortest_valid for record in records if record.shortest_valid is not None]
    print(f"{len(records)} questions, {len(solved)} with a valid program; records in {arguments.output}")


def _train(arguments: argparse.Namespace) -> None:
    from .workflows import train_adapter

    model, tokenizer = _load(arguments)
    train_adapter(model, tokenizer, _questions(arguments), _oracle(arguments, model, tokenizer), arguments)
    print(f"adapter saved in {arguments.output}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from .evaluation import evaluate_router, evaluation_table
    from .executor import find_decoder
    from .program import Program

    model, tokenizer = _load(arguments, adapter=str(arguments.adapter))
    static = Program.parse(arguments.static, find_decoder(model).num_layers) if arguments.static else None
    oracle = _oracle(arguments, model, tokenizer)
    evaluation = evaluate_router(model, tokenizer, _questions(arguments), oracle, static, **_choice(arguments))
    Console().print(evaluation_table(evaluation))
    if arguments.json_path:
        arguments.json_path.write_text(json.dumps(evaluation.to_dict(), indent=2) + "\n")


def _generate(arguments: argparse.Namespace) -> None:
    from .workflows import answer_prompts

    model, tokenizer = _load(arguments, adapter=arguments.adapter)
    answers = answer_prompts(
        model, tokenizer, arguments.prompts, _template(arguments), arguments.max_new_tokens, **_choice(arguments)
    )
    if arguments.json:
        print(json.dumps(answers, indent=2))
        return
    for answer in answers:
        print(f"{answer['prompt']}\n  base:    {answer['base']}\n  adapter: {answer['text']}   [{answer['program']}]")


def _inspect(arguments: argparse.Namespace) -> None:
    from .executor.support import inspect_model

    print(inspect_model(_source(arguments.model)))


def _choice(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("cost_weight", "max_depth")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _source(model: str) -> str:
    if model == "embedded":
        from .embedded import BASE_PATH

        return str(BASE_PATH)
    return model


def _load(arguments: argparse.Namespace, adapter: str | None = None) -> tuple[Any, Any]:
    """The base with its tokenizer; with an adapter, the adapter over its base."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if adapter is not None:
        _adapter_config(adapter)
    source = None if arguments.model is None else _source(arguments.model)
    if source is None:
        source = _adapter_config(str(adapter)).base_model_name_or_path
        if source is None:
            raise PolarError(f"adapter {adapter} does not name its base model; pass it with --model.")
    device = arguments.device or (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    )
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=arguments.dtype)
    model = model.to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    return (model if adapter is None else PeftModel.from_pretrained(model, adapter).eval()), tokenizer


def _adapter_config(adapter: str) -> Any:
    from .config import PolarConfig

    try:
        return PolarConfig.from_pretrained(adapter)
    except PolarError:
        raise
    except ValueError as error:  # PEFT's way to say that there is nothing
        raise AdapterError(f"{adapter} is neither an adapter folder nor an adapter on the Hub.") from error


def _questions(arguments: argparse.Namespace) -> Any:
    if arguments.dataset == "chains":
        from .embedded import generate_chains

        if arguments.split not in (None, "train", "test"):
            raise PolarError(f"chains have the splits train and test, not {arguments.split!r}.")
        if arguments.split != "test":
            return generate_chains(arguments.limit or 500, arguments.seed)
        # Held out: none of the first 2,000 training chains of the same seed.
        return generate_chains(
            arguments.limit or 500, arguments.seed + 1, exclude=generate_chains(2000, arguments.seed)
        )
    from .data import load_examples

    return load_examples(arguments.dataset, split=arguments.split, limit=arguments.limit, seed=arguments.seed)


def _template(arguments: argparse.Namespace) -> Any:
    from .data import PromptTemplate

    return PromptTemplate.plain() if arguments.plain else PromptTemplate()


def _oracle(arguments: argparse.Namespace, model: Any, tokenizer: Any) -> Any:
    from .data import SOURCES
    from .grading import get_grader
    from .scoring import GenerationOracle

    source = SOURCES.get(arguments.dataset)
    grader = arguments.grader or (source.grader if source else "exact")
    return GenerationOracle(model, tokenizer, get_grader(grader), _template(arguments), arguments.max_new_tokens)
