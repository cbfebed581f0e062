"""From rows to loss items: the one place where per-turn values meet tokens and views meet each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from sdgym.algos.base import AnnotateContext, Batch, student_views
from sdgym.algos.settings import UpdateSettings
from sdgym.core import LossItem, LossTerm, ScoringView, Trajectory
from sdgym.errors import AlignmentError

Views = Sequence[Sequence[ScoringView] | None]
"""Per row of a batch: one view for each segment, or None."""


def usable_rows(batch: Batch, *, drop_truncated: bool = False) -> list[int]:
    """Return the rows that count, in order; ``drop_truncated`` leaves out answers that hit the token limit."""
    return [i for i, row in enumerate(batch.rows) if row.usable and row.action_length and not (drop_truncated and row.truncated_tokens)]


def build_items(
    batch: Batch,
    context: AnnotateContext,
    rows: Iterable[int],
    *,
    views: Views | None = None,
    references: Sequence[Views] = (),
    advantage: np.ndarray | None = None,
    weight: Sequence[np.ndarray] | None = None,
    label: int = 0,
    ratios: bool = True,
) -> list[LossItem]:
    """Build one :class:`LossItem` per segment of every row in ``rows`` that has all its views.

    An item is one sequence for sequence means, GSPO's ratio and sequence losses; rows have one segment unless the chat
    template rewrites history.

    Args:
        batch: the rollouts.
        context: scores old log-probs where the batch is used for more than one optimizer step.
        rows: the rows that take part.
        views: the trained views; default the student's own.
        references: M entries, each per row its views, which must score the same tokens as ``views``.
        advantage: ``[N, H]``, spread over the tokens of each turn.
        weight: N arrays ``[T]`` over the sampled tokens of each row; default ones.
        label: of every item.
        ratios: whether the loss uses π_old (if not, nothing is scored for it).

    Raises:
        AlignmentError: a reference scores other tokens than its view.
    """
    picked = [(i, views[i] if views is not None else student_views(batch, i), [r[i] for r in references]) for i in rows]
    triples = [
        (i, view, tuple(ref[k] for ref in refs if ref is not None))
        for i, own, refs in picked
        if own is not None and all(ref is not None for ref in refs)
        for k, view in enumerate(own)
    ]
    needs_old = ratios and not context.on_policy and triples
    old = [scores.logprobs for scores in context.score([view for _, view, _ in triples])] if needs_old else [None] * len(triples)
    return [
        LossItem(
            view=view,
            weight=_of_tokens(view, weight[i] if weight is not None else np.ones(batch.rows[i].action_length)).astype(np.float32),
            references=_aligned(view, refs),
            advantage=None if advantage is None else token_advantages(view, batch.rows[i], advantage[i]),
            old_logprobs=old_logprobs,
            rollout_logprobs=_of_tokens(view, batch.rows[i].action_logprobs()) if ratios and view.provenance == "sampled" else None,
            label=label,
        )
        for (i, view, refs), old_logprobs in zip(triples, old, strict=True)
    ]


def token_advantages(view: ScoringView, row: Trajectory, per_turn: np.ndarray) -> np.ndarray:
    """Spread ``per_turn [H]`` over the scored tokens of ``view``: float32 ``[S]``."""
    return _of_tokens(view, per_turn[row.turn_of_token()]).astype(np.float32)


def skip_first(rows: Sequence[Trajectory], count: int) -> list[np.ndarray]:
    """Return weights ``[T]`` per row: 0 on its first ``count`` sampled tokens, else 1."""
    return [(np.arange(row.action_length) >= count).astype(np.float32) for row in rows]


def make_term(
    name: str, loss: object, items: Sequence[LossItem], batch: Batch, settings: UpdateSettings, coefficient: float = 1.0
) -> list[LossTerm]:
    """Return the term as a list, empty if no row takes part."""
    if not items:
        return []
    rows = len(batch.rows) or None  # a phase that draws from a pool has no rollouts: its sequences are all there is
    return [LossTerm(name, loss, items, coefficient, settings.aggregation, settings.max_length, settings.count_empty, rows=rows)]


def _of_tokens(view: ScoringView, per_token: np.ndarray) -> np.ndarray:
    """Pick the values ``[T]`` of a row for the tokens that ``view`` scores: ``[S]``; 0 for text that was not sampled."""
    found = view.index_map >= 0
    return np.where(found, per_token[np.where(found, view.index_map, 0)], 0)


def _aligned(view: ScoringView, references: tuple[ScoringView, ...]) -> tuple[ScoringView, ...]:
    for reference in references:
        if not np.array_equal(reference.scored_ids(), view.scored_ids()) or not np.array_equal(reference.index_map, view.index_map):
            raise AlignmentError(f"row {view.row}: the {reference.kind} view does not score the tokens of the {view.kind} view")
    return references
