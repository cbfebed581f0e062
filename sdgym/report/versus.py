"""Methods against each other, ready for the page: rankings, pairwise matrices, declared contrasts, profiles, agreement.

All numbers come from :mod:`sdgym.report.analysis`; a folder that declares no contrasts gets those that its runs imply:
every method against GRPO, and against its own controls.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.report.analysis import Analysis, analyse, scored_runs
from sdgym.report.lifts import Lift, load_lifts
from sdgym.report.load import Run
from sdgym.report.tables import SUPERVISION
from sdgym.stats import Cell, Contrast, Design, Estimate, Rank, build_cells, probability_of_improvement

CONTROLS = {
    "P0": "same update, no text",
    "P1": "filler of the same length",
    "P2": "text of another task",
    "P3": "outcome bit only",
}
MATRIX_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Chance that a run of the row's method ends above one of the column's, in one world or over all.

    Attributes:
        world: its name, or "" for all.
        arms: rows and columns, best first.
        cells: ``[row][column]``, None on the diagonal and for arms without a common world; one without an interval is not coloured.
    """

    world: str
    arms: tuple[str, ...]
    cells: tuple[tuple[Estimate | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class ContrastTable:
    """Contrasts of one family on one axis.

    Attributes:
        title: where, and in which unit.
        rows: with what the other arm is.
        reach: half the width of the axis.
    """

    title: str
    rows: tuple[tuple[Contrast, str], ...]
    reach: float


@dataclasses.dataclass(frozen=True)
class Versus:
    """What the page shows; every part may be empty.

    Attributes:
        rankings: per class of supervision.
        matrices, contrasts: see the classes.
        analysis: profiles, agreements and curve summaries; None where the runs cannot be analysed together.
        lifts: of teachers, before training.
        problem: why there is no analysis, or "".
    """

    rankings: tuple[tuple[str, Sequence[Rank]], ...] = ()
    matrices: tuple[Matrix, ...] = ()
    contrasts: tuple[ContrastTable, ...] = ()
    analysis: Analysis | None = None
    lifts: tuple[Lift, ...] = ()
    problem: str = ""

    def __bool__(self) -> bool:
        return bool(self.matrices or self.contrasts)


def compare(folder: pathlib.Path, runs: Sequence[Run], details: Mapping[str, Any]) -> Versus:
    """Analyse the runs of ``folder``; runs that cannot be compared (other tasks, the same run twice) give the reason instead."""
    told = {**implied(folder, runs), **details}
    lifts = tuple(load_lifts(folder, told))
    try:
        cells = build_cells(scored_runs(folder, runs, told))
        found = analyse(folder, runs, told)
    except ValueError as error:
        return Versus(lifts=lifts, problem=f"The runs are not compared with each other: {error}.")
    if found is None:
        return Versus(lifts=lifts)
    kinds = {**{run.arm: "reward alone" for run in runs if run.arm == told.get("baseline")}, **_control_names(told["controls"], runs)}
    families = [("All worlds, points of normalised gain", found.pooled)]
    for world in dict.fromkeys(c.world for c in found.by_world):
        families.append((f"{world}, points of success", [c for c in found.by_world if c.world == world]))
    return Versus(
        tuple((SUPERVISION.get(kind, kind), rows) for kind, rows in found.rankings.items()),
        tuple(matrix(cells, world) for world in _places(cells)) if len({cell.arm for cell in cells}) > 1 else (),
        tuple(ContrastTable(title, tuple((c, kinds.get(c.control, "")) for c in rows), reach(rows)) for title, rows in families if rows),
        found,
        lifts,
    )


def _places(cells: Sequence[Cell]) -> list[str]:
    worlds = list(dict.fromkeys(cell.world for cell in cells))
    return ["", *worlds] if len(worlds) > 1 else worlds


def matrix(cells: Sequence[Cell], world: str) -> Matrix:
    """Return the probabilities of improvement between all arms of ``world`` ("" for all worlds)."""
    members = [cell for cell in cells if world in ("", cell.world)]
    design = Design(members, resamples=MATRIX_RESAMPLES)
    found: dict[tuple[str, str], Estimate] = {}
    for a, b in itertools.combinations(design.arms, 2):
        if design.worlds_of(a, b):
            above = probability_of_improvement(design, a, b, world)
            found[a, b], found[b, a] = above, _mirrored(above)
    wins = {arm: sum(e.mean for (a, _), e in found.items() if a == arm) for arm in design.arms}
    arms = tuple(sorted(design.arms, key=lambda arm: (-wins[arm], arm)))
    return Matrix(world, arms, tuple(tuple(found.get((a, b)) for b in arms) for a in arms))


def _mirrored(p: Estimate) -> Estimate:
    """Return the chance of the other one: wins and ties sum to 1."""
    bounds = (None, None) if p.low is None or p.high is None else (1.0 - p.high, 1.0 - p.low)
    return Estimate(p.n, 1.0 - p.mean, *bounds)


def reach(rows: Sequence[Contrast]) -> float:
    """Return half the width of the contrasts' common axis, a multiple of five points."""
    values = [abs(v) for c in rows for v in (c.difference.mean, c.difference.low, c.difference.high) if v is not None and math.isfinite(v)]
    return max(1, math.ceil(20 * max(values, default=0.05) - 1e-9)) / 20


def implied(folder: pathlib.Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Return what a comparison of these runs would have declared (the keys of ``comparison.json`` that matter here)."""
    several = len({run.model for run in runs}) > 1
    places, trials, keys = {}, {}, dict[str, tuple[str, str]]()
    for run in runs:
        world = f"{run.env} · {run.level}"
        place = f"{world} · {run.model}" if several else world
        places[place] = [world, run.model]
        trials[run.folder.relative_to(folder).as_posix()] = [run.arm, place]
        keys.setdefault(run.arm, _treatment(run))
    controls = {
        other: arm for arm, (key, own) in keys.items() for other, (theirs, how) in keys.items() if own == "none" != how and key == theirs
    }
    against = [(arm, "grpo") for arm in keys if "grpo" in keys and arm != "grpo" and arm not in controls]
    return {
        "order": list(keys),
        "trials": trials,
        "starts": {},
        "places": places,
        "baseline": "grpo",
        "contrasts": [*against, *((arm, other) for other, arm in controls.items())],
        "controls": controls,
        "unranked": list(controls),
    }


def _treatment(run: Run) -> tuple[str, str]:
    """Return a key that an arm shares with its controls, and which control it is (``none`` for the real thing)."""
    overrides = dict(run.config["algo"].get("overrides") or {})
    control = str(overrides.pop("control", "none"))
    return json.dumps([run.config["algo"]["name"], overrides], sort_keys=True, default=str), control


def _control_names(controls: Mapping[str, str], runs: Sequence[Run]) -> dict[str, str]:
    """Return what each control replaces the text by."""
    how = {run.arm: _treatment(run)[1] for run in runs if run.arm in controls}
    return {arm: CONTROLS.get(name, name) for arm, name in how.items()}
