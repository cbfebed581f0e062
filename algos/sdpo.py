"""SDPO: self-distillation from a teacher that has read a peer's success and the feedback on this attempt.

Paper: arXiv 2601.20802, Eq. 1; hybrid with GRPO, Eq. 3.
    L = Σ_t D( π_θ(·|x,y_<t), sg π_T(·|x,f_i,y_<t) ),   f_i = a successful peer, or else the feedback on y_i
    hybrid:  λ·L_GRPO + (1−λ)·L
D on the current student's top-K plus one tail bucket: reverse KL with rich feedback, Jensen–Shannon without.
Teacher weights: EMA θ_T ← (1−a)θ_T + aθ per rollout step, or trust region; per-token factor min(sg π_θ/π_old, 2).
Status: code-read (lasgroup/SDPO @ 0e6d510) and paper-read.
Deviations: 1. The frame of the teacher's prompt is ours. 2. A text that does not fit drops the row instead of cutting
the generation marker. 3. Rows without a teacher are absent; with ``count_empty`` they still count as zeros in the
sequence mean, which is what the source's token means over micro-batches of one sequence amount to. 4. The hybrid
mixes losses (as TRL does); with on-policy ratios and the sampled form that equals mixing advantages. 5. In later turns
the teacher attends to observations; the source hides them from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Phase
from sdgym.algos.conditioning import Conditioner, FeedbackOnly, OutcomeOnly, Peer, PeerFeedback
from sdgym.algos.grpo import GRPO, GRPOConfig
from sdgym.algos.settings import ContextSettings, DistillSettings, TeacherSettings, UpdateSettings
from sdgym.algos.terms import build_items, make_term, skip_first, usable_rows
from sdgym.core import LossTerm, Trajectory
from sdgym.errors import ConfigError


class SDPOConfig(UpdateSettings, TeacherSettings, ContextSettings, DistillSettings):
    """Settings.

    Attributes:
        context: what the teacher reads.
        only_without_solution: feedback only where no peer succeeded.
        exclude_self, strip_think: see :class:`sdgym.algos.conditioning.Peer`.
        success_threshold: the reward from which one answer is a demonstration; None takes the environment's word.
        policy_weight: λ of the hybrid; 0 is pure SDPO, 1 is GRPO.
        policy: settings of the hybrid's GRPO term.
    """

    context: Literal["peer+feedback", "peer", "feedback", "outcome"] = "peer+feedback"
    only_without_solution: bool = True
    exclude_self: bool = True
    strip_think: bool = True
    success_threshold: float | None = None
    policy_weight: float = Field(default=0.0, ge=0.0, le=1.0)
    policy: GRPOConfig = GRPOConfig()

    def conditioner(self) -> Conditioner:
        """Return the conditioner of ``context``."""
        shared = self.conditioner_arguments()
        peer: dict[str, Any] = {
            "exclude_self": self.exclude_self,
            "strip_think": self.strip_think,
            "success_threshold": self.success_threshold,
        }
        if self.context == "peer+feedback":
            return PeerFeedback(only_without_solution=self.only_without_solution, **peer, **shared)
        if self.context == "peer":
            return Peer(**peer, **shared)
        return FeedbackOnly(**shared) if self.context == "feedback" else OutcomeOnly(**shared)


class SDPO(Algorithm):
    """Self-distillation policy optimisation: the teacher is the policy itself, told what its rollouts revealed."""

    name = "sdpo"
    Config = SDPOConfig
    supervision = "feedback"
    config: SDPOConfig

    def __init__(self, config: SDPOConfig) -> None:
        super().__init__(config)
        if config.policy_weight and config.policy.kl_beta and {config.teacher, config.policy.reference} != {"frozen"}:
            raise ConfigError("the hybrid's reference KL would be taken to a moving teacher: use policy.kl_beta=0 or teacher=frozen")
        self.loss, self.policy = config.distill_loss(), GRPO(config.policy)
        self.conditioners = (config.conditioner(),)
        self.supervision = self.conditioners[0].needs
        self.teacher_weights = config.teacher_weights()

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase, under the configured schedule."""
        return (self.config.phase(self.annotate),)

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the distillation term and, in the hybrid, GRPO's."""
        weight = self.config.policy_weight
        policy = self.policy.annotate(batch, context) if weight else []
        distill = self._distill(batch, context) if weight < 1 else []
        return [dataclasses.replace(term, coefficient=weight * term.coefficient) for term in policy] + distill

    def _distill(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        views = self.conditioners[0].views(batch, context)
        weight = skip_first(batch.rows, self.config.skip_first)
        items = build_items(batch, context, usable_rows(batch), references=[views], weight=weight)
        return make_term("distill", self.loss, items, batch, self.config, 1 - self.config.policy_weight)

    def accept_group(self, rows: Sequence[Trajectory]) -> bool:
        """Return what the policy term's dynamic sampling says."""
        return not self.config.policy_weight or self.policy.accept_group(rows)

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Check the hybrid's policy term; refuse a threshold on a sum over turns, which failures reach too."""
        if self.config.success_threshold is not None and int(getattr(env, "max_turns", 1)) > 1:
            raise ConfigError("success_threshold judges the score of one answer, and here the reward is a sum over turns: leave it out")
        if self.config.policy_weight:
            self.policy.validate(env, settings)
