"""Teacher weights: who the teacher is, apart from what it reads.

A teacher is a mixture of models in logit space: ``live`` is the student itself, ``frozen``, ``phase_start``,
``ema`` and ``periodic`` are one copy with their own update rule, ``trust_region`` mixes a frozen copy with the
student. The learner knows only :meth:`Teacher.mixture`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sdgym.errors import CheckpointError, ConfigError, UnknownNameError

KINDS = ("live", "frozen", "phase_start", "ema", "periodic", "trust_region")
UNITS = ("step", "update")


class Teacher:
    """The teacher's weights and how they follow the student's.

    Args:
        student: the trained model; never modified here.
        kind: ``live``: always the current student. ``frozen``: the student as it is now, for ever.
            ``phase_start``: the student at the start of the current phase. ``ema``:
            θ_T ← (1−a)·θ_T + a·θ every ``every`` units, from an initial copy, in float32 (SDPO).
            ``periodic``: θ_T ← θ every ``every`` units. ``trust_region``: logits
            (1−a)·z_frozen + a·z_student, that is q ∝ q_frozen^(1−a)·q_student^a (SDPO §4b).
        rate: the a above.
        every: update period.
        unit: ``step`` (rollout batch) or ``update`` (optimizer step).

    Raises:
        UnknownNameError, ConfigError: settings that mean nothing.
    """

    def __init__(self, student: nn.Module, kind: str = "live", rate: float = 0.0, every: int = 1, unit: str = "step") -> None:
        if kind not in KINDS:
            raise UnknownNameError("kind of teacher weights", kind, KINDS)
        if unit not in UNITS:
            raise UnknownNameError("unit of teacher updates", unit, UNITS)
        if not 0.0 <= rate <= 1.0:
            raise ConfigError(f"the teacher's rate must lie in [0, 1], got {rate}")
        if every < 1:
            raise ConfigError(f"the teacher's period must be at least 1, got {every}")
        self.student, self.kind, self.rate, self.every, self.unit = student, kind, rate, every, unit
        self.model: nn.Module | None = None if kind == "live" else _frozen_copy(student)
        self._shadow = self._float32_state() if kind == "ema" else {}
        self._count = 0

    def mixture(self) -> list[tuple[nn.Module, float]]:
        """Return ``(model, weight)`` pairs; the teacher's logits are the weighted sum, weights add to 1."""
        if self.model is None:
            return [(self.student, 1.0)]
        if self.kind == "trust_region":
            pairs = [(self.model, 1.0 - self.rate), (self.student, self.rate)]
            return [(model, weight) for model, weight in pairs if weight > 0.0]
        return [(self.model, 1.0)]

    def on_phase_enter(self) -> None:
        """Take the student's weights where the teacher is ``phase_start``."""
        if self.kind == "phase_start":
            self._copy_student()

    def after_update(self) -> None:
        """Count one optimizer update."""
        self._advance("update")

    def after_step(self) -> None:
        """Count one rollout step (after all its updates)."""
        self._advance("step")

    def _advance(self, unit: str) -> None:
        if unit != self.unit or self.kind not in ("ema", "periodic"):
            return
        self._count += 1
        if self._count % self.every:
            return
        if self.kind == "periodic":
            self._copy_student()
        else:
            self._average()

    @torch.no_grad()
    def _copy_student(self) -> None:
        assert self.model is not None
        for mine, theirs in zip(self.model.parameters(), self.student.parameters(), strict=True):
            mine.copy_(theirs)

    @torch.no_grad()
    def _average(self) -> None:
        assert self.model is not None
        own = dict(self.model.named_parameters())
        for name, theirs in self.student.named_parameters():
            shadow = self._shadow[name]
            shadow.mul_(1.0 - self.rate).add_(theirs.float(), alpha=self.rate)
            if own[name].dtype != torch.float32:
                own[name].copy_(shadow)

    def _float32_state(self) -> dict[str, Tensor]:
        """Return the average's float32 state: the copy's own tensors where they are float32 already."""
        assert self.model is not None
        return {name: p.data if p.dtype == torch.float32 else p.data.float() for name, p in self.model.named_parameters()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that must survive a restart, the update counter included."""
        tensors = {} if self.model is None else {n: self._shadow.get(n, p.data) for n, p in self.model.named_parameters()}
        return {**tensors, "count": torch.tensor(self._count)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over :meth:`state_dict`. Raises :class:`CheckpointError` if it is another teacher's."""
        own = {} if self.model is None else dict(self.model.named_parameters())
        if set(state) != {*own, "count"}:
            raise CheckpointError(
                f"the saved teacher does not fit teacher weights {self.kind!r} of this model; resume with the original config"
            )
        for name, parameter in own.items():
            if name in self._shadow:
                self._shadow[name].copy_(state[name])
            parameter.copy_(state[name])
        self._count = int(state["count"])


def _frozen_copy(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return twin.eval()
