"""Rollouts changed between sampling and scoring: the stated confidence becomes the measured pass rate (CaOPD, arXiv 2604.16830)."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from sdgym.algos.base import Batch
from sdgym.algos.composition.sample_weights import pass_rates
from sdgym.chat import ChatFormat
from sdgym.core import Segment, Task, Trajectory, TurnSpan

STATED = re.compile(r"\s*\bconfidence\s*:\s*[0-9.]*%?\s*$", re.IGNORECASE)


def stating(text: str, rate: float) -> str:
    """Return ``text`` with ``confidence: 0.62`` at its end, in place of one that it states already."""
    return f"{STATED.sub('', text)} confidence: {rate:.2f}".lstrip()


def with_confidence(batch: Batch, chat: ChatFormat) -> list[Trajectory]:
    """Return the rows with the group's pass rate stated, in the last turn and in the task's reference solution.

    The last turn is spelt anew and ends with its end-of-turn token; its recorded log-probs are void (0). Rows that do not count,
    and rows whose template rewrote history, stay as they are.
    """
    rates = pass_rates(batch)
    return [
        _rewritten(row, float(rate), chat) if row.usable and len(row.segments) == 1 and row.actions else row
        for row, rate in zip(batch.rows, rates, strict=True)
    ]


def _rewritten(row: Trajectory, rate: float, chat: ChatFormat) -> Trajectory:
    text = stating(row.actions[-1], rate)
    said = np.append(chat.encode_text(text), chat.end_ids[0])
    old = row.segments[0]
    last = old.spans[-1]
    keep = slice(0, last.start)
    segment = Segment(
        ids=np.concatenate([old.ids[keep], said]),
        action_mask=np.concatenate([old.action_mask[keep], np.ones(len(said), bool)]),
        logprobs=np.concatenate([old.logprobs[keep], np.zeros(len(said), np.float32)]),
        spans=(*old.spans[:-1], TurnSpan(last.turn, last.start, last.start + len(said))),
        prompt_length=old.prompt_length,
    )
    task = _stated(row.task, rate)
    return dataclasses.replace(row, task=task, segments=[segment], actions=[*row.actions[:-1], text], truncated_tokens=False)


def _stated(task: Task, rate: float) -> Task:
    """Return the task with the same number in its reference solution, so that the teacher has read it."""
    reference = task.privileged.get("reference_solution", "")
    if not reference:
        return task
    return dataclasses.replace(task, privileged={**task.privileged, "reference_solution": stating(reference, rate)})
