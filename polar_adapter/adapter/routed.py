"""A transformers model that chooses a program for every prompt it is given.

While an adapter is in place the model's class is replaced by a subclass of itself, which routes in ``forward`` and
``generate`` and adds :meth:`RoutedModel.route`, :meth:`RoutedModel.use_program` and :attr:`RoutedModel.last_programs`.
Nothing else about the model changes, and the original class is put back on ``unload``.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..errors import ConfigError
from ..executor import Decoder, active_programs, apply_program
from ..executor.apply import ProgramLike
from ..program import Program
from ..routers import RoutedProgram
from .layer import RouterLayer

CHOICE_ARGUMENTS = ("cost_weight", "identity_margin", "max_depth")
ROUTER_ARGUMENTS = ("prompt_mask", "program_labels", "program_weights", *CHOICE_ARGUMENTS)


@dataclass
class RouterOutput(ModelOutput):
    """What a routed model returns when it is given ``program_labels``: the router's training step, no language model.

    Attributes:
        loss: Supervised loss of the router, scalar.
        logits: The router's logits, (batch, …).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None


class RoutedModel:
    """Mixin of the subclasses that :func:`routed_class` makes; its host is a ``PreTrainedModel``."""

    program_router: RouterLayer

    def route(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        num_programs: int = 1,
        inputs_embeds: Tensor | None = None,
        **choice: Any,
    ) -> list[list[RoutedProgram]]:
        """Rank programs for prompts, without running them.

        Args:
            input_ids: Prompts, (batch, tokens).
            attention_mask: 1 on real tokens, (batch, tokens). Without it, padding is recognised by ``pad_token_id``.
            num_programs: How many programs to return per prompt.
            inputs_embeds: Embedded prompts (batch, tokens, hidden) instead of ``input_ids``.
            **choice: ``cost_weight``, ``identity_margin`` and ``max_depth`` override the config's.

        Returns:
            For each row its programs, the one that ``generate()`` would run first. Rows without a prompt get the
            identity.
        """
        if unknown := choice.keys() - set(CHOICE_ARGUMENTS):
            raise TypeError(
                f"route() got unexpected arguments {sorted(unknown)}; choices are {list(CHOICE_ARGUMENTS)}."
            )
        prompt = input_ids if inputs_embeds is None else inputs_embeds
        if prompt is None:
            raise ConfigError("nothing to route on: pass input_ids or inputs_embeds.")
        mask = self._prompt_mask(input_ids, attention_mask, prompt)
        layer = self._active_layer()
        identity = [RoutedProgram(self._identity, 0.0, 0.0)]
        if layer is None:
            return [identity for _ in range(len(prompt))]
        # Dropout would make the choice, and with it the answer, depend on the mode of the model.
        was_training = layer.active_router.training
        layer.active_router.eval()
        try:
            with torch.no_grad():
                ranked = layer.active_router.rank(layer.logits(prompt, mask), num_programs, layer.options(choice))
        finally:
            layer.active_router.train(was_training)
        return [row if read else identity for row, read in zip(ranked, mask.any(dim=1).tolist(), strict=True)]

    def use_program(self, program: ProgramLike | Sequence[ProgramLike]) -> AbstractContextManager[tuple[Program, ...]]:
        """Pin a program, or one per row: inside the ``with`` block nothing is routed.

        Args:
            program: As for :func:`polar_adapter.apply_program`.
        """
        return apply_program(self.program_router.decoder, program)

    @property
    def last_programs(self) -> tuple[Program, ...] | None:
        """Programs of the latest ``forward`` or ``generate``, one per row; None before the first."""
        return self.__dict__.get("_polar_last_programs")

    @property
    def _identity(self) -> Program:
        return Program.identity(self.program_router.decoder.num_layers)

    def _active_layer(self) -> RouterLayer | None:
        layer = self.program_router
        return None if layer.active_name is None else layer

    def _prompt_mask(self, input_ids: Tensor | None, attention_mask: Tensor | None, prompt: Tensor) -> Tensor:
        if attention_mask is not None and attention_mask.dim() == 2:
            return attention_mask[:, -prompt.shape[1] :].bool()
        padding = getattr(self.generation_config, "pad_token_id", None)  # type: ignore[attr-defined]
        if input_ids is not None and padding is not None and not _is_end(self.generation_config, padding):  # type: ignore[attr-defined]
            return input_ids != padding
        return torch.ones(prompt.shape[:2], dtype=torch.bool, device=prompt.device)

    def _choose(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        cache: Any,
        choice: dict[str, Any],
    ) -> tuple[Program, ...]:
        """One program per row: the cached conversation's own, or the router's first choice."""
        rows = len(input_ids if input_ids is not None else inputs_embeds)  # type: ignore[arg-type]
        if cache is not None and cache.get_seq_length() > 0:
            # Keys and values belong to the program that computed them; a cache of the plain model to the identity.
            kept = getattr(cache, "polar_programs", None) or (self._identity,)
            return _expand(kept, rows)
        ranked = self.route(input_ids, attention_mask, 1, inputs_embeds, **choice)
        return tuple(row[0].program for row in ranked)


def _is_end(generation_config: Any, token: int) -> bool:
    ends = generation_config.eos_token_id
    return token in ends if isinstance(ends, (list, tuple)) else token == ends


def _pop_choice(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: kwargs.pop(name) for name in CHOICE_ARGUMENTS if name in kwargs}


def _forward(self: Any, base_forward: Any, signature: inspect.Signature, args: tuple, kwargs: dict[str, Any]) -> Any:
    labels, weights = kwargs.pop("program_labels", None), kwargs.pop("program_weights", None)
    prompt_mask, choice = kwargs.pop("prompt_mask", None), _pop_choice(kwargs)
    running = active_programs(self.program_router.decoder)
    if labels is None and running is not None:
        # generate() has routed already, or the user has pinned a program.
        outputs = base_forward(self, *args, **kwargs)
        _mark(getattr(outputs, "past_key_values", None), running)
        return outputs
    given = signature.bind_partial(self, *args, **kwargs).arguments
    given = {**given.pop("kwargs", {}), **given}
    input_ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
    prompt: Any = input_ids if embeds is None else embeds
    mask = self._prompt_mask(input_ids, given.get("attention_mask"), prompt)
    if prompt_mask is not None:
        mask = mask & prompt_mask.bool()
    if labels is not None:
        return _router_step(self, prompt, mask, labels, weights)
    if self._active_layer() is None:
        self.__dict__["_polar_last_programs"] = (self._identity,) * len(mask)
        return base_forward(self, *args, **kwargs)
    if prompt_mask is None and (targets := given.get("labels")) is not None and targets.shape == mask.shape:
        mask = mask & ((targets != -100).long().cumsum(dim=1) == 0)
    cache = given.get("past_key_values")
    programs = self._choose(input_ids, mask, embeds, cache, choice)
    self.__dict__["_polar_last_programs"] = programs
    with apply_program(self.program_router.decoder, programs, private=True):
        outputs = base_forward(self, *args, **kwargs)
    _mark(cache, programs)
    _mark(getattr(outputs, "past_key_values", None), programs)
    return outputs


def _router_step(self: Any, prompt: Tensor, mask: Tensor, labels: Tensor, weights: Tensor | None) -> RouterOutput:
    layer = self._active_layer()
    if layer is None:
        raise ConfigError("program_labels were given, but no adapter is active. Enable one with set_adapter().")
    logits = layer.logits(prompt, mask)
    return RouterOutput(loss=layer.active_router.loss(logits, labels.to(logits.device), weights), logits=logits)


def _generate(self: Any, base_generate: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    choice, prompt_mask = _pop_choice(kwargs), kwargs.pop("prompt_mask", None)
    running = active_programs(self.program_router.decoder)
    inputs = args[0] if args else kwargs.get("inputs")
    input_ids = kwargs.get("input_ids") if inputs is None else inputs
    embeds = kwargs.get("inputs_embeds")
    prompt: Any = input_ids if embeds is None else embeds
    if running is None and self._active_layer() is not None and prompt is not None:
        cache = kwargs.get("past_key_values")
        mask = self._prompt_mask(input_ids, kwargs.get("attention_mask"), prompt)
        mask = mask if prompt_mask is None else mask & prompt_mask.bool()
        programs = self._choose(input_ids, mask, embeds, cache, choice)
        self.__dict__["_polar_last_programs"] = programs
        with apply_program(self.program_router.decoder, programs, private=True):
            outputs = base_generate(self, *args, **kwargs)
        _mark(cache, programs)
        _mark(getattr(outputs, "past_key_values", None), programs)
        return outputs
    if running is None:
        running = (self._identity,)
    rows = 1 if prompt is None else len(prompt)
    self.__dict__["_polar_last_programs"] = _expand(running, rows)
    outputs = base_generate(self, *args, **kwargs)
    _mark(kwargs.get("past_key_values"), running)
    _mark(getattr(outputs, "past_key_values", None), running)
    return outputs


def _expand(programs: tuple[Program, ...], rows: int) -> tuple[Program, ...]:
    """One program per row, where beams or return sequences have made several consecutive rows of each."""
    if rows % len(programs):
        raise ConfigError(
            f"the cache was filled by {len(programs)} rows with programs of their own, but {rows} rows continue it. "
            "Continue with as many rows, or start a new cache."
        )
    return tuple(program for program in programs for _ in range(rows // len(programs)))


def _mark(cache: Any, programs: tuple[Program, ...]) -> None:
    """Remember on a cache the programs that filled it, so that a conversation continues under them."""
    if cache is not None and not isinstance(cache, tuple):
        cache.polar_programs = programs


@cache
def routed_class(model_class: Any) -> type:
    """The routing subclass of a model class; it keeps the name by which transformers knows the class."""
    signature = inspect.signature(model_class.forward)

    @wraps(model_class.forward)
    def forward(self, *args, **kwargs):
        return _forward(self, model_class.forward, signature, args, kwargs)

    @wraps(model_class.generate)
    def generate(self, *args, **kwargs):
        return _generate(self, model_class.generate, args, kwargs)

    # Trainer and generate() read the signature to learn which arguments a model takes.
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ROUTER_ARGUMENTS]
    known = list(signature.parameters.values())
    tail = [p for p in known if p.kind is inspect.Parameter.VAR_KEYWORD]
    head = [p for p in known if p.kind is not inspect.Parameter.VAR_KEYWORD]
    forward.__signature__ = signature.replace(parameters=[*head, *extra, *tail])  # type: ignore[attr-defined]
    namespace = {
        "forward": forward,
        "generate": generate,
        "__module__": model_class.__module__,
        "__qualname__": model_class.__qualname__,
        "__doc__": model_class.__doc__,
    }
    return type(model_class.__name__, (RoutedModel, model_class), namespace)


def install(decoder: Decoder) -> RouterLayer:
    """Give a model the ability to route. The router layer is referred to, not registered: see the tuner.

    Args:
        decoder: The model's decoder.
    """
    base: Any = decoder.model
    if isinstance(base, RoutedModel):
        return base.program_router
    layer = RouterLayer(decoder)
    base.__class__ = routed_class(type(base))  # type: ignore[arg-type]
    base.__dict__["program_router"] = layer
    return layer


def uninstall(base: nn.Module) -> None:
    """Take the ability away again; the model is what it was."""
    base.__class__ = next(c for c in type(base).__mro__[1:] if c is not RoutedModel)
    for name in ("program_router", "_polar_last_programs"):
        base.__dict__.pop(name, None)
    base._modules.pop("program_router", None)
