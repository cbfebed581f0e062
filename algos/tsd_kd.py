"""TSD-KD: distil where the student is unsure and the teacher is not, teach the order of its own best tokens early, keep it confident.

Paper: arXiv 2603.13260; repository kmswin1/TSD-KD, DistillTrainer.py.
    mean_t[ σ(sg(H_S − H_T))·JSD_.9(T, S) ]  +  mean_{top-90 % entropy tokens} H_S  +  .1·mean_{opening tokens} PL(S's top 10, T's order)
The entropy term is *added* to a minimised loss: it lowers entropy on all but the surest tenth of the tokens. JSD_α is about
α(1−α)·RKL near agreement, so with α = .9 the first term is a tenth of a reverse KL (algorithms-wider §3, 19).
Teacher: an external model with the student's tokenizer (14 B in the source), or the frozen policy that reads the reference.
Status: code-read. Deviations: 1. The source's rank loss sums from the best item down, which punishes agreement; here it is Plackett–Luce
(§6.5). 2. Quantile and opening are taken over the batch and over each row; the source's are those of a micro-batch. 3. The opening is
every token before which less than a tenth of the row's entropy lies, so that it is never empty. 4. Student rollouts; entropies that
select tokens are those at the start of the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Phase, student_views
from sdgym.algos.conditioning import Reference
from sdgym.algos.losses import DistillLoss
from sdgym.algos.losses.ranking import EntropyLoss, RankLoss, gate
from sdgym.algos.opsd import reference_of
from sdgym.algos.settings import ContextSettings, TeacherSettings, UpdateSettings
from sdgym.algos.terms import Views, build_items, make_term, usable_rows
from sdgym.core import LossTerm, ViewScores
from sdgym.errors import ConfigError


class TSDKDConfig(UpdateSettings, TeacherSettings, ContextSettings):
    """Settings.

    Attributes:
        context: what the teacher reads besides the task.
        alpha: of the Jensen–Shannon term. gated: whether σ(H_S − H_T) weighs it.
        entropy_weight, entropy_share: factor on the entropy term, and the share of tokens it covers, the unsurest ones.
        rank_weight, top_k, opening: factor on the rank loss, its K, and the share of a row's entropy that its opening holds.
    """

    context: Literal["none", "reference"] = "none"
    alpha: float = Field(default=0.9, gt=0.0, lt=1.0)
    gated: bool = True
    entropy_weight: NonNegativeFloat = 1.0
    entropy_share: float = Field(default=0.9, gt=0.0, le=1.0)
    rank_weight: NonNegativeFloat = 0.1
    top_k: PositiveInt = 10
    opening: float = Field(default=0.1, ge=0.0, le=1.0)


class TSDKD(Algorithm):
    """Token-selective distillation from a teacher with the same tokens."""

    name = "tsd_kd"
    Config = TSDKDConfig
    supervision = "reference"
    config: TSDKDConfig

    def __init__(self, config: TSDKDConfig) -> None:
        super().__init__(config)
        self.conditioners = (Reference(**config.conditioner_arguments()),) if config.context == "reference" else ()
        self.teacher_weights, self.supervision = config.teacher_weights(), "reference" if self.conditioners else "none"

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase, under the configured schedule."""
        return (self.config.phase(self.annotate),)

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the gated divergence, the entropy of unsure tokens, and the rank loss on openings."""
        c, teacher = self.config, self._teacher(batch, context)
        rows = [i for i in usable_rows(batch) if teacher[i] is not None]
        own = [_entropies(context, student_views(batch, i)) for i in rows]
        told = [_entropies(context, teacher[i] or ()) for i in rows]
        weight = [np.ones(row.action_length, np.float32) for row in batch.rows]
        unsure, opening, gates = list(weight), list(weight), list(weight)
        limit = float(np.quantile(np.concatenate(own), 1 - c.entropy_share)) if rows else 0.0
        for i, mine, theirs in zip(rows, own, told, strict=True):
            gates[i] = gate(torch.from_numpy(mine), torch.from_numpy(theirs)).numpy() if c.gated else weight[i]
            unsure[i] = (mine >= limit).astype(np.float32)
            opening[i] = (np.cumsum(mine) - mine < c.opening * mine.sum()).astype(np.float32)
        parts: list[tuple[str, object, list[np.ndarray], float, list[Views]]] = [
            ("distill", DistillLoss(divergence="jensen_shannon", alpha=c.alpha, support="full"), gates, 1.0, [teacher]),
            ("entropy", EntropyLoss(), unsure, c.entropy_weight, []),
            ("rank", RankLoss(c.top_k), opening, c.rank_weight, [teacher]),
        ]
        terms: list[LossTerm] = []
        for name, loss, weights, factor, references in parts:
            items = build_items(batch, context, rows, references=references, weight=weights, ratios=False) if factor else []
            terms += make_term(name, loss, items, batch, c, factor)
        return terms

    def _teacher(self, batch: Batch, context: AnnotateContext) -> Views:
        if self.conditioners:
            return self.conditioners[0].views(batch, context)  # type: ignore[no-any-return]
        plain = [student_views(batch, i) for i in range(len(batch.rows))]
        return [[dataclasses.replace(view, weights="teacher", grad=False, kind="teacher") for view in views] for views in plain]

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a teacher that is the student itself, and a reference that is not there."""
        if not self.conditioners and self.config.teacher == "live":
            raise ConfigError("tsd_kd's teacher would be the student itself: use teacher=external, or context=reference")
        if self.conditioners and not reference_of(env):
            raise ConfigError(f"tsd_kd with context=reference needs reference solutions, which {env.env_id} does not have")


def _entropies(context: AnnotateContext, views: Sequence[Any]) -> np.ndarray:
    scores: list[ViewScores] = context.score(views)
    return np.concatenate([s.entropy for s in scores]) if scores else np.zeros(0, np.float32)
