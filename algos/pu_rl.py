"""PU-RL: no verifier; the policy ranks its own samples by how well they go with one answer of a stronger model, and learns the ranking.

Paper: arXiv 2601.20687 (abstract and an index page).   One anchor per task, N samples, self-ranking given the anchor, then preferences.
    s_i = mean_t log π(y_i,t | x, anchor, y_i,<t),   r_i = (rank of s_i in its group − 1) / (N − 1),   then GRPO on r
The pairwise form (DPO) is ``pu_pairs.py``.
Status: reconstruction. Unknown: the ranking prompt, the map from a list to advantages, every hyper-parameter.
Deviations: 1. Ranks come from likelihoods under the anchor, not from a ranking that the policy writes. 2. The anchor is the task's
reference solution, in place of a black-box teacher's answer. 3. ``reward: score`` uses s_i itself. The world's reward is never
read by the objective; ``algo/order`` says how often the ranking puts a right answer above a wrong one, which is what the method lives on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from sdgym.algos.advantages import advantages
from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.conditioning import Reference
from sdgym.algos.conditioning.base import Conditioner
from sdgym.algos.grpo import GRPO, GRPOConfig
from sdgym.algos.opsd import reference_of
from sdgym.algos.settings import ContextSettings
from sdgym.core import LossTerm, Trajectory, Weights
from sdgym.errors import ConfigError


class PURLConfig(GRPOConfig, ContextSettings):
    """GRPO's settings, the conditioner's, and what takes the reward's place.

    Attributes:
        reward: ``rank``: places in the group, from 0 (last) to 1; ties share. ``score``: the anchored log-prob itself.
    """

    reward: Literal["rank", "score"] = "rank"


class PURL(GRPO):
    """GRPO on the policy's own anchored ranking of its samples."""

    name = "pu_rl"
    Config = PURLConfig
    supervision = "reference"
    config: PURLConfig

    def __init__(self, config: PURLConfig) -> None:
        super().__init__(config)
        if config.overlong_share or config.credit != "outcome":
            raise ConfigError(
                "pu_rl goes by the rank of whole answers and reads no reward of the world: leave out overlong_share and credit"
            )
        self.conditioners = (Reference(**config.conditioner_arguments()),)
        self._judged = np.zeros((0, 1))

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Rank the samples of every group, then return GRPO's term."""
        values = anchored(self.conditioners[0], batch, context)
        if self.config.reward == "rank":
            values = ranked(values, batch.groups)
        turns = max((len(row.actions) for row in batch.rows), default=1)
        self._judged = np.repeat(values[:, None], turns, axis=1)
        return super().annotate(batch, context)

    def advantages(self, batch: Batch) -> np.ndarray:
        """Return ``[N, H]`` from the ranking; rows without an anchor get 0."""
        c = self.config
        return advantages(self._judged, batch.groups, baseline=c.baseline, scale=c.scale, ddof=c.ddof, epsilon=c.epsilon)

    def accept_group(self, rows: Sequence[Trajectory]) -> bool:
        """Every group is kept: whether it has a signal is not the world's to say."""
        return True

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse what GRPO refuses, and a world without anchors."""
        super().validate(env, settings)
        if not reference_of(env):
            raise ConfigError(f"pu_rl needs an anchor answer, which the tasks of {env.env_id} do not have: use grpo (reward)")


def anchored(conditioner: Conditioner, batch: Batch, context: AnnotateContext, weights: Weights = "teacher") -> np.ndarray:
    """Return every row's mean log-prob where ``weights`` read the anchor, ``[N]``, NaN where they cannot; report ``order``."""
    views = [found and [dataclasses.replace(view, weights=weights) for view in found] for found in conditioner.views(batch, context)]
    told = [i for i, found in enumerate(views) if found]
    scores = iter(context.score([view for i in told for view in views[i] or ()]))
    values = np.full(len(batch.rows), np.nan)
    for i in told:
        values[i] = float(np.concatenate([next(scores).logprobs for _ in views[i] or ()]).mean())
    context.report("order", order(batch.rows, batch.groups, values))
    return values


def ranked(values: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Return each value's place in its group, 0 for the lowest and 1 for the highest, ties the mean of their places; NaN stays."""
    out = np.full(len(values), np.nan)
    for group in groups:
        members = [i for i in group if not np.isnan(values[i])]
        own = values[members]
        below, equal = (own[None] < own[:, None]).sum(1), (own[None] == own[:, None]).sum(1)
        out[members] = (below + 0.5 * (equal - 1)) / max(1, len(members) - 1)
    return out


def order(rows: Sequence[Trajectory], groups: Sequence[Sequence[int]], values: np.ndarray) -> float:
    """Return the share of (right, wrong) pairs of a group that ``values [N]`` puts in this order, ties half; 0.5 where there are none."""
    found: list[float] = []
    for group in groups:
        members = [i for i in group if rows[i].usable and not np.isnan(values[i])]
        gaps = [values[i] - values[j] for i in members if rows[i].success for j in members if not rows[j].success]
        found += [float(gap > 0) + 0.5 * float(gap == 0) for gap in gaps]
    return float(np.mean(found)) if found else 0.5
