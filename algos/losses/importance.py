"""Importance-weighted reverse KL on sampled tokens (Skill-SD, arXiv 2604.10674, Eq. 12)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sdgym.algos.losses.base import SampledLoss, ratio
from sdgym.algos.losses.policy_gradient import straight_through
from sdgym.core import Need
from sdgym.errors import ConfigError
from sdgym.objective import LossInputs


@dataclasses.dataclass(frozen=True)
class ImportanceWeightedKL(SampledLoss):
    """ρ·(e^{−ℓ} − 1 + ℓ) per token, with ℓ = log π_θ − log π_T and ρ = π_θ/π_old *differentiable*.

    ∇(ρ·k3) = ρ·ℓ·∇log π_θ: its mean over tokens drawn from π_old is ∇KL(π_θ‖π_T), on-policy or not, while plain k3
    has the forward KL's gradient and a detached ρ leaves it wrong off-policy (algorithms-core §6a). The value is
    that of the bounded ρ and ℓ; the gradient is written out as their product, so the bounds also bound it.

    Attributes:
        ratio_cap: upper bound of ρ, or None for e^20 alone. A cap that binds biases the estimate.
        log_ratio_clip: bound of abs(ℓ).
    """

    ratio_cap: float | None = None
    log_ratio_clip: float = 10.0
    needs: ClassVar[Need] = "sampled"
    scope: ClassVar[Literal["token"]] = "token"

    def __post_init__(self) -> None:
        if self.ratio_cap is not None and self.ratio_cap < 1.0:
            raise ConfigError(f"ratio_cap={self.ratio_cap} would shrink tokens that are on-policy: use 1 or more, or null for no cap")

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[S]`` and ``divergence`` (k3), ``lift`` (−ℓ), ``importance`` (ρ), ``bounded`` (1 where a bound binds), ``[S]``."""
        log_rho = (inputs.logprobs - inputs.old_logprobs).detach()
        free = (inputs.logprobs - inputs.reference_logprobs[0]).detach()
        rho = ratio(log_rho) if self.ratio_cap is None else ratio(log_rho).clamp(max=self.ratio_cap)
        ell = free.clamp(-self.log_ratio_clip, self.log_ratio_clip)
        k3 = torch.exp(-ell) - 1 + ell
        bounded = ((ell != free) | (rho < ratio(log_rho))).to(rho.dtype)
        metrics = {"divergence": k3, "lift": -free, "importance": rho, "bounded": bounded}
        return straight_through(rho * k3, rho * ell, inputs.logprobs), metrics
