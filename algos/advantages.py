"""Advantages from rewards: pure NumPy functions on [N, H] (algorithms-core §1a, fixtures §1g).

A row or turn that does not count (masked by an infrastructure failure, or a turn the episode never reached) is
NaN on the way in; it leaves every statistic that is taken turn by turn and comes out as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sdgym.core import Trajectory

Credit = Literal["outcome", "turn"]
Baseline = Literal["mean", "leave_one_out", "none"]
Scale = Literal["group", "batch", "none"]


def turn_rewards(rows: Sequence[Trajectory]) -> np.ndarray:
    """Return float64 ``[N, H]`` with H the longest episode; NaN for unusable rows and turns that were not reached."""
    out = np.full((len(rows), max((len(r.turn_rewards) for r in rows), default=0)), np.nan)
    for i, row in enumerate(rows):
        if row.usable:
            out[i, : len(row.turn_rewards)] = row.turn_rewards
    return out


def returns(rewards: np.ndarray, credit: Credit, discount: float = 1.0) -> np.ndarray:
    """Turn per-turn rewards ``[N, H]`` (NaN: no such turn) into what each turn is judged by, ``[N, H]``.

    ``outcome``: the sum over all turns, the same in every column, reached or not (GRPO): episodes are compared as wholes.
    ``turn``: the discounted return from this turn on, Σ_{k≥h} γ^{k−h} r_k (RLTF's turn-wise form is γ = 1, H = 2).
    """
    reached = ~np.isnan(rewards)
    filled = np.where(reached, rewards, 0.0)
    if credit == "outcome":
        return np.repeat(np.where(reached.any(1), filled.sum(1), np.nan)[:, None], rewards.shape[1], axis=1)
    out, later = np.zeros_like(filled), np.zeros(len(filled))
    for h in range(rewards.shape[1] - 1, -1, -1):
        later = filled[:, h] + discount * later
        out[:, h] = later
    return np.where(reached, out, np.nan)


def advantages(
    values: np.ndarray,
    groups: Sequence[Sequence[int]],
    *,
    baseline: Baseline = "mean",
    scale: Scale = "group",
    ddof: int = 1,
    epsilon: float = 1e-6,
) -> np.ndarray:
    """Compare each return with those of its group, turn by turn.

    Args:
        values: ``[N, H]``, NaN where there is none.
        groups: row indices per task.
        baseline: ``mean`` μ_g (GRPO, Dr.GRPO); ``leave_one_out`` mean of the others, which is G/(G−1)·(r − μ_g)
            (RLOO); ``none``.
        scale: divide by the ``group``'s standard deviation (GRPO), the ``batch``'s (of the returns themselves,
            TRL), or by nothing (Dr.GRPO, RLOO).
        ddof: 1 sample, 0 population standard deviation.
        epsilon: added to the standard deviation (verl 1e-6, TRL 1e-4). Where that is 0 nothing is divided (verl's σ = 1).

    Returns:
        float64 ``[N, H]``. A group whose returns are all equal gets exactly 0, and so does a member without any other
        usable member of its group, which has nothing to be compared with; under ``baseline="none"`` both keep their returns.
    """
    out = np.zeros(values.shape)
    batch_std = _std(values, ddof) if scale == "batch" else np.zeros(values.shape[1])
    for group in groups:
        rows = np.asarray(group, dtype=np.int64)
        members = values[rows]
        centred = _centre(members, baseline)
        if scale != "none":
            spread = _std(members, ddof) if scale == "group" else batch_std
            centred = centred / np.where(spread > 0.0, spread + epsilon, 1.0)
        out[rows] = np.nan_to_num(centred, nan=0.0)
    return out


def _centre(members: np.ndarray, baseline: Baseline) -> np.ndarray:
    """``[G, H]`` minus its baseline; exactly 0 where all members agree, whatever rounding does to their mean."""
    if baseline == "none":
        return members
    count = (~np.isnan(members)).sum(0)
    mean = np.nansum(members, 0) / np.maximum(count, 1)
    centred = members - mean
    if baseline == "leave_one_out":
        centred = centred * (count / np.maximum(count - 1, 1))
    return np.where(_agree(members), np.where(np.isnan(members), np.nan, 0.0), centred)


def _agree(values: np.ndarray) -> np.ndarray:
    """Return ``[H]``: whether all values of a column that are not NaN are equal, whatever rounding does to their mean."""
    low = np.where(np.isnan(values), np.inf, values).min(0, initial=np.inf)
    high: np.ndarray = np.where(np.isnan(values), -np.inf, values).max(0, initial=-np.inf)
    return np.asarray(low >= high)


def _std(values: np.ndarray, ddof: int) -> np.ndarray:
    """Column-wise standard deviation ``[H]`` without NaN; 0 where all agree or there are too few values."""
    count = (~np.isnan(values)).sum(0)
    mean = np.nansum(values, 0) / np.maximum(count, 1)
    squares = np.nansum((values - mean) ** 2, 0)
    return np.where((count > ddof) & ~_agree(values), np.sqrt(squares / np.maximum(count - ddof, 1)), 0.0)


def overlong_penalty(length: float, max_length: float, cache: float, factor: float = 1.0) -> float:
    """Soft punishment of long answers: min(−(len − (L_max − L_c))/L_c · factor, 0) (DAPO Eq. 13; verl's reward manager).

    Args:
        length, max_length: tokens.
        cache: L_c, the tokens before ``max_length`` over which the penalty grows from 0 to −factor.
        factor: the largest penalty.
    """
    return min(-(length - (max_length - cache)) / cache * factor, 0.0)
