"""``with apply_program(model, program):`` switches a program on and, whatever happens, off again."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ..errors import ProgramError
from ..program import Program
from .remap import remap_config, restore_config
from .schedule import merge_programs
from .steps import Steps, programmed_class
from .structure import Decoder, find_decoder

ProgramLike = Program | Sequence[int]

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_registry_lock = threading.Lock()


@contextmanager
def apply_program(
    model: nn.Module | Decoder, program: ProgramLike | Sequence[ProgramLike]
) -> Iterator[tuple[Program, ...]]:
    """Run a model's decoder layers in the order of a program, inside a ``with`` block.

    Every use of the model in the block runs the program: ``forward``, ``generate`` in any mode, training. Each position
    of the program owns one cache slot, so results equal those of an unrolled K-layer model. When the block ends the
    model is exactly as before. Blocks nest; the innermost program runs.

    A cache filled inside the block belongs to its program. Do not continue it under another one.

    Programs are a property of the model, not of the thread: a second thread that enters a block for the same model waits
    until the first has left its own.

    Args:
        model: Any transformers model with a decoder, possibly wrapped by PEFT; or its :class:`Decoder`, found before.
        program: A :class:`~polar_adapter.Program`, a sequence of layer indices, or a sequence of these with one entry
            per row of the batches run in the block. Rows may differ; beams and return sequences follow their row.

    Yields:
        The programs, one if they are shared by all rows, else one per row.

    Raises:
        ProgramError: If a program does not fit the model.
        UnsupportedModelError: If the model cannot run programs exactly.

    Example:
        >>> with apply_program(model, [0, 1, 2, 2, 3]):
        ...     model.generate(**inputs)
    """
    decoder = find_decoder(model)
    programs = as_programs(program, decoder.num_layers)
    for each in programs:
        _check_attention_left(decoder, each)
    schedule = merge_programs(tuple(each.path for each in programs))
    with _lock(decoder.layers):
        previous = decoder.layers.__dict__.get("_polar_activation")
        _switch(decoder, previous, (programs, schedule))
        try:
            yield programs
        finally:
            _switch(decoder, (programs, schedule), previous)


def active_programs(model: nn.Module | Decoder) -> tuple[Program, ...] | None:
    """The programs a model is running, or None if it runs its layers as they are.

    Args:
        model: Any transformers model with a decoder; or its :class:`Decoder`, found before.
    """
    activation = find_decoder(model).layers.__dict__.get("_polar_activation")
    return None if activation is None else activation[0]


def as_programs(program: ProgramLike | Sequence[ProgramLike], num_layers: int) -> tuple[Program, ...]:
    """Normalise what :func:`apply_program` accepts into programs of ``num_layers`` layers; one, or one per row.

    Raises:
        ProgramError: If there is none, or one was made for another depth.
    """
    if not isinstance(program, Program):
        entries = list(program)
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
    from .remap import original_value

    for name in ("layer_types", "layers_block_type"):
        if getattr(config, name, None) is not None:
            types = original_value(config, name)
            if len(types) == num_layers:
                return ["attention" in t and "linear" not in t or t in ("hybrid", "hybrid_sliding") for t in types]
    return None


def _switch(decoder: Decoder, old, new) -> None:
    """Replace activation ``old`` of a decoder by ``new``; None stands for the layers as they are."""
    layers, model = decoder.layers, decoder.model
    if old is not None:
        layers.__class__ = type(layers).__mro__[1]
        del layers.__dict__["_polar_steps"], layers.__dict__["_polar_activation"]
        for config in decoder.configs:
            restore_config(config)
    if new is not None:
        _, schedule = new
        steps = Steps(layers, schedule.path, schedule.users)
        for config in decoder.configs:
            remap_config(config, schedule.path, decoder.num_layers, decoder.depth_keys)
        layers.__dict__["_polar_steps"] = steps
        layers.__dict__["_polar_activation"] = new
        layers.__class__ = programmed_class(type(layers))
    # generate() remembers its last static cache to reuse the length; another program needs another cache.
    model.__dict__.pop("_previous_max_cache_length", None)


def _lock(layers: nn.Module) -> threading.RLock:
    with _registry_lock:
        return _locks.setdefault(layers, threading.RLock())
