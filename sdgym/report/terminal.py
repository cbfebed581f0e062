"""Learning curves as text, for ``sdgym watch``."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdgym.report.load import find_runs, read_lines

if TYPE_CHECKING:
    from rich.table import Table

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values in [0, 1] as blocks, averaged into at most ``width`` columns."""
    if not values:
        return ""
    columns = min(width, len(values))
    edges = [round(i * len(values) / columns) for i in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    return "".join(BLOCKS[min(len(BLOCKS) - 1, max(0, int(m * len(BLOCKS))))] for m in means)


def curves(folder: pathlib.Path, width: int) -> Table:
    """Return one row per run below ``folder``: steps, training success as a curve, latest held-out success."""
    from rich.table import Table

    table = Table("run", "step", "training success", "now", "held out", box=None, header_style="bold")
    for path in find_runs(folder):
        lines = read_lines(path / "metrics.jsonl")
        train = [line["train/success"] for line in lines if line.get("train/success") is not None]
        held = [line["eval/success"] for line in lines if line.get("eval/success") is not None]
        name = path.relative_to(folder).as_posix().removeprefix("trials/").removesuffix("/run")
        table.add_row(
            folder.name if name == "." else name,
            str(lines[-1]["step"]) if lines else "0",
            sparkline(train, max(10, width - 60)),
            f"{train[-1]:.2f}" if train else "",
            " → ".join(f"{v:.2f}" for v in (held[:1] + held[-1:] if len(held) > 1 else held)),
        )
    return table
