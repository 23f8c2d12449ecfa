"""Read a model's own code: does the position of a layer mean anything but its cache slot?

A program moves layers. That is exact if the forward pass treats the position of a layer as nothing more than the number
of its cache slot, which the steps carry, or as the index of a per-layer list of the config, which is remapped. Any other
use ("every second layer", "the layers before the last three", "input number i belongs to layer i") would go wrong
without a word. So the syntax trees of the loop over the layers, and of the layers themselves, are searched for such uses.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from .remap import PER_LAYER_LISTS

INDEX_ATTRIBUTES = ("layer_idx", "layer_id")
"""Names under which a layer's modules remember their position, which is also their cache slot."""

CACHES = ("past_key_values", "past_key_value", "layer_past", "cache_params", "cache", "cache_layer")
"""Names of the objects that a forward pass may index by cache slot."""


class ReadingError(Exception):
    """The code does something with a layer's position that no program can reproduce; the message says what."""


@dataclass(frozen=True)
class Use:
    """One use of a layer's position that is not its cache slot.

    Attributes:
        text: The code.
        needs: The forward argument without which this code does not run, if there is one.
        equals: The attribute of the module that the position is compared with, if that is all that happens.
        flags: Attributes, as ``self.…``, that must be true for this code to run.
    """

    text: str
    needs: str | None = None
    equals: str | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loop:
    """What is known about a forward pass that loops over a layer list.

    Attributes:
        depth_attributes: Attributes of the looping module that hold the depth and are compared with the position.
        forbidden_inputs: Arguments of its forward whose use depends on positions; only absent (None) they are exact.
        carried: Values besides the hidden states that each layer hands to the next.
    """

    depth_attributes: tuple[str, ...]
    forbidden_inputs: tuple[str, ...]
    carried: tuple[str, ...]


def read_loop(owner: nn.Module, list_name: str) -> Loop:
    """Read how a module loops over its layers.

    Args:
        owner: The module that holds the layer list, and whose forward loops over it.
        list_name: Attribute name of the list.

    Raises:
        ReadingError: If the source cannot be read, or a position means more than a cache slot; says what.
    """
    layers = owner._modules[list_name]
    assert isinstance(layers, nn.ModuleList)
    uses, carried = _read_owner(type(owner), list_name)
    depth_attributes, forbidden = [], []
    for use in uses:
        if not all(_is_on(owner, flag) for flag in use.flags):
            continue
        if use.equals and getattr(owner, use.equals, None) == len(layers):
            depth_attributes.append(use.equals)
        elif use.needs:
            forbidden.append(use.needs)
        else:
            raise ReadingError(f"its forward pass uses the position of a layer in `{use.text}`.")
    for module in {type(m): m for layer in layers for m in layer.modules()}.values():
        for use in _read_layer_module(type(module)):
            if all(_is_on(module, flag) for flag in use.flags):
                raise ReadingError(f"{type(module).__name__} uses its own position in `{use.text}`.")
    return Loop(tuple(dict.fromkeys(depth_attributes)), tuple(dict.fromkeys(forbidden)), carried)


def _is_on(module: nn.Module, flag: str) -> bool:
    """Whether ``self.a.b`` is true for a module; unknown attributes count as true."""
    value: Any = module
    for name in flag.split(".")[1:]:
        value = getattr(value, name, True)
    return bool(value)


@cache
def _read_owner(owner_class: type, list_name: str) -> tuple[tuple[Use, ...], tuple[str, ...]]:
    uses: list[Use] = []
    carried: list[str] = []
    found = False
    for function in _reachable(owner_class):
        tree = _Tree(function)
        for loop in tree.loops_over(list_name):
            found = True
            uses.extend(tree.uses(loop.body, lambda node, name=loop.index: _is_name(node, name)))
            carried.extend(tree.carried(loop))
    if not found:
        raise ReadingError(f"the forward pass of {owner_class.__name__} does not loop over `self.{list_name}`.")
    return tuple(uses), tuple(dict.fromkeys(carried))


@cache
def _read_layer_module(module_class: type) -> tuple[Use, ...]:
    if module_class.__module__.startswith("torch."):
        return ()
    uses: list[Use] = []
    for function in _reachable(module_class):
        tree = _Tree(function)
        arguments = tree.arguments & set(INDEX_ATTRIBUTES)

        def is_index(node: ast.AST, arguments=arguments) -> bool:
            own = isinstance(node, ast.Attribute) and node.attr in INDEX_ATTRIBUTES and _is_name(node.value, "self")
            return own or (isinstance(node, ast.Name) and node.id in arguments)

        uses.extend(tree.uses(tree.root.body, is_index))
    return tuple(use for use in uses if use.needs is None)


def _reachable(module_class: type) -> list[Callable]:
    """The forward of a class and the methods of the class that it calls, directly or not."""
    names, functions = ["forward"], []
    for name in names:
        function = inspect.unwrap(getattr(module_class, name))
        if not inspect.isfunction(function) or function.__module__.startswith("torch."):
            continue
        functions.append(function)
        for node in ast.walk(_parse(function)):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and _is_name(called.value, "self"):
                method = getattr(module_class, called.attr, None)
                if inspect.isroutine(method) and called.attr not in names and called.attr not in vars(nn.Module):
                    names.append(called.attr)
    return functions


@cache
def _parse(function: Callable) -> ast.FunctionDef:
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except OSError as error:
        raise ReadingError(
            f"the source of {function.__qualname__} cannot be read, so how it uses its layers cannot be checked."
        ) from error
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)
    return definition


@dataclass(frozen=True)
class _LayerLoop:
    layer: str
    index: str | None
    body: list[ast.stmt]


class _Tree:
    """The syntax tree of one function, with parents."""

    def __init__(self, function: Callable) -> None:
        self.root = _parse(function)
        self.parent = {child: node for node in ast.walk(self.root) for child in ast.iter_child_nodes(node)}
        every = self.root.args
        self.arguments = {a.arg for a in (*every.posonlyargs, *every.args, *every.kwonlyargs)} - {"self"}

    def loops_over(self, list_name: str) -> Iterator[_LayerLoop]:
        """The loops over ``self.<list_name>``, possibly sliced to the config's depth and enumerated.

        Raises:
            ReadingError: If the list is looped over or indexed in any other way.
        """
        for node in ast.walk(self.root):
            if not (isinstance(node, ast.Attribute) and node.attr == list_name and _is_name(node.value, "self")):
                continue
            outer, inner = self.parent[node], node
            if isinstance(outer, ast.Subscript) and outer.value is node:
                if isinstance(outer.slice, ast.Constant):
                    continue
                if not _is_whole(outer.slice):
                    raise ReadingError(f"its forward pass picks layers by position, `{ast.unparse(outer)}`.")
                outer, inner = self.parent[outer], outer
            enumerated = isinstance(outer, ast.Call) and ast.unparse(outer.func) == "enumerate" and len(outer.args) == 1
            if enumerated and not outer.keywords:
                outer, inner = self.parent[outer], outer
            if isinstance(outer, ast.For) and outer.iter is inner:
                names = [ast.unparse(n) for n in (outer.target.elts if enumerated else [outer.target])]
                yield _LayerLoop(names[-1], names[0] if enumerated else None, outer.body)
            elif not (isinstance(outer, ast.Call) and ast.unparse(outer.func) == "len"):
                raise ReadingError(f"its forward pass does not simply loop over its layers: `{ast.unparse(outer)[:80]}`.")

    def uses(self, body: Iterable[ast.stmt], is_index: Callable[[ast.AST], bool]) -> Iterator[Use]:
        """The uses of a position in some statements, other than as a cache slot or into a per-layer list."""
        for statement in body:
            for node in ast.walk(statement):
                if is_index(node) and isinstance(node.ctx, ast.Load) and not self._is_slot(node):
                    yield self._describe(node)

    def _is_slot(self, node: ast.AST) -> bool:
        parent = self.parent[node]
        if isinstance(parent, (ast.Call, ast.keyword, ast.FormattedValue)):
            call = self.parent[parent] if isinstance(parent, ast.keyword) else parent
            return not (isinstance(call, ast.Call) and ast.unparse(call.func) in ("range", "min", "max", "int", "float"))
        if isinstance(parent, ast.Compare):
            return all(isinstance(other, ast.Constant) and other.value is None for other in parent.comparators)
        if isinstance(parent, ast.Subscript) and parent.slice is node:
            base = ast.unparse(parent.value)
            return base.split(".")[0] in CACHES or (base.split(".")[0] in ("self", "config") and _is_per_layer(base))
        return False

    def _describe(self, node: ast.AST) -> Use:
        compared, around = None, self.parent[node]
        if isinstance(around, ast.Compare) and len(around.ops) == 1 and isinstance(around.ops[0], ast.Eq):
            other = around.comparators[0]
            if isinstance(other, ast.Attribute) and _is_name(other.value, "self"):
                compared = other.attr
        conditions = list(self._conditions(node))
        text = node
        while isinstance(self.parent[text], ast.expr):
            text = self.parent[text]
        present = [name for c in conditions if (name := _tested_for_none(c)) in self.arguments]
        return Use(ast.unparse(text)[:80], present[0] if present else None, compared, _flags(conditions))

    def _conditions(self, node: ast.AST) -> Iterator[ast.expr]:
        """The conditions, joined by *and*, under which an expression is reached."""
        while node is not self.root:
            parent = self.parent[node]
            if isinstance(parent, ast.If) and node in parent.body or isinstance(parent, ast.IfExp) and node is parent.body:
                yield from _conjuncts(parent.test)
            elif isinstance(parent, ast.BoolOp) and isinstance(parent.op, ast.And):
                yield from parent.values[: parent.values.index(node)]
            node = parent

    def carried(self, loop: _LayerLoop) -> list[str]:
        """Names that a layer call reads and a later statement of the same pass sets, besides the hidden states."""
        read_first: dict[str, bool] = {}
        stored: set[str] = set()
        for name in _in_order(loop.body):
            read_first.setdefault(name.id, isinstance(name.ctx, ast.Load))
            # What is set only at one position is judged as a use of the position.
            if isinstance(name.ctx, ast.Store) and not any(_mentions(c, loop.index) for c in self._conditions(name)):
                stored.add(name.id)
        carried: list[str] = []
        for statement in loop.body:
            for call in ast.walk(statement):
                if isinstance(call, ast.Call) and _is_name(call.func, loop.layer):
                    values = [*call.args, *(k.value for k in call.keywords)]
                    names = [v.id for v in values if isinstance(v, ast.Name)]
                    carried += [name for name in names[1:] if name in stored and read_first[name]]
        return carried


def _in_order(node: Any) -> Iterator[ast.Name]:
    """The names in some code in the order of evaluation: the value of an assignment before its target."""
    if isinstance(node, ast.Name):
        yield node
    elif isinstance(node, list):
        for item in node:
            yield from _in_order(item)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        yield from _in_order(node.value)
        yield from _in_order(node.targets if isinstance(node, ast.Assign) else node.target)
    elif isinstance(node, ast.AST):
        yield from _in_order([child for _, child in ast.iter_fields(node)])


def _is_name(node: ast.AST, name: str | None) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _mentions(node: ast.AST, name: str | None) -> bool:
    return any(_is_name(inner, name) for inner in ast.walk(node))


def _is_whole(part: ast.expr) -> bool:
    """Whether a slice is ``[: self.config.num_hidden_layers]`` or the like, which follows the remapped config."""
    if not isinstance(part, ast.Slice) or part.lower or part.step:
        return False
    return part.upper is None or ast.unparse(part.upper) in ("self.config.num_hidden_layers", "self.config.decoder_layers")


def _is_per_layer(expression: str) -> bool:
    *path, name = expression.split(".")
    return name in PER_LAYER_LISTS and path[-1:] == ["config"]


def _conjuncts(test: ast.expr) -> list[ast.expr]:
    return list(test.values) if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]


def _tested_for_none(condition: ast.expr) -> str | None:
    """``x`` of the condition ``x is not None``."""
    if isinstance(condition, ast.Compare) and isinstance(condition.left, ast.Name):
        against_none = isinstance(condition.comparators[0], ast.Constant) and condition.comparators[0].value is None
        if isinstance(condition.ops[0], ast.IsNot) and against_none:
            return condition.left.id
    return None


def _flags(conditions: Iterable[ast.expr]) -> tuple[str, ...]:
    """Those conditions that are plain attributes, ``self.a`` or ``self.config.a``."""
    texts = (ast.unparse(c) for c in conditions if isinstance(c, ast.Attribute))
    return tuple(text for text in texts if text.startswith("self."))
