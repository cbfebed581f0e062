"""What a person sees while a comparison runs: a live table on a terminal, one line per trial elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdgym.benchmarks.head_to_head.runner import Board
from sdgym.benchmarks.head_to_head.trials import Trial

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sdgym.report.tables import Block


def clock(seconds: float) -> str:
    """``83.4`` as ``1:23``."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


class Display:
    """Draws a :class:`Board`. A context manager, because a live table owns the terminal while it lasts.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Any = None
        self._told: set[Trial] = set()
        self._last_line = time.monotonic()

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def notice(self, text: str) -> None:
        """Print a line above the table."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, board: Board) -> None:
        """Redraw."""
        for trial in board.finished:
            if trial not in self._told:
                self._told.add(trial)
                if self._live is None:
                    self.notice(self._sentence(trial, board))
        if self._live is not None:
            self._live.update(live_table(board))
        elif time.monotonic() - self._last_line > 30:
            self._last_line = time.monotonic()
            self.notice(f"{len(board.running)} running, {len(board.finished)} done, about {clock(board.seconds_left())} left")

    @staticmethod
    def _sentence(trial: Trial, board: Board) -> str:
        end = success_now(trial)
        how = "reused" if trial in board.reused else f"{clock(board.finished[trial])}"
        return f"{trial.place} {trial.arm} seed {trial.seed}: success {'?' if end is None else f'{end:.3f}'} ({how}), about {clock(board.seconds_left())} left"


def success_now(trial: Trial) -> float | None:
    """Return the latest held-out success that the trial has logged."""
    found = trial.latest("eval/success")
    return None if found is None else float(found)


def live_table(board: Board) -> Table:
    """Return the table of all trials that have begun, with bars and the time left."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    left = clock(board.seconds_left())
    title = f"{len(board.finished)} of at least {len(first_round(board.plan))} trials done · {clock(board.spent)} used · about {left} left"
    table = Table(
        "environment", "method", "seed", "progress", "left", "success", title=title, box=None, title_justify="left", header_style="dim"
    )
    now = time.monotonic()
    for trial in board.finished:
        value = success_now(trial)
        table.add_row(
            trial.place, trial.arm, str(trial.seed), "[green]done[/]", clock(board.finished[trial]), "" if value is None else f"{value:.3f}"
        )
    for running in board.running:
        trial, step = running.trial, running.step
        pace = (now - running.started) / step if step else 0.0
        value = success_now(trial)
        bar = ProgressBar(total=running.steps, completed=step, width=28)
        eta = clock(pace * (running.steps - step)) if step else "…"
        table.add_row(trial.place, trial.arm, str(trial.seed), bar, eta, "" if value is None else f"{value:.3f}")
    for trial in board.failed:
        table.add_row(trial.place, trial.arm, str(trial.seed), "[red]failed[/]", "", "")
    return table


def first_round(plan: Sequence[Trial]) -> list[Trial]:
    """Return the trials that run whatever the budget: the first seed of every cell."""
    return [trial for trial in plan if trial.index == 0]


def retention_table(block: Block) -> Table | None:
    """Return what each method kept in the worlds that it was not trained in; None where that was not measured."""
    from rich.markup import escape
    from rich.table import Table

    from sdgym.report.tables import percent, points

    title = f"Retention · trained in {block.env}, success on the test tasks of other worlds"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", title_style="bold")
    for name in ("method", "world"):
        table.add_column(name)
    for name in ("before", "after", "change", "n"):
        table.add_column(name, justify="right")
    for row in block.rows:
        for kept in row.retention:
            table.add_row(
                row.arm, escape(kept.world), percent(kept.before.mean), percent(kept.after.mean), points(kept.change), str(kept.after.n)
            )
    return table if table.rows else None


def result_table(block: Block) -> Table:
    """Return the closing table of one environment."""
    from rich.table import Table

    from sdgym.report.tables import count, percent, points

    title = f"{block.env} · level {block.level} · policy {block.model} · success on {block.split} ({block.tasks} tasks × {block.samples} samples, T={block.temperature:g})"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", title_style="bold")
    for name in ("method", "uses"):
        table.add_column(name)
    for name in ("before", "after", "change", "95 % interval", f"pass@{block.samples}", "n", "sampled tokens"):
        table.add_column(name, justify="right")
    for reference in block.references:
        table.add_row(f"[dim]{reference.name}", f"[dim]{reference.note}", f"[dim]{percent(reference.value)}", *[""] * 6)
    for row in block.rows:
        interval = "n < 5" if row.after.low is None or row.after.high is None else f"{percent(row.after.low)} – {percent(row.after.high)}"
        table.add_row(
            row.arm,
            row.supervision,
            percent(row.before.mean),
            percent(row.after.mean),
            points(row.change),
            interval,
            percent(row.passed.mean),
            str(row.after.n),
            count(row.tokens),
        )
    return table
