"""Evaluations for people: a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from ..program import Program
from .harness import Evaluation


def evaluation_table(evaluation: Evaluation, title: str = "Held-out questions") -> Table:
    """Accuracy by level; over all, mean depth, identity rate and paired difference from the base with 95 % interval."""
    levels = evaluation.levels
    table = Table(title=f"{title} ({len(evaluation.examples)}), accuracy in % by level", box=SIMPLE, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for name in (*levels, "all", "layers", "id. %", "minus base"):
        table.add_column(name, justify="right", no_wrap=True)
    everything = range(len(evaluation.examples))
    for name, result in evaluation.results.items():
        overall = result.summary(everything)
        difference = "" if name == "base" else _points(evaluation, name)
        table.add_row(
            name,
            *(f"{100 * result.summary(rows)['accuracy']:.0f}" for rows in levels.values()),
            f"{100 * overall['accuracy']:.1f}",
            f"{overall['mean_depth']:.1f}",
            f"{100 * overall['identity_rate']:.0f}",
            difference,
        )
    return table


def _points(evaluation: Evaluation, name: str) -> str:
    interval = evaluation.difference(name)
    return f"{100 * interval.mean:+.1f} [{100 * interval.low:+.0f}, {100 * interval.high:+.0f}]"


def program_figure(evaluation: Evaluation, path: str | Path, policy: str = "router") -> None:
    """Draw which layers a policy skips, keeps and repeats, by level: layers × level, as shares of the questions.

    Args:
        evaluation: The evaluation.
        path: PNG to write.
        policy: Name of the policy.
    """
    from matplotlib.figure import Figure

    groups = evaluation.levels or {"all": list(range(len(evaluation.examples)))}
    programs = [row[0] for row in evaluation.results[policy].programs]
    figure = Figure(figsize=(2 + 1.9 * len(groups), 4.2), layout="constrained")
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axis, (name, rows) in zip(axes, groups.items(), strict=True):
        skipped, kept, repeated = operation_shares([programs[row] for row in rows])
        layers = np.arange(len(kept))
        axis.barh(layers, skipped, color="#d9d9d9", label="skip")
        axis.barh(layers, kept, left=skipped, color="#6baed6", label="keep")
        axis.barh(layers, repeated, left=skipped + kept, color="#08519c", label="repeat")
        axis.set_title(f"level {name}" if name in evaluation.levels else name)
        axis.set_xlim(0, 1)
        axis.set_xticks([0, 0.5, 1], ["0", "½", "1"])
        axis.invert_yaxis()
    axes[0].set_ylabel("layer")
    axes[0].set_yticks(np.arange(programs[0].num_layers))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"What the {policy} does with each layer (share of questions)")
    figure.savefig(path, dpi=150)


def operation_shares(programs: Sequence[Program]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of programs that skip, keep and repeat each layer; three arrays (layers,)."""
    counts = np.array([program.executions for program in programs])
    return (counts == 0).mean(axis=0), (counts == 1).mean(axis=0), (counts > 1).mean(axis=0)


def program_bar(program: Program) -> str:
    """A program in one character per layer: ``·`` skipped, ``▁`` kept, ``▃▅▇█`` for two to five executions."""
    marks = "·▁▃▅▇█"
    return "".join(marks[min(count, len(marks) - 1)] for count in program.executions)
