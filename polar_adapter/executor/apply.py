"""``with apply_program(model, program):`` switches a program on and, whatever happens, off again."""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..errors import ProgramError, UnsupportedModelError
from ..program import Program
from .remap import original_value, remap_config, restore_config
from .schedule import Path, merge_programs
from .steps import Steps, list_class, programmed_class
from .structure import Decoder, find_decoder

ProgramLike = Program | str | Sequence[int]

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_switching = threading.RLock()
"""Held while configs may be half changed, and to read them."""


@dataclass(frozen=True, eq=False)
class Activation:
    """One block of :func:`apply_program` that is open.

    Attributes:
        decoder: Where the layers are.
        programs: One program, or one per row.
        path: Layer index of every step.
        steps: The steps themselves.
        thread: The only thread that may take the block for its own; None if any may.
    """

    decoder: Decoder
    programs: tuple[Program, ...]
    path: Path
    steps: Steps
    thread: int | None


@contextmanager
def apply_program(
    model: nn.Module | Decoder, program: ProgramLike | Sequence[ProgramLike], private: bool = False
) -> Iterator[tuple[Program, ...]]:
    """Run a model's decoder layers in the order of a program, inside a ``with`` block.

    Every use of the model in the block runs the program: ``forward``, ``generate`` in any mode, training. Each position
    of the program owns one cache slot, so results equal those of an unrolled K-layer model. When the block ends the
    model is exactly as before. Blocks nest; the innermost program runs.

    A cache filled inside the block belongs to its program. Do not continue it under another one.

    Programs are a property of the model, not of the thread: a second thread that enters a block for the same model
    waits until the first has left its own, and one that calls the model outside any block runs whatever program is
    active. A thread that wants the plain model while others set programs says so: ``apply_program(model, range(D))``.

    Args:
        model: Any transformers model with a decoder, possibly wrapped by PEFT; or its :class:`Decoder`, found before.
        program: A :class:`~polar_adapter.Program`, its text form, layer indices, or a sequence of these with one entry
            per row of the batches run in the block. Rows may differ; beams and return sequences follow their row.
        private: Hide the block from :func:`active_programs` in other threads, so that they open their own instead of
            joining this one. For code that opens a block around a single call.

    Yields:
        The programs, one if they are shared by all rows, else one per row.

    Raises:
        ProgramError: If a program does not fit the model.
        UnsupportedModelError: If the model cannot run programs exactly.

    Example:
        >>> with apply_program(model, [0, 1, 2, 2, 3]):
        ...     model.generate(**inputs)
    """
    with _switching:
        decoder = find_decoder(model)
        programs = as_programs(program, decoder.num_layers)
        for each in programs:
            _check_attention_left(decoder, each)
        _check_rows(decoder, programs)
    schedule = merge_programs(tuple(each.path for each in programs))
    with _lock(decoder.layers), _own_generation_state(decoder.model), _only_exact_inputs(decoder, programs):
        steps = Steps(decoder.layers, schedule.path, schedule.users)
        activation = Activation(decoder, programs, schedule.path, steps, threading.get_ident() if private else None)
        try:
            _show(decoder, (*_open_activations(decoder), activation))
            yield programs
        finally:
            # Not always the innermost: generators that hold blocks may end in any order.
            _show(decoder, tuple(each for each in _open_activations(decoder) if each is not activation))


def active_programs(model: nn.Module | Decoder) -> tuple[Program, ...] | None:
    """The programs a model is running, or None if it runs its layers as they are.

    Args:
        model: Any transformers model with a decoder; or its :class:`Decoder`, found before.
    """
    with _switching if isinstance(model, nn.Module) else nullcontext():
        activations = _open_activations(find_decoder(model))
    thread = activations[-1].thread if activations else None
    if not activations or (thread is not None and thread != threading.get_ident()):
        return None
    return activations[-1].programs


def as_programs(program: ProgramLike | Sequence[ProgramLike], num_layers: int) -> tuple[Program, ...]:
    """Normalise what :func:`apply_program` accepts into programs of ``num_layers`` layers; one, or one per row.

    Raises:
        ProgramError: If there is none, or one was made for another depth.
    """
    if isinstance(program, str):
        program = Program.parse(program, num_layers)
    elif not isinstance(program, Program):
        entries: list[Any] = list(program)
        if not entries:
            raise ProgramError("no program was given; pass a Program, layer indices, or one of these per row.")
        if any(isinstance(entry, Program) or hasattr(entry, "__iter__") for entry in entries):
            programs = tuple(p for entry in entries for p in as_programs(entry, num_layers))
            return programs[:1] if len(set(programs)) == 1 else programs
        program = Program(entries, num_layers)
    if program.num_layers != num_layers:
        raise ProgramError(
            f"program '{program}' was made for {program.num_layers} layers, but the model has {num_layers} layers "
            f"(0-{num_layers - 1}). Use a program made for this base model."
        )
    return (program,)


def _check_attention_left(decoder: Decoder, program: Program) -> None:
    """Hybrid models measure the cached length on an attention layer: a program must leave them one."""
    types = next((t for c in decoder.configs if (t := _attention_flags(c, decoder.num_layers))), None)
    if types and any(types) and not all(types) and not any(types[index] for index in program.path):
        raise ProgramError(
            f"program '{program}' runs none of the model's attention layers "
            f"({[i for i, attends in enumerate(types) if attends]}), on which transformers measures the length of the "
            "cache. Keep at least one of them."
        )


def _attention_flags(config, num_layers: int) -> list[bool] | None:
    for name in ("layer_types", "layers_block_type"):
        if getattr(config, name, None) is not None:
            types = original_value(config, name)
            if len(types) == num_layers:
                return [("attention" in t and "linear" not in t) or t in ("hybrid", "hybrid_sliding") for t in types]
    return None


def _check_rows(decoder: Decoder, programs: tuple[Program, ...]) -> None:
    """Rows part after a layer: that keeps apart its hidden states, but nothing else it hands on."""
    if len(programs) > 1 and decoder.loop.carried:
        raise UnsupportedModelError(
            f"{type(decoder.model).__name__} hands {', '.join(decoder.loop.carried)} from layer to layer, so the rows of "
            "a batch cannot run different programs. Run rows of the same program together."
        )


@contextmanager
def _only_exact_inputs(decoder: Decoder, programs: tuple[Program, ...]) -> Iterator[None]:
    """Refuse inputs that the model assigns to layers by their position, as long as a program moves them."""
    forbidden = decoder.loop.forbidden_inputs
    if not forbidden or all(program.is_identity for program in programs):
        yield
        return

    def check(module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = inspect.signature(type(module).forward).bind_partial(module, *args, **kwargs).arguments
        for name in forbidden:
            if given.get(name) is not None:
                raise UnsupportedModelError(
                    f"{type(module).__name__} assigns {name} to layers by their position, which a program changes. "
                    "Run such inputs without a program; text alone is exact."
                )

    handle = decoder.owner.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _open_activations(decoder: Decoder) -> tuple[Activation, ...]:
    return decoder.layers.__dict__.get("_polar_activations", ())


def _show(decoder: Decoder, activations: tuple[Activation, ...]) -> None:
    """Make layers and configs show the last of ``activations``, whatever they show now, be it half of another one."""
    layers = decoder.layers
    with _switching:
        layers.__dict__["_polar_activations"] = activations
        for config in decoder.configs:
            restore_config(config)
        if activations:
            current = activations[-1]
            for config in current.decoder.configs:
                remap_config(config, current.path, current.decoder.num_layers, current.decoder.depth_keys)
            _tell_depth(decoder, len(current.path))
            layers.__dict__["_polar_steps"] = current.steps
            layers.__class__ = programmed_class(list_class(layers))
        else:
            _tell_depth(decoder, decoder.num_layers)
            layers.__class__ = list_class(layers)
            layers.__dict__.pop("_polar_steps", None)
            del layers.__dict__["_polar_activations"]


def _tell_depth(decoder: Decoder, depth: int) -> None:
    """Set the attributes that the loop compares with a layer's position, besides the config."""
    for name in decoder.loop.depth_attributes:
        setattr(decoder.owner, name, depth)


@contextmanager
def _own_generation_state(model: PreTrainedModel) -> Iterator[None]:
    """Put aside what ``generate()`` keeps on the model for its next call: it was made for another depth."""
    names = ("_previous_max_cache_length", "_cached_continuous_batching_manager")
    before = {name: model.__dict__.pop(name) for name in names if name in model.__dict__}
    try:
        yield
    finally:
        for name in names:
            model.__dict__.pop(name, None)
        model.__dict__.update(before)


def _lock(layers: nn.Module) -> threading.RLock:
    with _switching:
        return _locks.setdefault(layers, threading.RLock())
