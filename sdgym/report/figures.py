"""The data block of the page: learning curves per environment, thin seeds below five, bands from five on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from sdgym.report.load import Run, Score
from sdgym.report.tables import Block
from sdgym.stats import estimate

AXES = {"tokens": "sampled tokens", "episodes": "episodes", "step": "steps"}
METRICS = {
    "success": "held-out success",
    "greedy": "held-out, greedy",
    "train": "training success",
    "length": "answer length",
    "entropy": "entropy",
}
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


def point(run: Run, score: Score) -> dict[str, Any]:
    """Return one evaluation with every x and y the page can show; None where something was not measured."""
    step = score.step

    def metric(name: str) -> float | None:
        value = next((line[name] for line in run.metrics if line["step"] == max(step, 1) and line.get(name) is not None), None)
        return None if value is None or not math.isfinite(value) else float(value)

    return {
        "step": step,
        "tokens": run.at(step, "ledger/sampled_tokens"),
        "episodes": run.at(step, "ledger/episodes"),
        "success": score.success,
        "greedy": score.greedy,
        "train": metric("train/success"),
        "length": metric("train/length"),
        "entropy": metric("train/entropy"),
    }


def mean_curve(curves: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Average the curves at the steps that all of them have; bounds appear where there are five or more."""
    by_step = [{p["step"]: p for p in curve} for curve in curves]
    steps = sorted(set.intersection(*(set(c) for c in by_step))) if by_step else []
    out = []
    for step in steps:
        members = [c[step] for c in by_step]
        mean: dict[str, Any] = {"step": step}
        for name in ("tokens", "episodes"):
            mean[name] = sum(m[name] for m in members) / len(members)
        for name in METRICS:
            values = [m[name] for m in members if m[name] is not None]
            if len(values) == len(members):
                found = estimate(values)
                mean |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        out.append(mean)
    return out


def charts(runs: Sequence[Run], blocks: Sequence[Block], title: Callable[[Block], str]) -> list[dict[str, Any]]:
    """Return one chart per block of the table."""
    look = styles(runs)
    found = []
    for block in blocks:
        members = [r for r in runs if (r.env, r.level, r.model) == (block.env, block.level, block.model) and r.curve]
        arms = []
        for arm in dict.fromkeys(r.arm for r in members):
            curves = [(r.seed, [point(r, s) for s in r.curve]) for r in members if r.arm == arm]
            mean = mean_curve([points for _, points in curves])
            arms.append({**look[arm], "runs": [{"seed": seed, "points": points} for seed, points in curves], "mean": mean})
        references = [{"name": r.name, "value": r.value} for r in block.references]
        found.append({"title": title(block), "arms": arms, "references": references})
    return found
