"""Read a model's own code: does the position of a layer mean anything but its cache slot?

A program moves layers. That is exact if the forward pass treats the position of a layer as nothing more than the number
of its cache slot, which the steps carry, or as the index of a per-layer list of the config, which is remapped. Any
other use ("every second layer", "the last three layers", "input number i belongs to layer i") would go wrong without a
word. So the loop over the layers, and the layers' own code, are searched for such uses.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from .remap import PER_LAYER_LISTS
from .syntax import FunctionTree, ReadingError, in_order, is_name, is_none, own_attribute, reachable

INDEX_ATTRIBUTES = ("layer_idx", "layer_id")
"""Names under which a layer's modules remember their position, which is also their cache slot."""

CACHE_NAMES = re.compile(r"(\w*_)?(past|cache)(_\w+)?|layer_state")
"""What a forward pass calls its caches, which may be indexed by slot: past_key_values, layer_past, cache_params, …"""


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


@dataclass(frozen=True)
class _Use:
    """A use of a position other than as a slot.

    Attributes:
        text: The code.
        needs: The argument of forward without which it does not run, if there is one.
        equals: The attribute that the position is compared with, if it is a test for equality.
    """

    text: str
    needs: str | None
    equals: str | None


@dataclass(frozen=True)
class _LayerLoop:
    """One loop over layers: ``for index, layer in enumerate(layers): body``."""

    layer: str
    index: str | None
    body: list[ast.stmt]


def read_loop(owner: nn.Module, list_name: str, shown_depth: int) -> Loop:
    """Read how a module loops over its layers.

    Args:
        owner: The module that holds the layer list, and whose forward loops over it.
        list_name: Attribute name of the list.
        shown_depth: Depth that the config states now: K while a program is active, else D.

    Raises:
        ReadingError: If the source cannot be read, or a position means more than a cache slot; says what.
    """
    owner_class: Any = type(owner)
    uses, carried = _read_owner(owner_class, list_name)
    depth_attributes, forbidden = [], []
    for use in uses:
        if use.equals and getattr(owner, use.equals, None) == shown_depth:
            depth_attributes.append(use.equals)
        elif use.needs:
            forbidden.append(use.needs)
        else:
            raise ReadingError(f"its forward pass uses the position of a layer in `{use.text}`.")
    home = _home(owner_class)
    for module in {type(m): m for m in every_module(owner._modules[list_name])}.values():
        if _home(type(module)) == home or any(isinstance(vars(module).get(n), int) for n in INDEX_ATTRIBUTES):
            _check_layer_module(module)
    return Loop(tuple(dict.fromkeys(depth_attributes)), tuple(dict.fromkeys(forbidden)), carried)


def every_module(root: nn.Module | None) -> list[nn.Module]:
    """``root`` and all modules inside: ``modules()`` at a fraction of its price, which every block would pay."""
    found = [] if root is None else [root]
    for module in found:
        found.extend(child for child in module._modules.values() if child is not None)
    return found


def _home(module_class: type) -> list[str]:
    """The package of a model's own code. Quantised and adapted linear layers, from elsewhere, know of no position."""
    return module_class.__module__.split(".")[:2]


def _check_layer_module(module: nn.Module) -> None:
    module_class: Any = type(module)
    name = module_class.__name__
    uses, kept = _read_layer_module(module_class)
    if uses:
        raise ReadingError(f"{name} uses its own position in `{uses[0]}`.")
    if states := [attribute for attribute in kept if attribute not in module._buffers | module._modules]:
        raise ReadingError(
            f"{name} keeps `{states[0]}` on itself from call to call, where the executions of a repeated layer would "
            "meet."
        )


@cache
def _read_owner(owner_class: type[nn.Module], list_name: str) -> tuple[tuple[_Use, ...], tuple[str, ...]]:
    """The uses of positions in the loops over a layer list, and what the loops carry from layer to layer."""
    uses: list[_Use] = []
    carried: list[str] = []
    found = False
    for function in reachable(owner_class):
        tree = FunctionTree(function)
        for loop in _loops(tree, list_name):
            found = True
            uses.extend(_uses_in_loop(tree, loop))
            carried.extend(_carried(tree, loop))
    if not found:
        raise ReadingError(f"the forward pass of {owner_class.__name__} does not loop over `self.{list_name}`.")
    return tuple(uses), tuple(dict.fromkeys(carried))


@cache
def _read_layer_module(module_class: type[nn.Module]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The uses of its own position in the forward pass of a module, and what the module keeps on itself."""
    uses: list[str] = []
    kept: list[str] = []
    for function in reachable(module_class):
        tree = FunctionTree(function)
        given = tree.arguments & set(INDEX_ATTRIBUTES)
        for node in ast.walk(tree.root):
            is_own = own_attribute(node) in INDEX_ATTRIBUTES
            is_given = isinstance(node, ast.Name) and node.id in given
            if (is_own or is_given) and _is_loaded(node) and not _is_slot(tree, node, may_receive=("self",)):
                uses.append(ast.unparse(tree.parent[node]))
        kept.extend(_kept(tree))
    return tuple(uses), tuple(dict.fromkeys(kept))


def _loops(tree: FunctionTree, list_name: str) -> Iterator[_LayerLoop]:
    """The loops over ``self.<list_name>``, possibly sliced to the config's depth and enumerated.

    Raises:
        ReadingError: If the list is looped over or indexed in any other way.
    """
    for node in ast.walk(tree.root):
        if own_attribute(node) != list_name:
            continue
        inner, outer = node, tree.parent[node]
        if isinstance(outer, ast.Subscript):
            if isinstance(outer.slice, ast.Constant):
                continue
            if not _is_whole(outer.slice):
                raise ReadingError(f"its forward pass picks layers by position, `{ast.unparse(outer)}`.")
            inner, outer = outer, tree.parent[outer]
        enumerated = isinstance(outer, ast.Call) and is_name(outer.func, "enumerate") and outer.args == [inner]
        if enumerated and isinstance(outer, ast.Call) and not outer.keywords:
            inner, outer = outer, tree.parent[outer]
        if isinstance(outer, ast.For) and outer.iter is inner:
            index, layer = outer.target.elts if isinstance(outer.target, ast.Tuple) else (None, outer.target)
            yield _LayerLoop(ast.unparse(layer), ast.unparse(index) if index else None, outer.body)
        elif not (isinstance(outer, ast.Call) and is_name(outer.func, "len")):
            text = ast.unparse(outer).partition("\n")[0][:80]
            raise ReadingError(f"its forward pass does not simply loop over its layers: `{text}`.")


def _uses_in_loop(tree: FunctionTree, loop: _LayerLoop) -> Iterator[_Use]:
    statements = [node for statement in loop.body for node in ast.walk(statement)]
    counted = {name for node in statements if (name := _counted(node))}
    for node in statements:
        is_index = is_name(node, loop.index) or (isinstance(node, ast.Name) and node.id in counted)
        if is_index and _is_loaded(node) and not _is_slot(tree, node, may_receive=(loop.layer,)):
            around = tree.parent[node]
            equal = isinstance(around, ast.Compare) and len(around.ops) == 1 and isinstance(around.ops[0], ast.Eq)
            compared = own_attribute(around.comparators[0]) if equal and isinstance(around, ast.Compare) else None
            yield _Use(ast.unparse(around)[:80], tree.argument_tested(node), compared)


def _counted(node: ast.AST) -> str | None:
    """The name that a statement counts up or down, as in ``i += 1``: a position, too."""
    if (
        isinstance(node, ast.AugAssign)
        and isinstance(node.op, (ast.Add, ast.Sub))
        and isinstance(node.target, ast.Name)
    ):
        return node.target.id if isinstance(node.value, ast.Constant) and isinstance(node.value.value, int) else None
    return None


def _is_slot(tree: FunctionTree, node: ast.AST, may_receive: tuple[str, ...]) -> bool:
    """Whether a position is used as a cache slot, into a per-layer list, or not at all.

    Args:
        tree: The code.
        node: The position.
        may_receive: Names of objects that may get it as an argument, because they are read themselves; caches may, too.
    """
    parent = tree.parent[node]
    if isinstance(parent, ast.FormattedValue):
        return True
    if isinstance(parent, ast.keyword):
        parent = tree.parent[parent]
    if isinstance(parent, ast.Call):
        receiver = ast.unparse(parent.func).partition(".")[0]
        return receiver in may_receive or CACHE_NAMES.fullmatch(receiver) is not None
    if isinstance(parent, ast.Compare):
        return all(is_none(other) for other in parent.comparators)
    if isinstance(parent, ast.Subscript) and parent.slice is node:
        path = ast.unparse(parent.value).split(".")
        per_layer = path[-2:-1] == ["config"] and path[-1] in PER_LAYER_LISTS
        return per_layer or CACHE_NAMES.fullmatch(path[0]) is not None
    return False


def _carried(tree: FunctionTree, loop: _LayerLoop) -> list[str]:
    """Names that a layer call reads and that are set later in the same pass, besides the hidden states."""
    reads_first: dict[str, bool] = {}
    stored: set[str] = set()
    for name in in_order(loop.body):
        if isinstance(name, ast.Name):
            reads_first.setdefault(name.id, _is_loaded(name))
            at_one_position = any(is_name(n, loop.index) for c in tree.conditions(name) for n in ast.walk(c))
            # What is set at one position only is judged as a use of the position.
            if not _is_loaded(name) and not at_one_position:
                stored.add(name.id)
    carried: list[str] = []
    for call in (node for statement in loop.body for node in ast.walk(statement)):
        if isinstance(call, ast.Call) and is_name(call.func, loop.layer):
            named = {keyword.arg: keyword.value for keyword in call.keywords}
            hidden_states = call.args[0] if call.args else named.get("hidden_states")
            others = [value for value in (*call.args, *named.values()) if value is not hidden_states]
            names = {n.id for value in others for n in ast.walk(value) if isinstance(n, ast.Name)}
            hidden = {n.id for n in ast.walk(hidden_states) if isinstance(n, ast.Name)} if hidden_states else set()
            carried += [name for name in stored if name in names - hidden and reads_first[name]]
    return sorted(set(carried))


def _kept(tree: FunctionTree) -> list[str]:
    """Attributes of the module that the function reads and then sets for its next call."""
    first: dict[str, bool] = {}
    stored: list[str] = []
    for node in in_order(tree.root.body):
        if (name := own_attribute(node)) is not None:
            first.setdefault(name, _is_loaded(node))
            if not _is_loaded(node):
                stored.append(name)
    return [name for name in stored if first[name]]


def _is_loaded(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Load)


def _is_whole(part: ast.expr) -> bool:
    """Whether a slice is ``[: self.config.num_hidden_layers]`` or the like, which follows the remapped config."""
    if not isinstance(part, ast.Slice) or part.lower or part.step:
        return False
    depths = ("self.config.num_hidden_layers", "self.config.decoder_layers")
    return part.upper is None or ast.unparse(part.upper) in depths
