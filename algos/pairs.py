"""Preference pairs as two weighted likelihoods: DPO's gradient, exact for one update per batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sdgym.algos.base import AnnotateContext
from sdgym.core import LossItem, ScoringView

Pair = tuple[ScoringView, ScoringView]
"""The preferred and the other continuation; both trained views."""


def preference_items(pairs: Sequence[Pair], context: AnnotateContext, beta: float) -> tuple[list[LossItem], np.ndarray]:
    """Return the items whose REINFORCE loss has the gradient of Σ_pairs −log σ(m), and m ``[P]``.

    m = β·[(log π/π_ref)(preferred) − (log π/π_ref)(other)], π_ref the teacher's weights on the same tokens (DPO, arXiv
    2305.18290, Eq. 7). Its gradient is −β·σ(−m)·[∇log π(preferred) − ∇log π(other)], so the two sides get the advantages
    ±β·σ(−m). They hold for the weights they were computed with: one optimizer step per batch.
    """
    views = [view for pair in pairs for view in pair]
    scores = context.score([*views, *(_reference(view) for view in views)])
    sums = np.array([float(s.logprobs.sum(dtype=np.float64)) for s in scores]).reshape(2, -1, 2)
    margins = beta * ((sums[0] - sums[1]) @ np.array([1.0, -1.0]))
    pull = beta / (1 + np.exp(np.clip(margins, -50, 50)))
    items = []
    for (good, bad), strength in zip(pairs, pull, strict=True):
        items += [_item(good, strength), _item(bad, -strength)]
    return items, margins


def _reference(view: ScoringView) -> ScoringView:
    return dataclasses.replace(view, weights="teacher", grad=False, kind="reference_policy")


def _item(view: ScoringView, advantage: float) -> LossItem:
    size = int(view.loss_mask.sum())
    return LossItem(view, np.ones(size, np.float32), advantage=np.full(size, advantage, np.float32))
