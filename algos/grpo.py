"""GRPO and its variants: Dr.GRPO, DAPO, RLOO, GSPO, CISPO are presets of this file.

Paper: DeepSeekMath, arXiv 2402.03300, Eq. 3; DAPO 2503.14476; Dr.GRPO 2503.20783; GSPO 2507.18071; CISPO 2506.13585.
    A_i = (r_i − μ_g) / (σ_g + ε),     L = −min(w·A, clip(w, 1−ε_l, 1+ε_h)·A) + β·KL(π_θ‖π_ref)
Status: code-read (verl, TRL 1.16); GSPO's clip range is quoted from memory.
Deviations: 1. β = 0 by default, as in TRL 1.16 and verl; the paper has 0.04 and a reference that ``reference=ema`` lets move. 2. With
``credit: turn`` groups are compared turn by turn; the papers are single-turn. 3. The overlong cache is a share of the token limit, so that
it fits every environment; DAPO's 4,096 of 20,480 tokens is a fifth. 4. A row that could not be graded leaves the group. 5. Dynamic
sampling judges the environment's reward, before overlong shaping.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat

from sdgym.algos.advantages import advantages, overlong_penalty, returns, turn_rewards
from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Phase, TeacherWeightsSpec, student_views
from sdgym.algos.losses import PolicyGradientLoss
from sdgym.algos.settings import UpdateSettings
from sdgym.algos.terms import build_items, make_term, usable_rows
from sdgym.core import LossTerm, ScoringView, Trajectory
from sdgym.errors import ConfigError


class GRPOConfig(UpdateSettings):
    """Settings of the policy term; see :class:`sdgym.algos.losses.PolicyGradientLoss` and :mod:`sdgym.algos.advantages`."""

    objective: Literal["ppo", "gspo", "cispo", "cispo_cap", "reinforce"] = "ppo"
    clip_low: float = Field(default=0.2, ge=0.0, le=1.0)
    clip_high: NonNegativeFloat = 0.2
    dual_clip: float | None = Field(default=None, gt=1.0)
    ratio_cap: PositiveFloat = 5.0
    baseline: Literal["mean", "leave_one_out", "none"] = "mean"
    scale: Literal["group", "batch", "none"] = "group"
    ddof: Literal[0, 1] = 1
    epsilon: PositiveFloat = 1e-6
    credit: Literal["outcome", "turn"] = "outcome"
    discount: float = Field(default=1.0, ge=0.0, le=1.0)
    kl_beta: NonNegativeFloat = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_gradient: Literal["own", "k2", "ratio"] = "own"
    reference: Literal["frozen", "ema"] = Field(default="frozen", description="whose weights the reference KL is taken to")
    reference_rate: float = Field(default=0.01, ge=0.0, le=1.0, description="a of the moving average, per step")
    rollout_correction: Literal["none", "token", "sequence_mask"] = "none"
    rollout_cap: PositiveFloat = 2.0
    mask_truncated: bool = False
    dynamic_sampling: bool = False
    overlong_share: float = Field(default=0.0, ge=0.0, le=1.0, description="L_c / L_max of the overlong penalty; 0 turns it off")
    overlong_factor: PositiveFloat = 1.0

    def loss(self) -> PolicyGradientLoss:
        """Return the policy loss of these settings."""
        return PolicyGradientLoss(**{field.name: getattr(self, field.name) for field in dataclasses.fields(PolicyGradientLoss)})


class GRPO(Algorithm):
    """Group-relative policy optimisation: reward only, no teacher."""

    name = "grpo"
    Config = GRPOConfig
    config: GRPOConfig

    def __init__(self, config: GRPOConfig) -> None:
        super().__init__(config)
        if config.credit == "outcome" and config.discount != 1.0:
            raise ConfigError("discount is read by credit=turn alone: leave it out, or set credit=turn")
        self.loss = config.loss()
        self.teacher_weights = TeacherWeightsSpec(config.reference, config.reference_rate) if config.kl_beta else None

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase, under the configured schedule."""
        return (self.config.phase(self.annotate),)

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the policy term."""
        references = [self._reference_views(batch)] if self.config.kl_beta else []
        rows = usable_rows(batch, drop_truncated=self.config.mask_truncated)
        items = build_items(batch, context, rows, references=references, advantage=self.advantages(batch))
        return make_term("policy", self.loss, items, batch, self.config)

    def advantages(self, batch: Batch) -> np.ndarray:
        """Return ``[N, H]``, 0 for rows that do not count."""
        c = self.config
        rewards = turn_rewards(batch.rows)
        if c.overlong_share:
            rewards = rewards + np.array([self._overlong(row, rewards.shape[1]) for row in batch.rows])
        values = returns(rewards, c.credit, c.discount)
        return advantages(values, batch.groups, baseline=c.baseline, scale=c.scale, ddof=c.ddof, epsilon=c.epsilon)

    def accept_group(self, rows: Sequence[Trajectory]) -> bool:
        """Under dynamic sampling: whether the usable rows disagree, so that the group has a gradient (DAPO §3.2)."""
        by_turn = self.config.credit == "turn"
        found = {tuple(row.turn_rewards) if by_turn else row.reward for row in rows if row.usable}
        return not self.config.dynamic_sampling or len(found) > 1

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a group whose members cannot differ where the baseline is the group's."""
        if self.config.baseline != "none" and settings.get("group_size", 2) < 2:
            raise ConfigError("a group baseline needs group_size of at least 2, or nothing is compared: or use baseline=none")
        if self.config.baseline != "none" and settings.get("sampling", {}).get("temperature") == 0.0:
            raise ConfigError("rollouts at temperature 0 are all alike, so no group has an advantage: use sampling.temperature=1")

    def _overlong(self, row: Trajectory, turns: int) -> np.ndarray:
        limit = float(row.sampling.get("max_tokens", 0))
        lengths = np.bincount(row.turn_of_token(), minlength=turns)
        share, factor = self.config.overlong_share, self.config.overlong_factor
        return np.array([overlong_penalty(n, limit, share * limit, factor) if limit else 0.0 for n in lengths])

    @staticmethod
    def _reference_views(batch: Batch) -> list[list[ScoringView] | None]:
        """The student's own views under the reference's weights."""
        as_teacher = functools.partial(dataclasses.replace, weights="teacher", grad=False, kind="reference_policy")
        return [[as_teacher(view) for view in student_views(batch, i)] for i in range(len(batch.rows))]
