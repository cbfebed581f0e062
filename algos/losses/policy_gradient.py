"""Clipped policy-gradient losses and reference-KL estimators (algorithms-core §1a).

Notation: w = π_θ/π_old of a sampled token, A its advantage, ℓ = log π_θ − log π_ref.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sdgym.algos.losses.base import RolloutCorrection, SampledLoss, masked_sequence_mean, ratio, rollout_factor
from sdgym.core import Need
from sdgym.errors import ConfigError
from sdgym.objective import LossInputs

Objective = Literal["ppo", "gspo", "cispo", "cispo_cap", "reinforce"]
KLEstimator = Literal["k1", "k2", "k3"]
KLGradient = Literal["own", "k2", "ratio"]


def ppo(w: Tensor, advantage: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None) -> Tensor:
    """−min(w·A, clip(w, 1−ε_l, 1+ε_h)·A), any shape (PPO Eq. 7; asymmetric bounds: DAPO Eq. 10).

    With ``dual_clip`` c > 1 the loss of a negative advantage is at most −c·A (verl's vanilla loss).
    """
    loss = -torch.minimum(w * advantage, w.clamp(1 - clip_low, 1 + clip_high) * advantage)
    if dual_clip is None:
        return loss
    return torch.where(advantage < 0, torch.minimum(loss, -dual_clip * advantage), loss)


def cispo(w: Tensor, logprobs: Tensor, advantage: Tensor, low: float | None, high: float) -> Tensor:
    """−sg[clamp(w, low, high)]·A·log π_θ, any shape (MiniMax-M1 Eq. 4). The bounds are absolute."""
    return -w.detach().clamp(min=low, max=high) * advantage * logprobs


def sequence_ratio(inputs: LossInputs) -> Tensor:
    """GSPO's ratio exp(mean_t log w), broadcast to tokens: ``[S]``.

    Value s of the token's sequence; gradient s·∇log π_θ of that token (verl's form: sg[s]·π_θ/sg[π_θ]), so
    that every aggregation works and the per-sequence mean gives the gradient of the paper's Eq. 5.
    """
    log_s = masked_sequence_mean((inputs.logprobs - inputs.old_logprobs).detach(), inputs)[inputs.item_index]
    return ratio(log_s) * torch.exp(inputs.logprobs - inputs.logprobs.detach())


def reference_kl(
    log_ratio: Tensor, estimator: KLEstimator, gradient: KLGradient = "own", w: Tensor | None = None, logprobs: Tensor | None = None
) -> Tensor:
    """Estimate KL(π_θ‖π_ref) per sampled token; any shape (algorithms-core §1a).

    Args:
        log_ratio: ℓ = log π_θ − log π_ref, with gradient.
        estimator: k1 = ℓ, k2 = ℓ²/2, k3 = e^{−ℓ} − 1 + ℓ.
        gradient: ``own``: that of the estimator (k1: zero in expectation; k2: the reverse KL's; k3: the
            *forward* KL's). ``k2``: the estimator's value with k2's gradient (verl's "+" modes).
            ``ratio``: w·k3 with a differentiable w = π_θ/π_old, whose gradient w·ℓ·∇log π_θ is unbiased
            off-policy too (TRL's bias correction); the exponents are clamped and the gradient is written
            out, so that it stays exact and bounded.
        w, logprobs: for ``ratio`` only.
    """
    bounded = log_ratio.clamp(-MAX_KL_EXPONENT, MAX_KL_EXPONENT)
    value = {"k1": lambda: log_ratio, "k2": lambda: 0.5 * log_ratio.square(), "k3": lambda: torch.exp(-bounded) - 1 + bounded}[estimator]()
    if gradient == "own":
        return value
    if gradient == "k2":
        surrogate = 0.5 * log_ratio.square()
        return value.detach() + surrogate - surrogate.detach()
    assert w is not None and logprobs is not None
    return straight_through((w * value).detach(), (w * bounded).detach(), logprobs)


MAX_KL_EXPONENT = 20.0


def straight_through(value: Tensor, coefficient: Tensor, logprobs: Tensor) -> Tensor:
    """Return ``value`` whose gradient is ``coefficient · ∇logprobs``; ``value`` and ``coefficient`` detached, same shape."""
    return value + coefficient * (logprobs - logprobs.detach())


@dataclasses.dataclass(frozen=True)
class PolicyGradientLoss(SampledLoss):
    """The policy term of GRPO and its relatives, per token; with ``kl_beta`` the reference view is ``references[0]``.

    Attributes:
        objective: ``ppo``, ``gspo`` (sequence ratio), ``cispo`` (band [1−ε_l, 1+ε_h], verl), ``cispo_cap``
            (only an absolute cap, TRL's reading of ``epsilon_high``), ``reinforce`` (−A·log π_θ, no ratio).
        clip_low, clip_high: ε_l, ε_h.
        dual_clip: c of the dual clip, or None.
        ratio_cap: the cap of ``cispo_cap``.
        kl_beta, kl_estimator, kl_gradient: coefficient and form of the reference KL.
        rollout_correction, rollout_cap: see :func:`sdgym.algos.losses.base.rollout_factor`; on the policy part only.
    """

    objective: Objective = "ppo"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    ratio_cap: float = 5.0
    kl_beta: float = 0.0
    kl_estimator: KLEstimator = "k3"
    kl_gradient: KLGradient = "own"
    rollout_correction: RolloutCorrection = "none"
    rollout_cap: float = 2.0
    needs: ClassVar[Need] = "sampled"
    scope: ClassVar[Literal["token"]] = "token"

    def __post_init__(self) -> None:
        if self.kl_gradient == "ratio" and self.kl_estimator != "k3":
            raise ConfigError(f"kl_gradient=ratio corrects k3 only, not {self.kl_estimator}: use kl_estimator=k3 or another kl_gradient")

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[S]`` and the metrics ``ratio``, ``clip_frac``, ``update_kl`` (and ``reference_kl``), ``[S]``."""
        w = ratio(inputs.logprobs - inputs.old_logprobs)
        used = sequence_ratio(inputs) if self.objective == "gspo" else w
        values = self._policy(used, inputs) * rollout_factor(inputs, self.rollout_correction, self.rollout_cap)
        log_w = (inputs.logprobs - inputs.old_logprobs).detach()
        metrics = {
            "ratio": used.detach(),
            "clip_frac": self._clipped(used.detach(), inputs.advantage),
            "update_kl": ratio(log_w) - 1 - log_w,
        }
        if inputs.reference_logprobs.shape[0] and not self.kl_beta:  # teachers that were asked for the advantage
            metrics["lift"] = (inputs.reference_logprobs[0] - inputs.old_logprobs).detach()
        if self.kl_beta:
            log_ratio = inputs.logprobs - inputs.reference_logprobs[0]
            values = values + self.kl_beta * reference_kl(log_ratio, self.kl_estimator, self.kl_gradient, w, inputs.logprobs)
            metrics["reference_kl"] = reference_kl(log_ratio.detach(), "k3")
        return values, metrics

    def _policy(self, w: Tensor, inputs: LossInputs) -> Tensor:
        if self.objective in ("ppo", "gspo"):
            return ppo(w, inputs.advantage, self.clip_low, self.clip_high, self.dual_clip)
        if self.objective == "reinforce":
            return -inputs.advantage * inputs.logprobs
        low, high = (1 - self.clip_low, 1 + self.clip_high) if self.objective == "cispo" else (None, self.ratio_cap)
        return cispo(w, inputs.logprobs, inputs.advantage, low, high)

    def _clipped(self, w: Tensor, advantage: Tensor) -> Tensor:
        """1 where the clip is active: the gradient is dropped (ppo, gspo) or the weight is cut (cispo)."""
        if self.objective == "reinforce":
            return torch.zeros_like(w)
        if self.objective == "cispo_cap":
            return (w > self.ratio_cap).to(w.dtype)
        if self.objective == "cispo":
            return ((w > 1 + self.clip_high) | (w < 1 - self.clip_low)).to(w.dtype)
        dropped = ((w > 1 + self.clip_high) & (advantage > 0)) | ((w < 1 - self.clip_low) & (advantage < 0))
        if self.dual_clip is not None:
            dropped |= (w > self.dual_clip) & (advantage < 0)
        return dropped.to(w.dtype)
