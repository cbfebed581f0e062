"""Likelihood with a squared log-ratio to a tempered teacher (CurioSFT)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sdgym.algos.losses.divergence import entropy
from sdgym.core import Need
from sdgym.errors import ConfigError
from sdgym.objective import LossInputs

BISECTIONS = 24
"""Halvings of [low, high]: 0.4 / 2^24 is below the spacing of float32 at 1.5."""


def curious_temperature(
    logits: Tensor,
    low: float = 1.1,
    high: float = 1.5,
    *,
    lift: float = 0.5,
    slope: float = 2.0,
    centre: float = 1.2,
    certain: float = 0.03,
    top_k: int = 512,
) -> Tensor:
    """Return τ per token, so that the teacher at τ has the entropy H + lift·σ(slope·(H − centre)) (CurioSFT).

    Args:
        logits: of the teacher, ``[C, V]``; H and H(τ) are taken over its top ``top_k``.
        low, high: bounds of τ; a target out of reach gets the nearer bound.
        lift, slope, centre: of the target: an unsure teacher is raised more than a sure one.
        certain: at or below this H, τ = low.
        top_k: tokens the entropies are taken over.

    Returns:
        ``[C]``, without gradient.
    """
    with torch.no_grad():
        best = logits.topk(min(top_k, logits.shape[-1]), -1).values
        own = entropy(best)
        target = own + lift * torch.sigmoid(slope * (own - centre))
        below, above = torch.full_like(own, low), torch.full_like(own, high)
        for _ in range(BISECTIONS):
            middle = 0.5 * (below + above)
            short = entropy(best / middle[:, None]) < target
            below, above = torch.where(short, middle, below), torch.where(short, above, middle)
        return torch.where(own <= certain, torch.full_like(own, low), 0.5 * (below + above))


@dataclasses.dataclass(frozen=True)
class CurioLoss:
    """−log p + c·½(log p − log q_τ)² per token, q_τ = ``references[0]`` at :func:`curious_temperature`.

    ∂L/∂z = −(1 + c·(log q_τ − log p))·(1_y − p): with c = 1 the likelihood pulls until log p = 1 + log q_τ and no further.

    Attributes:
        weight: c.
        low, high: bounds of τ.
    """

    weight: float = 1.0
    low: float = 1.1
    high: float = 1.5
    needs: ClassVar[Need] = "full"
    scope: ClassVar[Literal["token"]] = "token"

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ConfigError(f"temperatures need 0 < low <= high, not {self.low} and {self.high}")

    def token_features(self, student_logits: Tensor, reference_logits: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
        """Reduce logits ``[1, C, V]`` of the teacher to ``tempered`` (log q_τ of the token) and ``temperature``, ``[C]``."""
        teacher = reference_logits[0].detach()
        temperature = curious_temperature(teacher, self.low, self.high)
        logprobs = (teacher / temperature[:, None]).log_softmax(-1)
        return {"tempered": logprobs.gather(-1, token_ids[:, None])[:, 0], "temperature": temperature}

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[S]`` and the metrics ``temperature`` and ``lift`` (log q_τ − log p), ``[S]``."""
        gap = inputs.logprobs - inputs.features["tempered"].detach()
        metrics = {"temperature": inputs.features["temperature"].detach(), "lift": -gap.detach()}
        return -inputs.logprobs + 0.5 * self.weight * gap.square(), metrics
