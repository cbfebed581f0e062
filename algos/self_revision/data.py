"""Tuples (x, y, P_r, y') of self-revision: how they are made and what each loss sees of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from sdgym.algos.base import Batch, CollectContext
from sdgym.algos.conditioning.revision import Cues, attempt_ids
from sdgym.core import LossItem, ScoringView, Trajectory

Part = Literal["generation", "revision"]


@dataclasses.dataclass(frozen=True)
class Revision:
    """One verified revision, as token ids.

    Attributes:
        task_id: whose attempt it is.
        right: whether the first attempt was right already.
        prompt: int64 ``[Lx]``, x.
        attempt: int64 ``[Ly]``, the first attempt without its end token.
        phrase: int64 ``[Lp]``, P_r.
        revised: int64 ``[Lr]``, what was sampled after the phrase.
    """

    task_id: str
    right: bool
    prompt: np.ndarray
    attempt: np.ndarray
    phrase: np.ndarray
    revised: np.ndarray

    def item(self, row: int, part: Part) -> LossItem:
        """Return the likelihood item: ``generation`` trains y ∥ P_r ∥ y' after x, ``revision`` y' alone after x ∥ y ∥ P_r."""
        head, tail = [self.prompt], [self.attempt, self.phrase, self.revised]
        if part == "revision":
            head, tail = [self.prompt, self.attempt, self.phrase], [self.revised]
        tokens = np.concatenate(tail)
        size = len(tokens)
        view = ScoringView(row, np.concatenate(head), tokens, np.ones(size, bool), np.full(size, -1, np.int64), provenance="rewritten")
        return LossItem(dataclasses.replace(view, kind=part), np.ones(size, np.float32))

    @property
    def key(self) -> tuple[str, bytes, bytes]:
        """Equal for equal texts about the same task."""
        return self.task_id, self.attempt.tobytes(), self.revised.tobytes()


def revise(rows: Sequence[Trajectory], cues: Cues, samples: int, context: CollectContext) -> list[tuple[Trajectory, Trajectory]]:
    """Have the policy continue each row's x ∥ y ∥ P_r ``samples`` times; return (attempt, revision) pairs, judged."""
    prompts = []
    for row in rows:
        prompt = row.segments[0].ids[: row.segments[0].prompt_length]
        prompts.append(np.concatenate([prompt, attempt_ids(row, context.chat.end_ids), cues.ids(row, context.chat)]))
    fitting = [(row, prompt) for row, prompt in zip(rows, prompts, strict=True) if len(prompt) < context.max_context]
    revised = context.draw.play("revision", [row.task for row, _ in fitting], [prompt for _, prompt in fitting], samples)
    return [(fitting[i // samples][0], row) for i, row in enumerate(revised)]


def attempts(batch: Batch, cues: Cues, revise_right: bool) -> list[Trajectory]:
    """Return the single-turn rows to be revised: wrong ones, and right ones if asked."""
    usable = [row for row in batch.rows if row.usable and len(row.actions) == 1 and row.action_length]
    return [row for row in usable if revise_right or not cues.is_right(row)]
