"""Teacher weights: who the teacher is, apart from what it reads.

A teacher is a mixture of models in logit space: ``live`` is the student itself, ``frozen``, ``phase_start``,
``ema`` and ``periodic`` are one copy with their own update rule, ``trust_region`` mixes a frozen copy with the
student, ``external`` is another model with the same tokenizer. The learner knows only :meth:`Teacher.mixture`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sdgym.adapters import TEACHER, AdapterView, add_teacher, teacher_parameters
from sdgym.errors import CheckpointError, ConfigError, UnknownNameError
from sdgym.parallel import gathered, named_weights, scatter

if TYPE_CHECKING:
    from peft import PeftModel

KINDS = ("live", "frozen", "phase_start", "ema", "periodic", "trust_region", "external")
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
            ``external``: ``model``, never changed.
        rate: the a above.
        every: update period.
        unit: ``step`` (rollout batch) or ``update`` (optimizer step).
        reset_every: an ``ema`` becomes the student itself every so many units (TT-OPD); 0 means never.
        model: of ``external``; it must give logits over the student's own tokens.
        adapter: PEFT's view of the student where it trains an adapter. The teacher then needs no copy of the weights:
            frozen is the adapter off, any other one is a second adapter.

    Raises:
        UnknownNameError, ConfigError: settings that mean nothing.
    """

    def __init__(
        self,
        student: nn.Module,
        kind: str = "live",
        rate: float = 0.0,
        every: int = 1,
        unit: str = "step",
        reset_every: int = 0,
        model: nn.Module | None = None,
        adapter: PeftModel | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UnknownNameError("kind of teacher weights", kind, KINDS)
        if unit not in UNITS:
            raise UnknownNameError("unit of teacher updates", unit, UNITS)
        if not 0.0 <= rate <= 1.0:
            raise ConfigError(f"the teacher's rate must lie in [0, 1], got {rate}")
        if every < 1:
            raise ConfigError(f"the teacher's period must be at least 1, got {every}")
        if (kind == "external") != (model is not None):
            raise ConfigError(
                "teacher weights 'external' need a model, and no other kind takes one: set teacher=external and teacher_model"
            )
        self.student, self.kind, self.rate, self.every, self.unit, self.reset_every = student, kind, rate, every, unit, reset_every
        self._by_adapter = adapter is not None and kind not in ("live", "external")
        if adapter is not None and kind in ("phase_start", "ema", "periodic"):
            add_teacher(adapter)
        copied = student if model is None else model
        self.model: nn.Module | None = None if kind == "live" or self._by_adapter else _frozen_copy(copied)
        self._shadow: dict[str, Tensor] = {}  # float32 sums of averages whose own tensors are coarser
        self._count = 0

    def mixture(self) -> list[tuple[Any, float]]:
        """Return ``(model, weight)`` pairs; the teacher's logits are the weighted sum, weights add to 1."""
        if self.kind == "live":
            return [(self.student, 1.0)]
        own = AdapterView(self.student, TEACHER if self._own() else None) if self._by_adapter else self.model
        if self.kind == "trust_region":
            pairs = [(own, 1.0 - self.rate), (self.student, self.rate)]
            return [(model, weight) for model, weight in pairs if weight > 0.0]
        return [(own, 1.0)]

    def _own(self) -> dict[str, nn.Parameter]:
        """Return the teacher's own parameters under the student's names, those that a checkpoint must hold."""
        if self.model is not None:
            return {} if self.kind == "external" else named_weights(self.model)
        return teacher_parameters(self.student) if self._by_adapter else {}

    def on_phase_enter(self) -> None:
        """Take the student's weights where the teacher is ``phase_start``."""
        if self.kind == "phase_start":
            self._copy_student()

    def after_update(self) -> None:
        """Count one optimizer update."""
        self._advance("update")

    def after_step(self) -> None:
        """Count one rollout step (after all its updates, were there any)."""
        self._advance("step")

    def _advance(self, unit: str) -> None:
        if unit != self.unit or self.kind not in ("ema", "periodic"):
            return
        self._count += 1
        if self.reset_every and self._count % self.reset_every == 0:
            self._copy_student()
        elif self._count % self.every:
            return
        elif self.kind == "periodic":
            self._copy_student()
        else:
            self._average()

    @torch.no_grad()
    def _copy_student(self) -> None:
        theirs = named_weights(self.student)
        for name, mine in self._own().items():
            mine.copy_(theirs[name])
        self._shadow.clear()

    @torch.no_grad()
    def _average(self) -> None:
        theirs = named_weights(self.student)
        for name, mine in self._own().items():
            total = mine.data if mine.dtype == torch.float32 else self._shadow.setdefault(name, mine.data.float())
            total.mul_(1.0 - self.rate).add_(theirs[name].float(), alpha=self.rate)
            if name in self._shadow:
                mine.copy_(total)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that must survive a restart, the update counter included."""
        tensors = {name: gathered(self._shadow.get(name, p.data)) for name, p in self._own().items()}
        return {**tensors, "count": torch.tensor(self._count)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over :meth:`state_dict`. Raises :class:`CheckpointError` if it is another teacher's."""
        own = self._own()
        if set(state) != {*own, "count"}:
            raise CheckpointError(
                f"the saved teacher does not fit teacher weights {self.kind!r} of this model; resume with the original config"
            )
        for name, parameter in own.items():
            scatter(parameter, state[name])
            if self.kind == "ema" and parameter.dtype != torch.float32:
                self._shadow[name] = torch.empty_like(parameter, dtype=torch.float32)
                scatter(self._shadow[name], state[name])
        self._count = int(state["count"])


def _frozen_copy(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return twin.eval()
