"""A hinge between a good and a bad teacher on sampled tokens (UniSD, arXiv 2605.06597)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sdgym.algos.losses.base import SampledLoss
from sdgym.core import Need
from sdgym.objective import LossInputs


@dataclasses.dataclass(frozen=True)
class HingeLoss(SampledLoss):
    """relu(margin + |log p − log q⁺| − |log p − log q⁻|): be nearer to ``references[0]`` than to ``references[1]``.

    Attributes:
        margin: by how many nats.
    """

    margin: float = 0.1
    needs: ClassVar[Need] = "sampled"
    scope: ClassVar[Literal["token"]] = "token"

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[S]`` and ``violated`` (1 where the hinge pulls), ``[S]``."""
        good, bad = ((inputs.logprobs - inputs.reference_logprobs[k]).abs() for k in (0, 1))
        values = torch.relu(self.margin + good - bad)
        return values, {"violated": (values.detach() > 0).to(values.dtype)}
