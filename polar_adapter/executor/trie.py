"""Many programs for each prompt in one forward pass, common prefixes computed once.

Search asks what a model answers under dozens of programs per prompt. Two programs that begin alike have the same hidden
states up to where they part: the programs of a prompt form a trie, and every edge of it is run once. Whatever edges of
all prompts need the same layer next run as one batch, each row with its own prompt's masks and positions.

The model's own ``forward`` still does everything but the layers. Its loop meets D *recorders*, which take down what the
loop passes to each layer and hand the hidden states on; the last one walks the trie and returns one row per program.
Without a cache: this is for scoring prompts (and answers given with them), not for generating.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ProgramError, UnsupportedModelError
from ..program import Program
from .apply import apply_program
from .structure import Decoder, find_decoder


@contextmanager
def fan_out(model: nn.Module | Decoder, programs: Sequence[Sequence[Program]]) -> Iterator[None]:
    """Run every prompt of a batch under its own programs: one row in, one row out per program.

    Inside the block ``model(..., use_cache=False)`` returns logits for ``sum(len(p) for p in programs)`` rows: all
    programs of the first prompt, then those of the second, and so on.

    Args:
        model: Any transformers model with a decoder, or its :class:`Decoder`.
        programs: For each row of the batch, the programs to run it under.

    Raises:
        ProgramError: If a program does not fit the model, or the batch has another number of rows.
        UnsupportedModelError: From the forward pass, if the model's layers take arguments that cannot be told apart by
            prompt.
    """
    decoder = find_decoder(model)
    for program in {program for row in programs for program in row}:
        if program.num_layers != decoder.num_layers:
            raise ProgramError(
                f"program '{program}' was made for {program.num_layers} layers, but the model has {decoder.num_layers}."
            )
    with apply_program(decoder, Program.identity(decoder.num_layers)):
        walk = _Walk(decoder.layers, programs)
        steps = decoder.layers.__dict__["_polar_steps"]
        layers, steps.modules = steps.modules, [_Recorder(walk, index) for index in range(decoder.num_layers)]
        try:
            yield
        finally:
            steps.modules = layers


@dataclass
class _Node:
    """A prefix of programs of one prompt."""

    prompt: int
    children: dict[int, _Node] = field(default_factory=dict)
    outputs: list[int] = field(default_factory=list)


class _Walk:
    """The tries of a batch of prompts, and the arguments the model's loop gave to each layer."""

    def __init__(self, layers: nn.ModuleList, programs: Sequence[Sequence[Program]]) -> None:
        self.layers = list(layers._modules.values())
        self.arguments: list[tuple[tuple, dict[str, Any]]] = []
        self.roots = [_Node(prompt) for prompt in range(len(programs))]
        self.size = 0
        self.layers_return_tuples = False
        for root, row in zip(self.roots, programs, strict=True):
            for program in row:
                node = root
                for index in program.path:
                    node = node.children.setdefault(index, _Node(root.prompt))
                node.outputs.append(self.size)
                self.size += 1

    def probe(self, hidden_states: Tensor) -> None:
        """Learn from one row of the first layer what the loop expects its layers to return."""
        if len(hidden_states) != len(self.roots):
            raise ProgramError(
                f"programs were given for {len(self.roots)} prompts, but the batch has {len(hidden_states)}."
            )
        self.layers_return_tuples = isinstance(self._call(0, hidden_states[:1], torch.tensor([0])), tuple)

    def run(self, hidden_states: Tensor) -> Tensor:
        """Hidden states of every program's end, (programs, tokens, hidden), from those of the prompts."""
        results: list[Tensor] = [hidden_states[0]] * self.size
        waiting: dict[int, list[tuple[Tensor, _Node]]] = {}
        for state, root in zip(hidden_states, self.roots, strict=True):
            self._follow(root, state, waiting, results)
        while waiting:
            index = min(waiting)  # lowest layer first: branches that fell behind catch up and share the batch
            entries = waiting.pop(index)
            states = torch.stack([state for state, _ in entries])
            for state, (_, node) in zip(
                self._layer(index, states, [node for _, node in entries]), entries, strict=True
            ):
                self._follow(node, state, waiting, results)
        return torch.stack(results)

    def _follow(self, node: _Node, state: Tensor, waiting: dict, results: list[Tensor]) -> None:
        for output in node.outputs:
            results[output] = state
        for index, child in node.children.items():
            waiting.setdefault(index, []).append((state, child))

    def _layer(self, index: int, states: Tensor, nodes: list[_Node]) -> Tensor:
        output = self._call(index, states, torch.tensor([node.prompt for node in nodes], device=states.device))
        return output[0] if isinstance(output, tuple) else output

    def _call(self, index: int, states: Tensor, prompts: Tensor) -> Any:
        args, kwargs = self.arguments[index]
        args = tuple(_of_prompts(value, prompts, len(self.roots)) for value in args)
        kwargs = {name: _of_prompts(value, prompts, len(self.roots)) for name, value in kwargs.items()}
        return self.layers[index](states, *args, **kwargs)


class _Recorder(nn.Module):
    """Stands in for layer ``index`` while the model's loop runs."""

    def __init__(self, walk: _Walk, index: int) -> None:
        super().__init__()
        self.walk, self.index = walk, index
        self.layer = [walk.layers[index]]  # in a list: not a child

    def __getattr__(self, name: str) -> Any:
        # Loops ask their layers what kind they are (attention_type and the like).
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"][0], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        walk = self.walk
        if self.index == 0:
            walk.arguments.clear()
        walk.arguments.append((args, kwargs))
        if self.index == 0:
            walk.probe(hidden_states)
        is_last = self.index == len(walk.layers) - 1
        output = walk.run(hidden_states) if is_last else hidden_states
        return (output,) if walk.layers_return_tuples else output


def _of_prompts(value: Any, prompts: Tensor, batch: int) -> Any:
    """An argument of a layer, with the rows of the given prompts where it has one row per prompt."""
    if isinstance(value, tuple):
        return tuple(_of_prompts(part, prompts, batch) for part in value)
    if not isinstance(value, Tensor) or value.dim() < 2 or len(value) == 1:
        return value
    if len(value) != batch:
        raise UnsupportedModelError(
            f"the model passes its layers a tensor of shape {tuple(value.shape)} for a batch of {batch}, of which it is not "
            "clear which rows belong to which prompt. Use apply_program with one program per row."
        )
    return value.index_select(0, prompts.to(value.device))
