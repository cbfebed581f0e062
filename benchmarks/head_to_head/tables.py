"""The closing tables of a comparison in the terminal, recomputed from its folder."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdgym.benchmarks.head_to_head.display import result_table, retention_table
from sdgym.benchmarks.head_to_head.predictions import Checked, check, load_predictions
from sdgym.stats import Contrast, Rank

if TYPE_CHECKING:
    from rich.table import Table

    from sdgym.report.tables import Block


def results(blocks: Sequence[Block]) -> list[Table]:
    """Return the table of success of each block with a finished run, and what was kept elsewhere where that was measured."""
    shown = [block for block in blocks if block.rows]
    return [table for block in shown for table in (result_table(block), retention_table(block)) if table is not None]


def findings(folder: pathlib.Path) -> list[Table | str]:
    """Return the rankings and the declared contrasts of the comparison in ``folder``; nothing where there is none.

    Where its runs cannot be compared (other tasks, the same run twice), the reason.
    """
    from sdgym.report import load_folder
    from sdgym.report.analysis import analyse

    runs, details = load_folder(folder)
    try:
        found = analyse(folder, runs, details)
    except ValueError as error:
        return [f"The runs are not compared with each other: {error}."]
    if found is None:
        return []
    tables: list[Table | str] = [ranking_table(kind, rows) for kind, rows in found.rankings.items() if len(rows) > 1]
    if found.pooled:
        tables.append(contrast_table("Declared contrasts, normalised gain over all environments", found.pooled))
    if found.by_world:
        tables.append(contrast_table("Declared contrasts per environment, success at the end", found.by_world))
    checked = [c for c in check(load_predictions(), found.pooled) if c.contrast is not None]
    return [*tables, prediction_table(checked)] if checked else tables


def ranking_table(kind: str, rows: Sequence[Rank]) -> Table:
    """Return the ranking of one class of supervision."""
    table = _table(f"Ranking · methods that use {kind} · interquartile mean of the normalised gain", "rank", "method", "gain", "ranks", "n")
    for row in rows:
        span = "n < 5" if row.ranks is None else f"{row.ranks[0]:g} – {row.ranks[1]:g}"
        table.add_row(str(row.rank), row.arm, f"{row.score.mean:.3f}", span, str(row.score.n))
    return table


def contrast_table(title: str, rows: Sequence[Contrast]) -> Table:
    """Return declared contrasts with interval, Holm-adjusted p-value and verdict."""
    names = ("contrast", "difference", "95 % interval", "p (Holm)", "P(better)", "n", "verdict")
    table = _table(title, *names)
    for row in rows:
        d = row.difference
        span = "n < 5" if d.low is None or d.high is None else f"{d.low:+.3f} – {d.high:+.3f}"
        where = f" on {row.world}" if row.world else ""
        p = "–" if row.p_holm is None else f"{row.p_holm:.3g}"
        table.add_row(
            f"{row.treatment} − {row.control}{where}", f"{d.mean:+.3f}", span, p, f"{row.improvement.mean:.2f}", str(d.n), row.verdict
        )
    return table


def prediction_table(rows: Sequence[Checked]) -> Table:
    """Return what the papers lead one to expect beside what was found."""
    table = _table("Predictions (benchmarks/predictions.yaml)", "contrast", "expected", "found", "result", "source")
    for row in rows:
        p, d = row.prediction, row.contrast.difference if row.contrast else None
        table.add_row(f"{p.treatment} − {p.control}", p.expect, "" if d is None else f"{d.mean:+.3f}", row.result, p.source)
    return table


def _table(title: str, *names: str) -> Table:
    from rich.table import Table as RichTable

    table = RichTable(title=title, title_justify="left", box=None, header_style="bold", title_style="bold")
    for name in names:
        table.add_column(name, justify="left" if name in ("method", "contrast", "verdict", "result", "source", "expected") else "right")
    return table
