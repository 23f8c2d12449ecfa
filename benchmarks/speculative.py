"""Lossless speculative decoding with a model's own layers as the drafter: acceptance and speed per draft program.

    python benchmarks/speculative.py
    python benchmarks/speculative.py --model <hub id or folder> --prompt "Once upon a time" --program "0-7 20-27"

A shorter program of the base drafts a few tokens, one pass of the whole base checks them, and what comes out is the
base's own greedy text. ``materialize(model, program, share_weights=True)`` makes the drafter out of the base's tensors,
so it costs no memory. The default is the embedded base on chains of arithmetic, continued for a fixed number of tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from polar_adapter import Program, materialize
from polar_adapter.embedded import generate_chains, load_embedded_base


@dataclass(frozen=True)
class Result:
    """How one draft program did.

    Attributes:
        program: The draft program.
        depth: Its layers.
        acceptance: Share of drafted tokens that the base would have written itself.
        tokens_per_pass: Tokens of text per pass of the base.
        speed: Time of plain greedy decoding over time with drafts; above 1 is faster.
        lossless: Whether every text is the base's own.
    """

    program: str
    depth: int
    acceptance: float
    tokens_per_pass: float
    speed: float
    lossless: bool


def default_programs(depth: int) -> list[Program]:
    """Every other layer, the first and the last quarter, the first half, and the whole model as an upper bound."""
    quarter = max(1, depth // 4)
    paths = (
        range(0, depth, 2),
        (*range(quarter), *range(depth - quarter, depth)),
        range(depth // 2),
        range(depth),
    )
    return [Program(path, depth) for path in paths]


class Passes:
    """Counts the base's passes and the tokens drafted for them, while text is generated."""

    def __init__(self, model: PreTrainedModel, prompt_length: int) -> None:
        self.count, self.drafted = 0, -prompt_length
        self.handle = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        # The first pass reads the prompt and the drafts, each later one the latest token and the drafts.
        self.drafted += kwargs["input_ids"].shape[1] - (self.count > 0)
        self.count += 1


def compare(
    model: PreTrainedModel, program: Program, prompts: list[torch.Tensor], options: dict, drafts: int
) -> Result:
    """Generate every prompt's text plainly and with drafts."""
    drafter = materialize(model, program, share_weights=True)
    drafter.generation_config.num_assistant_tokens = drafts
    drafter.generation_config.num_assistant_tokens_schedule = "constant"
    drafter.generation_config.assistant_confidence_threshold = 0.0
    passes = drafted = written = 0
    speeds, lossless = [], True
    for prompt in prompts:
        start = time.perf_counter()
        plain = model.generate(prompt, **options)
        middle = time.perf_counter()
        text = model.generate(prompt, assistant_model=drafter, **options)
        end = time.perf_counter()
        speeds.append((middle - start) / (end - middle))
        lossless &= torch.equal(text, plain)

        counter = Passes(model, prompt.shape[1])
        model.generate(prompt, assistant_model=drafter, **options)
        counter.handle.remove()
        passes, drafted = passes + counter.count, drafted + counter.drafted
        written += text.shape[1] - prompt.shape[1]
    # Each pass writes one token of its own; the others were drafted.
    return Result(
        program=str(program),
        depth=program.depth,
        acceptance=(written - passes) / drafted,
        tokens_per_pass=written / passes,
        speed=statistics.median(speeds),
        lossless=lossless,
    )


def load(arguments: argparse.Namespace) -> tuple[PreTrainedModel, list[torch.Tensor]]:
    """The base and its prompts."""
    if arguments.model is None:
        model, tokenizer = load_embedded_base()
        texts = [chain.prompt for chain in generate_chains(arguments.prompts, seed=0)]
    else:
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto", device_map=arguments.device)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
        texts = arguments.prompt or ["Once upon a time"]
    model = model.to(arguments.device).eval()
    return model, [tokenizer(text, return_tensors="pt").input_ids.to(arguments.device) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or folder of a causal language model (default: the embedded base)")
    parser.add_argument("--prompt", action="append", help="a prompt for --model; may be given several times")
    parser.add_argument("--prompts", type=int, default=10, help="chains for the embedded base (default: 10)")
    parser.add_argument(
        "--program", action="append", help="a draft program, as '0-3 8-11' (default: a few of every kind)"
    )
    parser.add_argument("--drafts", type=int, default=5, help="tokens drafted per pass of the base (default: 5)")
    parser.add_argument("--tokens", type=int, default=24, help="tokens to write (default: 24)")
    parser.add_argument("--device", default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()

    model, prompts = load(arguments)
    depth = model.config.get_text_config().num_hidden_layers
    programs = [Program.parse(text, depth) for text in arguments.program or ()] or default_programs(depth)
    options = {"max_new_tokens": arguments.tokens, "min_new_tokens": arguments.tokens, "do_sample": False}
    results = [compare(model, program, prompts, options, arguments.drafts) for program in programs]

    table = Table(title=f"{len(prompts)} prompts, {arguments.tokens} tokens, {arguments.drafts} drafts a pass")
    for heading in ("draft program", "layers", "accepted", "tokens a pass", "speed", "text"):
        table.add_column(heading, justify="left" if heading in ("draft program", "text") else "right")
    for result in results:
        table.add_row(
            result.program,
            f"{result.depth} of {depth}",
            f"{result.acceptance:.1%}",
            f"{result.tokens_per_pass:.2f}",
            f"{result.speed:.2f}×",
            "the base's own" if result.lossless else "[red]differs[/]",
        )
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
