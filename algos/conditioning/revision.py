"""The teacher reads the student's own attempt and a control phrase, inside the same assistant turn (SD-Zero §5b)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.conditioning.base import Conditioner, Told
from sdgym.algos.conditioning.frames import filler
from sdgym.chat import ChatFormat
from sdgym.core import ScoringView, Trajectory


@dataclasses.dataclass(frozen=True)
class Cues:
    """The control phrases P_r, shared by both phases of SD-Zero, and who gets which.

    Attributes:
        right: said after a right attempt, to have it restated.
        wrong: said after any other, to have it corrected.
        threshold: an attempt is right where its reward exceeds this and it ended by itself.
    """

    right: str = "Let me restate the solution."
    wrong: str = "That was wrong. Let me fix it."
    threshold: float = 0.5

    def is_right(self, row: Trajectory) -> bool:
        """Whether the attempt counts as right; one that hit the token limit never does."""
        return row.reward is not None and row.reward > self.threshold and not row.truncated_tokens

    def ids(self, row: Trajectory, chat: ChatFormat) -> np.ndarray:
        """Return int64 ``[P]``: the row's phrase between blank lines."""
        return chat.encode_text(f"\n\n{self.right if self.is_right(row) else self.wrong}\n\n")


def attempt_ids(row: Trajectory, end_ids: Sequence[int]) -> np.ndarray:
    """Return int64 ``[T']``: the first turn as sampled, without its end token, so that the assistant's turn stays open."""
    answer = row.segments[0].ids[row.segments[0].prompt_length :]
    return answer[:-1] if len(answer) and int(answer[-1]) in end_ids else answer


def kept_tokens(prompt: int, answer: int, phrase: int, budget: int) -> int:
    """Return how many tokens of an answer that must fit twice are kept; 0 where none fits (algorithms-core §5e)."""
    if prompt + 2 * answer + phrase <= budget:
        return answer
    return max(0, (budget - prompt - phrase) // 2)


class SelfRevision(Conditioner):
    """x ∥ y ∥ P_r ∥ y: the student's tokens once as an attempt to be revised, once as the tokens to be scored.

    Beyond the budget y is cut on both sides alike; the caller cuts the student's view to the tokens of the teacher's.
    Controls: ``P0`` reads x alone, ``P1`` a filler for the attempt, ``P2`` the attempt of another row, ``P3`` only the phrase.

    Args:
        cues: the phrases.
        budget: most tokens of a teacher's sequence; None means what the model's context holds.
        **settings: see :class:`sdgym.algos.conditioning.base.Conditioner`.
    """

    kind = "revision"

    def __init__(self, cues: Cues | None = None, budget: int | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.cues, self.budget = cues or Cues(), budget

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the row's attempt; rows of several turns have no place for a revision."""
        row = batch.rows[index]
        return Told((("attempt", row.actions[0]),), f"row {index}") if len(row.actions) == 1 and row.action_length else None

    def _views_of(self, index: int, row: Trajectory, told: Told, context: AnnotateContext) -> list[ScoringView] | None:
        segment = row.segments[0]
        prompt, answer = segment.ids[: segment.prompt_length], segment.ids[segment.prompt_length :]
        phrase = self.cues.ids(row, context.chat)
        keep = kept_tokens(len(prompt), len(answer), len(phrase), min(self.budget or context.max_context, context.max_context))
        if not keep:
            return None
        attempt = self._attempt(row, told, context)[:keep]
        view = ScoringView(
            row=index,
            prefix_ids=prompt if self.control == "P0" else np.concatenate([prompt, attempt, phrase]),
            token_ids=answer[:keep],
            loss_mask=np.ones(keep, bool),
            index_map=np.arange(keep, dtype=np.int64),
            weights="teacher",
            grad=False,
            kind=self.kind if self.control == "none" else f"{self.kind}/{self.control}",
            source=told.source,
            truncated=keep < len(answer),
        )
        return [view]

    def _attempt(self, row: Trajectory, told: Told, context: AnnotateContext) -> np.ndarray:
        """The first copy: the sampled ids themselves, or what a control puts in their place."""
        own = attempt_ids(row, context.chat.end_ids)
        if self.control == "P1":
            words = filler(context.rng, len(own), lambda text: len(context.chat.encode_text(text)))
            return context.chat.encode_text(words)
        if self.control == "P2":
            return context.chat.encode_text(told.sections[0][1])
        return own[:0] if self.control == "P3" else own


def cut_to(view: ScoringView, other: ScoringView) -> ScoringView:
    """Return ``view`` with only the tokens that ``other``, a cut view of the same row, still has."""
    keep, count = len(other.token_ids), int(other.loss_mask.sum())
    return dataclasses.replace(view, token_ids=view.token_ids[:keep], loss_mask=view.loss_mask[:keep], index_map=view.index_map[:count])
