"""The syntax tree of a function, with the questions that :mod:`~polar_adapter.executor.loop` asks of it."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import operator
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


class ReadingError(Exception):
    """Some code cannot be read, or does what no program can reproduce; the message says what."""


class FunctionTree:
    """The syntax tree of one function, where every node knows its parent.

    Args:
        function: A plain function.

    Raises:
        ReadingError: If there is no source.
    """

    def __init__(self, function: Callable) -> None:
        self.root = parse(function)
        self.parent = {child: node for node in ast.walk(self.root) for child in ast.iter_child_nodes(node)}
        declared = self.root.args
        self.arguments = {a.arg for a in (*declared.posonlyargs, *declared.args, *declared.kwonlyargs)} - {"self"}

    def conditions(self, node: ast.AST) -> Iterator[ast.expr]:
        """The conditions, all of which hold where a node is evaluated."""
        while node is not self.root:
            parent = self.parent[node]
            if isinstance(parent, (ast.If, ast.IfExp)):
                body = parent.body if isinstance(parent.body, list) else [parent.body]
                if node in body:
                    yield from _conjuncts(parent.test)
            elif isinstance(parent, ast.BoolOp) and isinstance(parent.op, ast.And):
                yield from itertools.takewhile(functools.partial(operator.is_not, node), parent.values)
            node = parent

    def argument_tested(self, node: ast.AST) -> str | None:
        """The argument ``x`` of the function without which, by a test ``x is not None``, a node is not evaluated."""
        for condition in self.conditions(node):
            if isinstance(condition, ast.Compare) and isinstance(condition.left, ast.Name):
                name, operator, other = condition.left.id, condition.ops[0], condition.comparators[0]
                if isinstance(operator, ast.IsNot) and is_none(other) and name in self.arguments:
                    return name
        return None


@functools.cache
def parse(function: Callable) -> ast.FunctionDef:
    """The definition of a function.

    Raises:
        ReadingError: If there is no source.
    """
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, SyntaxError, ValueError) as error:
        raise ReadingError(f"the source of {function.__qualname__} cannot be read, so it cannot be checked.") from error
    if not isinstance(definition, ast.FunctionDef):
        raise ReadingError(f"{function.__qualname__} is no ordinary function, so it cannot be checked.")
    return definition


def reachable(module_class: type[nn.Module]) -> list[Callable]:
    """The forward of a class and the methods of the class that it calls, directly or not."""
    names = ["forward"]
    functions: list[Callable] = []
    for name in names:
        function = inspect.unwrap(getattr(module_class, name))
        if not inspect.isfunction(function) or (function.__module__ or "").startswith("torch."):
            continue
        functions.append(function)
        for node in ast.walk(parse(function)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_name(node.func.value, "self"):
                called = node.func.attr
                if called not in names and called not in vars(nn.Module) and hasattr(module_class, called):
                    names.append(called)
    return functions


def in_order(node: Any) -> Iterator[ast.Name | ast.Attribute]:
    """The names and attributes in some code in the order of evaluation: values before what they are assigned to."""
    if isinstance(node, list):
        for item in node:
            yield from in_order(item)
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        yield from in_order(node.value)
        yield from in_order(node.targets if isinstance(node, ast.Assign) else node.target)
    elif isinstance(node, ast.AST):
        yield from in_order([child for _, child in ast.iter_fields(node)])
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield node


def is_name(node: ast.AST, name: str | None) -> bool:
    """Whether a node is the plain name ``name``."""
    return isinstance(node, ast.Name) and node.id == name


def is_none(node: ast.AST) -> bool:
    """Whether a node is ``None``."""
    return isinstance(node, ast.Constant) and node.value is None


def own_attribute(node: ast.AST) -> str | None:
    """``x`` if a node is ``self.x``."""
    return node.attr if isinstance(node, ast.Attribute) and is_name(node.value, "self") else None


def _conjuncts(test: ast.expr) -> list[ast.expr]:
    return list(test.values) if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]
