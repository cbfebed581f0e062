"""The data block of the page's curves: per environment and method, thin seeds below five, bands from five on."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sdgym.report.load import Run
from sdgym.report.tables import Block
from sdgym.seeding import generator
from sdgym.stats import MIN_SEEDS

AXES = {"tokens": "sampled tokens", "episodes": "episodes", "flops": "FLOPs", "step": "steps"}
LEDGER = {"tokens": "ledger/sampled_tokens", "episodes": "ledger/episodes", "flops": "ledger/flops"}
POINTS = 80
"""Points of a curve that is logged at every step; neighbouring steps are averaged into them."""
RESAMPLES = 4000

METRICS: dict[str, dict[str, Any]] = {
    "success": {"label": "held-out success", "grid": "eval", "share": True},
    "greedy": {"label": "held-out, greedy", "grid": "eval", "share": True},
    "passed": {"label": "held-out, pass@k", "grid": "eval", "share": True},
    "train": {"label": "training success", "key": "train/success", "share": True},
    "reward": {"label": "training reward", "key": "train/reward"},
    "length": {"label": "sampled tokens per episode", "key": "train/length"},
    "entropy": {"label": "entropy per token, nats", "key": "train/entropy"},
    "divergence": {"label": "divergence", "key": "teacher/divergence"},
    "divergence_p95": {"label": "its 95th percentile", "key": "teacher/divergence_p95"},
    "lift": {"label": "log-prob lift", "key": "teacher/lift"},
    "usable": {"label": "rows with a teacher", "key": "teacher/usable", "share": True},
    "captured_mass": {"label": "captured mass", "key": "teacher/captured_mass", "share": True},
    "teacher_entropy": {"label": "teacher entropy", "key": "teacher/entropy"},
    "truncated": {"label": "contexts cut", "key": "teacher/truncated", "share": True},
}
LEARNING = ("success", "greedy", "passed", "train", "reward")
TEACHER = ("divergence", "divergence_p95", "lift", "usable", "captured_mass", "teacher_entropy", "truncated")
SHAPE = ("length", "entropy")

# Okabe & Ito's colours, safe for colour-blind readers, in a shade for each background; dash and marker say it twice.
PALETTE = [
    ("#0072b2", "#56b4e9", "solid", "circle"),
    ("#d55e00", "#f0894a", "solid", "square"),
    ("#009e73", "#3fc79a", "solid", "diamond"),
    ("#a6558f", "#e39ccb", "solid", "triangle-up"),
    ("#6b6b6b", "#b5b5b5", "dash", "x"),
    ("#8a6d00", "#e6c229", "solid", "star"),
    ("#1b4f72", "#9fc5e8", "dot", "cross"),
    ("#7b241c", "#f5b7b1", "dot", "pentagon"),
]
CONTROL = 4  # the grey, dashed entry is for arms without any supervision


def styles(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Give each arm its colours, dash and marker, in order of appearance; unsupervised arms get the grey one."""
    order = [i for i in range(len(PALETTE)) if i != CONTROL]
    found: dict[str, dict[str, str]] = {}
    for run in runs:
        if run.arm not in found:
            index = CONTROL if run.supervision == "none" else order[sum(f["dash"] != "dash" for f in found.values()) % len(order)]
            light, dark, dash, symbol = PALETTE[index]
            found[run.arm] = {"name": run.arm, "light": light, "dark": dark, "dash": dash, "symbol": symbol}
    return found


def worlds(runs: Sequence[Run], blocks: Sequence[Block], title: Callable[[Block], str]) -> list[dict[str, Any]]:
    """Return the curves of every block of the table."""
    look = styles(runs)
    found = []
    for block in blocks:
        members = [r for r in runs if (r.env, r.level, r.model) == (block.env, block.level, block.model) and r.curve]
        arms = {name: [r for r in members if r.arm == name] for name in dict.fromkeys(r.arm for r in members)}
        references = [{"name": r.name, "value": r.value} for r in block.references]
        curves = [{**look[name], **arm_curves(group)} for name, group in arms.items()]
        found.append({"title": title(block), "arms": curves, "references": references})
    return found


def measured(found: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Return those of ``names`` that at least one arm has."""
    return [name for name in names if any(name in arm["metrics"] for world in found for arm in world["arms"])]


def arm_curves(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the curves of one method in one world: the grids of x values, and per metric mean, bounds and seeds."""
    evaluated = common([s.step for s in r.curve] for r in runs)
    logged = common([int(line["step"]) for line in r.metrics if line["step"] > 0] for r in runs)
    bins = [part.tolist() for part in np.array_split(logged, min(POINTS, len(logged)))] if logged else []
    steps = {"eval": evaluated, "train": [part[-1] for part in bins]}
    own = [{grid: x_values(run, places) for grid, places in steps.items()} for run in runs]
    few = 1 < len(runs) < MIN_SEEDS
    metrics = {}
    for name, metric in METRICS.items():
        grid = metric.get("grid", "train")
        rows = [eval_values(r, name, evaluated) if grid == "eval" else train_values(r, metric["key"], bins) for r in runs]
        values = np.array(rows, np.float64).reshape(len(runs), -1)
        if values.size and np.isfinite(values).any():
            metrics[name] = {"grid": grid, **summary(values), "runs": [plain(row) for row in values] if few else []}
    grids = {grid: {axis: plain(np.mean([o[grid][axis] for o in own], axis=0)) for axis in AXES} for grid in steps}
    return {"n": len(runs), "grids": grids, "runs": own if few else [], "metrics": metrics}


def common(columns: Any) -> list[int]:
    """Return the steps that all runs have, in order."""
    sets = [set(column) for column in columns]
    return sorted(set.intersection(*sets)) if sets else []


def x_values(run: Run, steps: Sequence[int]) -> dict[str, list[float]]:
    """Return every axis at ``steps``; a step without a line of its own takes the line before it."""
    found: dict[str, list[float]] = {"step": [float(s) for s in steps], **{axis: [] for axis in LEDGER}}
    last, place = dict.fromkeys(LEDGER, 0.0), 0
    for step in steps:
        while place < len(run.metrics) and run.metrics[place]["step"] <= step:
            last |= {axis: float(run.metrics[place][key]) for axis, key in LEDGER.items() if run.metrics[place].get(key) is not None}
            place += 1
        for axis in LEDGER:
            found[axis].append(last[axis])
    return found


def eval_values(run: Run, name: str, steps: Sequence[int]) -> list[float]:
    """Return ``success``, ``greedy`` or ``passed`` at ``steps``, NaN where it was not measured."""
    scores = {score.step: getattr(score, name) for score in run.curve}
    return [math.nan if scores[step] is None else float(scores[step]) for step in steps]


def train_values(run: Run, key: str, bins: Sequence[Sequence[int]]) -> list[float]:
    """Return the mean of ``key`` over the steps of each bin, NaN where none was logged."""
    logged = {int(line["step"]): float(line[key]) for line in run.metrics if line.get(key) is not None}
    members = [[logged[s] for s in part if s in logged and math.isfinite(logged[s])] for part in bins]
    return [sum(m) / len(m) if m else math.nan for m in members]


def summary(values: np.ndarray) -> dict[str, Any]:
    """Return mean and, from five runs on, bounds over runs of ``values [n, L]``; None where a run lacks the point."""
    found: dict[str, Any] = {"mean": plain(values.mean(axis=0)), "low": None, "high": None}
    if len(values) >= MIN_SEEDS:
        low, high = np.quantile(_multiplicities(len(values)) @ values, [0.025, 0.975], axis=0)
        found |= {"low": plain(low), "high": plain(high)}
    return found


@functools.cache
def _multiplicities(n: int) -> np.ndarray:
    """Return ``[RESAMPLES, n]``: how often each run is drawn, over n; one product resamples a whole curve."""
    draws = generator(0, "bootstrap", n).integers(0, n, (RESAMPLES, n))
    return np.stack([(draws == i).sum(axis=1) for i in range(n)], axis=1) / n


def plain(values: Any) -> list[float | None]:
    """Return floats of six digits, None for NaN."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in np.asarray(values, np.float64)]
