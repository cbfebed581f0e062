"""TRACE: distil only where it matters: key spans of successes by forward KL, error spans of failures by reverse KL, GRPO elsewhere.

Paper: arXiv 2605.10194.   λ_k = w0 for 10 steps, then linear to 0 over 30
    L = (1/N) Σ_i 1/|y_i| [ Σ_t (1 − z_it·λ_k/w0)·ℓ_GRPO(i,t) + λ_k Σ_t z_it·D_i(t) ],   z = an annotator's span mask
    D_i = KL(π_T‖π_θ) on a success, KL(π_θ‖π_T) on a failure; each vocabulary entry capped at .05
The teacher is the policy of at most 10 steps ago, told a coarse label ("contains key / erroneous reasoning"), never the span.
From step 40 on the objective is GRPO's.
Status: reconstruction (abstract and notes; no official code). Unknown: the annotator's prompt and the exact span reduction.
Deviations: 1. Annotators are rules (numbers and words against the reference) or the policy itself; the source's best is a strong API
model. 2. ``annotator: random`` is the source's control. 3. A row whose annotator marks nothing is GRPO's. 4. Frame and label wording.
5. A capped entry can make a forward KL negative, and the cap silences exactly the tokens the teacher likes best.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, CollectContext, Phase
from sdgym.algos.conditioning.label import SpanLabel
from sdgym.algos.grpo import GRPO, GRPOConfig
from sdgym.algos.losses import DistillLoss
from sdgym.algos.opsd import reference_of
from sdgym.algos.ramps import hold_then_fall
from sdgym.algos.settings import ContextSettings, TeacherSettings
from sdgym.algos.spans import ANNOTATORS, turned_down
from sdgym.algos.terms import build_items, usable_rows
from sdgym.core import LossTerm, Trajectory
from sdgym.errors import ConfigError


class TraceConfig(TeacherSettings, ContextSettings):
    """Settings.

    Attributes:
        annotator, coverage: who marks spans, and their largest share of a row.
        span_weight, hold, fall: w0 and its schedule in rollout steps.
        right, wrong: the divergence on successes and failures. policy: GRPO's settings, the schedule of updates among them.
    """

    annotator: Literal["rules", "self", "random"] = "rules"
    coverage: float = Field(default=0.25, gt=0.0, le=1.0)
    span_weight: PositiveFloat = 0.5
    hold: NonNegativeInt = 10
    fall: NonNegativeInt = 30
    right: Literal["forward_kl", "reverse_kl"] = "forward_kl"
    wrong: Literal["forward_kl", "reverse_kl"] = "reverse_kl"
    support: Literal["full", "student_topk", "teacher_topk"] = "full"
    pointwise_clip: PositiveFloat | None = 0.05
    policy: GRPOConfig = GRPOConfig()


class Trace(Algorithm):
    """Self-distillation on annotated spans, GRPO on the rest, the first fading into the second."""

    name = "trace"
    Config = TraceConfig
    supervision = "reference"
    config: TraceConfig

    def __init__(self, config: TraceConfig) -> None:
        super().__init__(config)
        if config.policy.kl_beta and config.teacher != "frozen":
            raise ConfigError("trace's reference KL would be taken to its span teacher: use policy.kl_beta=0 or teacher=frozen")
        self.policy, self.spans = GRPO(config.policy), list[np.ndarray]()
        self.conditioners = (SpanLabel(**config.conditioner_arguments()),)
        self.teacher_weights = config.teacher_weights()

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase; its rollouts are annotated right after they are made."""
        return (self.config.policy.phase(self.annotate, collect=self.mark),)

    def weight(self, step: int) -> float:
        """Return λ_k."""
        return hold_then_fall(step, self.config.span_weight, self.config.hold, self.config.fall)

    def mark(self, batch: Batch, context: CollectContext) -> Sequence[Trajectory]:
        """Have the decisive tokens of every row marked, while the spans still have a weight."""
        self.spans = [np.zeros(row.action_length, bool) for row in batch.rows]
        if self.weight(context.step):
            rows = usable_rows(batch)
            masks = ANNOTATORS[self.config.annotator]([batch.rows[i] for i in rows], self.config.coverage, context)
            for i, mask in zip(rows, masks, strict=True):
                self.spans[i] = mask
            context.report("span_share", float(np.mean([mask.mean() for mask in masks])) if masks else 0.0)
        return batch.rows

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return GRPO's term, its spans turned down, and one distillation term for successes and one for failures."""
        terms, scale = self.policy.annotate(batch, context), self.weight(context.step)
        context.report("span_weight", scale)
        if not scale:
            return terms
        kept = 1 - scale / self.config.span_weight
        turned = [dataclasses.replace(t, items=[turned_down(x, self.spans[x.view.row], kept) for x in t.items]) for t in terms]
        return turned + self._distill(batch, context, scale)

    def _distill(self, batch: Batch, context: AnnotateContext, scale: float) -> list[LossTerm]:
        c, views, terms = self.config, self.conditioners[0].views(batch, context), []
        weight = [mask / max(1, len(mask)) for mask in self.spans]  # Σ_S / |y| under a sequence sum
        for name, direction, success in (("key", c.right, True), ("error", c.wrong, False)):
            rows = [i for i in usable_rows(batch) if batch.rows[i].success is success and self.spans[i].any()]
            items = build_items(batch, context, rows, references=[views], weight=weight, ratios=False)
            loss = DistillLoss(divergence=direction, support=c.support, pointwise_clip=c.pointwise_clip)
            if items:
                terms.append(LossTerm(name, loss, items, scale, "seq_mean_token_sum", count_empty=True, rows=len(batch.rows)))
        return terms

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse what GRPO refuses, and annotators without a reference to look at."""
        self.policy.validate(env, settings)
        if self.config.annotator != "random" and not reference_of(env):
            raise ConfigError(
                f"trace's annotators read a reference solution, which {env.env_id} does not have: use annotator=random or grpo"
            )
