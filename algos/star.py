"""STaR: self-taught reasoning; where the policy fails it tries again with the answer in view, and learns what was right.

Paper: Zelikman et al., arXiv 2203.14465, Algorithm 1. A control arm: it has the information of OPSD and SDFT and the
verifier of RFT, and uses them for imitation.
    D = {y ~ π_θ(·|x) : right} ∪ {y ~ π_θ(·|x, reference) : right, where the plain attempt was not}
    L = −(1/ΣM) Σ_{(x,y)∈D} Σ_t log π_θ(y_t | x, y_<t)         (the plain prompt, always)
Status: paper-read. Deviations: 1. One update per batch from the current policy; the paper starts every round from the
initial model. 2. The hint is the task's reference solution; the paper gives the answer alone. 3. At most
``max_per_task`` answers per task, and no more second attempts than are missing. 4. Truncated answers are dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from sdgym.algos.base import Batch, CollectContext, Phase
from sdgym.algos.conditioning import Reference
from sdgym.algos.opsd import reference_of
from sdgym.algos.rft import RFT, RFTConfig
from sdgym.algos.settings import ContextSettings
from sdgym.algos.terms import usable_rows
from sdgym.core import ScoringView, Segment, Trajectory
from sdgym.errors import ConfigError

STREAM = "rationalise"


class StarConfig(RFTConfig, ContextSettings):
    """Settings of RFT and of what the second attempt reads.

    Attributes:
        keep_own: whether plain successes are imitated too; without them only rationalised answers are.
    """

    keep_own: bool = True


class Star(RFT):
    """Imitate verified answers, a part of them found with the reference in view."""

    name = "star"
    Config = StarConfig
    supervision = "reference"
    config: StarConfig

    def __init__(self, config: StarConfig) -> None:
        super().__init__(config)
        if config.collect_steps:
            raise ConfigError(f"{self.name} samples in every step: use collect_steps=0, or rft for a pool from the start")
        self.conditioners = (Reference(**config.conditioner_arguments()),)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase with a second sampling pass."""
        return (self.config.phase(self.annotate, collect=self.rationalise),)

    def rationalise(self, batch: Batch, context: CollectContext) -> list[Trajectory]:
        """Try failed tasks again under the teacher's prompt; the new rows come back behind their plain prompt."""
        told = self.conditioners[0].views(batch, context)
        chosen = [(i, views[0].prefix_ids) for i in self._failures(batch) if (views := told[i]) is not None]
        again = context.draw.play(STREAM, [batch.rows[i].task for i, _ in chosen], [prompt for _, prompt in chosen])
        context.report("rationalised", sum(row.success for row in again) / max(1, len(again)))
        return [*batch.rows, *(behind_prompt_of(batch.rows[i], row) for (i, _), row in zip(chosen, again, strict=True))]

    def imitated(self, batch: Batch, index: int) -> list[ScoringView] | None:
        """Return the views of a success; recorded log-probs of a rationalised one are void."""
        views = super().imitated(batch, index)
        if views is None or not is_rationalised(batch.rows[index]):
            return views if self.config.keep_own else None
        return [dataclasses.replace(view, provenance="reprompted") for view in views]

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a world without references."""
        if not reference_of(env):
            name = getattr(env, "env_id", "this world")
            raise ConfigError(f"star needs a reference solution, which the tasks of {name} do not have: use rft (reward)")

    def _failures(self, batch: Batch) -> list[int]:
        usable, chosen = set(usable_rows(batch)), []
        for group in batch.groups:
            own = sum(batch.rows[i].success for i in group if i in usable) if self.config.keep_own else 0
            failed = [i for i in group if i in usable and not batch.rows[i].success]
            chosen += failed[: max(0, self.config.max_per_task - own)]
        return chosen


def is_rationalised(row: Trajectory) -> bool:
    """Whether a row comes from the second pass."""
    return len(row.key) > 1 and row.key[1] == f"train-{STREAM}"


def behind_prompt_of(plain: Trajectory, told: Trajectory) -> Trajectory:
    """Return ``told`` with the prompt of ``plain`` in place of its own; its recorded log-probs belong to the other prompt."""
    prompt, (first, *later) = plain.segments[0].ids[: plain.segments[0].prompt_length], told.segments
    cut, size = first.prompt_length, len(prompt)
    moved = Segment(
        np.concatenate([prompt, first.ids[cut:]]),
        np.concatenate([np.zeros(size, bool), first.action_mask[cut:]]),
        np.concatenate([np.zeros(size, np.float32), first.logprobs[cut:]]),
        tuple(dataclasses.replace(span, start=span.start - cut + size, end=span.end - cut + size) for span in first.spans),
        size,
    )
    return dataclasses.replace(told, segments=[moved, *later])
