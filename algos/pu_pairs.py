"""PU-RL, pairwise: the anchored self-ranking as preference pairs, learnt by DPO.

Paper: arXiv 2601.20687 (abstract: pairwise preferences by direct preference optimization).   s_i as in ``pu_rl.py``; per task
    y⁺ = argmax_i s_i,  y⁻ = argmin_i s_i,   L = −log σ(β[log (π/π_ref)(y⁺|x) − log (π/π_ref)(y⁻|x)]),   π_ref the start
Status: reconstruction. Unknown: which pairs of a ranking are taken, β. Deviations: 1. The best and the worst of each group, the pair of
whose order the ranking is surest. 2. As in ``pu_rl.py``: ranks come from likelihoods, the anchor is the task's reference. 3. A group
whose samples are all alike, or all equally likely, has no pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import PositiveFloat

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Phase, TeacherWeightsSpec, student_views
from sdgym.algos.conditioning import Reference
from sdgym.algos.losses import PolicyGradientLoss
from sdgym.algos.opsd import reference_of
from sdgym.algos.pairs import Pair, preference_items
from sdgym.algos.pu_rl import anchored
from sdgym.algos.settings import ContextSettings, UpdateSettings
from sdgym.algos.terms import usable_rows
from sdgym.core import LossTerm
from sdgym.errors import ConfigError


class PUPairsConfig(UpdateSettings, ContextSettings):
    """Settings.

    Attributes:
        beta: β of DPO.
    """

    beta: PositiveFloat = 0.1


class PUPairs(Algorithm):
    """DPO on the best and the worst sample of the policy's own anchored ranking; the world's reward is never read."""

    name = "pu_pairs"
    Config = PUPairsConfig
    supervision = "reference"
    config: PUPairsConfig

    def __init__(self, config: PUPairsConfig) -> None:
        super().__init__(config)
        if config.epochs * config.minibatches > 1:
            raise ConfigError("pu_pairs' preference weights hold for one update per batch: use epochs=1 and minibatches=1")
        self.conditioners = (Reference(**config.conditioner_arguments()),)
        self.teacher_weights = TeacherWeightsSpec("frozen")

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase, under the configured schedule."""
        return (self.config.phase(self.annotate),)

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Rank the samples of every group and return DPO's term over their extremes."""
        pairs = extremes(batch, anchored(self.conditioners[0], batch, context, "policy"))
        context.report("pairs", len(pairs) / max(1, len(batch.groups)))
        if not pairs:
            return []
        items, margins = preference_items(pairs, context, self.config.beta)
        context.report("margin", float(margins.mean()))
        # factor 2: a mean over pairs, each of two sequences
        return [LossTerm("preference", PolicyGradientLoss("reinforce"), items, 2.0, "seq_mean_token_sum")]

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse several turns, a group of one, and a world without anchors."""
        name, turns = getattr(env, "env_id", "this world"), int(getattr(env, "max_turns", 1))
        if turns > 1:
            raise ConfigError(f"pu_pairs compares answers of one turn, and {name} has {turns} turns: use pu_rl")
        if settings.get("group_size", 2) < 2:
            raise ConfigError("pu_pairs compares samples of one task: it needs group_size of at least 2")
        if not reference_of(env):
            raise ConfigError(f"pu_pairs needs an anchor answer, which the tasks of {name} do not have: use grpo (reward)")


def extremes(batch: Batch, values: np.ndarray) -> list[Pair]:
    """Return (best, worst) of every group by ``values [N]`` (NaN: not ranked), where they differ in value and in tokens."""
    usable, pairs = set(usable_rows(batch)), []
    for group in batch.groups:
        members = [i for i in group if i in usable and not np.isnan(values[i]) and batch.rows[i].action_length]
        best, worst = (max(members, key=values.__getitem__), min(members, key=values.__getitem__)) if members else (0, 0)
        if members and values[best] > values[worst] and not np.array_equal(batch.rows[best].action_ids(), batch.rows[worst].action_ids()):
            (good,), (bad,) = student_views(batch, best), student_views(batch, worst)
            pairs.append((good, bad))
    return pairs
