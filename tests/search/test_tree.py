from __future__ import annotations

import math

import pytest

from polar_adapter.program import Program
from polar_adapter.search import SearchSettings, SearchTree

from .synthetic import NUM_LAYERS, examples, needs_two_edits
from .test_strategies import exhaust

QUESTION = examples(1)[0]


def search(settings: SearchSettings, seed: int = 0, is_right=lambda program: needs_two_edits(QUESTION, program)):
    tree = SearchTree(NUM_LAYERS, settings, seed)
    return tree, exhaust(tree, is_right)


def test_it_finds_programs_that_take_two_edits():
    solved = 0
    for seed in range(10):
        tree, _ = search(SearchSettings(simulations=400), seed)
        valid = [entry.program for entry in tree.scores() if entry.is_valid]
        assert all(needs_two_edits(QUESTION, program) for program in valid)
        solved += bool(valid)
    assert solved >= 8


def test_right_programs_draw_visits():
    """With repeats of layer 3 right and all else wrong, most visits go below the right children."""
    right = lambda program: program.executions[3] > 1  # noqa: E731
    tree, _ = search(SearchSettings(exploration=0.3, depth_penalty=0.0), is_right=right)
    share = sum(right(program) for program in tree.rewards) / len(tree.rewards)
    unguided, _ = search(SearchSettings(strategy="random"), is_right=lambda program: False)
    baseline = sum(right(program) for program in unguided.rewards) / len(unguided.rewards)
    assert share > 2 * baseline


def test_a_price_on_depth_makes_programs_shorter():
    free, _ = search(SearchSettings(depth_penalty=0.0))
    priced, _ = search(SearchSettings(depth_penalty=5.0))
    mean = [sum(map(len, tree.rewards)) / len(tree.rewards) for tree in (free, priced)]
    assert mean[1] < mean[0] - 2


def test_the_root_widens_with_its_visits():
    settings = SearchSettings(simulations=150, random_child=0.0)
    tree, _ = search(settings)
    root = tree._root
    assert len(root.children) == math.ceil(2 * (root.visits - 1) ** 0.5)
    assert any(child.children for child in root.children.values())


def test_random_children_come_beyond_the_widening_limit():
    narrow, _ = search(SearchSettings(simulations=150, random_child=0.0))
    wide, _ = search(SearchSettings(simulations=150, random_child=0.5))
    assert len(wide._root.children) > 2 * len(narrow._root.children)


def test_one_node_per_program_and_visits_add_up():
    """A path reached by several edits is one node: its visits come through all its parents."""
    tree = SearchTree(4, SearchSettings(simulations=120, mode="skip"), seed=0)
    proposed = exhaust(tree, lambda program: False)
    assert len(proposed) == 2**4 - 1  # every subset of layers but the empty one, each evaluated once
    parents = {}
    for node in tree._nodes.values():
        for child in node.children.values():
            parents.setdefault(child.program.path, set()).add(node.program.path)
            assert child is tree._nodes[child.program.path]
    assert len(parents[(3,)]) > 1
    assert tree._root.visits == tree._simulations > len(proposed)


@pytest.mark.parametrize("simulations", [1, 2])
def test_tiny_budgets(simulations):
    _, proposed = search(SearchSettings(simulations=simulations))
    assert len(proposed) == simulations


def test_a_known_program_reuses_its_reward_without_an_evaluation():
    tree = SearchTree(4, SearchSettings(simulations=120, mode="skip"), seed=0)
    exhaust(tree, lambda program: program == Program((3,), 4))
    node = tree._nodes[(3,)]
    assert node.visits > 1
    assert node.total == node.visits  # a leaf that is right on every visit, evaluated once
