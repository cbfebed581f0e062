"""Prompts that tell before anybody has answered: a conditioner's frame, slot and controls, applied to tasks instead of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.conditioning.base import Conditioner
from sdgym.chat import ChatFormat
from sdgym.core import Outcome, Segment, StopReason, Task, Trajectory


def told_prompts(tasks: Sequence[Task], conditioner: Conditioner, context: AnnotateContext) -> list[np.ndarray | None]:
    """Return per task the teacher's prompt, int64 ``[L]``, or None where there is nothing to tell or no room.

    The conditioner must be one that reads the task alone (:class:`sdgym.algos.conditioning.Reference` and the like).
    """
    rows = [unanswered(task, context.chat) for task in tasks]
    views = conditioner.views(Batch(rows, [[i] for i in range(len(rows))]), context)
    return [found[0].prefix_ids if found is not None and len(found[0].prefix_ids) < context.max_context else None for found in views]


def unanswered(task: Task, chat: ChatFormat) -> Trajectory:
    """Return the row of an episode in which nothing has been said yet."""
    ids = chat.prompt_ids(list(task.messages))
    segment = Segment(ids, np.zeros(len(ids), bool), np.zeros(len(ids), np.float32), (), len(ids))
    observed = [task.messages[-1]["content"]]
    return Trajectory(task.task_id, 0, task, [segment], observed, [], [], [], Outcome.NONE, 0.0, False, StopReason.TRUNCATED)
