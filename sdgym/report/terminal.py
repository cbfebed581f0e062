"""Live curves as text, for ``sdgym watch``: one run with all its metrics, or a comparison world by world."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdgym.report.load import find_runs, load_config, read_lines

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
COLOURS = ("#3a9bdc", "#e07b39", "#2fae83", "#c07ab0", "#c9a227", "#8f8f8f")  # readable on black and on white
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bits of a Braille cell, row by column (Unicode 2800)
SHOWN = {
    "train/reward": "reward",
    "train/success": "training success",
    "train/entropy": "entropy",
    "train/length": "tokens per episode",
    "train/update_kl": "update KL",
    "teacher/divergence": "teacher divergence",
    "teacher/lift": "teacher log-prob lift",
    "teacher/usable": "rows with a teacher",
}


@dataclasses.dataclass(frozen=True)
class Watched:
    """A run as far as it has got: its place and arm (from its folder), the steps it is to take, and its metric lines."""

    place: str
    arm: str
    name: str
    steps: int
    lines: tuple[Mapping[str, Any], ...]

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Return steps and values of a metric where it was logged."""
        found = [(float(line["step"]), float(line[name])) for line in self.lines if line.get(name) is not None]
        return [x for x, _ in found], [y for _, y in found]

    @property
    def step(self) -> int:
        """The last complete step."""
        return int(self.lines[-1]["step"]) if self.lines else 0


def watched(folder: pathlib.Path) -> list[Watched]:
    """Read the runs at or below ``folder``, finished or not. Raises :class:`sdgym.errors.RunFolderError` if there is none."""
    found = []
    for path in find_runs(folder):
        config = _config(path / "config.yaml", (path / "config.yaml").stat().st_mtime_ns)
        parts = path.relative_to(folder).parts
        inside = len(parts) > 3 and parts[-1] == "run"  # trials/PLACE…/ARM/seed-N/run
        place, arm = ("/".join(parts[1:-3]), parts[-3]) if inside else (str(config["env"]["id"]), str(config["algo"]["name"]))
        name = parts[-2] if inside else "/".join(parts) or folder.name
        found.append(Watched(place, arm, name, int(config["steps"]), _lines(path / "metrics.jsonl")))
    return found


@functools.lru_cache(maxsize=1024)
def _config(path: pathlib.Path, _: int) -> dict[str, Any]:
    return load_config(path)


def _lines(path: pathlib.Path) -> tuple[Mapping[str, Any], ...]:
    state = path.stat()
    return _parsed(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=1024)
def _parsed(path: pathlib.Path, _: int, __: int) -> tuple[Mapping[str, Any], ...]:
    return tuple(line for line in read_lines(path) if "step" in line)


def screen(folder: pathlib.Path, width: int, height: int = 40) -> Group:
    """Return what ``sdgym watch`` shows of ``folder`` on ``width`` × ``height`` characters."""
    from rich.console import Group

    runs = watched(folder)
    if len(runs) == 1:
        return Group(*one_run(runs[0], width, height))
    places = list(dict.fromkeys(run.place for run in runs))
    tall = max(5, min(12, (height - len(runs) // max(1, len(places)) - 4) // len(places) - 8))
    return Group(*itertools.chain.from_iterable(world(place, [r for r in runs if r.place == place], width, tall) for place in places))


def one_run(run: Watched, width: int, height: int) -> list[Any]:
    """Return a chart of success and a line per metric."""
    from rich.table import Table
    from rich.text import Text

    title = Text.assemble((f"{run.arm} on {run.place}", "bold"), f"   step {run.step} of {run.steps}{_spent(run.lines)}")
    curves = [("held out", COLOURS[0], run.series("eval/success")), ("training", COLOURS[1], run.series("train/success"))]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, label in SHOWN.items():
        _, values = run.series(name)
        if values:
            table.add_row(label, sparkline(values, max(10, min(60, width - 40))), f"{values[-1]:.4g}")
    legend = Text("  ").join(Text(f"━ {name}", colour) for name, colour, _ in curves)
    return [title, *chart([(c, s) for _, c, s in curves], run.steps, width, max(5, min(16, height - 14))), legend, Text(""), table]


def world(place: str, runs: Sequence[Watched], width: int, height: int) -> list[Any]:
    """Return a chart with the mean curve of each arm, and a table of the arms."""
    from rich.text import Text

    arms = {arm: [r for r in runs if r.arm == arm] for arm in dict.fromkeys(r.arm for r in runs)}
    colours = {arm: COLOURS[i % len(COLOURS)] for i, arm in enumerate(arms)}
    curves = [(colours[arm], mean_curve([run.series("eval/success") for run in group])) for arm, group in arms.items()]
    body = chart(curves, max(r.steps for r in runs), width, height)
    return [Text(f"{place}: held-out success", "bold"), *body, arm_table(arms, colours, width), Text("")]


def arm_table(arms: Mapping[str, Sequence[Watched]], colours: Mapping[str, str], width: int) -> Table:
    """Return one row per arm: how far its runs are, success from start to now, and training success as a line."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", "runs", "steps", "held out", "training success", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for arm, runs in arms.items():
        done = sum(run.step >= run.steps for run in runs)
        held = mean_curve([run.series("eval/success") for run in runs])[1]
        train = mean_curve([run.series("train/success") for run in runs])[1]
        now = " → ".join(f"{v:.3f}" for v in (held[:1] + held[-1:] if len(held) > 1 else held))
        steps = f"{sum(r.step for r in runs)} of {sum(r.steps for r in runs)}"
        line = sparkline(train, max(10, min(40, width - 70)))
        table.add_row(Text(f"━ {arm}", colours[arm]), f"{done} of {len(runs)} done", steps, now, Text(line, colours[arm]))
    return table


def _spent(lines: Sequence[Mapping[str, Any]]) -> str:
    last = lines[-1] if lines else {}
    tokens, seconds = last.get("ledger/sampled_tokens"), last.get("seconds")
    return (f"   {tokens:,.0f} sampled tokens" if tokens is not None else "") + (f"   {seconds:.0f} s" if seconds is not None else "")


def mean_curve(curves: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[list[float], list[float]]:
    """Average curves at every x, over those that have got that far."""
    at: dict[float, list[float]] = {}
    for xs, ys in curves:
        for x, y in zip(xs, ys, strict=True):
            at.setdefault(x, []).append(y)
    return sorted(at), [sum(at[x]) / len(at[x]) for x in sorted(at)]


def chart(curves: Sequence[tuple[str, tuple[Sequence[float], Sequence[float]]]], steps: int, width: int, height: int) -> list[Text]:
    """Draw curves with values in [0, 1] in Braille dots, a percent scale at the left and the steps below.

    Args:
        curves: a colour and ``(steps, values)`` each; a later one covers an earlier one.
        steps: right end of the axis.
        width, height: of the whole, in characters.
    """
    from rich.text import Text

    wide = max(10, min(110, width - 7))
    highest = max((y for _, (_, ys) in curves for y in ys if math.isfinite(y)), default=0.0)
    top = max(1, math.ceil(10 * highest - 1e-9)) / 10
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    for colour, (xs, ys) in curves:
        for x, y in _dots([(a, b) for a, b in zip(xs, ys, strict=True) if math.isfinite(b)], max(1, steps), top, 2 * wide, 4 * height):
            bits = cells.get((y // 4, x // 2), (0, ""))[0]
            cells[y // 4, x // 2] = (bits | DOTS[y % 4][x % 2], colour)
    rows = []
    for i in range(height):
        label = {0: f"{100 * top:4.0f} %", height - 1: "   0 %"}.get(i, "")
        row = Text(f"{label:>6}│", "dim")
        for j in range(wide):
            bits, colour = cells.get((i, j), (0, ""))
            row.append(chr(0x2800 + bits) if bits else " ", colour)
        rows.append(row)
    axis = Text(" " * 6 + "└" + "─" * wide, "dim")
    return [*rows, axis, Text(f"{'':7}0{f'step {steps}':>{wide - 1}}", "dim")]


def _dots(points: Sequence[tuple[float, float]], right: float, top: float, wide: int, tall: int) -> set[tuple[int, int]]:
    """Return the dots (column, row from the top) of the polyline through ``points``."""
    places = [(x / right * (wide - 1), (1.0 - y / top) * (tall - 1)) for x, y in points]
    found = {(round(x), round(y)) for x, y in places}
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        count = max(1, math.ceil(max(abs(x1 - x0), abs(y1 - y0))))
        found |= {(round(x0 + (x1 - x0) * k / count), round(y0 + (y1 - y0) * k / count)) for k in range(count)}
    return {(min(wide - 1, max(0, x)), min(tall - 1, max(0, y))) for x, y in found}


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values as blocks between their smallest and largest, averaged into at most ``width`` columns."""
    known = [v for v in values if math.isfinite(v)]
    if not known:
        return ""
    columns = min(width, len(known))
    edges = [round(i * len(known) / columns) for i in range(columns + 1)]
    means = [sum(known[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(means), max(means) - min(means)
    return "".join(BLOCKS[round((m - low) / span * (len(BLOCKS) - 1)) if span else 0] for m in means)
