"""One step of the bank's life: retrieve for every group, take note of the outcome, and only then write new skills."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sdgym.algos.base import Batch, CollectContext
from sdgym.algos.skills.bank import SkillBank
from sdgym.algos.skills.context import Scope, SkillContext, shelf_of
from sdgym.algos.skills.summary import Summariser
from sdgym.core import Trajectory
from sdgym.seeding import derive


@dataclasses.dataclass
class SkillCycle:
    """What happens between the rollouts of a step and its update.

    Retrieval comes first, and skills know the rollouts they were made from: no rollout is ever scored under a skill of
    its own making or of its group's.

    Attributes:
        bank, context, summarise: where skills are kept, how the teacher reads them, who writes them.
        scope: what shares a shelf.
        per_group: attempts of a group that are summarised, the best ones; None for all.
    """

    bank: SkillBank
    context: SkillContext
    summarise: Summariser
    scope: Scope = "family"
    per_group: int | None = None

    def __call__(self, batch: Batch, context: CollectContext) -> Sequence[Trajectory]:
        """Choose the skills of this batch, then learn from it; the rows stay as they are."""
        groups = [[batch.rows[i] for i in group if batch.rows[i].usable and batch.rows[i].action_length] for group in batch.groups]
        groups = [rows for rows in groups if rows]
        means = {rows[0].group_id: float(np.mean([row.reward for row in rows])) for rows in groups}
        chosen = {rows[0].group_id: self.bank.retrieve(self._shelf(rows[0]), exclude={rows[0].group_id}) for rows in groups}
        self.context.chosen = {group: skill for group, skill in chosen.items() if skill is not None}
        for group, skill in self.context.chosen.items():
            self.bank.record(skill, means[group])
        kept = [row for rows in groups for row in self._best(rows)]
        for row, summary in zip(kept, self.summarise(kept, context), strict=True):
            if summary is not None:
                self.bank.add(self._shelf(row), summary.text(), row.group_id, means[row.group_id])
        context.report("skills", float(len(self.bank)))
        context.report("groups_with_skill", len(self.context.chosen) / max(1, len(groups)))
        return batch.rows

    def _shelf(self, row: Trajectory) -> str:
        return shelf_of(row.task, self.scope)

    def _best(self, rows: Sequence[Trajectory]) -> Sequence[Trajectory]:
        """Return the rows to summarise, the best last: among equals a full shelf keeps what came last."""
        ordered = sorted(rows, key=lambda row: row.reward or 0.0)
        return ordered if self.per_group is None else ordered[-self.per_group :]


def recurs(env: Any, draws: int) -> bool:
    """Return whether tasks of ``env`` come again within ``draws`` of them.

    Two samples of √(3·draws) tasks that share none show, at 95 % confidence, more than ``draws`` different tasks.
    What is no text environment is refused elsewhere, with a sentence of its own.
    """
    if not hasattr(env, "make_task"):
        return True
    count = math.ceil(math.sqrt(3 * draws))
    seeds = [[derive(0, "recurs", name, i) >> 16 for i in range(count)] for name in ("first", "second")]
    first, second = ({shelf_of(env.make_task(seed, env.split), "task") for seed in half} for half in seeds)
    return bool(first & second)
