"""What the losses share: clamped ratios, the mismatch correction, and the empty feature hook."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sdgym.objective import LossInputs, sequence_sum

RolloutCorrection = Literal["none", "token", "sequence_mean", "sequence_mask"]
MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to ±20 before exp (verl, TRL, SDPO): e^20 cannot overflow float32 and no clip range reaches it."""


class SampledLoss:
    """Base of losses that need no distribution, only log-probs of the sampled tokens."""

    def token_features(self, student_logits: Tensor, reference_logits: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
        """Return nothing: log-probs suffice."""
        return {}


def ratio(log_ratio: Tensor) -> Tensor:
    """Return ``exp(log_ratio)`` with the exponent clamped to ±20; any shape."""
    return torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))


def masked_sequence_sum(values: Tensor, inputs: LossInputs) -> Tensor:
    """Sum ``values [S]`` over each item's unmasked tokens: ``[R]``."""
    return sequence_sum(values.masked_fill(inputs.weight == 0, 0.0), inputs.item_index, inputs.num_items)


def masked_sequence_mean(values: Tensor, inputs: LossInputs) -> Tensor:
    """Average ``values [S]`` over each item's unmasked tokens: ``[R]``, 0 for an empty item."""
    counts = sequence_sum((inputs.weight != 0).to(values.dtype), inputs.item_index, inputs.num_items)
    return masked_sequence_sum(values, inputs) / counts.clamp(min=1.0)


def rollout_factor(inputs: LossInputs, correction: RolloutCorrection, cap: float) -> Tensor:
    """Weight for the mismatch between sampler and trainer: ``[S]``, no gradient (algorithms-core §1a).

    ``token``: min(π_old/π_roll, cap) per token (truncated importance sampling; verl, SDPO with cap 2).
    ``sequence_mean``: the mean of these over the sequence, for each of its tokens (SDFT's code, cap 2).
    ``sequence_mask``: the sequence's ratio Π π_old/π_roll, and 0 where it exceeds ``cap`` (TRL, cap 3); the
    tokens of a dropped sequence stay in the denominator. Without recorded log-probs the factor is 1.
    """
    ones = torch.ones_like(inputs.logprobs)
    if correction == "none" or inputs.rollout_logprobs is None:
        return ones.detach()
    log_ratio = (inputs.old_logprobs - inputs.rollout_logprobs).detach()
    if correction == "token":
        return ratio(log_ratio).clamp(max=cap)
    if correction == "sequence_mean":
        return masked_sequence_mean(ratio(log_ratio).clamp(max=cap), inputs)[inputs.item_index]
    per_sequence = ratio(masked_sequence_sum(log_ratio, inputs))
    return per_sequence.masked_fill(per_sequence > cap, 0.0)[inputs.item_index]
