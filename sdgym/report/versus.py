"""Methods against each other: the pairwise matrix, and each arm against its controls, from the ends of finished runs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

from sdgym.report.load import Run
from sdgym.report.tables import Block
from sdgym.stats import MIN_SEEDS, Estimate, estimate

CONTROLS = {
    "P0": "same update, no text",
    "P1": "filler of the same length",
    "P2": "text of another task",
    "P3": "outcome bit only",
}


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One difference of success at the end, arm minus the other, over seeds that both have.

    Attributes:
        kind: what the other is.
        difference: n counts paired seeds; bounds only from five on.
        pairs: the differences themselves.
    """

    arm: str
    other: str
    kind: str
    difference: Estimate
    pairs: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Chance that a run of the row's method ends above one of the column's, ties counting half.

    Attributes:
        arms: rows and columns, best first.
        cells: ``[row][column]``, NaN on the diagonal.
        firm: whether every method has runs enough for the chances to say something; the page colours no others.
    """

    arms: tuple[str, ...]
    cells: tuple[tuple[float, ...], ...]
    firm: bool


def ends(block: Block, runs: Sequence[Run]) -> dict[str, dict[int, float]]:
    """Return success at the end per arm and seed."""
    found: dict[str, dict[int, float]] = {}
    for run in members(block, runs):
        if run.last is not None:
            found.setdefault(run.arm, {})[run.seed] = run.last.success
    return found


def members(block: Block, runs: Sequence[Run]) -> list[Run]:
    """Return the finished runs of a block."""
    return [r for r in runs if (r.env, r.level, r.model) == (block.env, block.level, block.model) and r.finished]


def matrix(block: Block, runs: Sequence[Run]) -> Matrix:
    """Return probabilities of improvement over all pairs of seeds (Mann & Whitney's U over nm; Agarwal et al. 2021, §4.3)."""
    found = ends(block, runs)
    arms = sorted(found, key=lambda arm: (-sum(found[arm].values()) / len(found[arm]), arm))
    cells = tuple(tuple(math.nan if a == b else improvement([*found[a].values()], [*found[b].values()]) for b in arms) for a in arms)
    return Matrix(tuple(arms), cells, min(map(len, found.values()), default=0) >= MIN_SEEDS)


def improvement(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the share of pairs with x above y, a tie counting half."""
    return sum((x > y) + 0.5 * (x == y) for x in xs for y in ys) / (len(xs) * len(ys))


def contrasts(block: Block, runs: Sequence[Run]) -> list[Contrast]:
    """Return every arm against each of its controls, and against GRPO where it ran."""
    found = ends(block, runs)
    keys: dict[str, tuple[str, str]] = {}
    for run in members(block, runs):
        keys.setdefault(run.arm, _treatment(run))
    pairs = [
        (arm, other, CONTROLS.get(control, control))
        for arm, (key, own) in keys.items()
        for other, (theirs, control) in keys.items()
        if own == "none" and control != "none" and key == theirs
    ]
    controls = {arm for arm, (_, own) in keys.items() if own != "none"}
    pairs += [(arm, "grpo", "reward alone") for arm in keys if "grpo" in keys and arm != "grpo" and arm not in controls]
    return [paired(arm, other, kind, found[arm], found[other]) for arm, other, kind in pairs]


def paired(arm: str, other: str, kind: str, xs: dict[int, float], ys: dict[int, float]) -> Contrast:
    """Return the mean difference over common seeds."""
    differences = tuple(xs[seed] - ys[seed] for seed in sorted(set(xs) & set(ys)))
    return Contrast(arm, other, kind, estimate(differences), differences)


def _treatment(run: Run) -> tuple[str, str]:
    """Return a key that an arm shares with its controls, and which control it is (``none`` for the real thing)."""
    overrides = dict(run.config["algo"].get("overrides") or {})
    control = str(overrides.pop("control", "none"))
    return json.dumps([run.config["algo"]["name"], overrides], sort_keys=True, default=str), control


def reach(found: Sequence[Contrast]) -> float:
    """Return half the width of the contrasts' common axis, a multiple of five points."""
    values = [abs(v) for c in found for v in (*c.pairs, c.difference.low or 0.0, c.difference.high or 0.0)]
    return max(1, math.ceil(20 * max(values, default=0.05) - 1e-9)) / 20
