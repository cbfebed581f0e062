"""Distillation losses: a divergence, a support, and what happens off it, off-policy and at the extremes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from sdgym.algos.losses import divergence as d
from sdgym.algos.losses.base import RolloutCorrection, SampledLoss, ratio, rollout_factor
from sdgym.algos.losses.policy_gradient import KLEstimator, reference_kl
from sdgym.core import Need
from sdgym.errors import ConfigError
from sdgym.objective import LossInputs

Importance = Literal["none", "capped", "differentiable"]
Estimator = Literal["surrogate", "k2", "k3"]


def sampled_surrogate(log_ratio: Tensor, logprobs: Tensor) -> Tensor:
    """sg[ℓ]·log S(y), any shape (OPSD's sampled loss; SDPO with ``full_logit_distillation=False``).

    ℓ = log S(y) − log T(y). Its expected gradient on-policy is that of the reverse KL; its value means nothing.
    """
    return log_ratio.detach() * logprobs


@dataclasses.dataclass(frozen=True)
class DistillLoss:
    """Pull the student towards its teacher token by token.

    Attributes:
        mixture: how the references become one teacher (:func:`sdgym.algos.losses.divergence.mix`); ``single`` is ``references[0]``.
        divergence: ``forward_kl``, ``reverse_kl``, ``jensen_shannon`` or ``mixed``.
        alpha: α of ``jensen_shannon``. forward_weight: w of ``mixed``.
        support: ``full``; ``student_topk`` / ``teacher_topk``: the K likeliest tokens of the current student /
            the teacher; ``sampled``: the sampled token alone (reverse KL only).
        top_k: K. residual: see :func:`sdgym.algos.losses.divergence.apply_residual`; ``floor``: see
            :func:`sdgym.algos.losses.divergence.floored`.
        pointwise_clip: bound on each vocabulary entry, before the sum. token_clip: bound on the sum.
        estimator: of the sampled form: ``surrogate`` (SDPO, OPSD), ``k2``, ``k3`` (Skill-SD).
        importance: ``capped``: × min(sg[π_θ/π_old], importance_cap) (SDPO). ``differentiable``: × π_θ/π_old with
            gradient, sampled k3 only: ∇(ρ·k3) = ρ·ℓ·∇log π_θ (Skill-SD Eq. 12).
        rollout_correction, rollout_cap: see :func:`sdgym.algos.losses.base.rollout_factor`.
        scaled: multiply each token by its item's advantage: a weight of tokens or rows that, unlike a mask, leaves the
            denominator alone even where it is 0.

    Raises:
        ConfigError: a combination that no estimator has.
    """

    divergence: d.Divergence = "reverse_kl"
    alpha: float = 0.5
    forward_weight: float = 0.5
    support: Need = "student_topk"
    top_k: int = 100
    residual: d.Residual = "tail"
    pointwise_clip: float | None = None
    token_clip: float | None = None
    estimator: Estimator = "surrogate"
    importance: Importance = "none"
    importance_cap: float = 2.0
    rollout_correction: RolloutCorrection = "none"
    rollout_cap: float = 2.0
    mixture: d.Mixture = "single"
    scaled: bool = False
    scope: ClassVar[Literal["token"]] = "token"

    def __post_init__(self) -> None:
        if self.support == "sampled" and self.divergence != "reverse_kl":
            raise ConfigError(f"support=sampled estimates reverse_kl only, not {self.divergence}: choose another support or reverse_kl")
        if self.support == "sampled" and (self.token_clip or self.pointwise_clip) is not None:
            raise ConfigError("token_clip and pointwise_clip bound a divergence, which support=sampled does not compute: use support=full")
        if self.divergence == "jensen_shannon" and not 0 < self.alpha < 1:
            raise ConfigError(f"jensen_shannon needs 0 < alpha < 1, not {self.alpha}: use forward_kl or reverse_kl for the ends")
        if self.importance == "differentiable" and (self.support, self.estimator) != ("sampled", "k3"):
            raise ConfigError("importance=differentiable belongs to support=sampled with estimator=k3 (its gradient is the reverse KL's)")
        if self.residual == "floor" and self.support != "teacher_topk":
            raise ConfigError(f"residual=floor belongs to support=teacher_topk, not {self.support}: use residual=tail")
        if self.top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {self.top_k}")
        if self.residual in ("none", "teacher_renorm") and self.support in ("student_topk", "teacher_topk"):
            allowed = ("forward_kl",) if self.residual == "teacher_renorm" else ("forward_kl", "reverse_kl")
            if self.divergence not in allowed:
                raise ConfigError(f"residual={self.residual} is defined for {' and '.join(allowed)} only: use residual=tail")

    @property
    def needs(self) -> Need:
        """The support is what the learner must provide."""
        return self.support

    def token_features(self, student_logits: Tensor, reference_logits: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
        """Reduce logits ``[C, V]`` and ``[M, C, V]`` to ``divergence [C]`` (with gradient) and detached metrics ``[C]``."""
        if reduced := self.reduce(student_logits, reference_logits):
            return self.reduced_features(student_logits, reduced)
        teacher_logits = d.mix(reference_logits, self.mixture)
        features = {"teacher_entropy": d.entropy(teacher_logits)}
        student, teacher = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
        if self.support != "full":  # residual=floor
            ids = teacher_logits.topk(min(self.top_k, teacher_logits.shape[-1]), -1).indices
            features["captured_mass"], features["teacher_captured_mass"] = (
                x.detach().gather(-1, ids).logsumexp(-1).exp() for x in (student, teacher)
            )
            teacher = d.floored(teacher_logits, ids)
        return {"divergence": self._diverge(student, teacher), **features}

    def reduce(self, student_logits: Tensor, reference_logits: Tensor) -> dict[str, Tensor]:
        """Return the support ``ids [C, K]`` and the teacher on it; {} where its whole distribution is needed."""
        if self.support == "full" or self.residual == "floor":
            return {}
        teacher_logits = d.mix(reference_logits, self.mixture)
        scores = student_logits.detach() if self.support == "student_topk" else teacher_logits
        ids = scores.topk(min(self.top_k, scores.shape[-1]), -1).indices
        teacher = teacher_logits.gather(-1, ids) - teacher_logits.logsumexp(-1, keepdim=True)
        return {"ids": ids, "teacher": teacher, "teacher_entropy": d.entropy(teacher_logits)}

    def reduced_features(self, student_logits: Tensor, reduced: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what :meth:`token_features` does, from the student's logits ``[C, V]`` and what :meth:`reduce` left."""
        student = student_logits.gather(-1, reduced["ids"]) - student_logits.logsumexp(-1, keepdim=True)
        features = {"teacher_entropy": reduced["teacher_entropy"], "captured_mass": student.detach().logsumexp(-1).exp()}
        features["teacher_captured_mass"] = reduced["teacher"].logsumexp(-1).exp()
        return {"divergence": self._diverge(*d.apply_residual(student, reduced["teacher"], self.residual)), **features}

    def _diverge(self, student: Tensor, teacher: Tensor) -> Tensor:
        clip = self.pointwise_clip
        if self.divergence == "forward_kl":
            return d.forward_kl(student, teacher, clip)
        if self.divergence == "jensen_shannon":
            return d.jensen_shannon(student, teacher, self.alpha, clip)
        if self.divergence == "mixed":
            return d.mixed(student, teacher, self.forward_weight, clip)
        truncated = self.residual == "none" and self.support != "full"
        return (d.reverse_kl_fixed_coefficient if truncated else d.reverse_kl)(student, teacher, clip)

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[S]`` and the metrics ``divergence`` (k3 if sampled), ``lift`` (log T(y)/S(y)) and those of the support, ``[S]``."""
        log_ratio = inputs.logprobs - self._teacher(inputs.reference_logprobs)
        values = self._sampled(inputs, log_ratio) if self.support == "sampled" else inputs.features["divergence"]
        metrics = {k: v.detach() for k, v in inputs.features.items()}
        metrics.setdefault("divergence", reference_kl(log_ratio.detach(), "k3"))
        metrics["lift"] = -log_ratio.detach()
        if self.token_clip is not None:
            values = values.clamp(max=self.token_clip)
        if self.importance == "capped":
            metrics["importance"] = ratio((inputs.logprobs - inputs.old_logprobs).detach()).clamp(max=self.importance_cap)
            values = values * metrics["importance"]
        if self.scaled:
            values = values * inputs.advantage
        return values * rollout_factor(inputs, self.rollout_correction, self.rollout_cap), metrics

    def _teacher(self, logprobs: Tensor) -> Tensor:
        """Return log q ``[S]`` of the sampled tokens from ``[M, S]``; a geometric mixture lacks its normaliser, a baseline."""
        if self.mixture == "arithmetic":
            return logprobs.logsumexp(0) - math.log(len(logprobs))
        return logprobs.mean(0) if self.mixture == "geometric" else logprobs[0]

    def _sampled(self, inputs: LossInputs, log_ratio: Tensor) -> Tensor:
        if self.estimator == "surrogate":
            return sampled_surrogate(log_ratio, inputs.logprobs)
        kind: KLEstimator = self.estimator
        if self.importance == "differentiable":
            w = ratio(inputs.logprobs - inputs.old_logprobs)
            return reference_kl(log_ratio, kind, "ratio", w, inputs.logprobs)
        return reference_kl(log_ratio, kind)


@dataclasses.dataclass(frozen=True)
class SharpenLoss(SampledLoss):
    """KL(sg S_τ ‖ S) with S_τ ∝ S^{1/τ}: the student is its own colder teacher. No reference view.

    Attributes:
        temperature: τ < 1, relative to the loss temperature.
    """

    temperature: float = 0.5
    needs: ClassVar[Need] = "full"
    scope: ClassVar[Literal["token"]] = "token"

    def token_features(self, student_logits: Tensor, reference_logits: Tensor, token_ids: Tensor) -> dict[str, Tensor]:
        """Reduce logits ``[C, V]`` to ``divergence [C]``; ``reference_logits`` is ignored."""
        target = (student_logits.detach() / self.temperature).log_softmax(-1)
        return {"divergence": d.forward_kl(student_logits.log_softmax(-1), target)}

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss ``[S]`` and the metric ``divergence [S]``."""
        return inputs.features["divergence"], {"divergence": inputs.features["divergence"].detach()}
