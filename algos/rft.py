"""RFT: rejection fine-tuning, likelihood on the policy's own verified successes.

    L = −(1/ΣM) Σ_{i∈D+} Σ_t m_{i,t} log π_θ(y_{i,t}|x_i,y_{i,<t}),    D+ = verified successes
Online: D+ of the rollouts just made (expert iteration with one update per step). Offline: a first phase samples from
the initial policy into a pool, a second trains on the pool alone.
Source: algorithms-core §2; the baseline of SD-Zero (arXiv 2604.12002). Status: reconstruction: the number of samples,
the de-duplication rule and the number of epochs of that baseline are unknown to us.
Choices: 1. Duplicates are equal token sequences for the same task. 2. At most ``max_per_task`` per task, so that easy
tasks do not dominate. 3. Truncated answers are always dropped, even if right. 4. Action tokens only, in every turn.
5. Offline, the run's steps decide how many passes over the pool there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Phase, student_views
from sdgym.algos.losses import NLLLoss
from sdgym.algos.settings import UpdateSettings
from sdgym.algos.terms import make_term, usable_rows
from sdgym.core import LossItem, LossTerm, ScoringView
from sdgym.errors import ConfigError


class RFTConfig(UpdateSettings):
    """Settings.

    Attributes:
        collect_steps: steps of the offline form's sampling phase; 0 is the online form.
        max_per_task: distinct successes kept per task (per batch online, in all offline).
        pool_batch: sequences per optimizer step of the offline form.
    """

    collect_steps: NonNegativeInt = 0
    max_per_task: PositiveInt = 4
    pool_batch: PositiveInt = 64


class RFT(Algorithm):
    """Rejection fine-tuning: sample, verify, imitate what was right."""

    name = "rft"
    Config = RFTConfig
    config: RFTConfig

    def __init__(self, config: RFTConfig) -> None:
        super().__init__(config)
        self.pool: dict[str, list[list[ScoringView]]] = {}
        self._order: list[tuple[str, int]] = []

    @property
    def phases(self) -> Sequence[Phase]:
        """Online: one phase. Offline: collect, then train on the pool."""
        if not self.config.collect_steps:
            return (self.config.phase(self.annotate),)
        return (Phase("collect", self.collect, steps=self.config.collect_steps), self.config.phase(self.train_on_pool, rollouts=False))

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the likelihood term on this batch's distinct successes."""
        pool: dict[str, list[list[ScoringView]]] = {}
        self._add(batch, pool)
        return self._term([views for kept in pool.values() for views in kept], batch)

    def collect(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Put this batch's successes into the pool; no update."""
        self._add(batch, self.pool)
        return []

    def train_on_pool(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the likelihood term on the next ``pool_batch`` sequences; each pass has its own order."""
        if not self._order:
            entries = [(task, k) for task, kept in self.pool.items() for k in range(len(kept))]
            self._order = [entries[j] for j in context.rng.permutation(len(entries))]
        drawn, self._order = self._order[: self.config.pool_batch], self._order[self.config.pool_batch :]
        chosen = [self.pool[task][k] for task, k in drawn]
        return self._term([[dataclasses.replace(view, row=i) for view in views] for i, views in enumerate(chosen)], batch)

    def imitated(self, batch: Batch, index: int) -> list[ScoringView] | None:
        """Return the views of a row to be imitated, None for any other row."""
        return student_views(batch, index) if batch.rows[index].success else None

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse an offline run that would end before its training phase."""
        collect = self.config.collect_steps
        if collect and settings.get("steps", collect + 1) <= collect:
            raise ConfigError(
                f"offline rft samples for collect_steps={collect} steps first, so steps must be larger, got {settings['steps']}"
            )

    def _add(self, batch: Batch, pool: dict[str, list[list[ScoringView]]]) -> None:
        for i in usable_rows(batch, drop_truncated=True):
            views = self.imitated(batch, i)
            kept = pool.setdefault(batch.rows[i].task.task_id, [])
            if views is not None and len(kept) < self.config.max_per_task and not any(_same(views, other) for other in kept):
                kept.append(views)

    def _term(self, sequences: list[list[ScoringView]], batch: Batch) -> list[LossTerm]:
        items = [LossItem(view, np.ones(int(view.loss_mask.sum()), np.float32)) for views in sequences for view in views]
        return make_term("likelihood", NLLLoss(), items, batch, self.config)

    def state_dict(self) -> dict[str, Any]:
        """Return the pool and the rest of the current pass."""
        return {
            "pool": {task: [[dataclasses.asdict(v) for v in views] for views in kept] for task, kept in self.pool.items()},
            "order": list(self._order),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        self.pool = {task: [[ScoringView(**v) for v in views] for views in kept] for task, kept in state["pool"].items()}
        self._order = [(task, int(k)) for task, k in state["order"]]


def _same(views: Sequence[ScoringView], others: Sequence[ScoringView]) -> bool:
    return len(views) == len(others) and all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(views, others, strict=True))
