"""Steps: layers as a program executes them, each with its own cache slot.

A step is a *shallow twin* of its layer. Only the modules that remember their position, and those on the way to them, are
new objects; parameters, buffers, hooks and all other submodules are the layer's own. Nothing is copied, so a weight
update, ``.to()`` or a LoRA injected into the layer reaches its twins, which look again before each pass.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProgramError
from .structure import INDEX_ATTRIBUTES


class Twin:
    """A module that shares everything with its original but its position.

    Args:
        original: A decoder layer, or a module inside one.
        slot: Position of the step, and its cache slot.
        rows: Which rows of the batch use the step; None if all do. Applies to the layer itself, not to its children.
    """

    def __init__(self, original: nn.Module, slot: int, rows: Rows | None = None) -> None:
        self.original, self.slot = original, slot
        cls = type(original) if rows is None else _selecting_class(type(original))
        self.module: nn.Module = cls.__new__(cls)
        self.rows = rows
        self.children: dict[str, Twin] = {}
        self.seen: dict[str, Any] = {}
        self.seen_modules: dict[str, Any] = {}
        self.refresh()

    def refresh(self) -> None:
        """Follow the original: its mode, its hooks, its children."""
        source, modules = self.original.__dict__, self.original._modules
        if not _same(source, self.seen) or not _same(modules, self.seen_modules):
            self._copy(source, modules)
        for child in self.children.values():
            child.refresh()

    def _copy(self, source: dict[str, Any], modules: dict[str, nn.Module | None]) -> None:
        self.seen, self.seen_modules = dict(source), dict(modules)
        for name, module in modules.items():
            known = self.children.get(name)
            if module is None or not _holds_position(module):
                self.children.pop(name, None)
            elif known is None or known.original is not module:
                self.children[name] = Twin(module, self.slot)
        own = {name: _rebind(value, self.original, self.module) for name, value in source.items()}
        own["_modules"] = {**modules, **{name: child.module for name, child in self.children.items()}}
        own.update({name: self.slot for name in INDEX_ATTRIBUTES if isinstance(own.get(name), int)})
        if self.rows is not None:
            own["_polar_rows"] = self.rows
        target = self.module.__dict__
        target.update(own)
        for name in target.keys() - own.keys():
            del target[name]


class Rows:
    """Which rows of a batch a step serves.

    Args:
        users: One bool per program.
    """

    def __init__(self, users: tuple[bool, ...]) -> None:
        self.users = users

    def select(self, output: Any, hidden_states: Tensor) -> Any:
        """Keep a layer's output for the rows that use the step, and its input for the others.

        Args:
            output: What the layer returned: a tensor (batch, …) or a tuple that begins with one.
            hidden_states: What it was given, (batch, …). The batch may hold several consecutive rows per program, as
                beams and return sequences do.
        """
        batch = hidden_states.shape[0]
        if batch % len(self.users):
            raise ProgramError(
                f"{len(self.users)} programs were set, one per row, but the batch has {batch} rows. "
                "Give one program per row; beams and return sequences may multiply the rows."
            )
        # torch.tensor of constants, not a stored tensor: nothing to move between devices or to copy.
        mask = torch.tensor(self.users, device=hidden_states.device).repeat_interleave(batch // len(self.users))
        mask = mask.view(-1, *[1] * (hidden_states.dim() - 1))
        if isinstance(output, tuple):
            return (torch.where(mask, output[0], hidden_states), *output[1:])
        return torch.where(mask, output, hidden_states)


@cache
def _selecting_class(layer_class: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a layer class whose forward keeps its result only for the rows of its step."""

    def forward(self, *args, **kwargs):
        hidden_states = args[0] if args else kwargs["hidden_states"]
        return self._polar_rows.select(layer_class.forward(self, *args, **kwargs), hidden_states)

    functools.update_wrapper(forward, layer_class.forward, assigned=("__doc__", "__annotations__"), updated=())
    return type(layer_class.__name__, (layer_class,), {"forward": forward, "__module__": layer_class.__module__})


def _holds_position(module: nn.Module) -> bool:
    return any(isinstance(m.__dict__.get(name), int) for m in module.modules() for name in INDEX_ATTRIBUTES)


def _same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return len(now) == len(before) and all(before.get(name, now) is value for name, value in now.items())


def _rebind(value: Any, original: nn.Module, twin: nn.Module) -> Any:
    """Point methods and partials that hold the original at the twin; accelerate's hooks are of this kind."""
    if isinstance(value, types.MethodType) and value.__self__ is original:
        name = value.__func__.__name__
        own = value.__func__ is getattr(type(original), name, None)
        return types.MethodType(getattr(type(twin), name) if own else value.__func__, twin)
    if isinstance(value, functools.partial) and any(argument is original for argument in value.args):
        arguments = (twin if argument is original else argument for argument in value.args)
        rebound = functools.partial(value.func, *arguments, **value.keywords)
        rebound.__dict__.update(value.__dict__)
        return rebound
    return value


class Steps:
    """The K steps of one activation, built once and refreshed before each pass.

    Args:
        layers: The decoder's D layers.
        path: Layer index of every step.
        users: For every step, the programs that use it (see :class:`~polar_adapter.executor.schedule.Schedule`).
    """

    def __init__(self, layers: nn.ModuleList, path: tuple[int, ...], users: tuple[tuple[bool, ...], ...]) -> None:
        self.twins: list[Twin] = []
        self.modules: list[nn.Module] = []
        for slot, (index, served) in enumerate(zip(path, users, strict=True)):
            layer = nn.ModuleList.__getitem__(layers, index)
            rows = None if all(served) else Rows(served)
            if slot == index and rows is None:
                self.modules.append(layer)  # it is already what the step should be
                continue
            twin = Twin(layer, slot, rows)
            self.twins.append(twin)
            self.modules.append(twin.module)

    def current(self) -> list[nn.Module]:
        """The steps, up to date with their layers."""
        if not torch.compiler.is_compiling():
            for twin in self.twins:
                twin.refresh()
        return self.modules


@cache
def programmed_class(list_class: type[nn.ModuleList]) -> type[nn.ModuleList]:
    """A subclass of a layer list's class that loops over the active steps.

    Indexing by number, ``len`` and everything that registers or names modules still show the D layers, so state-dict
    keys, hooks and device maps do not change.
    """

    def __iter__(self) -> Iterator[nn.Module]:  # noqa: N807
        return iter(self._polar_steps.current())

    def __getitem__(self, index):  # noqa: N807
        if isinstance(index, slice):
            return self._polar_steps.current()[index]
        return list_class.__getitem__(self, index)

    return type(list_class.__name__, (list_class,), {"__iter__": __iter__, "__getitem__": __getitem__})
