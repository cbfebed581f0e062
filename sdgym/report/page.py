"""Writing the page: one HTML file that works offline, from the run folders below a folder."""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

import sdgym
from sdgym.files import replace_file
from sdgym.report import figures, tables, versus
from sdgym.report.alignment import alignments
from sdgym.report.configs import config_differences, first_seeds, told_apart
from sdgym.report.load import Run, find_runs, load_details, load_run, read_lines
from sdgym.report.tables import Block
from sdgym.report.trajectories import MOST, Saved, collect, deflate
from sdgym.report.versus import Versus

LIMIT = 15 * 10**6
"""Largest page in bytes; groups of episodes are left out, evenly, to stay below."""
SCRIPTS = ("core", "charts", "tokens", "list", "viewer", "main")


def load_folder(folder: pathlib.Path) -> tuple[list[Run], dict[str, Any]]:
    """Return the runs at or below ``folder`` and what a comparison says about them; without one, methods bear what sets them apart."""
    details = load_details(folder)
    if not details:
        return told_apart([load_run(path) for path in find_runs(folder)]), details
    starts = {world: read_lines(folder / path) for world, path in details["starts"].items()}
    runs = []
    for place, (arm, world) in details["trials"].items():
        runs.append(load_run(folder / place, arm, starts.get(world, ())))
    return runs, details


def write_report(folder: pathlib.Path, out: pathlib.Path | None = None) -> pathlib.Path:
    """Write ``report.html`` for the runs below ``folder`` and return its path.

    Equal run folders give equal bytes.

    Raises:
        RunFolderError: there is no run.
        DataError: a file of a run is damaged.
    """
    runs, details = load_folder(folder)
    order = {name: i for i, name in enumerate(details.get("order", []))}
    runs.sort(key=lambda r: (r.env, order.get(r.arm, len(order)), r.seed))
    found, most = versus.compare(folder, runs, details), MOST
    while True:
        saved = collect(runs, most)
        page = render(runs, saved, found, details, folder)
        if (size := len(page.encode())) <= LIMIT or not saved.shown or most == 1:
            break
        most = max(1, min(most, saved.shown) * max(1, LIMIT - (size - saved.size)) * 9 // (10 * saved.size))
    path = out or folder / "report.html"
    replace_file(path, page)
    return path


def render(runs: Sequence[Run], saved: Saved, found: Versus, details: Mapping[str, Any], folder: pathlib.Path) -> str:
    """Return the page. Everything a model or environment wrote is escaped or compressed, never markup."""
    import jinja2

    here = jinja2.PackageLoader("sdgym", "report/web")
    environment = jinja2.Environment(loader=here, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": tables.percent, "count": tables.count, "points": lambda v: tables.points(v).replace("-", "−")}
    environment.filters |= {"classes": tables.classes, "scale": tables.scale, "place": tables.place}
    blocks = tables.blocks(runs)
    names, changed = config_differences(runs)
    content = {
        "title": details.get("title") or " and ".join(dict.fromkeys(f"{r.arm} on {r.env}" for r in runs)),
        "facts": facts(runs, details),
        "claims": details.get("claims", ""),
        "notes": [*details.get("notes", []), *([found.problem] if found.problem else [])],
        "blocks": blocks,
        "banded": any(row.after.low is not None for block in blocks for row in block.rows),
        "saved": saved,
        "shown": saved.shown,
        "differences": changed,
        "config_names": names,
        "configs": [(f"{r.arm} on {r.env}", yaml.safe_dump(dict(r.config), sort_keys=False)) for r in first_seeds(runs)],
        "temperature": ", ".join(sorted({f"{r.temperature:g}" for r in runs})),
        "split_words": " and ".join(sorted({r.split for r in runs})) + " split",
        "command": f"sdgym report {folder.name}",
        "version": sdgym.__version__,
        "versus": found,
        "analysis": found.analysis,
        "alignments": alignments(runs),
        "gain_axis": tables.axis([v for _, rows in found.rankings for r in rows for v in (0.0, r.score.mean, r.score.low, r.score.high)]),
        **pictures(runs, blocks, saved, found),
        **code(),
    }
    content["sections"] = [(place, name) for place, name, there in _sections(content) if there]
    return environment.get_template("page.html.jinja").render(content)


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    return [
        ("result", "Ranking", True),
        ("versus", "Against each other", bool(content["versus"])),
        ("curves", "Learning curves", bool(content["learning"])),
        ("teacher-health", "Teacher health", bool(content["teacher"])),
        ("shape", "Length and entropy", bool(content["shape"])),
        ("alignment", "Gradient alignment", bool(content["alignments"])),
        ("cost", "Cost", bool(content["costs"])),
        ("trajectories", "Trajectories", True),
        ("configs", "Configurations", True),
        ("reading-guide", "How to read this", True),
    ]


def pictures(runs: Sequence[Run], blocks: Sequence[Block], saved: Saved, found: Versus) -> dict[str, Any]:
    """Return what the templates draw, and the data that the scripts draw."""
    several = len({b.model for b in blocks}) > 1

    def title(block: Block) -> str:
        return f"{block.env} · {block.level}" + (f" · {block.model}" if several else "")

    arms = list(figures.styles(runs).values())
    number = {arm["name"]: i for i, arm in enumerate(arms)}
    worlds = figures.worlds(runs, blocks, title)
    shown = {name: metric for name, metric in figures.METRICS.items() if figures.measured(worlds, [name])}
    profiles = [dataclasses.asdict(p) for p in found.analysis.profiles] if found.analysis is not None else []
    data = {"arms": number, "styles": arms, "curves": {"axes": figures.AXES, "metrics": shown, "worlds": worlds}, "profiles": profiles}
    spent = [(title(b), tables.costs(b, runs)) for b in blocks if b.rows]
    return {
        "arms": arms,
        "number": number,
        "axes": figures.AXES,
        "metrics": figures.METRICS,
        "worlds": worlds if shown else [],
        "learning": figures.measured(worlds, figures.LEARNING),
        "teacher": figures.measured(worlds, figures.TEACHER),
        "shape": figures.measured(worlds, figures.SHAPE),
        "cost_names": [*tables.COSTS, "seconds"],
        "costs": [(name, rows, [max(column) for column in zip(*(v for _, v in rows), strict=True)]) for name, rows in spent],
        "data": deflate(finite(data)),
        "index": deflate(finite(saved.index)),
    }


@functools.cache
def code() -> dict[str, str]:
    """Return style sheet, scripts, and the plotting library, compressed to a third."""
    from plotly.offline import get_plotlyjs

    source = pathlib.Path(__file__).parent / "web"
    return {
        "css": (source / "page.css").read_text(encoding="utf-8") + (source / "viewer.css").read_text(encoding="utf-8"),
        "js": "\n".join((source / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
        "plotly": base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode(),
    }


def finite(value: Any) -> Any:
    """Replace numbers that JSON lacks by None."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def facts(runs: Sequence[Run], details: Mapping[str, Any]) -> list[str]:
    """Return what all runs have in common, for the line under the title."""
    seeds, planned = {r.seed for r in runs}, details.get("planned", len(runs))
    found = [
        f"{len(runs)} of {planned} runs" if planned > len(runs) else f"{len(runs)} runs",
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}",
    ]
    if details.get("budget"):
        found.append(f"{tables.count(details['budget']['sampled_tokens'])} sampled tokens per run")
    for key, unit in (("steps", "steps"), ("tasks_per_step", "tasks per step"), ("group_size", "rollouts per task")):
        values = {r.config.get(key) for r in runs}
        if len(values) == 1 and (value := values.pop()) is not None:
            found.append(f"{value} {unit}")
    for key in ("device", "dtype", "threads"):
        found.append(f"{key} {', '.join(sorted({str(r.config[key]) for r in runs}))}")
    return found


def table_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Return the table as plain data, for ``sdgym report --json`` and for tests."""
    runs, _ = load_folder(folder)
    found = [{"env": b.env, "level": b.level, "model": b.model, **dataclasses.asdict(row)} for b in tables.blocks(runs) for row in b.rows]
    return [_without_nan({key: value for key, value in row.items() if key != "retention" or value}) for row in found]


def _without_nan(value: Any) -> Any:
    """Return ``value`` with None for NaN, which JSON does not know: what was not measured is null."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
