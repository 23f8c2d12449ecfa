"""What running programs costs: time per token against the untouched model, and time to set a program.

    python benchmarks/executor_cost.py
    python benchmarks/executor_cost.py --device cuda --hidden 2048 --dtype bfloat16 --json docs/executor_cost_gpu.json

All cases take turns in one process, repeat after repeat; a ratio is the median over repeats of the ratio within a
repeat, so that a machine that speeds up or slows down does not tilt it.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from polar_adapter import apply_program
from polar_adapter.executor import merge_programs

DEPTH = 28
ROWS = 8
IDENTITY = tuple(range(DEPTH))
TWICE = tuple(layer for layer in IDENTITY for _ in range(2))


def random_program(seed: int) -> tuple[int, ...]:
    """A program of the paper's grammar: segments of 1 to 4 layers, skipped, kept or run twice with equal chances."""
    draw, path, start = random.Random(seed), [], 0
    while start < DEPTH:
        stop = min(DEPTH, start + draw.randint(1, 4))
        path += list(range(start, stop)) * draw.randint(0, 2)
        start = stop
    return tuple(path)


DIFFERENT = tuple(random_program(seed) for seed in range(ROWS))


def build_model(hidden: int, device: str, dtype: str) -> PreTrainedModel:
    """A 28-layer Llama of the proportions of Llama-3.2-3B, with random weights."""
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=DEPTH,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
    )
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()


class Bench:
    """Times decoding and prefill of one model.

    Args:
        model: The model.
        prompt_length: Tokens read before decoding.
        tokens: Tokens decoded per repeat.
    """

    def __init__(self, model: PreTrainedModel, prompt_length: int, tokens: int) -> None:
        self.model, self.tokens = model, tokens
        self.prompt = torch.randint(1024, (ROWS, prompt_length), device=model.device)

    def _now(self) -> float:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def decode(self, program: Sequence | None, rows: int = 1) -> float:
        """Seconds per decoded token under a program (None: the untouched model, outside any block)."""
        with apply_program(self.model, program) if program else nullcontext():
            cache = DynamicCache(config=self.model.config)
            token = self.model(self.prompt[:rows], past_key_values=cache).logits[:, -1:].argmax(-1)
            start = self._now()
            for _ in range(self.tokens):
                token = self.model(token, past_key_values=cache).logits[:, -1:].argmax(-1)
            return (self._now() - start) / self.tokens

    def prefill(self, program: Sequence | None, rows: int = 1) -> float:
        """Seconds to read the prompts."""
        with apply_program(self.model, program) if program else nullcontext():
            cache = DynamicCache(config=self.model.config)
            start = self._now()
            self.model(self.prompt[:rows], past_key_values=cache, logits_to_keep=1)
            return self._now() - start

    def set_program(self, program: Sequence) -> float:
        """Seconds to enter and leave a block, for programs not seen before."""
        merge_programs.cache_clear()
        start = self._now()
        with apply_program(self.model, program):
            pass
        return self._now() - start


def one_by_one(measure: Callable[[Sequence, int], float]) -> float:
    """Seconds if every row is a batch of its own."""
    return sum(measure(program, 1) for program in DIFFERENT)


@torch.inference_mode()
def run(bench: Bench, repeats: int) -> dict[str, list[float]]:
    """Seconds of each case, one entry per repeat; the cases take turns."""
    cases: dict[str, Callable[[], float]] = {
        "untouched": lambda: bench.decode(None),
        "identity": lambda: bench.decode(IDENTITY),
        "half the layers": lambda: bench.decode(IDENTITY[::2]),
        "each layer twice": lambda: bench.decode(TWICE),
        "8 rows, untouched": lambda: bench.decode(None, ROWS),
        "8 rows, 8 programs": lambda: bench.decode(DIFFERENT, ROWS),
        "8 batches of one row": lambda: one_by_one(bench.decode),
        "prefill, 8 rows, untouched": lambda: bench.prefill(None, ROWS),
        "prefill, 8 rows, 8 programs": lambda: bench.prefill(DIFFERENT, ROWS),
        "prefill, 8 batches of one row": lambda: one_by_one(bench.prefill),
        "setting: identity": lambda: bench.set_program(IDENTITY),
        "setting: each layer twice": lambda: bench.set_program(TWICE),
        "setting: 8 programs": lambda: bench.set_program(DIFFERENT),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, case in cases.items():
            measured = case()
            if repeat:  # the first round warms up
                seconds[name].append(measured)
    return seconds


# (case, in units of, at most): None where nothing is promised.
RATIOS: list[tuple[str, str, float | None]] = [
    ("identity", "untouched", 1.02),
    ("half the layers", "untouched", 0.55),
    ("each layer twice", "untouched", 2.05),
    ("8 rows, 8 programs", "8 rows, untouched", 2.5),
    ("8 batches of one row", "8 rows, untouched", None),
    ("8 batches of one row", "8 rows, 8 programs", None),
    ("prefill, 8 rows, 8 programs", "prefill, 8 rows, untouched", None),
    ("prefill, 8 batches of one row", "prefill, 8 rows, untouched", None),
]
MOST_SECONDS_TO_SET = 0.005


def summarise(seconds: dict[str, list[float]]) -> list[dict]:
    """One record per promise: what was measured, in units of what, and the bound."""
    records = []
    for case, unit, bound in RATIOS:
        ratio = statistics.median(a / b for a, b in zip(seconds[case], seconds[unit], strict=True))
        records.append({"case": case, "unit": unit, "value": ratio, "at_most": bound})
    for case in (name for name in seconds if name.startswith("setting")):
        records.append(
            {"case": case, "unit": "seconds", "value": statistics.median(seconds[case]), "at_most": MOST_SECONDS_TO_SET}
        )
    return records


def show(records: list[dict], setup: dict, console: Console) -> None:
    table = Table(title=", ".join(f"{name} {value}" for name, value in setup.items()))
    for heading in ("case", "measured", "in units of", "at most"):
        table.add_column(heading, justify="left" if heading in ("case", "in units of") else "right")
    for record in records:
        seconds, bound = record["unit"] == "seconds", record["at_most"]
        value = f"{record['value'] * 1e3:.2f} ms" if seconds else f"{record['value']:.3f}×"
        limit = "" if bound is None else (f"{bound * 1e3:.0f} ms" if seconds else f"{bound}×")
        colour = "" if bound is None else "green" if record["value"] <= bound else "red"
        table.add_row(
            record["case"], f"[{colour}]{value}[/]" if colour else value, "" if seconds else record["unit"], limit
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--hidden", type=int, default=256, help="width of the model, a multiple of 256 (default: 256)")
    parser.add_argument("--dtype", default="float32", help="torch dtype (default: float32)")
    parser.add_argument("--prompt", type=int, default=64, help="prompt length in tokens (default: 64)")
    parser.add_argument("--tokens", type=int, default=16, help="tokens decoded per repeat (default: 16)")
    parser.add_argument("--repeats", type=int, default=11, help="repeats of every case (default: 11)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    model = build_model(arguments.hidden, arguments.device, arguments.dtype)
    cuda = model.device.type == "cuda"
    setup = {
        "device": torch.cuda.get_device_name()
        if cuda
        else f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
        "hidden": arguments.hidden,
        "dtype": arguments.dtype,
        "layers": DEPTH,
        "torch": torch.__version__,
    }
    seconds = run(Bench(model, arguments.prompt, arguments.tokens), arguments.repeats)
    records = summarise(seconds)
    steps = len(merge_programs(DIFFERENT).path)
    console = Console()
    show(records, setup, console)
    console.print(f"{ROWS} programs of {sum(map(len, DIFFERENT))} layer runs in all were merged into {steps} steps.")
    if arguments.json:
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        document = {
            "setup": setup,
            "merged_steps": steps,
            "records": records,
            "median_seconds": medians,
            "seconds": seconds,
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
