"""Rewards that depend on length as well (axis B): what the group baseline then compares."""

from __future__ import annotations

import dataclasses

import numpy as np

from sdgym.algos.base import Batch
from sdgym.core import Trajectory


def cosine_length_reward(right: bool, share: float) -> float:
    """Return the reward of an answer that fills ``share`` of its limit (TT-OPD, arXiv 2605.02943, run configs).

    Half a cosine from the empty answer to the full one: 1.1 → 0.7 for right answers, 0 → −0.3 for wrong ones; an answer that
    was cut off at its limit (``share`` ≥ 1) gets −0.5, right or not.
    """
    if share >= 1.0:
        return -0.5
    start, end = (1.1, 0.7) if right else (0.0, -0.3)
    return float(end + 0.5 * (start - end) * (1.0 + np.cos(np.pi * share)))


def with_cosine_reward(batch: Batch) -> Batch:
    """Return the batch with each usable row's reward replaced by :func:`cosine_length_reward`, paid in its last turn."""

    def shaped(row: Trajectory) -> Trajectory:
        if not row.usable:
            return row
        limit = int(row.sampling.get("max_tokens", 0)) * max(1, len(row.actions))
        share = 1.0 if row.truncated_tokens else min(row.action_length / limit, 1 - 1e-9) if limit else 0.0
        reward = cosine_length_reward(row.success, share)
        return dataclasses.replace(row, reward=reward, turn_rewards=[0.0] * (len(row.turn_rewards) - 1) + [reward])

    return Batch([shaped(row) for row in batch.rows], batch.groups)
