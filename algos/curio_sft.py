"""CurioSFT: fine-tuning on references that does not let the policy forget what it was unsure about.

Paper: arXiv 2602.02244; repository HaoooWang/CurioSFT @ 5a77394.
    L = −log p(y*_t) + ½·(log p(y*_t) − log q_τt(y*_t))²,   q = a moving average of the policy at temperature τ_t
    τ_t by bisection: H(q_τ) = H + .5·σ(2(H − 1.2)), τ in [1.1, 1.5]; τ = 1.1 where H ≤ .03; entropies over the top 512
∂L/∂z = −(1 + log q_τ − log p)(1_y − p): the likelihood pulls until log p = 1 + log q_τ and then pulls back. The target is warmer
than the teacher, so the average, and the policy behind it, stays curious.
Status: code-read. Deviations: 1. The data set is the tasks' reference solutions, fresh ones in each step, and nothing is sampled.
2. log q_τ is normalised over the whole vocabulary; only the search for τ is over the top 512. 3. One answer of one turn per task.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.losses.tempered import CurioLoss
from sdgym.algos.settings import TeacherSettings, UpdateSettings
from sdgym.algos.sft_reference import SFTReference, reference_view
from sdgym.algos.terms import make_term
from sdgym.core import LossItem, LossTerm, ScoringView


class CurioSFTConfig(UpdateSettings, TeacherSettings):
    """Settings.

    Attributes:
        weight: factor on the squared log-ratio; 0 is plain fine-tuning.
        low, high: bounds of τ.
    """

    weight: NonNegativeFloat = 1.0
    low: PositiveFloat = 1.1
    high: PositiveFloat = 1.5


class CurioSFT(SFTReference):
    """Supervised fine-tuning on references with a warmer self as anchor."""

    name = "curio_sft"
    Config = CurioSFTConfig
    config: CurioSFTConfig

    def __init__(self, config: CurioSFTConfig) -> None:
        super().__init__(config)
        self.loss = CurioLoss(config.weight, config.low, config.high)
        self.teacher_weights = config.teacher_weights()

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the tempered likelihood over every task that has a reference and fits the context."""
        views = [reference_view(i, task, context.chat) for i, task in enumerate(self._tasks)]
        fitting = [view for view in views if view is not None and len(view.sequence()[0]) <= context.max_context]
        context.report("references", len(fitting))
        items = [LossItem(view, np.ones(len(view.token_ids), np.float32), (_average(view),)) for view in fitting]
        return make_term("curious", self.loss, items, batch, self.config)


def _average(view: ScoringView) -> ScoringView:
    return dataclasses.replace(view, weights="teacher", grad=False, kind="average")
