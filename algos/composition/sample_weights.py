"""Axes z and ω: which rows the teacher speaks to, and how much each row counts. NumPy, float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sdgym.algos.base import Batch
from sdgym.core import Trajectory

Route = Literal["all", "failures", "successes"]


def routed(rows: Sequence[Trajectory], route: Route) -> np.ndarray:
    """Return bool ``[N]``: z of each row before it is known whether it has a teacher; rows that do not count are never routed."""
    return np.array([row.usable and (route == "all" or row.success is (route == "successes")) for row in rows], bool)


def pass_rates(batch: Batch) -> np.ndarray:
    """Return p̂ ``[N]``: the share of successes among the usable rows of each row's group; NaN where there are none."""
    out = np.full(len(batch.rows), np.nan)
    for group in batch.groups:
        known = [batch.rows[i].success for i in group if batch.rows[i].usable]
        out[list(group)] = np.mean(known) if known else np.nan
    return out


def pass_kernel(rates: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    """Return ω = p^α·(1−p)^β (PACED, arXiv 2603.11178: 1, 1; SC-SDPO, arXiv 2605.27765: ½, ½): any shape.

    The mode is α/(α+β). For positive exponents ω(0) = ω(1) = 0: a group that failed altogether teaches nothing.
    (0, 0) is 1 everywhere.
    """
    return np.asarray(np.power(rates, alpha) * np.power(1 - rates, beta))


def balanced(right: Sequence[bool], groups: Sequence[Sequence[int]], share: float = 1.0) -> np.ndarray:
    """Return bool ``[R]``: which sequences stay when no side of a group may be more than ``share`` ≥ 1 times the other, the first ones stay.

    A group of one kind only is kept whole (Uni-OPD's balance, 1 : 1).
    """
    success, keep = np.asarray(right, bool), np.ones(len(right), bool)
    for group in groups:
        members = np.asarray(group, np.int64)
        sides = (members[success[members]], members[~success[members]])
        limit = max(1, round(share * min(len(side) for side in sides)))
        if all(len(side) for side in sides):
            for side in sides:
                keep[side[limit:]] = False
    return keep


def told_by_sibling(sources: Sequence[str], row: int) -> bool:
    """Return whether any of ``sources`` of privileged text is another row than ``row``."""
    said = [part.removeprefix("mismatched: ") for source in sources for part in source.split(", ")]
    return any(part.startswith("row ") and part != f"row {row}" for part in said)
