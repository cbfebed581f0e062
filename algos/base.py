"""What an algorithm is: conditioners, teacher weights, and one function from rollouts to loss terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import pydantic

from sdgym.chat import ChatFormat
from sdgym.core import LossTerm, Scorer, ScoringView, Task, Trajectory
from sdgym.errors import ConfigError
from sdgym.generation.base import Sample


class Preset(pydantic.BaseModel):
    """Base of every algorithm's settings: typed, frozen, unknown keys refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    def check(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Raise :class:`sdgym.errors.ConfigError` where these values cannot work (arguments as :meth:`Algorithm.validate`)."""


@dataclasses.dataclass(frozen=True)
class TeacherWeightsSpec:
    """Which weights the teacher has.

    Attributes:
        kind: ``live``, ``frozen``, ``phase_start``, ``ema``, ``periodic``, ``trust_region`` or ``external``.
        rate: EMA rate a in θ_T ← (1−a)θ_T + aθ; for ``trust_region`` the mix towards the student.
        every: update period, in ``unit``.
        unit: ``step`` (rollout batch) or ``update`` (optimizer step).
        reset_every: an ``ema`` becomes the student itself every so many units; 0 means never.
        model: of ``external``: name or folder of a model with the student's tokenizer.

    Raises:
        ConfigError: a moving kind with a rate of 0.
    """

    kind: str = "live"
    rate: float = 0.0
    every: int = 1
    unit: str = "step"
    reset_every: int = 0
    model: str = ""

    def __post_init__(self) -> None:
        if self.kind in ("ema", "trust_region") and not self.rate:
            raise ConfigError(f"weights of the kind {self.kind} never move at a rate of 0: set a rate such as 0.01, or use frozen")


@dataclasses.dataclass(frozen=True)
class Batch:
    """The finished rollouts of one step.

    Attributes:
        rows: N trajectories; ``rows[i]`` is row ``i`` of every view.
        groups: lists of row indices, one per task, in admission order.
    """

    rows: Sequence[Trajectory]
    groups: Sequence[Sequence[int]]


def _unreported(name: str, value: float) -> None:
    """Where nobody logs."""


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
        report: ``report(name, value)`` puts ``algo/<name>`` on this step's line of the metric log.
    """

    step: int
    chat: ChatFormat
    rng: np.random.Generator
    score: Scorer
    on_policy: bool
    max_context: int
    report: Callable[[str, float], None] = _unreported


class Draws(Protocol):
    """A second sampling pass with the weights and sampling settings of the rollouts; everything is charged to the ledger.

    ``stream`` names the noise. Within a step the draws of a stream continue each other, so no two share noise.
    """

    def tasks(self) -> list[Task]:
        """Return the tasks of this step: those that its rollouts play (or would play, in a phase without rollouts)."""

    def play(
        self, stream: str, tasks: Sequence[Task], prompts: Sequence[np.ndarray], samples: int = 1, temperature: float | None = None
    ) -> list[Trajectory]:
        """Play ``tasks[i]`` from the token ids ``prompts[i]`` (int64 ``[L]``) in place of its own prompt, ``samples`` times each.

        The prompt may end inside an assistant turn; the environment judges only what is sampled after it. ``temperature`` None
        is the rollouts' own.

        Returns:
            ``len(tasks) · samples`` finished rows in (task, sample) order.
        """

    def generate(self, stream: str, prompts: Sequence[np.ndarray], max_tokens: int | None = None) -> list[Sample]:
        """Continue token ids ``prompts[i]`` freely, with no environment to judge it; one sample each, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectContext(AnnotateContext):
    """What a phase's ``collect`` hook may use besides.

    Attributes:
        draw: samples more, see :class:`Draws`.
    """

    draw: Draws


@dataclasses.dataclass(frozen=True)
class UpdateSchedule:
    """How a batch is used: ``epochs`` passes, each cut into ``minibatches`` optimizer steps by whole groups."""

    epochs: int = 1
    minibatches: int = 1

    @property
    def on_policy(self) -> bool:
        """Exactly one optimizer step per batch, so the old log-probs are the current ones."""
        return self.epochs * self.minibatches == 1


@dataclasses.dataclass(frozen=True)
class Interleaved:
    """An objective with optimizer steps of its own, before those of the phase's main one and on the same rollouts (VPD's E-step).

    Attributes:
        name: prefix of its metrics, except ``loss/…``.
        annotate: the objective. It is called before any update of the step, as the main one is; references of
            sampled losses and of live teachers are scored when their own update begins.
        every: F; it is due in the first step of the phase and in every F-th after it.
        schedule: how the batch is used.
    """

    name: str
    annotate: Callable[[Batch, AnnotateContext], list[LossTerm]]
    every: int = 1
    schedule: UpdateSchedule = UpdateSchedule()

    def is_due(self, step: int) -> bool:
        """Whether step ``step`` of the phase, from 0, has it."""
        return step % self.every == 0


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training.

    Attributes:
        name: for people; the metric log has the phase's number, ``algo/phase``, where there are several.
        annotate: the objective of this phase.
        rollouts: whether each step collects new rollouts; if not, ``annotate`` gets an empty batch and
            takes rows from the algorithm's own pool.
        steps: how many steps it lasts; None means to the end.
        on_enter: called once when the phase begins (for example: freeze the teacher here).
        schedule: how each batch is used.
        collect: called with the rollouts (none, where the phase has none) before ``annotate``; returns the rows the
            step goes on with: the same, more after a second sampling pass, or rewritten ones.
        interleaved: further objectives, see :class:`Interleaved`.
    """

    name: str
    annotate: Callable[[Batch, AnnotateContext], list[LossTerm]]
    rollouts: bool = True
    steps: int | None = None
    on_enter: Callable[[], None] | None = None
    schedule: UpdateSchedule = UpdateSchedule()
    collect: Callable[[Batch, CollectContext], Sequence[Trajectory]] | None = None
    interleaved: Sequence[Interleaved] = ()

    @property
    def samples(self) -> bool:
        """Whether a step of this phase may sample."""
        return self.rollouts or self.collect is not None


class Algorithm:
    """Base of every method. :class:`sdgym.algos.grpo.GRPO` is the shortest example.

    A subclass sets ``name`` and ``Config`` and writes :meth:`annotate`; the rest has working defaults.

    Attributes:
        name: registry name.
        Config: the preset's type.
        supervision: what it may use: ``reward``, ``feedback``, ``reference`` or ``none``; rankings are
            made within a class (:func:`supervision_class`).
        conditioners: what its teachers see (M ≥ 0).
        teacher_weights: None if no view has ``weights="teacher"``.
        group_size: rollouts per task, or None to take the trainer's.
        one_turn: whether it works only where an episode is one answer.
    """

    name: ClassVar[str] = ""
    Config: ClassVar[type[Preset]] = Preset
    supervision: str = "reward"
    conditioners: Sequence[Any] = ()
    teacher_weights: TeacherWeightsSpec | None = None
    group_size: int | None = None
    one_turn: ClassVar[bool] = False

    def __init__(self, config: Preset) -> None:
        self.config = config

    @property
    def phases(self) -> Sequence[Phase]:
        """The stretches of training, in order; default one that calls :meth:`annotate`."""
        return (Phase("train", self.annotate),)

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the objective of this batch as data; an empty list means no update."""
        raise NotImplementedError

    def accept_group(self, rows: Sequence[Trajectory]) -> bool:
        """Whether a finished group is kept (dynamic sampling); discarded tokens are charged all the same."""
        return True

    def confidence(self, rows: Sequence[Trajectory], context: AnnotateContext) -> np.ndarray | None:
        """Return how much the vote of each evaluation row counts, ``[N]``; None for a method without a vote of its own.

        Where there is one, evaluations report ``vote@k`` beside ``maj@k``.
        """
        return None

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Raise :class:`sdgym.errors.ConfigError` for what cannot work, before the first rollout.

        Args:
            env: an instance of the environment.
            settings: ``group_size``, ``tasks_per_step``, ``sampling`` … as resolved.
        """

    def check(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Call :meth:`validate`, then ask the settings and every conditioner; what is called before the first rollout."""
        self.validate(env, settings)
        for part in (self.config, *self.conditioners):
            part.check(env, settings)

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart (plain data and arrays); stateless methods return {}."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`."""


def supervision_class(algorithm: Algorithm) -> str:
    """Return the class that a method is ranked in: ``external`` where another model teaches, else its ``supervision``."""
    weights = algorithm.teacher_weights
    return "external" if weights is not None and weights.kind == "external" else algorithm.supervision


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
