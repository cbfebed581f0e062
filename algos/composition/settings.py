"""All axes of the composition as settings, and which values exclude each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from sdgym.algos.base import Preset
from sdgym.algos.conditioning import Conditioner, build_conditioners
from sdgym.algos.grpo import GRPOConfig
from sdgym.algos.losses import DistillLoss
from sdgym.algos.losses.divergence import Mixture
from sdgym.algos.ramps import linear
from sdgym.algos.settings import ContextSettings, DistillSettings, TeacherSettings, UpdateSettings
from sdgym.errors import ConfigError


class StrengthSettings(Preset):
    """λ over rollout steps: ``start`` for ``hold`` steps, then linear to ``end`` within ``steps``; constant if ``end`` is null.

    Steps count from 0 and λ changes after it was used: the first step has ``start``, the next one ``start·(1 − 1/steps)``
    where the end is 0 (RLSD, CEPO).
    """

    start: NonNegativeFloat = 1.0
    end: NonNegativeFloat | None = None
    hold: NonNegativeInt = 0
    steps: NonNegativeInt = 0

    def at(self, step: int) -> float:
        """Return λ at rollout step ``step``."""
        return self.start if self.end is None else linear(max(0, step - self.hold), self.start, self.end, self.steps)


class TokenWeightSettings(Preset):
    """u: see :mod:`sdgym.algos.composition.token_weights`.

    Attributes:
        kind: ``teacher_entropy`` (beta), ``position`` (minimum, centre, width), ``entropy_gap``, ``agreement`` of
            ``contexts`` few-shot contexts (gamma, minimum); each names its own settings.
        normalise: mean one over the batch or over each sequence.
    """

    kind: Literal["none", "teacher_entropy", "position", "entropy_gap", "agreement"] = "none"
    normalise: Literal["none", "batch", "sequence"] = "none"
    beta: NonNegativeFloat = 1.0
    minimum: float = Field(default=0.25, ge=0.0, le=1.0)
    centre: float = 0.30
    width: PositiveFloat = 0.10
    gamma: NonNegativeFloat = 1.0
    contexts: PositiveInt = 3


class SampleWeightSettings(Preset):
    """ω = p^alpha·(1−p)^beta of the group's pass rate p; (0, 0) is 1.

    Attributes:
        siblings_only: rows that are told by their own feedback keep weight 1, so that a group that failed altogether still learns.
    """

    alpha: NonNegativeFloat = 0.0
    beta: NonNegativeFloat = 0.0
    siblings_only: bool = False


class EvidenceSettings(Preset):
    """What happens to Δ before it becomes an advantage; see :mod:`sdgym.algos.composition.credit`.

    Attributes:
        clip: ε of ``signal: modulate``.
        drop_above: tokens with abs(Δ) of this or more are left out (Uni-OPD: 10).
        centre: subtract the mean of each sequence.
        margin, direction: shift of groups whose successes are not believed in more than their failures by ``margin``; null is off.
        balance: no side of a group may have more rows than this times the other; null is off.
    """

    clip: PositiveFloat = 0.2
    drop_above: PositiveFloat | None = None
    centre: bool = False
    margin: PositiveFloat | None = None
    direction: Literal["both", "up", "down"] = "both"
    balance: float | None = Field(default=None, ge=1.0)


class HingeSettings(Preset):
    """UniSD's auxiliary hinge: weight·relu(margin + abs(log p − log q⁺) − abs(log p − log q⁻)), q⁻ told a wrong attempt."""

    weight: NonNegativeFloat = 0.0
    margin: NonNegativeFloat = 0.1


class CompositionConfig(UpdateSettings, TeacherSettings, ContextSettings, DistillSettings):
    """A point of the family. Aggregation, teacher weights, context frame and divergence are the shared settings.

    Attributes:
        contexts: what the teacher reads, a name from ``sdgym.algos.conditioning.conditioners`` for each view.
        context_options: settings of those contexts, for example ``share`` of ``partial_reference``.
        mixture: how several views become one teacher (G). ``sum`` adds up one divergence per view.
        context_weights: ``failure`` weighs each view of ``sum`` by 1 − reward instead of 1.
        signal: ``target``: a divergence to the teacher's distribution. ``policy_gradient``: the evidence Δ is the advantage.
            ``modulate``: Δ scales GRPO's advantage.
        combine: coefficients of GRPO and of the distillation: ``replace`` (0, z), ``sum`` (1, λz), ``shared`` (1−z, z) under one
            denominator, ``modulate`` (1, 0).
        strength: λ. route: z, among rows that have all their views.
        last_token: only the tokens before this one are distilled; ``skip_first`` is the other end.
        token_weight, sample_weight: u, ω. evidence: of signals that are advantages. hinge: see there.
        reward: ``cosine`` makes rewards depend on length (:func:`sdgym.algos.composition.rewards.cosine_length_reward`).
        rewrite: ``confidence`` makes every rollout, and what the teacher is told, state the group's pass rate before anything is
            scored (CaOPD).
        policy: settings of the GRPO term, and of the clipping where the evidence is the advantage.
    """

    contexts: list[str] = Field(default_factory=lambda: ["reference"])
    context_options: dict[str, Any] = Field(default_factory=dict)
    mixture: Literal["single", "sum", "geometric", "arithmetic", "gated", "contrast"] = "single"
    context_weights: Literal["equal", "failure"] = "equal"
    signal: Literal["target", "policy_gradient", "modulate"] = "target"
    combine: Literal["replace", "sum", "shared", "modulate"] = "replace"
    strength: StrengthSettings = StrengthSettings()
    route: Literal["all", "failures", "successes"] = "all"
    last_token: PositiveInt | None = None
    token_weight: TokenWeightSettings = TokenWeightSettings()
    sample_weight: SampleWeightSettings = SampleWeightSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    hinge: HingeSettings = HingeSettings()
    reward: Literal["environment", "cosine"] = "environment"
    rewrite: Literal["none", "confidence"] = "none"
    policy: GRPOConfig = GRPOConfig()

    def conditioners(self) -> tuple[Conditioner, ...]:
        """Return the conditioner of every view."""
        return build_conditioners(self.contexts, self.context_options, **self.conditioner_arguments())

    def target_loss(self) -> DistillLoss:
        """Return the divergence to the mixture of the views, scaled by u·ω."""
        mixtures: Mapping[str, Mixture] = {"geometric": "geometric", "arithmetic": "arithmetic"}
        return dataclasses.replace(self.distill_loss(), mixture=mixtures.get(self.mixture, "single"), scaled=True)

    def uses_reward(self) -> bool:
        """Return whether anything but the contexts looks at rewards."""
        by_row = self.route != "all" or self.sample_weight != SampleWeightSettings() or self.context_weights == "failure"
        return (
            by_row
            or self.combine != "replace"
            or bool(self.evidence.margin or self.evidence.balance or self.hinge.weight or self.rewrite != "none")
        )

    def refuse_conflicts(self) -> None:
        """Raise :class:`ConfigError` for values that exclude each other: what, and what to use instead."""
        for holds, what, instead in (*self._views(), *self._signals(), *self._scales()):
            if holds:
                raise ConfigError(f"{what}: {instead}")

    def _views(self) -> Iterator[tuple[bool, str, str]]:
        """Yield what cannot be said of the contexts and their mixture: whether it was, what, and what to use instead."""
        given, target = len(self.contexts), self.signal == "target"
        yield not given, "contexts is empty", "name at least one, for example [reference]; without a teacher use grpo"
        yield (
            self.mixture == "single" and given > 1,
            f"mixture=single with {given} contexts",
            "use geometric, arithmetic, gated, contrast or sum",
        )
        yield (
            self.mixture == "contrast" and given != 2,
            f"mixture=contrast with {given} contexts",
            "it is one context against one other: give two",
        )
        yield (
            target and self.mixture in ("gated", "contrast"),
            f"mixture={self.mixture} with signal=target",
            "it is defined on sampled tokens: use signal=policy_gradient, or a geometric mixture",
        )
        yield (
            not target and self.mixture == "sum",
            f"mixture=sum with signal={self.signal}",
            "it adds divergences: use geometric, whose advantage is the same up to a factor",
        )
        yield (
            self.context_weights != "equal" and self.mixture != "sum",
            "context_weights=failure",
            "only mixture=sum has a weight per view: use mixture=sum",
        )

    def _signals(self) -> Iterator[tuple[bool, str, str]]:
        """Yield what cannot be said of the signal and how it is combined with GRPO."""
        weighed = self.token_weight.kind != "none" or self.sample_weight != SampleWeightSettings() or self.skip_first or self.last_token
        e, off = self.evidence, EvidenceSettings()
        shaped = (e.drop_above, e.centre, e.margin, e.balance) != (off.drop_above, off.centre, off.margin, off.balance)
        reference = self.signal == "target" and self.teacher == "frozen" and self.policy.reference == "frozen"
        yield (
            (self.signal == "modulate") != (self.combine == "modulate"),
            f"signal={self.signal} with combine={self.combine}",
            "modulate is both a signal and a combination: set both, or neither",
        )
        yield (
            self.signal == "modulate" and bool(weighed),
            "signal=modulate with token or sample weights",
            "they weigh a distillation term, and there is none: use signal=policy_gradient",
        )
        yield (
            shaped and self.signal != "policy_gradient",
            f"evidence with signal={self.signal}",
            "Δ is shaped only where it is the advantage: use signal=policy_gradient",
        )
        yield (
            bool(self.policy.kl_beta) and not reference,
            "policy.kl_beta with this teacher",
            "the reference KL would be taken to it: use policy.kl_beta=0, or signal=target and teacher=frozen",
        )
        yield (
            bool(self.hinge.weight) and self.combine == "modulate",
            "hinge with combine=modulate",
            "it is added to a distillation term, and there is none: use hinge.weight=0",
        )
        yield (
            self.rollout_correction != "none" and self.signal == "policy_gradient",
            "rollout_correction with signal=policy_gradient",
            "the policy term's own is used: set policy.rollout_correction",
        )

    def _scales(self) -> Iterator[tuple[bool, str, str]]:
        """Yield what cannot be said of rewards, rewritten texts and the mean over tokens."""
        yield (
            self.reward == "cosine" and self.combine == "replace" and self.context_weights == "equal",
            "reward=cosine with combine=replace",
            "no policy term is left that could read it: use reward=environment, or combine=sum",
        )
        yield (
            self.combine == "shared" and {self.aggregation, self.policy.aggregation} != {"token_mean_global"},
            "combine=shared",
            "both terms need one token mean: set aggregation and policy.aggregation to token_mean_global",
        )
        yield (
            self.token_weight.normalise == "batch" and self.aggregation != "token_mean_global",
            "token_weight.normalise=batch",
            "a mean over the batch needs aggregation=token_mean_global (or normalise=sequence)",
        )
        yield (
            self.rewrite != "none" and self.combine != "replace",
            "rewrite=confidence with GRPO",
            "an edited text has no reward of its own: use combine=replace",
        )
