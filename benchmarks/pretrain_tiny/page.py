"""The tables of docs/wind-tunnel.md, written from recorded bars and from nothing else.

    python -m sdgym.benchmarks.pretrain_tiny.page

A record is what the bars left with ``--out benchmarks/results/embedded/NAME.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sdgym.benchmarks.pretrain_tiny.bars import Bars

ROOT = Path(__file__).resolve().parents[2]
RECORDS, PAGE = ROOT / "benchmarks" / "results" / "embedded", ROOT / "docs" / "wind-tunnel.md"
TABLES: tuple[tuple[str, ...], ...] = (("tiny", "tiny-b", "tiny-c"), ("tiny-weak",), ("tiny-four",))
"""Policies that share a table."""
END = "<!-- end of bars -->"


class Line(NamedTuple):
    """One row: a rate, what is wanted of it (ARCHITECTURE §6), and whether it is met (None: it is only shown)."""

    what: str
    wanted: str
    value: Callable[[Bars], float]
    met: Callable[[Bars], bool] | None = None


def _block(what: str, wanted: str, name: str, met: Callable[[Bars], bool] | None = None) -> Line:
    return Line(what, wanted, lambda b: b.blocks[name], met)


def _neutral(what: str, name: str) -> Line:
    return _block(what, "plain ± 3", name, lambda b: abs(b.blocks[name] - b.plain) <= 0.03)


LINES: tuple[Line, ...] = (
    Line("plain, T = 1", "15–50 %", lambda b: b.plain, lambda b: 0.15 <= b.plain <= 0.5),
    Line("greedy", "15–50 %", lambda b: b.greedy, lambda b: 0.15 <= b.greedy <= 0.5),
    Line("majority of 8", "shown", lambda b: b.majority),
    Line("not understood", "≤ 5 %", lambda b: b.format_errors, lambda b: b.format_errors <= 0.05),
    Line("tasks with .05 < success < .95", "≥ 50 %", lambda b: b.band, lambda b: b.band >= 0.5),
    _block("reference", "≥ 90 %", "reference", lambda b: b.blocks["reference"] >= 0.9),
    _block(
        "reference, held-out wordings",
        "the above ± 5",
        "reference/heldout",
        lambda b: abs(b.blocks["reference/heldout"] - b.blocks["reference"]) <= 0.05,
    ),
    Line("plain on the tasks of the next four rows", "", lambda b: b.failed_plain),
    _block("own feedback", "that + 10 points, ≤ 85 %", "feedback", lambda b: b.failed_plain + 0.1 <= b.blocks["feedback"] <= 0.85),
    _block(
        "own feedback, held-out wordings",
        "the above ± 5",
        "feedback/heldout",
        lambda b: abs(b.blocks["feedback/heldout"] - b.blocks["feedback"]) <= 0.05,
    ),
    _block('outcome only ("wrong")', "shown", "outcome"),
    _block(
        "mismatched feedback",
        "plain there ± 3",
        "mismatched_feedback",
        lambda b: abs(b.blocks["mismatched_feedback"] - b.failed_plain) <= 0.03,
    ),
    _neutral("mismatched reference", "mismatched_reference"),
    _neutral("filler", "filler"),
    _neutral("empty", "empty"),
)


def start(names: Sequence[str]) -> str:
    """Return the mark before the table of ``names``."""
    return f"<!-- bars of {', '.join(names)}: python -m sdgym.benchmarks.pretrain_tiny.page -->"


def table(names: Sequence[str], folder: Path = RECORDS) -> str:
    """Return the table of some policies in Markdown: one row per bar, one column per policy and world."""
    columns = [(name, Bars(**bars)) for name in names for bars in json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["bars"]]
    heads = [f"`{name}` {bars.env.removeprefix('sdgym/').removesuffix('-v0')}" for name, bars in columns]
    rows = [f"| bar | wanted | {' | '.join(heads)} |", "|---|---|" + "---|" * len(columns)]
    for line in LINES:
        cells = [f"{line.value(bars):.1%}".replace("%", " %") + _verdict(line, bars) for _, bars in columns]
        rows.append(f"| {line.what} | {line.wanted} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _verdict(line: Line, bars: Bars) -> str:
    return " **missed**" if line.met is not None and not line.met(bars) else ""


def updated(text: str) -> str:
    """Return the page with every table as its records say."""
    for names in TABLES:
        before, rest = text.split(start(names))
        text = f"{before}{start(names)}\n{table(names)}\n{END}{rest.split(END, 1)[1]}"
    return text


def main() -> None:
    """Write the tables into the page."""
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
