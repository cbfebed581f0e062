"""B-STaR's balance score: is a set of answers right, and are there enough different ones? Pure functions (arXiv 2412.17256, Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdgym.core import Trajectory


def balance(unique_right: int, selected: int, wanted: int) -> float:
    """Return min(n⁺/n*, 1)·(n⁺/n): diversity up to ``wanted``, times precision; 0 where nothing is selected.

    (8, 8) with n* = 8 gives 1, 8 of 16 gives .5, and (4, 4) gives .5.
    """
    return min(unique_right / wanted, 1.0) * unique_right / selected if selected else 0.0


def selection_score(row: Trajectory, confidence: float) -> float:
    """Return 2r − 1 + ``confidence``·(the mean probability of its tokens): the verifier, and a little of the policy's own opinion."""
    certainty = float(np.exp(row.action_logprobs().astype(np.float64)).mean()) if row.action_length else 0.0
    return 2.0 * (row.reward or 0.0) - 1.0 + confidence * certainty


def best_threshold(
    groups: Sequence[Sequence[Trajectory]], thresholds: Sequence[float], wanted: int, confidence: float
) -> tuple[float, float]:
    """Return the threshold whose selection (score above it) has the best mean balance over ``groups``, and that balance.

    Of several equally good ones that next to 0 wins, which a verifier's 1 passes and its 0 does not: the lowest would let wrong
    answers pass wherever they cost nothing, in groups without a right one.
    """
    scored = [[(selection_score(row, confidence), row) for row in group if row.usable] for group in groups]
    found = [float(np.mean([_of_group(group, limit, wanted) for group in scored])) if scored else 0.0 for limit in thresholds]
    best = min(range(len(found)), key=lambda i: (-found[i], abs(thresholds[i])))
    return float(thresholds[best]), found[best]


def _of_group(scored: Sequence[tuple[float, Trajectory]], threshold: float, wanted: int) -> float:
    kept = [row for score, row in scored if score > threshold]
    right = {row.action_ids().tobytes() for row in kept if row.success}
    return balance(len(right), len(kept), wanted)
