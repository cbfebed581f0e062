"""Writing the page: one HTML file that works offline, from the run folders below a folder."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

import sdgym
from sdgym.config import differences, merge
from sdgym.report import figures, tables
from sdgym.report.load import Run, find_runs, load_details, load_run, read_lines
from sdgym.report.transcripts import Transcript, transcripts

LIMIT = 15 * 10**6
"""Largest page in bytes; transcripts are left out, the last ones first, to stay below."""


def load_folder(folder: pathlib.Path) -> tuple[list[Run], dict[str, Any]]:
    """Return the runs at or below ``folder`` and what a comparison says about them."""
    details = load_details(folder)
    if not details:
        return [load_run(path) for path in find_runs(folder)], details
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
    told = transcripts(runs)
    page = render(runs, told, details, folder)
    while len(page.encode()) > LIMIT and told:
        told = told[: len(told) // 2]
        page = render(runs, told, details, folder)
    path = out or folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def render(runs: Sequence[Run], told: Sequence[Transcript], details: Mapping[str, Any], folder: pathlib.Path) -> str:
    """Return the page. Everything a model or environment wrote is escaped."""
    import jinja2
    from plotly.offline import get_plotlyjs

    blocks = tables.blocks(runs)
    charts = figures.charts(
        runs, blocks, lambda b: f"{b.env} · {b.level}" + (f" · {b.model}" if len({x.model for x in blocks}) > 1 else "")
    )
    data = {"charts": charts, "axes": figures.AXES, "arms": figures.styles(runs)}
    here = jinja2.PackageLoader("sdgym", "report")
    environment = jinja2.Environment(loader=here, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": tables.percent, "points": tables.points, "count": tables.count}
    source = pathlib.Path(__file__).parent
    names, changed = config_differences(runs)
    return environment.get_template("page.html.jinja").render(
        title=details.get("title") or " and ".join(dict.fromkeys(f"{r.arm} on {r.env}" for r in runs)),
        facts=facts(runs),
        notes=details.get("notes", []),
        blocks=blocks,
        charts=charts,
        axes=figures.AXES,
        metrics=figures.METRICS,
        transcripts=told,
        envs=list(dict.fromkeys(r.env for r in runs)),
        arms=list(dict.fromkeys(r.arm for r in runs)),
        differences=changed,
        config_names=names,
        configs=[(f"{r.arm} on {r.env}", yaml.safe_dump(dict(r.config), sort_keys=False)) for r in first_seeds(runs)],
        temperature=", ".join(sorted({f"{r.temperature:g}" for r in runs})),
        split_words=" and ".join(sorted({r.split for r in runs})) + " split",
        command=f"sdgym report {folder.name}",
        version=sdgym.__version__,
        css=(source / "page.css").read_text(encoding="utf-8"),
        js=(source / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        data=embed(data),
    )


def embed(data: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(_finite(data), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """Replace numbers that JSON lacks by None."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def facts(runs: Sequence[Run]) -> list[str]:
    """Return what all runs have in common, for the line under the title."""
    seeds = {r.seed for r in runs}
    found = [f"{len(runs)} runs", f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"]
    for key, unit in (("steps", "steps"), ("tasks_per_step", "tasks per step"), ("group_size", "rollouts per task")):
        values = {r.config.get(key) for r in runs}
        if len(values) == 1 and (value := values.pop()) is not None:
            found.append(f"{value} {unit}")
    for key in ("device", "dtype", "threads"):
        found.append(f"{key} {', '.join(sorted({str(r.config[key]) for r in runs}))}")
    return found


def first_seeds(runs: Sequence[Run]) -> list[Run]:
    """Return one run per (environment, method)."""
    found: dict[tuple[str, str, str, str], Run] = {}
    for run in runs:
        found.setdefault((run.env, run.level, run.model, run.arm), run)
    return list(found.values())


def config_differences(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return arm names and, per setting that differs between arms, its values; environments and seeds are left out."""
    arms: dict[str, dict[str, Any]] = {}
    for run in runs:
        arms.setdefault(
            run.arm, {**run.config, "algo": merge({"settings": resolved_settings(run)}, run.config["algo"]), "env": None, "seed": None}
        )
    base = next(iter(arms.values()), {})
    keys = sorted({line.split(": ", 1)[0] for config in arms.values() for line in differences(base, config)})
    return list(arms), [(key, [show(lookup(config, key)) for config in arms.values()]) for key in keys]


def resolved_settings(run: Run) -> dict[str, Any]:
    """Return the algorithm's full settings, {} where its code is not at hand."""
    from sdgym.algos.presets import build_algorithm
    from sdgym.errors import UserError

    try:
        return dict(build_algorithm(run.config["algo"]["name"], run.config["algo"]["overrides"]).config.model_dump(mode="json"))
    except UserError:
        return {}


def lookup(config: Any, key: str) -> Any:
    """Return the value at a dotted key, "" where there is none."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return ""
        config = config[part]
    return config


def show(value: Any) -> str:
    """Return a short text for a table cell."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return "" if value is None else str(value)


def table_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Return the table as plain data, for ``sdgym report --json`` and for tests."""
    runs, _ = load_folder(folder)
    return [{"env": b.env, "level": b.level, "model": b.model, **dataclasses.asdict(row)} for b in tables.blocks(runs) for row in b.rows]
