"""Losses on a student's own distribution beside its teacher's: the order of its best tokens, and its entropy (TSD-KD)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sdgym.algos.losses import divergence as d
from sdgym.core import Need
from sdgym.errors import ConfigError
from sdgym.objective import LossInputs


def plackett_luce(scores: Tensor) -> Tensor:
    """−log P(this order) of items with ``scores [..., K]``, the best one first: Σ_k [log Σ_{j≥k} e^{s_j} − s_k], ``[...]``.

    The sum over what is still to be chosen runs from the worst item up. Running it from the best one down (as TSD-KD's
    repository does) scores the reversed order and punishes agreement: [4, 3, 2, 1, 0] then costs 11.61 instead of 1.61.
    """
    remaining = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return (remaining - scores).sum(-1)


@dataclasses.dataclass(frozen=True)
class RankLoss:
    """Plackett–Luce loss of the student's top K in its teacher's order (``references[0]``).

    Attributes:
        top_k: K.
    """

    top_k: int = 10
    needs: ClassVar[Need] = "student_topk"
    scope: ClassVar[Literal["token"]] = "token"

    def __post_init__(self) -> None:
        if self.top_k < 2:
            raise ConfigError(f"an order needs at least 2 tokens, top_k={self.top_k} has none")

    def token_features(self, student_logits: Tensor, reference_logits: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
        """Reduce logits ``[C, V]`` and ``[1, C, V]`` to ``rank [C]`` (with gradient)."""
        ids = student_logits.detach().topk(min(self.top_k, student_logits.shape[-1]), -1).indices
        order = reference_logits[0].detach().gather(-1, ids).argsort(dim=-1, descending=True, stable=True)
        return {"rank": plackett_luce(student_logits.gather(-1, ids).gather(-1, order))}

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[S]``; no metrics."""
        return inputs.features["rank"], {}


@dataclasses.dataclass(frozen=True)
class EntropyLoss:
    """The student's entropy per token, to be *minimised* with a positive coefficient."""

    needs: ClassVar[Need] = "full"
    scope: ClassVar[Literal["token"]] = "token"

    def token_features(self, student_logits: Tensor, reference_logits: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
        """Reduce logits ``[C, V]`` to ``entropy [C]`` (with gradient)."""
        return {"entropy": d.entropy(student_logits)}

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[S]``; no metrics."""
        return inputs.features["entropy"], {}


def gate(student_entropy: Tensor, teacher_entropy: Tensor) -> Tensor:
    """σ(H_S − H_T), any shape: near 1 where the student is unsure and the teacher is not."""
    return torch.sigmoid(student_entropy - teacher_entropy)
