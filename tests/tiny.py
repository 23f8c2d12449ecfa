"""How a tiny model of a decoder family is built from a config, and its relatives of other depths.

A family states its config as a function of a *path*, the kinds of layers that stand in its stack: for the base the path is
0 … D-1, and for the unrolled reference of a program it is the program itself. It is written here without a line of the
package under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

Path = Sequence[int]

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
DROP = object()
"""Leaves a common keyword out."""


@dataclass(frozen=True)
class PerLayer:
    """A config value that depends on which layers stand in the stack."""

    values: Callable[[Path], Any]


def cycle(*kinds: Any) -> PerLayer:
    """One entry per layer; layer i of the base has kind ``i % len(kinds)``."""
    return PerLayer(lambda path: [kinds[index % len(kinds)] for index in path])


def at(*layers: int) -> PerLayer:
    """The positions at which these layers of the base stand."""
    return PerLayer(lambda path: [slot for slot, index in enumerate(path) if index in layers])


@dataclass(frozen=True)
class Family:
    """A decoder family and how to make it tiny.

    Attributes:
        name: Model type, or a name of our own with ``config_class``.
        settings: Config keywords beyond the common ones; :class:`PerLayer` values depend on the path.
        text: For multimodal families, keywords of the nested text config. ``settings`` are then those of the outer one.
        config_class: Name of the config class; found by ``name`` if None.
        model_class: Name of the model class; the family's causal language model if None.
        depth_keys: Config keywords that hold the number of decoder layers.
        cache_depth_key: Config attribute from which transformers sizes the cache although it is the encoder's depth.
        corrected: Per-layer lists that the config class does not leave as they are given.
        derived: Per-layer lists that the family's config derives from a formula.
        by_position: What a layer is depends on its position in the base, so a K-layer config cannot say which layer
            stands where, or says something else about it.
        tier: "fast" families run in the default test run.
        refused: Part of the reason for which the family is refused; None if it is supported.
        notes: For the documentation.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] | None = None
    config_class: str | None = None
    model_class: str | None = None
    depth_keys: tuple[str, ...] = ("num_hidden_layers",)
    cache_depth_key: str | None = None
    corrected: tuple[str, ...] = ()
    derived: dict[str, PerLayer] = field(default_factory=dict)
    by_position: bool = False
    tier: str = "slow"
    refused: str | None = None
    notes: str = ""

    def config(self, path: Path) -> PreTrainedConfig:
        """The config of a stack whose k-th layer is of the kind of the base's layer ``path[k]``."""
        depth = dict.fromkeys(self.depth_keys, len(path))
        if self.text is None:
            keywords = _resolve(SIZES | TOKENS | depth | self.settings, path)
        else:
            text = _resolve(SIZES | TOKENS | depth | self.text, path)
            keywords = {"text_config": text, "tie_word_embeddings": False, **_resolve(TOKENS | self.settings, path)}
        cls = getattr(transformers, self.config_class) if self.config_class else CONFIG_MAPPING[self.name]
        if self.derived:
            lists = {name: per_layer.values(path) for name, per_layer in self.derived.items()}
            cls = type(cls.__name__, (cls,), {name: property(lambda self, v=v: v) for name, v in lists.items()})
        config = cls(**keywords)
        for name in self.corrected:
            setattr(config, name, keywords[name])
        return config

    def model_type(self, config: PreTrainedConfig) -> type[PreTrainedModel]:
        """The class that a config of this family builds."""
        if self.model_class:
            return getattr(transformers, self.model_class)
        return MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[config.model_type]]

    def build(self, num_layers: int = 6) -> PreTrainedModel:
        """A base of this family in eval mode, with the same random weights every time."""
        config = self.config(range(num_layers))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = self.model_type(config)(config)
            # Initial weights are too small to make layers differ: every program would give the same text.
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        # Some configs insist on an end token; rows of a batch should not stop at different lengths.
        model.generation_config.eos_token_id = None
        return model.eval()


def _resolve(keywords: dict[str, Any], path: Path) -> dict[str, Any]:
    kept = {name: value for name, value in keywords.items() if value is not DROP}
    return {name: value.values(path) if isinstance(value, PerLayer) else value for name, value in kept.items()}
