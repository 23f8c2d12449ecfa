"""Encoders: from a prompt to the token features a router reads. Frozen, and never part of the adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ..config import PolarConfig
from ..errors import ConfigError
from ..executor import apply_program


class PromptEncoder(ABC):
    """Turns prompts into token features."""

    feature_size: int
    """Width of the features."""

    @abstractmethod
    def encode(self, prompt: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Read prompts.

        Args:
            prompt: Token ids (batch, tokens) or embeddings (batch, tokens, hidden), packed to the left.
            mask: True on real tokens, (batch, tokens).

        Returns:
            Features (batch, read, feature_size) and their mask (batch, read). An encoder with a tokenizer of its own
            may read another number of tokens.
        """


def build_encoder(config: PolarConfig, base: Any) -> PromptEncoder:
    """The encoder a config names, for a base model.

    Raises:
        ConfigError: If the adapter was trained on features of another width.
    """
    encoder = BaseEncoder(base, config.encoder_layers) if config.encoder == "base" else TextEncoder(config)
    if config.feature_size not in (None, encoder.feature_size):
        raise ConfigError(
            f"the adapter reads features of width {config.feature_size}, but {config.encoder!r} gives "
            f"{encoder.feature_size}. Load it over the base model and encoder it was trained with."
        )
    return encoder


class BaseEncoder(PromptEncoder):
    """The frozen base reads its own prompt: token embeddings, or the state after its first layers.

    Args:
        base: The transformers model.
        num_layers: Layers to run; 0 for the embeddings.
    """

    def __init__(self, base: Any, num_layers: int) -> None:
        self.base, self.num_layers = base, num_layers
        self.feature_size = base.get_input_embeddings().weight.shape[1]

    def encode(self, prompt: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`PromptEncoder.encode`."""
        features = prompt if prompt.dim() == 3 else self.base.get_input_embeddings()(prompt)
        if self.num_layers == 0:
            return features, mask
        with apply_program(self.base, range(self.num_layers)):
            outputs = self.base.get_decoder()(inputs_embeds=features, attention_mask=mask.long(), use_cache=False)
        return outputs.last_hidden_state, mask


class TextEncoder(PromptEncoder):
    """A separate frozen text encoder, such as the paper's Qwen3-Embedding-0.6B, loaded when first needed.

    Prompts reach it as text: ids are decoded with the base's tokenizer and encoded again with the encoder's own.

    Args:
        config: Names the encoder, its revision, and the base whose tokenizer decodes the prompts.
    """

    def __init__(self, config: PolarConfig) -> None:
        self.config = config
        self.loaded: tuple[Any, Any, Any] | None = None
        if config.feature_size is None:
            encoder = AutoConfig.from_pretrained(config.encoder, revision=config.encoder_revision)
            config.encoder_revision = getattr(encoder, "_commit_hash", None) or config.encoder_revision
            config.feature_size = encoder.get_text_config().hidden_size
        self.feature_size = config.feature_size

    def encode(self, prompt: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`PromptEncoder.encode`. Embeddings cannot be turned back into text and are refused."""
        if prompt.dim() == 3:
            raise ConfigError(f"encoder {self.config.encoder!r} reads text; pass input_ids instead of inputs_embeds.")
        base_tokenizer, tokenizer, model = self._load(prompt.device)
        texts = [
            base_tokenizer.decode(ids[real], skip_special_tokens=True) for ids, real in zip(prompt, mask, strict=True)
        ]
        inputs = tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.config.max_prompt_tokens,
            padding_side="right",
        ).to(model.device)
        return model(**inputs).last_hidden_state, inputs["attention_mask"].bool()

    def _load(self, device: torch.device) -> tuple[Any, Any, Any]:
        if self.loaded is None:
            if self.config.base_model_name_or_path is None:
                raise ConfigError(
                    "a text encoder needs the base's tokenizer; set base_model_name_or_path in the config."
                )
            source: dict[str, Any] = {"revision": self.config.encoder_revision}
            self.loaded = (
                AutoTokenizer.from_pretrained(self.config.base_model_name_or_path, revision=self.config.revision),
                AutoTokenizer.from_pretrained(self.config.encoder, truncation_side="left", **source),
                AutoModel.from_pretrained(self.config.encoder, **source).eval().to(device),
            )
        return self.loaded
