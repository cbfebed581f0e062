"""Unpaired preference terms: from accepted and rejected items to BCO's two means (VPD's E-step)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdgym.algos.base import AnnotateContext
from sdgym.algos.losses.sequence import BCOLoss, Length, bco_shift
from sdgym.core import LossItem, LossTerm


def implicit_rewards(items: Sequence[LossItem], context: AnnotateContext, beta: float, length: Length) -> torch.Tensor:
    """Return r̃ of every item under the current weights, ``[R]``: each has one reference, its prior."""
    scores = context.score([view for item in items for view in (item.view, *item.references)])
    gaps = [told.logprobs - prior.logprobs for told, prior in zip(scores[::2], scores[1::2], strict=True)]
    return beta * torch.tensor([float(gap.sum() if length == "sum" else gap.mean()) for gap in gaps])


def bco_terms(
    accepted: Sequence[LossItem],
    rejected: Sequence[LossItem],
    context: AnnotateContext,
    *,
    beta: float,
    length: Length,
    coefficient: float,
    shift: float | None,
) -> tuple[list[LossTerm], float | None]:
    """Return the terms and the δ they use.

    Args:
        accepted, rejected: items with labels +1 and −1, one reference each.
        context: scores r̃ for δ; δ belongs to the whole batch and carries no gradient.
        beta, length: of r̃.
        coefficient: on both means.
        shift: δ where one side is empty; None then gives no terms. With both sides δ is their own.
    """
    if accepted and rejected:
        shift = float(bco_shift(*(implicit_rewards(items, context, beta, length) for items in (accepted, rejected))))
    if shift is None:
        return [], None
    loss = BCOLoss(beta, shift, length)
    sides = (("accepted", accepted), ("rejected", rejected))
    return [LossTerm(name, loss, items, coefficient) for name, items in sides if items], shift
