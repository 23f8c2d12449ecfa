"""Monte Carlo tree search over programs (arXiv:2606.06574, App. B).

Three departures from the paper follow RE-PoLar (arXiv:2609.31360). Edits come in any order, because left-to-right edits
pile up in the last third of the stack. A program reached in two ways is one node, so the tree is a directed graph
without cycles. Nodes widen with their visits, because the root alone has more edits than the budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..program import Program, Segment
from .settings import SearchSettings
from .strategy import Strategy


@dataclass
class Node:
    """A program in the tree: its visits, the sum of their rewards, and the programs one edit away that were tried."""

    program: Program
    visits: int = 0
    total: float = 0.0
    children: dict[Segment, Node] = field(default_factory=dict)
    exhausted: bool = False
    """Whether nothing new can be reached from here."""


class SearchTree(Strategy):
    """Tree search for the programs that answer one question.

    Each simulation walks from the identity down by UCB until it tries a new edit. The reward of the program reached is
    added to every node on the way. A new edit that leads to a known program backs up the known reward.
    """

    def __init__(self, num_layers: int, settings: SearchSettings, seed: int) -> None:
        super().__init__(num_layers, settings, seed)
        self._nodes: dict[tuple[int, ...], Node] = {}
        self._root = self._node(self.space.identity)
        self._trail = [self._root]
        self._simulations = 0

    def _next(self) -> Program | None:
        # Each turn finds a program, adds an edge or marks a node exhausted, so the loop ends.
        while not self._root.exhausted:
            self._trail = self._walk()
            node = self._trail[-1]
            if node.exhausted:
                continue
            if node.visits == 0:
                return node.program
            self._back_up(self.rewards[node.program])
        return None

    def record(self, program: Program, reward: float) -> None:
        super().record(program, reward)
        self._back_up(self.rewards[program])

    def _visits(self, program: Program) -> int:
        return self._nodes[program.path].visits

    def _walk(self) -> list[Node]:
        """Nodes from the root to one reached by a new edit, or to one that turns out to be exhausted."""
        trail = [self._root]
        while True:
            node = trail[-1]
            open_children = [child for child in node.children.values() if not child.exhausted]
            if not open_children or self._widens(node):
                edits = self.space.edits(node.program)
                if len(edits) > len(node.children):
                    while (edit := self.random.choice(edits)) in node.children:
                        pass
                    node.children[edit] = self._node(self.space.apply(node.program, edit, self.random))
                    return [*trail, node.children[edit]]
            if not open_children:
                node.exhausted = True
                return trail
            trail.append(max(open_children, key=self._ucb))

    def _widens(self, node: Node) -> bool:
        """Whether to try a new edit here instead of selecting among those tried."""
        if self.random.random() < self.settings.random_child:
            return True
        return len(node.children) < self.settings.widening_factor * node.visits**self.settings.widening_exponent

    def _ucb(self, node: Node) -> float:
        """Mean reward, plus a bonus for few visits, minus the price of depth."""
        bonus = self.settings.exploration * math.sqrt(math.log(self._simulations) / node.visits)
        price = self.settings.depth_penalty * node.program.depth / node.program.num_layers
        return node.total / node.visits + bonus - price

    def _back_up(self, reward: float) -> None:
        self._simulations += 1
        for node in self._trail:
            node.visits += 1
            node.total += reward

    def _node(self, program: Program) -> Node:
        """The one node of a program."""
        return self._nodes.setdefault(program.path, Node(program))
