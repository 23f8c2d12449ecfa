"""Can this model run programs, where are its layers, and if not, why? From a config alone, without weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from ..errors import UnsupportedModelError
from .structure import find_decoder, unwrap


@dataclass(frozen=True)
class ModelReport:
    """What :func:`inspect_model` found.

    Attributes:
        model_type: The family, as its config names it.
        model_class: Class that was inspected; None if transformers has none for this config.
        supported: Whether programs run exactly.
        reason: Why not; None if they do.
        num_layers: Depth D; None if no decoder was found.
        layers_name: Dotted name of the layer list; None if there is none.
        layer_parameters: Parameters of every layer.
        other_parameters: Parameters outside the layers.
        carried: Values besides the hidden states that layers hand on. If there are any, all rows of a batch must run
            the same program.
        forbidden_inputs: Arguments of the decoder that are refused while a program moves layers, such as image features
            that belong to layers by position.
    """

    model_type: str
    model_class: str | None
    supported: bool
    reason: str | None = None
    num_layers: int | None = None
    layers_name: str | None = None
    layer_parameters: tuple[int, ...] = ()
    other_parameters: int = 0
    carried: tuple[str, ...] = ()
    forbidden_inputs: tuple[str, ...] = ()

    @property
    def rows_may_differ(self) -> bool:
        """Whether the rows of a batch may run different programs."""
        return self.supported and not self.carried

    def __str__(self) -> str:
        lines = [f"{self.model_type} ({self.model_class or 'no model class'})"]
        if not self.supported:
            return "\n".join([*lines, "programs    refused", f"reason      {self.reason}"])
        low, high = min(self.layer_parameters), max(self.layer_parameters)
        each = f"{low:,} each" if low == high else f"{low:,} to {high:,} each"
        rows = f"must run the same program: layers hand on {', '.join(self.carried)}" if self.carried else "may differ"
        lines += [
            "programs    supported",
            f"depth       {self.num_layers} layers, in {self.layers_name}",
            f"parameters  {sum(self.layer_parameters):,} in the layers ({each}), {self.other_parameters:,} elsewhere",
            f"rows        {rows}",
        ]
        if self.forbidden_inputs:
            lines.append(f"inputs      without {', '.join(self.forbidden_inputs)}, which belong to layers by position")
        return "\n".join(lines)


def inspect_model(model: nn.Module | PreTrainedConfig | str | os.PathLike) -> ModelReport:
    """Say whether a model can run programs, and where its layers are.

    Args:
        model: A model, a config, a folder, or the name of a model on the Hub. Without a model in hand, one is built
            from the config on the meta device: no weights are loaded, no memory is used.

    Raises:
        OSError: If there is no config at the folder or name.
    """
    if isinstance(model, nn.Module):
        return _report(unwrap(model))
    config = model if isinstance(model, PreTrainedConfig) else AutoConfig.from_pretrained(model)
    try:
        empty = _build_empty(config)
    except (ImportError, UnsupportedModelError) as error:
        return ModelReport(config.model_type, None, False, " ".join(str(error).split()))
    return _report(empty)


def _report(base: PreTrainedModel) -> ModelReport:
    family, name = base.config.model_type, type(base).__name__
    try:
        decoder = find_decoder(base)
    except UnsupportedModelError as error:
        return ModelReport(family, name, False, str(error))
    layer_parameters = tuple(_count(layer) for layer in decoder.layers._modules.values() if layer is not None)
    return ModelReport(
        family,
        name,
        True,
        num_layers=decoder.num_layers,
        layers_name=decoder.layers_name,
        layer_parameters=layer_parameters,
        other_parameters=_count(base) - _count(decoder.layers),
        carried=decoder.loop.carried,
        forbidden_inputs=decoder.loop.forbidden_inputs,
    )


def _build_empty(config: PreTrainedConfig) -> PreTrainedModel:
    """A model of a config, without memory: the class the config names, else the first that generates text."""
    generating = [AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM]
    if config.is_encoder_decoder:
        generating.reverse()
    named = [getattr(transformers, name, None) for name in config.architectures or ()]
    with torch.device("meta"):
        for model_class in named:
            if model_class is not None:
                return model_class(config)
        for auto_class in (*generating, AutoModel):
            mapping: Any = auto_class._model_mapping
            if type(config) in mapping:
                return auto_class.from_config(config)
    raise UnsupportedModelError(
        f"transformers {transformers.__version__} has no model class for {type(config).__name__}."
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
