"""Steps: layers as a program executes them, each with its own cache slot.

A step is a *shallow twin* of its layer. Only the modules that remember their position, and those on the way to them,
are new objects; parameters, buffers, hooks and all other submodules are the layer's own. Nothing is copied, so a weight
update, ``.to()`` or a LoRA injected into the layer reaches its twins, which look again before each pass.
"""

from __future__ import annotations

import functools
import operator
import types
from collections.abc import Callable, Iterator
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
        self.original, self.slot, self.rows = original, slot, rows
        cls: Any = type(original)
        if rows is not None:
            cls = selecting_class(cls)
        self.module: nn.Module = cls.__new__(cls)
        self.children: dict[str, Twin] = {}
        self._follow()

    def refresh(self) -> None:
        """Look again at the original: its mode, its hooks, its children."""
        if not _same(self.original.__dict__, self.seen) or not _same(self.original._modules, self.seen_modules):
            self._follow()
        for child in self.children.values():
            child.refresh()

    def _follow(self) -> None:
        # Copies first: another thread may run the original and set attributes meanwhile.
        self.seen: dict[str, Any] = dict(self.original.__dict__)
        self.seen_modules: dict[str, nn.Module | None] = dict(self.original._modules)
        for name, module in self.seen_modules.items():
            known = self.children.get(name)
            if module is None or not _holds_position(module):
                self.children.pop(name, None)
            elif known is None or known.original is not module:
                self.children[name] = Twin(module, self.slot)
        own = self.seen | {
            "_modules": self.seen_modules | {name: child.module for name, child in self.children.items()},
            "_compiled_call_impl": None,  # Module.compile() binds the original, hence its slot: a twin runs eagerly
        }
        for name, value in self.seen.items():
            if isinstance(value, (types.MethodType, functools.partial)):
                own[name] = _rebind(value, self.original, self.module)
            elif name in INDEX_ATTRIBUTES and isinstance(value, int):
                own[name] = self.slot
        if self.rows is not None:
            own["_polar_rows"] = self.rows
            if isinstance(own.get("forward"), types.MethodType):  # a patch of this one layer
                own["forward"] = functools.partial(self.rows.run, own["forward"])
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
        self.masks: dict[tuple[int, torch.device], Tensor] = {}

    def run(self, forward: Callable, *args, **kwargs) -> Any:
        """Run a layer; keep its result for the rows that use the step, and its input for the others.

        Args:
            forward: The layer's forward, which returns hidden states (batch, …) or a sequence that begins with them.
            *args: Its arguments; the first, or ``hidden_states``, is what it was given, (batch, …).
            **kwargs: Its arguments by name.
        """
        hidden_states = args[0] if args else kwargs["hidden_states"]
        output = forward(*args, **kwargs)
        mask = self.mask(hidden_states).view(-1, *[1] * (hidden_states.dim() - 1))
        if isinstance(output, (tuple, list)):
            return type(output)((torch.where(mask, output[0], hidden_states), *output[1:]))
        return torch.where(mask, output, hidden_states)

    def mask(self, hidden_states: Tensor) -> Tensor:
        """True on the rows of the step, (batch,).

        The batch may hold several consecutive rows per program, as beams and return sequences do.

        Raises:
            ProgramError: If the batch is no multiple of the number of programs.
        """
        batch, device = hidden_states.shape[0], hidden_states.device
        if batch % len(self.users):
            raise ProgramError(
                f"{len(self.users)} programs were set, one per row, but the batch has {batch} rows. "
                "Give one program per row; beams and return sequences may multiply the rows."
            )
        if torch.compiler.is_compiling():
            return self._mask(batch, device)
        # Kept: sending it to a GPU waits for everything launched before.
        if (batch, device) not in self.masks:
            with torch.inference_mode(False):
                self.masks[batch, device] = self._mask(batch, device)
        return self.masks[batch, device]

    def _mask(self, batch: int, device: torch.device) -> Tensor:
        return torch.tensor(self.users, device=device).repeat_interleave(batch // len(self.users))


@cache
def selecting_class(layer_class: Any) -> type:
    """A subclass of a layer class whose forward keeps its result only for the rows of its step."""

    def forward(self, *args, **kwargs):
        return self._polar_rows.run(functools.partial(layer_class.forward, self), *args, **kwargs)

    functools.update_wrapper(forward, layer_class.forward, assigned=("__doc__", "__annotations__"), updated=())
    return type(layer_class.__name__, (layer_class,), {"forward": forward, "__module__": layer_class.__module__})


def _holds_position(module: nn.Module) -> bool:
    own = module.__dict__  # plain loops, for setting a program comes down to this
    for name in INDEX_ATTRIBUTES:
        if isinstance(own.get(name), int):
            return True
    for child in own["_modules"].values():  # noqa: SIM110
        if child is not None and _holds_position(child):
            return True
    return False


def _same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether two dicts hold the very same objects under the same names, in the same order; asked in every pass."""
    if len(now) != len(before) or not all(map(operator.is_, now.values(), before.values())):
        return False
    return list(now) == list(before)


def _rebind(value: Any, original: nn.Module, twin: nn.Module) -> Any:
    """Point methods and partials that hold the original at the twin; accelerate's hooks are of this kind."""
    if isinstance(value, types.MethodType):
        if value.__self__ is not original:
            return value
        name = getattr(value.__func__, "__name__", "")
        inherited = value.__func__ is getattr(type(original), name, None)
        return types.MethodType(getattr(type(twin), name) if inherited else value.__func__, twin)
    if any(argument is original for argument in value.args):
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
            layer = layers[index]
            rows = None if all(served) else Rows(served)
            if slot == index and rows is None:
                self.modules.append(layer)  # it is already what the step should be
                continue
            # A layer compiled on its own is bound to its slot: its twins run what was compiled.
            twin = Twin(getattr(layer, "_orig_mod", layer), slot, rows)
            self.twins.append(twin)
            self.modules.append(twin.module)

    def current(self) -> list[nn.Module]:
        """The steps, up to date with their layers."""
        if not torch.compiler.is_compiling():
            for twin in self.twins:
                twin.refresh()
        return self.modules


@cache
def programmed_class(plain: Any) -> type:
    """A subclass of a layer list's class that loops over the active steps.

    Indexing by number, ``len`` and everything that registers or names modules still show the D layers, so state-dict
    keys, hooks and device maps do not change.
    """

    def __iter__(self) -> Iterator[nn.Module]:  # noqa: N807
        return iter(self._polar_steps.current())

    def __getitem__(self, index):  # noqa: N807
        if isinstance(index, slice):
            return self._polar_steps.current()[index]
        return plain.__getitem__(self, index)

    loops = {"__iter__": __iter__, "__getitem__": __getitem__}
    return type(plain.__name__, (plain,), {**loops, "__module__": plain.__module__, "_polar_plain": plain})


def list_class(layers: nn.ModuleList) -> Any:
    """The class of a layer list while no program is active."""
    return getattr(type(layers), "_polar_plain", type(layers))
