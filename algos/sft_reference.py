"""SFT on references: the plainest use of the information that OPSD and SDFT give to their teacher. A control arm.

    L = −(1/ΣM) Σ_i Σ_t log π_θ(y*_{i,t} | x_i, y*_{i,<t}),    y* = the task's reference solution
Status: own construction (supervised fine-tuning as every baseline table has it). Choices: 1. The tasks of a step are
those that an on-policy method with this seed would play, each once; nothing is sampled, and the ledger says so.
2. The end of turn is part of the target. 3. Token mean over the batch. 4. One answer per task: for several turns the
text of the reference is no sequence of actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, CollectContext, Phase
from sdgym.algos.losses import NLLLoss
from sdgym.algos.opsd import reference_of
from sdgym.algos.settings import UpdateSettings
from sdgym.algos.terms import make_term
from sdgym.chat import ChatFormat
from sdgym.core import LossItem, LossTerm, ScoringView, Task, Trajectory
from sdgym.errors import ConfigError


class SFTReference(Algorithm):
    """Supervised fine-tuning on reference solutions: off-policy, no reward, no sampling."""

    name = "sft_reference"
    Config = UpdateSettings
    supervision, one_turn = "reference", True
    config: UpdateSettings

    def __init__(self, config: UpdateSettings) -> None:
        super().__init__(config)
        self._tasks: list[Task] = []

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase without rollouts, under the configured schedule."""
        return (self.config.phase(self.annotate, rollouts=False, collect=self.collect),)

    def collect(self, batch: Batch, context: CollectContext) -> list[Trajectory]:
        """Take the tasks of this step."""
        self._tasks = context.draw.tasks()
        return []

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the likelihood term over every task that has a reference and fits the context."""
        views = [reference_view(i, task, context.chat) for i, task in enumerate(self._tasks)]
        fitting = [view for view in views if view is not None and len(view.sequence()[0]) <= context.max_context]
        context.report("references", len(fitting))
        items = [LossItem(view, np.ones(len(view.token_ids), np.float32)) for view in fitting]
        return make_term("likelihood", NLLLoss(), items, batch, self.config)

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a world without references, and one of several turns."""
        name, turns = getattr(env, "env_id", "this world"), int(getattr(env, "max_turns", 1))
        if not reference_of(env):
            raise ConfigError(f"{self.name} needs a reference solution, which the tasks of {name} do not have: use rft (reward)")
        if turns > 1:
            raise ConfigError(f"{self.name} imitates one answer, and {name} has {turns} turns: use star, which plays them")


def reference_view(row: int, task: Task, chat: ChatFormat) -> ScoringView | None:
    """Return the view that scores a task's reference solution, end of turn included, after its prompt; None without one."""
    text = task.privileged.get("reference_solution", "")
    if not text.strip():
        return None
    tokens = np.append(chat.encode_text(text), chat.end_ids[0])
    size = len(tokens)
    return ScoringView(
        row=row,
        prefix_ids=chat.prompt_ids(list(task.messages)),
        token_ids=tokens,
        loss_mask=np.ones(size, bool),
        index_map=np.full(size, -1, np.int64),
        provenance="rewritten",
        kind="reference",
    )
