"""The base model that ships with the package, and the problems it answers.

A 12-layer Llama of 0.5 M parameters, trained by ``examples/train_embedded_base.py`` to be elastic in depth: see its
card. It loads like any other model, ``AutoModelForCausalLM.from_pretrained(BASE_PATH)``, without a network.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .chains import LEVELS, MODULUS, OPERATIONS, Chain, generate_chains

BASE_PATH = Path(__file__).parent / "base"
"""Folder of the embedded base: config, weights, tokenizer and card."""


def load_embedded_base() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the embedded base and its tokenizer, in evaluation mode, float32, from package data.

        >>> model, tokenizer = load_embedded_base()
        >>> inputs = tokenizer("7 +3 *2 -2 =", return_tensors="pt")
        >>> tokenizer.decode(model.generate(**inputs)[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        '5'

    Returns:
        The model and its tokenizer, which pads on the left.
    """
    model = AutoModelForCausalLM.from_pretrained(BASE_PATH, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(BASE_PATH, local_files_only=True)
    return model, tokenizer


__all__ = [
    "BASE_PATH",
    "LEVELS",
    "MODULUS",
    "OPERATIONS",
    "Chain",
    "generate_chains",
    "load_embedded_base",
]
