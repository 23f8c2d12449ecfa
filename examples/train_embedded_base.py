"""Train the base model that ships with the package: a 12-layer Llama that answers chains of modular arithmetic.

It is elastic in depth. What is trained has six layers, run as *programs*: two prelude layers, a block of two layers
run k times, two closing layers. Each batch draws k and chains of about as many operations, and the loss asks for the
running values that k passes can reach. Unrolling the block four times gives the 12 layers of the base. Its standard
pass solves chains of about five operations; each further pass of a block buys about one more, and short chains need
fewer.

    python examples/train_embedded_base.py --output base            # about ten minutes on two CPU cores
    python examples/train_embedded_base.py --output plain --plain   # the same 12 layers, trained without elasticity

Prints the figures measured on fresh problems, writes them beside the model, and fails if they are not what the package
promises of its base.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from polar_adapter import Op, Program, Segment, apply_program, materialize
from polar_adapter.embedded.chains import EQUALS, LEVELS, MODULUS, OPERATIONS, Chain, generate_chains
from polar_adapter.search import Example

LOOPED_LAYERS = 6
LONGEST_CHAIN = max(LEVELS["5"])
MOST_PASSES = LONGEST_CHAIN + 2
SOLVED = 0.95
"""Accuracy from which a program counts as solving a level."""
IGNORED = -100
"""Label of positions without loss, by the convention of torch and transformers."""


def looped_program(passes: int) -> Program:
    """The program over the six trained layers that runs the block ``passes`` times."""
    return Program((0, 1, *(2, 3) * passes, 4, 5), LOOPED_LAYERS)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, and nothing else."""
    words = ["<pad>", "<eos>", "<unk>", EQUALS, *map(str, range(MODULUS)), *OPERATIONS]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=64,
    )


def build_model(num_layers: int, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 38,016 parameters per layer, initialised from torch's current seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


@dataclass(frozen=True)
class Lesson:
    """What one training step asks for.

    Args:
        program: The program to run.
        length: Operations in each chain of the batch.
        reach: Operations the program is expected to follow. Running values beyond it carry no loss.
    """

    program: Program
    length: int
    reach: int


def elastic_lessons(steps: int, rng: random.Random) -> Iterator[Lesson]:
    """Programs of 0 to 10 passes, the longer ones entering over the first 70 % of the training."""
    for step in range(steps):
        passes = rng.randint(0, min(MOST_PASSES, int((MOST_PASSES + 1) * step / (0.7 * steps))))
        # A model learns to follow about two operations more than it is asked to.
        reach = max(1, passes - 1)
        yield Lesson(looped_program(passes), max(1, reach - rng.choice((0, 0, 1))), reach)


def plain_lessons(steps: int, num_layers: int, rng: random.Random) -> Iterator[Lesson]:
    """The standard pass on chains of every length."""
    for _ in range(steps):
        length = rng.randint(1, LONGEST_CHAIN)
        yield Lesson(Program.identity(num_layers), length, length)


def draw_batch(
    lesson: Lesson, size: int, tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Chains with their answers, and at each token the label it should predict.

    Returns:
        Token ids and labels, both (size, length + 3): start, operations, ``=``, answer. An operation's label is the
        running value, within reach; the answer's is end of text.
    """
    chains = [Chain.draw(lesson.length, rng) for _ in range(size)]
    input_ids = torch.tensor(tokenizer([f"{chain.prompt} {chain.answer}" for chain in chains])["input_ids"])
    values = torch.tensor(tokenizer([" ".join(map(str, chain.values)) for chain in chains])["input_ids"])
    values[:, lesson.reach :] = IGNORED
    labels = torch.full_like(input_ids, IGNORED)
    labels[:, 1 : lesson.length + 1] = values
    labels[:, lesson.length + 1] = values[:, -1]
    labels[:, lesson.length + 2] = tokenizer.eos_token_id
    return input_ids, labels


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    lessons: Iterator[Lesson],
    steps: int,
    batch_size: int,
    learning_rate: float,
    rng: random.Random,
) -> None:
    """AdamW over the lessons, with a warm-up and a cosine decay to 5 % of the learning rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = max(1, min(100, steps // 10))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / warmup, 0.525 + 0.475 * math.cos(math.pi * max(0, step - warmup) / max(1, steps - warmup))
        ),
    )
    model.train()
    for lesson in track(lessons, description="training", total=steps):
        input_ids, labels = draw_batch(lesson, batch_size, tokenizer, rng)
        with apply_program(model, lesson.program):
            logits = model(input_ids, use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    model.eval()


def random_program(num_layers: int, rng: random.Random) -> Program:
    """A program of the grammar: segments of one to four layers, about half of them kept."""
    segments, start = [], 0
    while start < num_layers:
        stop = min(num_layers, start + rng.randint(1, 4))
        times = rng.choice((0, 1, 1, 1, 2, 3, 4))
        op = Op.SKIP if times == 0 else Op.KEEP if times == 1 else Op.REPEAT
        segments.append(Segment(start, stop, op, times))
        start = stop
    return Program.from_segments(segments) if any(s.times for s in segments) else random_program(num_layers, rng)


def single_edits(num_layers: int) -> Iterator[Program]:
    """Every program that skips one segment of the standard pass, or repeats it up to four times."""
    for length in range(1, 5):
        for start in range(num_layers - length + 1):
            for times in (0, 2, 3, 4):
                segment = tuple(range(start, start + length))
                yield Program((*range(start), *segment * times, *range(start + length, num_layers)), num_layers)


@torch.inference_mode()
def solved(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, examples: list[Example], program: Program
) -> Tensor:
    """Which problems a program answers: greedy decoding yields the answer, then the end of the text.

    Teacher forcing gives the same verdict as decoding, in one pass.

    Returns:
        (examples,), bool.
    """
    texts = [f"{example.prompt} {example.answer} {tokenizer.eos_token}" for example in examples]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with apply_program(model, program):
        logits = model(**inputs, use_cache=False).logits
    return (logits[:, -3:-1].argmax(-1) == inputs.input_ids[:, -2:]).all(-1)


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, problems: int, programs: int, seed: int
) -> dict:
    """Accuracy of the standard pass, and what programs can add to it, on fresh problems.

    With hundreds of programs and thirteen answers some program is right by luck. What single programs do for a whole
    level is not luck: hence the best of them, and the fewest layers that solve a level.

    Args:
        model: The base.
        tokenizer: Its tokenizer.
        problems: How many problems, the levels equally frequent.
        programs: How many random programs to try beside the single edits.
        seed: Of the problems and the random programs.

    Returns:
        Figures as JSON values, accuracies as fractions.
    """
    depth = model.config.num_hidden_layers
    rng = random.Random(seed)
    examples = generate_chains(problems, seed)
    drawn = (random_program(depth, rng) for _ in range(programs))
    tried = list(dict.fromkeys((Program.identity(depth), *single_edits(depth), *drawn)))
    right = torch.stack([solved(model, tokenizer, examples, p) for p in track(tried, description="measuring")]).float()

    def figures(members: Tensor) -> dict[str, Any]:
        accuracy = right[:, members].mean(1).tolist()
        best = max(range(len(tried)), key=lambda index: (accuracy[index], -tried[index].depth))
        return {
            "base_accuracy": accuracy[0],
            "valid_program": right[:, members].amax(0).mean().item(),
            "best_program": {"program": str(tried[best]), "depth": tried[best].depth, "accuracy": accuracy[best]},
            "layers_needed": min((p.depth for p, a in zip(tried, accuracy, strict=True) if a >= SOLVED), default=None),
        }

    levels = {name: torch.tensor([example.level == name for example in examples]) for name in LEVELS}
    return {
        "num_layers": depth,
        "parameters": model.num_parameters(),
        "problems": len(examples),
        "programs": len(tried),
        "overall": figures(torch.ones(len(examples), dtype=torch.bool)),
        "levels": {name: figures(members) for name, members in levels.items()},
    }


def rows(figures: dict) -> Iterator[tuple[str, ...]]:
    """The figures as the cells of a table: a header, the levels, all of them together."""
    yield (
        "level",
        "operations",
        "standard pass",
        "some program",
        f"layers that solve {SOLVED:.0%}",
        "best single program",
    )
    everything = ("all", range(1, LONGEST_CHAIN + 1), figures["overall"])
    for name, lengths, row in [*((name, LEVELS[name], row) for name, row in figures["levels"].items()), everything]:
        best = row["best_program"]
        yield (
            name,
            "–".join(str(length) for length in dict.fromkeys((lengths[0], lengths[-1]))),
            f"{row['base_accuracy']:.1%}",
            f"{row['valid_program']:.1%}",
            str(row["layers_needed"] or "–"),
            f"{best['accuracy']:.1%} at {best['depth']}",
        )


def broken_promises(figures: dict, plain: bool) -> list[str]:
    """What the package promises of the base and these figures do not show."""
    overall, needed = figures["overall"], figures["levels"]["1"]["layers_needed"]
    low, high = (0.60, 0.85) if plain else (0.40, 0.80)
    broken = []
    if not low <= overall["base_accuracy"] <= high:
        broken.append(
            f"the standard pass solves {overall['base_accuracy']:.1%} of the problems, not {low:.0%}-{high:.0%}"
        )
    if not plain and overall["valid_program"] < 0.95:
        broken.append(f"{overall['valid_program']:.1%} of the problems have a valid program, not 95%")
    if not plain and (needed is None or needed > 8):
        broken.append(f"solving {SOLVED:.0%} of level 1 takes {needed or 'more than all'} layers, not 8")
    return broken


def write_card(folder: Path, figures: dict, arguments: argparse.Namespace) -> None:
    """Write the model card, measured figures included."""
    header, *body = [f"| {' | '.join(row)} |" for row in rows(figures)]
    table = "\n".join((header, "|---" * header.count(" | ") + "|---|", *body))
    card = PLAIN_CARD if arguments.plain else ELASTIC_CARD
    training = f"{'--plain ' * arguments.plain}--steps {arguments.steps} --seed {arguments.seed}"
    (folder / "README.md").write_text(CARD.format(about=card, table=table, training=training, **figures))


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags:
- arithmetic
- layer-programs
---

# Base for polar_adapter: chains of arithmetic

A Llama of {num_layers} layers and {parameters:,} parameters that answers chains of arithmetic modulo 13, applied from
left to right: `7 +3 *2 -2 =` is `5`. The operations are `+1 +3 +5 -2 *2 *3 *5 *7`; every word is one token.

{about}

## Measured

{problems} problems drawn anew, the levels equally frequent; on each, {programs} programs: the standard pass, all that
skip one segment of it or repeat it up to four times, and random ones. An answer counts if greedy decoding yields it and
then ends. *Some program*: at least one is right, be it by luck. *Layers that solve*: the depth of the shortest single
program that reaches this accuracy on the level. *Best single program*: its accuracy on the level and its depth.

{table}

Training has seen all of the 936 chains of level 1, and practically none of those of level 5.

## Training

`python examples/train_embedded_base.py {training}`, on synthetic chains only: no natural language, no personal data.
For demonstrations and tests; of no use beyond them.
"""

ELASTIC_CARD = """**It was built to be elastic in depth.** Two prelude layers, a block of two layers and two closing
layers were trained with the block run zero to ten times; then the block was unrolled. Short chains therefore need fewer
passes than the standard one makes, and each further pass of a block buys about one more operation. Models trained in
the ordinary way are elastic too, but less, and less regularly.

Why build such a model? So that searching for programs, training a router and evaluating it can be shown from end to
end, with honest numbers, in minutes on a CPU and without a download. Real models are reached by the same commands, but
their weights do not ship with the package. Gains seen here say that the machinery works. They do not say what it gains
on a language model."""

PLAIN_CARD = """**It was trained plainly**: all layers, in order, on chains of every length, and stopped early enough to
leave errors. It is the counterpart of the elastic base that ships with the package, and shows what programs do where
nothing was prepared for them."""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--plain", action="store_true", help="train the standard pass only, without elasticity")
    parser.add_argument("--layers", type=int, default=12, help="depth of the finished model: even, 6 or more")
    parser.add_argument("--steps", type=int, help="training steps [1600, plain: 700]")
    parser.add_argument("--batch-size", type=int, default=128, help="chains per step")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0, help="of weights, training data and measurement")
    parser.add_argument("--problems", type=int, default=500, help="fresh problems to measure on")
    parser.add_argument("--programs", type=int, default=200, help="random programs to measure with")
    parser.add_argument("--no-check", action="store_true", help="accept any figures, as for a short trial")
    arguments = parser.parse_args()
    if arguments.layers < LOOPED_LAYERS or arguments.layers % 2:
        parser.error(f"--layers is {arguments.layers}; give an even number, {LOOPED_LAYERS} or more")
    arguments.steps = arguments.steps or (700 if arguments.plain else 1600)
    return arguments


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    tokenizer = build_tokenizer()
    passes = (arguments.layers - LOOPED_LAYERS) // 2 + 1
    model: PreTrainedModel
    if arguments.plain:
        model = build_model(arguments.layers, tokenizer)
        lessons = plain_lessons(arguments.steps, arguments.layers, rng)
    else:
        model = build_model(LOOPED_LAYERS, tokenizer)
        lessons = elastic_lessons(arguments.steps, rng)
    train(model, tokenizer, lessons, arguments.steps, arguments.batch_size, arguments.learning_rate, rng)
    if not arguments.plain:
        model = materialize(model, looped_program(passes))
    model.generation_config = GenerationConfig(
        max_new_tokens=2, do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )

    figures = measure(model, tokenizer, arguments.problems, arguments.programs, seed=arguments.seed + 1)
    header, *body = rows(figures)
    table = Table(*header, title=f"{figures['problems']} fresh problems, {figures['programs']} programs tried on each")
    for row in body:
        table.add_row(*row)
    console.print(table)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    (arguments.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    write_card(arguments.output, figures, arguments)
    console.print(f"Written to {arguments.output}")
    if not arguments.no_check and (broken := broken_promises(figures, arguments.plain)):
        raise SystemExit("This is not the base the package promises: " + "; ".join(broken) + ".")


if __name__ == "__main__":
    main()
