"""What an algorithm is: conditioners, teacher weights, and one function from rollouts to loss terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import pydantic

from sdgym.chat import ChatFormat
from sdgym.core import LossTerm, Scorer, ScoringView, Trajectory


class Preset(pydantic.BaseModel):
    """Base of every algorithm's settings: typed, frozen, unknown keys refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


@dataclasses.dataclass(frozen=True)
class TeacherWeightsSpec:
    """Which weights the teacher has.

    Attributes:
        kind: ``live``, ``frozen``, ``ema``, ``periodic`` or ``trust_region``.
        rate: EMA rate a in θ_T ← (1−a)θ_T + aθ; for ``trust_region`` the mix towards the student.
        every: update period, in ``unit``.
        unit: ``step`` (rollout batch) or ``update`` (optimizer step).
    """

    kind: str = "live"
    rate: float = 0.0
    every: int = 1
    unit: str = "step"


@dataclasses.dataclass(frozen=True)
class Batch:
    """The finished rollouts of one step.

    Attributes:
        rows: N trajectories; ``rows[i]`` is row ``i`` of every view.
        groups: lists of row indices, one per task, in admission order.
    """

    rows: Sequence[Trajectory]
    groups: Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True)
class AnnotateContext:
    """What ``annotate`` may use besides the rows.

    Attributes:
        step: rollout step, from 0.
        chat: turns messages into token ids.
        rng: this step's generator for conditioners (fillers, derangements).
        score: log-probs and entropies of views without gradient; charged to the ledger.
        on_policy: True if the batch is used for exactly one optimizer step, so that old log-probs are
            the current ones (``LossItem.old_logprobs=None``).
        max_context: tokens that fit the model.
    """

    step: int
    chat: ChatFormat
    rng: np.random.Generator
    score: Scorer
    on_policy: bool
    max_context: int


class Algorithm(Protocol):
    """The protocol; :class:`sdgym.algos.grpo.GRPO` is the shortest example.

    Attributes:
        name: registry name.
        config: the resolved preset.
        teacher_weights: None if no view has ``weights="teacher"``.
        updates: how often and how finely a batch is used.
        group_size: rollouts per task, or None to take the trainer's.
    """

    name: ClassVar[str]
    config: Preset
    conditioners: Sequence[Any]
    teacher_weights: TeacherWeightsSpec | None

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the objective of this batch as data."""

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Raise :class:`sdgym.errors.ConfigError` for what cannot work, before the first rollout."""


def student_views(batch: Batch, index: int) -> list[ScoringView]:
    """Return one view per segment of row ``index``: its tokens exactly as sampled."""
    views, start = [], 0
    for segment in batch.rows[index].segments:
        p, n = segment.prompt_length, int(segment.action_mask.sum())
        views.append(
            ScoringView(index, segment.ids[:p], segment.ids[p:], segment.action_mask[p:], np.arange(start, start + n, dtype=np.int64))
        )
        start += n
    return views
