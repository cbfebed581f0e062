"""What a loss sees, and how per-token values become a scalar. Knows no algorithm and no model.

Tensors are flat over the S scored tokens of one micro-batch of R rows ("items"); ``item_index [S]``
says which row a token belongs to. Flat means no padding, so no mask can be forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from sdgym.core import Aggregation, Need
from sdgym.errors import UnknownNameError


@dataclasses.dataclass
class LossInputs:
    """One micro-batch of a loss term, flat.

    Attributes:
        token_ids: int64 ``[S]``.
        item_index: int64 ``[S]``, non-decreasing, values in ``[0, R)``.
        num_items: R.
        logprobs: ``[S]`` of ``token_ids`` in the trained view, at the loss temperature, with gradient.
        old_logprobs: ``[S]`` by the trainer's policy at rollout time; on-policy: ``logprobs.detach()``.
        rollout_logprobs: ``[S]`` recorded by the sampler, or None.
        reference_logprobs: ``[M, S]`` of the same tokens in the reference views (no gradient).
        weight: ``[S]``; 0 means masked.
        advantage: ``[S]`` (zeros where the term has none).
        label: ``[R]``, +1 / -1 / 0.
        features: per-token tensors ``[S]`` from :meth:`TokenLoss.token_features`.
    """

    token_ids: Tensor
    item_index: Tensor
    num_items: int
    logprobs: Tensor
    old_logprobs: Tensor
    rollout_logprobs: Tensor | None
    reference_logprobs: Tensor
    weight: Tensor
    advantage: Tensor
    label: Tensor
    features: dict[str, Tensor] = dataclasses.field(default_factory=dict)


class TokenLoss(Protocol):
    """A loss: pure, stateless, differentiable in ``inputs.logprobs`` and ``inputs.features``.

    Attributes:
        needs: ``sampled``: log-probs suffice. ``teacher_topk``, ``student_topk``, ``full``: the learner
            also calls :meth:`token_features` on chunks of logits and never keeps [S, V].
        scope: ``token``: returns ``[S]``; ``sequence``: returns ``[R]``, averaged over items.
    """

    @property
    def needs(self) -> Need:
        """What the learner must provide."""

    @property
    def scope(self) -> Literal["token", "sequence"]:
        """Whether a call returns a value per token or per item."""

    def token_features(self, student_logits: Tensor, reference_logits: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
        """Reduce a chunk of logits ``[C, V]`` (and ``[M, C, V]``), already divided by the loss temperature, to ``[C]`` tensors."""

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return per-token (or per-item) values and detached per-token metrics ``[S]`` (or scalars)."""


@runtime_checkable
class ReducingLoss(Protocol):
    """A loss that needs little of its references, so that only the student's logits are computed again for the backward pass."""

    def reduce(self, student_logits: Tensor, reference_logits: Tensor) -> dict[str, Tensor]:
        """Return what is needed of ``[C, V]`` and ``[M, C, V]`` logits, without gradient; {} if that is all of them."""

    def reduced_features(self, student_logits: Tensor, reduced: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what :meth:`TokenLoss.token_features` does."""


def sequence_sum(values: Tensor, item_index: Tensor, num_items: int) -> Tensor:
    """Sum ``values [S]`` per item: ``[R]``."""
    return torch.zeros(num_items, dtype=values.dtype, device=values.device).index_add(0, item_index, values)


def aggregate(
    values: Tensor,
    weight: Tensor,
    item_index: Tensor,
    num_items: int,
    mode: Aggregation,
    *,
    denominator: float | Tensor | None = None,
    max_length: int | None = None,
    count_empty: bool = False,
) -> Tensor:
    """Turn per-token values into a scalar by a named mode (algorithms-core §0.1).

    Args:
        values, weight, item_index: ``[S]``; a token counts in denominators where ``weight != 0``.
        num_items: rows in this call (N for ``token_sum_norm`` and for ``count_empty``).
        mode: ``token_mean_global``: Σ w·L / max(1, Σ mask) over the whole optimizer batch: when called on
            a micro-batch pass the batch's count as ``denominator``. ``token_mean_micro``: the same with
            the micro-batch's own count. ``seq_mean_token_mean``, ``seq_mean_token_sum``: mean over
            sequences of the token mean or sum. ``token_sum_norm``: Σ w·L / (N · max_length).
        denominator: overrides the divisor of ``token_mean_global`` (tokens) and of ``seq_mean_*`` and
            ``token_sum_norm`` (sequences), so that micro-batches add up to the batch.
        max_length: L_max of ``token_sum_norm``.
        count_empty: whether sequences without an unmasked token count in ``seq_mean_*`` (TRL: yes, verl: no).

    Returns:
        A scalar attached to the graph; exactly 0 for an empty mask.

    Raises:
        UnknownNameError: there is no such mode.
        ValueError: ``token_sum_norm`` has no ``max_length``.
    """
    if mode not in get_args(Aggregation):
        raise UnknownNameError("aggregation", mode, get_args(Aggregation))
    mask = (weight != 0).to(values.dtype)
    weighted = values.masked_fill(weight == 0, 0.0) * weight  # a masked inf or NaN reaches neither value nor gradient
    total = weighted.sum()
    if mode in ("token_mean_global", "token_mean_micro"):
        count = denominator if denominator is not None and mode == "token_mean_global" else mask.sum()
        return total / torch.clamp(torch.as_tensor(count, dtype=values.dtype), min=1.0)
    if mode == "token_sum_norm":
        if not max_length:
            raise ValueError("token_sum_norm needs max_length")
        rows = denominator if denominator is not None else num_items
        return total / (torch.clamp(torch.as_tensor(rows, dtype=values.dtype), min=1.0) * max_length)
    sums, counts = sequence_sum(weighted, item_index, num_items), sequence_sum(mask, item_index, num_items)
    per_sequence = sums / counts.clamp(min=1.0) if mode == "seq_mean_token_mean" else sums
    rows = denominator if denominator is not None else (num_items if count_empty else (counts > 0).sum())
    return per_sequence.sum() / torch.clamp(torch.as_tensor(rows, dtype=values.dtype), min=1.0)
