"""Settings that several algorithms share; each field says which axis of the family it moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from sdgym.algos.base import Phase, Preset, TeacherWeightsSpec, UpdateSchedule
from sdgym.algos.losses import DistillLoss
from sdgym.core import Aggregation
from sdgym.errors import ConfigError


class UpdateSettings(Preset):
    """How a batch is used.

    Attributes:
        epochs, minibatches: passes over the batch, and optimizer steps per pass.
        aggregation: how token losses become one number (algorithms-core §0.1).
        count_empty: whether ``seq_mean_*`` divides by all rows of the batch or only by those with a loss.
        max_length: L_max of ``token_sum_norm``; None takes the longest episode that sampling and world allow.
    """

    epochs: PositiveInt = 1
    minibatches: PositiveInt = 1
    aggregation: Aggregation = "token_mean_global"
    count_empty: bool = False
    max_length: PositiveInt | None = None

    @model_validator(mode="after")
    def _one_schedule(self) -> UpdateSettings:
        policy = getattr(self, "policy", None)
        if isinstance(policy, UpdateSettings) and (policy.epochs, policy.minibatches) != (1, 1):
            raise ValueError("policy.epochs and policy.minibatches have no effect, a batch has one schedule: set epochs and minibatches")
        return self

    def phase(self, annotate: Any, name: str = "train", **settings: Any) -> Phase:
        """Return the phase that calls ``annotate`` under this schedule."""
        return Phase(name, annotate, schedule=UpdateSchedule(self.epochs, self.minibatches), **settings)


class TeacherSettings(Preset):
    """Which weights the teacher has (see :class:`sdgym.algos.base.TeacherWeightsSpec`)."""

    teacher: Literal["live", "frozen", "phase_start", "ema", "periodic", "trust_region", "external"] = "live"
    teacher_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    teacher_every: PositiveInt = 1
    teacher_unit: Literal["step", "update"] = "step"
    teacher_reset: NonNegativeInt = Field(default=0, description="an ema is the student again every so many units")
    teacher_model: str = Field(default="", description="name or folder of an external teacher, which has the student's tokenizer")

    @model_validator(mode="after")
    def _model_is_used(self) -> TeacherSettings:
        if self.teacher_model and self.teacher != "external":
            raise ValueError(f"teacher_model={self.teacher_model} is read by teacher=external alone, not by teacher={self.teacher}")
        return self

    def teacher_weights(self) -> TeacherWeightsSpec:
        """Return them as the record the teacher is built from."""
        return TeacherWeightsSpec(
            self.teacher, self.teacher_rate, self.teacher_every, self.teacher_unit, self.teacher_reset, self.teacher_model
        )


class ContextSettings(Preset):
    """What every conditioner takes (see :class:`sdgym.algos.conditioning.base.Conditioner`).

    Attributes:
        control: ``none`` for the real text, or a control P0–P3.
        slot_tokens, overflow: budget of the privileged text, and what happens beyond it.
        teacher_thinking: thinking on or off in the teacher's template; None leaves it as the student's (the run's ``thinking``).
        placement: where the privileged text stands.
    """

    control: Literal["none", "P0", "P1", "P2", "P3"] = "none"
    slot_tokens: PositiveInt | None = None
    overflow: Literal["drop", "head", "tail"] = "drop"
    teacher_thinking: bool | None = None
    placement: Literal["user", "system", "response"] = "user"

    def conditioner_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of a conditioner."""
        slot = {"slot_tokens": self.slot_tokens, "overflow": self.overflow}
        return {"control": self.control, "thinking": self.teacher_thinking, "placement": self.placement, **slot}


class DistillSettings(Preset):
    """The distillation loss (see :class:`sdgym.algos.losses.DistillLoss`) and the tokens it skips.

    Attributes:
        skip_first: sampled tokens at the start of a row that are attended to but not trained (SDFT).
    """

    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon", "mixed"] = "reverse_kl"
    alpha: float = 0.5
    forward_weight: float = Field(default=0.5, ge=0.0, le=1.0)
    support: Literal["full", "student_topk", "teacher_topk", "sampled"] = "student_topk"
    top_k: PositiveInt = 100
    residual: Literal["tail", "renorm", "teacher_renorm", "floor", "none"] = "tail"
    pointwise_clip: PositiveFloat | None = None
    token_clip: PositiveFloat | None = None
    estimator: Literal["surrogate", "k2", "k3"] = "surrogate"
    importance: Literal["none", "capped", "differentiable"] = "none"
    importance_cap: PositiveFloat = 2.0
    rollout_correction: Literal["none", "token", "sequence_mean", "sequence_mask"] = "none"
    rollout_cap: PositiveFloat = 2.0
    skip_first: NonNegativeInt = 0

    def check(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse to skip every token that an episode can have."""
        limit = int(settings.get("sampling", {}).get("max_tokens") or 0) * int(getattr(env, "max_turns", 1))
        if limit and self.skip_first >= limit:
            raise ConfigError(f"skip_first={self.skip_first} leaves nothing of answers of at most {limit} tokens: use skip_first=0")

    def distill_loss(self) -> DistillLoss:
        """Return the loss. Raises :class:`sdgym.errors.ConfigError` for a combination that no estimator has."""
        names = [name for name in DistillSettings.model_fields if name != "skip_first"]
        return DistillLoss(**{name: getattr(self, name) for name in names})
