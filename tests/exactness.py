"""What "exact" means, as code: programs, ways to use a model, and the comparison with the unrolled model."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from families import FAMILIES
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedModel
from unrolled import build_unrolled

from polar_adapter import ProgramError, apply_program

NUM_LAYERS = 6
PROGRAMS = {
    "identity": (0, 1, 2, 3, 4, 5),
    "skip-first": (1, 2, 3, 4, 5),
    "skip-last": (0, 1, 2, 3, 4),
    "one-layer": (2,),
    "repeat-segment": (0, 1, 2, 1, 2, 3, 4, 5),
    "one-layer-three-times": (3, 3, 3),
    "skip-and-repeat": (0, 2, 3, 2, 3, 5),
    "reorder": (5, 0, 2, 1),
}
ROWS = ((0, 1, 2, 3, 4, 5), (0, 1, 2, 2, 3), (1, 3, 2, 3, 5))
"""Programs for the rows of one batch."""

PROMPTS = torch.randint(1, 60, (3, 7), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(PROMPTS)
MASK[1, :3] = MASK[2, :5] = 0
PADDED = PROMPTS * MASK


def logits(model: PreTrainedModel, prompts: Tensor = PADDED, mask: Tensor = MASK) -> Tensor:
    """Logits of a forward pass, (batch, tokens, vocabulary)."""
    answer = {"decoder_input_ids": PROMPTS[: len(prompts)]} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(prompts, attention_mask=mask, **answer).logits


def greedy(model: PreTrainedModel, prompts: Tensor = PADDED, mask: Tensor = MASK, **options) -> Tensor:
    """Token ids of a greedy answer of five tokens, (batch, tokens)."""
    return model.generate(prompts, attention_mask=mask, max_new_tokens=5, do_sample=False, **options)


MODES: dict[str, Callable[[PreTrainedModel], Tensor]] = {
    "forward": lambda model: logits(model, PROMPTS, torch.ones_like(PROMPTS)),
    "padded forward": logits,
    "cached": greedy,
    "uncached": lambda model: greedy(model, use_cache=False),
    "beam": lambda model: greedy(model, num_beams=2),
    "static cache": lambda model: greedy(model, cache_implementation="static", disable_compile=True),
}


@lru_cache(maxsize=2)
def base_model(name: str) -> PreTrainedModel:
    """The base of a family; no test may change it."""
    return FAMILIES[name].build(NUM_LAYERS)


def compare(name: str, program: tuple[int, ...]) -> dict[str, str]:
    """Compare a program with its unrolled model in every mode.

    Returns:
        For each mode "equal", "different", the error of the program, or, if the unrolled model itself cannot do it, "not
        offered: …" with the reason of transformers.

    Raises:
        ProgramError: If the family cannot run this program.
    """
    base = base_model(name)
    with apply_program(base, program):
        pass
    try:
        unrolled = build_unrolled(FAMILIES[name], base, program, NUM_LAYERS)
    except (ValueError, StrictDataclassError) as error:  # "expects at least one layer of kind …"
        return dict.fromkeys(MODES, f"not offered: {_first_line(error)}")
    return {mode: _compare(run, base, unrolled, program) for mode, run in MODES.items()}


def _compare(run: Callable, base: PreTrainedModel, unrolled: PreTrainedModel, program: tuple[int, ...]) -> str:
    try:
        expected = run(unrolled)
    except Exception as error:  # whatever transformers raises, the program need not do better
        return f"not offered: {_first_line(error)}"
    try:
        with apply_program(base, program):
            result = run(base)
    except Exception as error:
        return f"{type(error).__name__}: {_first_line(error)}"
    return "equal" if torch.equal(result, expected) else "different"


def compare_rows(name: str, programs: tuple[tuple[int, ...], ...] = ROWS) -> str:
    """Compare a batch whose rows run different programs with each row alone, left padding included.

    Returns:
        "equal", or what differs.
    """
    base = base_model(name)
    with apply_program(base, programs):
        all_logits, all_tokens = logits(base), greedy(base)
    for row, program in enumerate(programs):
        prompt, mask = PADDED[row : row + 1], MASK[row : row + 1]
        with apply_program(base, program):
            row_logits, row_tokens = logits(base, prompt, mask), greedy(base, prompt, mask)
        # The logits of padding mean nothing; a decoder behind an encoder is not padded.
        real = slice(None) if base.config.is_encoder_decoder else MASK[row].bool()
        if not torch.allclose(all_logits[row][real], row_logits[0][real], rtol=1e-5, atol=1e-5):
            return f"logits of row {row}: {(all_logits[row][real] - row_logits[0][real]).abs().max():.1e}"
        if not torch.equal(all_tokens[row], row_tokens[0]):
            return f"tokens of row {row}"
    return "equal"


def runnable(name: str, program: tuple[int, ...]) -> bool:
    """Whether a family can run a program; hybrids need an attention layer."""
    try:
        with apply_program(base_model(name), program):
            return True
    except ProgramError:
        return False


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:100]
