"""SCoRe: learn to correct oneself by reinforcement on two turns; first keep the first answer where it is, then reward progress.

Paper: arXiv 2409.12917 (secondary pages and a third party's config; MATH: α 10, β1 .01, β2 .1).
    I:   max E[r(y2)] − β2·KL(π(·|x1) ‖ π_ref)                              the first turn is pinned to the start
    II:  max E[r(y1) + r(y2) + α·(r(y2) − r(y1))] − β1·Σ_turns KL(π ‖ π_ref)
α = 10 pays the second turn +11 for wrong → right, +1 for right → right, 0 for wrong → wrong, −10 for right → wrong.
REINFORCE with the group's mean as baseline; the world is ``sdgym/TwoTurn-v0`` around any single-turn one.
Status: reconstruction. Deviations: 1. The shaped reward is paid to the second turn's tokens (``discount`` 0). Read to the letter, with
discount 1, a right first answer is worth 1 − α = −9 to the tokens that wrote it. 2. Stages last a set number of steps. 3. KL by the
½·log-ratio² estimator on sampled tokens, whose gradient is the reverse KL's. 4. Batch and rate are sdgym's.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from sdgym.algos.advantages import advantages, returns, turn_rewards
from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Phase, TeacherWeightsSpec, student_views
from sdgym.algos.losses import DistillLoss, PolicyGradientLoss
from sdgym.algos.settings import UpdateSettings
from sdgym.algos.terms import Views, build_items, make_term, usable_rows
from sdgym.core import LossTerm, ScoringView
from sdgym.errors import ConfigError


class ScoreConfig(UpdateSettings):
    """Settings.

    Attributes:
        stage_steps: rollout steps of stage I.
        progress: α. discount: what of the second turn's reward the first turn's tokens get in stage II.
        pin: β2, on the first turn in stage I. kl: β1, on both turns in stage II.
        baseline, scale: see :func:`sdgym.algos.advantages.advantages`.
    """

    stage_steps: PositiveInt = 20
    progress: NonNegativeFloat = 10.0
    discount: float = Field(default=0.0, ge=0.0, le=1.0)
    pin: NonNegativeFloat = 0.1
    kl: NonNegativeFloat = 0.01
    baseline: Literal["mean", "leave_one_out", "none"] = "mean"
    scale: Literal["group", "batch", "none"] = "none"


class Score(Algorithm):
    """Self-correction by reinforcement, in two stages."""

    name = "score"
    Config = ScoreConfig
    config: ScoreConfig

    def __init__(self, config: ScoreConfig) -> None:
        super().__init__(config)
        self.teacher_weights = TeacherWeightsSpec("frozen")

    @property
    def phases(self) -> Sequence[Phase]:
        """Stage I for a set number of steps, then stage II."""
        first, second = (functools.partial(self.annotate, stage=stage) for stage in (1, 2))
        return (self.config.phase(first, "pin", steps=self.config.stage_steps), self.config.phase(second, "progress"))

    def annotate(self, batch: Batch, context: AnnotateContext, stage: int = 2) -> list[LossTerm]:
        """Return REINFORCE on the stage's rewards and the KL to the start."""
        c, rows = self.config, [i for i in usable_rows(batch) if len(batch.rows[i].actions) == 2]
        if not rows:
            return []
        rewards = turn_rewards(batch.rows)
        self._report(rewards[rows], context)
        judged = returns(shaped(rewards, c.progress), "turn", c.discount) if stage == 2 else rewards * np.array([0.0, 1.0])
        gained = advantages(judged, batch.groups, baseline=c.baseline, scale=c.scale)
        policy = build_items(batch, context, rows, advantage=gained, ratios=False)
        price = np.array([c.pin, 0.0] if stage == 1 else [c.kl, c.kl])
        weight = [price[np.minimum(row.turn_of_token(), 1)] for row in batch.rows]
        start: Views = [[_at_start(view) for view in student_views(batch, i)] for i in range(len(batch.rows))]
        pulled = build_items(batch, context, rows, references=[start], weight=weight, ratios=False) if price.any() else []
        terms = make_term("policy", PolicyGradientLoss("reinforce"), policy, batch, c)
        return terms + make_term("start", DistillLoss(support="sampled", estimator="k2"), pulled, batch, c)

    @staticmethod
    def _report(rewards: np.ndarray, context: AnnotateContext) -> None:
        context.report("first_reward", float(rewards[:, 0].mean()))
        context.report("second_reward", float(rewards[:, 1].mean()))
        context.report("corrected", float((rewards[:, 1] > rewards[:, 0]).mean()))
        context.report("spoilt", float((rewards[:, 1] < rewards[:, 0]).mean()))

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse another number of turns than two, a group of one, and a run that ends in stage I."""
        turns, name = int(getattr(env, "max_turns", 1)), getattr(env, "env_id", "this world")
        if turns != 2:
            raise ConfigError(f"score needs two turns, and {name} has {turns}: use --env sdgym/TwoTurn-v0 --set env.base={name}")
        if self.config.baseline != "none" and settings.get("group_size", 2) < 2:
            raise ConfigError("a group baseline needs group_size of at least 2: one rollout has nothing to be compared with")
        if settings.get("steps", self.config.stage_steps + 1) <= self.config.stage_steps:
            raise ConfigError(f"score pins for stage_steps={self.config.stage_steps} steps first, so steps={settings['steps']} is too few")


def shaped(rewards: np.ndarray, progress: float) -> np.ndarray:
    """Return ``[N, 2]``: r1, and r2 + α·(r2 − r1)."""
    out = rewards.astype(np.float64).copy()
    out[:, 1:2] += progress * (rewards[:, 1:2] - rewards[:, 0:1])
    return out


def _at_start(view: ScoringView) -> ScoringView:
    return dataclasses.replace(view, weights="teacher", grad=False, kind="start")
