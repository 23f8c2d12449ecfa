"""A progress bar for searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .runner import SearchProgress


@contextmanager
def search_progress(console: Console | None = None) -> Iterator[Callable[[SearchProgress], None]]:
    """Show a progress bar while a search runs: questions, evaluations per second, solved, saved depth, time left.

        with search_progress() as progress:
            run_search(..., progress=progress)

    Args:
        console: Where to draw; the terminal by default.

    Yields:
        The callback for ``run_search(progress=…)``.
    """
    columns = (
        TextColumn("search"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # One round on a large model may take minutes, so the speed is measured over a longer while than rich's default.
    with Progress(*columns, console=console, speed_estimate_period=600) as bar:
        task = bar.add_task("search", total=1.0, figures="starting")

        def show(state: SearchProgress) -> None:
            elapsed = bar.tasks[task].elapsed or 0.0
            speed = state.evaluations / elapsed if elapsed else 0.0
            figures = f"{state.done}/{state.total} questions · {speed:.0f} evaluations/s"
            if state.done:
                figures += f" · {state.solved / state.done:.0%} solved · {state.saved_depth:.1f} layers saved"
            bar.update(task, completed=state.fraction, figures=figures)

        yield show
