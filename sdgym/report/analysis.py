"""What a comparison shows, recomputed from the per-item files: rankings, declared contrasts, profiles, agreement, curves."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.report.load import Run, read_lines
from sdgym.stats import (
    Agreement,
    Cell,
    Contrast,
    Design,
    Estimate,
    Profile,
    Rank,
    ScoredRun,
    area_under_curve,
    budget_to_threshold,
    build_cells,
    contrasts,
    estimate,
    profile,
    rank_agreement,
    ranking,
)

THRESHOLDS = tuple(i / 20 for i in range(-4, 21))
"""Normalised gains at which profiles are evaluated."""
SPENT = {"sampled tokens": "ledger/sampled_tokens", "FLOPs": "ledger/flops"}
"""The budget that arms share, and the second view of what they cost."""


@dataclasses.dataclass(frozen=True)
class CurveSummary:
    """The learning curves of one arm in one place, over what was spent.

    Attributes:
        axis: what was spent, a key of :data:`SPENT`.
        area: mean height of success on the curve's split up to ``limit``, over runs.
        limit: the least that any run of the place spent, so that all curves end together.
        threshold: success half-way from the start to 1.
        median: what the threshold cost, infinite if most runs never got there.
        reached: runs that did.
    """

    axis: str
    arm: str
    place: str
    area: Estimate
    limit: float
    threshold: float
    median: float
    reached: int


@dataclasses.dataclass(frozen=True)
class Analysis:
    """Everything that is claimed about a comparison.

    Attributes:
        rankings: per class of supervision; controls and reconstructions are not in them.
        pooled: declared contrasts over all worlds. Each arm against the baseline is one Holm family; each arm against
            its controls and whatever else it names is a family of its own.
        by_world: the same per world, with the worlds of a contrast in its family.
        profiles: one per arm.
        agreements: ``(first, second, τ)`` between the rankings of worlds and of policies.
        curves: one per measure of cost, place and arm.
    """

    rankings: Mapping[str, Sequence[Rank]]
    pooled: Sequence[Contrast]
    by_world: Sequence[Contrast]
    profiles: Sequence[Profile]
    agreements: Sequence[tuple[str, str, Agreement]]
    curves: Sequence[CurveSummary]


def scored_runs(folder: pathlib.Path, runs: Sequence[Run], details: Mapping[str, Any]) -> list[ScoredRun]:
    """Return the per-item records at both ends of every finished run of a comparison."""
    places, found = details.get("places", {}), []
    for run in runs:
        arm, place = details["trials"][run.folder.relative_to(folder).as_posix()]
        world, policy = places.get(place, (place, run.model))
        last = run.last
        if not run.finished or last is None:
            continue
        start = read_lines(folder / details["starts"][place]) if place in details["starts"] else []
        records = [r for r in (*start, *read_lines(run.folder / "eval.jsonl")) if r["split"] == run.split]
        before, after = ([r for r in records if r["step"] == step] for step in (0, last.step))
        if before:
            found.append(ScoredRun(arm, world, policy, run.seed, before, after))
    return found


def analyse(folder: pathlib.Path, runs: Sequence[Run], details: Mapping[str, Any]) -> Analysis | None:
    """Compute the analysis of a comparison's folder; None for a folder that declares no contrasts or has no finished run.

    Args:
        folder: of the comparison.
        runs, details: as :func:`sdgym.report.load_folder` returns them.
    """
    scored = scored_runs(folder, runs, details) if details.get("contrasts") is not None else []
    if not scored:
        return None
    cells = build_cells(scored)
    design = Design(cells)
    families = contrast_families([(a, b) for a, b in details["contrasts"]], details.get("baseline", ""))
    supervision = {run.arm: run.supervision for run in runs}
    ranked = [arm for arm in details["order"] if arm in design.arms and arm not in details.get("unranked", [])]
    classes = dict.fromkeys(supervision[arm] for arm in ranked)
    return Analysis(
        {kind: ranking(design, [arm for arm in ranked if supervision[arm] == kind]) for kind in classes},
        [found for family in families for found in contrasts(design, family)],
        [found for family in families for found in contrasts(design, family, design.worlds, "after")] if len(design.worlds) > 1 else [],
        [profile(design, arm, THRESHOLDS) for arm in design.arms],
        agreements(cells, ranked),
        curve_summaries(folder, runs, details),
    )


def contrast_families(declared: Sequence[tuple[str, str]], baseline: str) -> list[list[tuple[str, str]]]:
    """Split declared contrasts into the families that Holm's correction guards: one question each."""
    families: dict[str, list[tuple[str, str]]] = {}
    for treatment, control in declared:
        families.setdefault("" if control == baseline else treatment, []).append((treatment, control))
    return list(families.values())


def agreements(cells: Sequence[Cell], arms: Sequence[str]) -> list[tuple[str, str, Agreement]]:
    """Return Kendall's τ between the rankings of every two worlds and of every two policies."""
    found = []
    worlds = dict.fromkeys(cell.world for cell in cells)
    policies = sorted({name for cell in cells for name, _ in cell.runs})
    by_world = {world: [cell for cell in cells if cell.world == world] for world in worlds}
    by_policy = {policy: [part for cell in cells if (part := cell.of_checkpoint(policy)).runs] for policy in policies}
    for groups in (by_world, by_policy):
        for first, second in itertools.combinations(groups, 2):
            one, other = Design(groups[first], resamples=2_000), Design(groups[second], resamples=2_000, seed=1)
            found.append((first, second, rank_agreement(one, other, arms)))
    return found


def curve_summaries(folder: pathlib.Path, runs: Sequence[Run], details: Mapping[str, Any]) -> list[CurveSummary]:
    """Summarise the learning curves of finished runs over each measure of cost.

    A method that samples nothing has none: it would end everybody's curve where its own, much cheaper one ends.
    """
    sampling = [run for run in runs if run.finished and len(run.curve) > 1 and run.tokens > 0]
    return [summary for axis, key in SPENT.items() for summary in _over(axis, key, folder, sampling, details)]


def _over(axis: str, key: str, folder: pathlib.Path, runs: Sequence[Run], details: Mapping[str, Any]) -> list[CurveSummary]:
    groups: dict[str, dict[str, list[tuple[list[float], list[float]]]]] = {}
    for run in runs:
        arm, place = details["trials"][run.folder.relative_to(folder).as_posix()]
        points = dict(sorted((run.at(s.step, key), s.success) for s in run.curve))
        if len(points) > 1:
            groups.setdefault(place, {}).setdefault(arm, []).append((list(points), list(points.values())))
    return [
        _summary(axis, arm, place, curves, min(x[-1] for others in arms.values() for x, _ in others))
        for place, arms in groups.items()
        for arm, curves in arms.items()
    ]


def _summary(axis: str, arm: str, place: str, curves: Sequence[tuple[list[float], list[float]]], limit: float) -> CurveSummary:
    start = statistics.fmean(y[0] for _, y in curves)
    threshold = 0.5 * (1.0 + start)
    spent = [budget_to_threshold(x, y, threshold) for x, y in curves]
    areas = [area_under_curve(x, y, limit) for x, y in curves]
    reached = sum(math.isfinite(x) for x in spent)
    return CurveSummary(axis, arm, place, estimate(areas), limit, threshold, statistics.median(spent), reached)
