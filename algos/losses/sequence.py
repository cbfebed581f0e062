"""Losses on whole texts: likelihood (rejection fine-tuning, SD-Zero phase 1) and unpaired preference (VPD's E-step)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sdgym.algos.losses.base import SampledLoss, masked_sequence_mean, masked_sequence_sum
from sdgym.core import Need
from sdgym.objective import LossInputs

Length = Literal["sum", "mean"]


@dataclasses.dataclass(frozen=True)
class NLLLoss(SampledLoss):
    """−log π_θ(y_t) per token (algorithms-core §2a); the aggregation makes it a token or a sequence mean."""

    needs: ClassVar[Need] = "sampled"
    scope: ClassVar[Literal["token"]] = "token"

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[S]``; no metrics."""
        return -inputs.logprobs, {}


def implicit_reward(logprobs: Tensor, reference_logprobs: Tensor, inputs: LossInputs, beta: float, length: Length = "sum") -> Tensor:
    """r̃ = β·Σ_t (log q_θ − sg log π_prior) over each item's unmasked tokens, or their mean: ``[R]`` (algorithms-core §7a)."""
    reduce = masked_sequence_sum if length == "sum" else masked_sequence_mean
    return beta * reduce(logprobs - reference_logprobs.detach(), inputs)


def bco_shift(rewards_positive: Tensor, rewards_negative: Tensor) -> Tensor:
    """δ = ½(mean r̃(D+) + mean r̃(D−)), a scalar without gradient (BCO; algorithms-core §7a).

    Raises:
        ValueError: one of the sets is empty: there is no margin to centre.
    """
    if not len(rewards_positive) or not len(rewards_negative):
        raise ValueError("the BCO shift needs at least one accepted and one rejected sequence")
    return (0.5 * (rewards_positive.mean() + rewards_negative.mean())).detach()


@dataclasses.dataclass(frozen=True)
class BCOLoss(SampledLoss):
    """Binary classifier optimisation on unpaired sequences: −log σ(label·(r̃ − δ)) per item.

    The prior is ``references[0]``, without gradient. The shift δ belongs to the whole batch, so it is
    computed once when the term is built (:func:`bco_shift`) and no micro-batch can change it. Accepted and
    rejected items go into two terms, so that each set has its own mean.

    Attributes:
        beta: β of the implicit reward.
        shift: δ.
        length: whether r̃ is a sum over tokens or their mean; sums grow with the answer and saturate the sigmoid.
    """

    beta: float = 0.1
    shift: float = 0.0
    length: Length = "sum"
    needs: ClassVar[Need] = "sampled"
    scope: ClassVar[Literal["sequence"]] = "sequence"

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[R]`` and the scalar metrics ``implicit_reward`` and ``accuracy``."""
        rewards = implicit_reward(inputs.logprobs, inputs.reference_logprobs[0], inputs, self.beta, self.length)
        margin = inputs.label.to(rewards.dtype) * (rewards - self.shift)
        metrics = {"implicit_reward": rewards.detach().mean(), "accuracy": (margin.detach() > 0).to(rewards.dtype).mean()}
        return -torch.nn.functional.logsigmoid(margin), metrics
