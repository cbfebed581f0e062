"""Rollouts and logits behind the alignment probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.conditioning.base import Conditioner
from sdgym.algos.losses import DistillLoss
from sdgym.core import ScoringView, Trajectory, ViewScores
from sdgym.diagnose.alignment import SIGNALS, State
from sdgym.diagnose.branches import Branches, Prefix
from sdgym.errors import ConfigError
from sdgym.generation.base import SamplingParams
from sdgym.packing import score_sequences
from sdgym.policy import Policy
from sdgym.rollout import Job, RolloutDriver
from sdgym.seeding import generator


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """How much is measured.

    Attributes:
        samples: rollouts per task. positions: prefixes per rollout. candidates: K, the student's likeliest tokens at each.
        branches: M, continuations per forced candidate.
        seed: of prefixes and noise.
    """

    samples: int = 4
    positions: int = 4
    candidates: int = 4
    branches: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("positions", 1), ("candidates", 2), ("branches", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")


def probe(
    policy: Policy,
    teacher: Policy,
    env: Any,
    driver: RolloutDriver,
    conditioner: Conditioner,
    tasks: Sequence[Any],
    sampling: SamplingParams,
    settings: ProbeSettings,
) -> list[State]:
    """Measure a policy against a teacher that reads what ``conditioner`` tells it.

    Args:
        policy: plays, and is compared. teacher: gives the other distribution; may be ``policy`` itself.
        env: judges; in a world of several turns a branch begins inside one of them, and those before it are played again.
        driver: plays and continues with ``policy``'s weights; see :class:`sdgym.diagnose.branches.Branches`.
        conditioner: what the teacher reads.
        tasks: what is played.
        sampling: of rollouts and branches.
        settings: see :class:`ProbeSettings`.

    Raises:
        EnvError: a world of several turns that is not a function of its task and the actions.
    """
    rows = driver.collect(tasks, settings.samples, sampling, Job("diagnose", 0, evaluation=True))
    count = settings.samples
    batch = Batch(rows, [list(range(i, i + count)) for i in range(0, len(rows), count)])
    views = conditioner.views(batch, _context(policy, settings.seed))
    rng = generator(settings.seed, "diagnose", "places")
    prefixes = [p for row, told in zip(rows, views, strict=True) if told for p in _prefixes(policy, teacher, row, told, settings, rng)]
    outcomes = Branches(policy, env, driver, sampling, settings.branches).outcomes(prefixes)
    return [_state(prefix, found) for prefix, found in zip(prefixes, outcomes, strict=True)]


def _context(policy: Policy, seed: int) -> AnnotateContext:
    def score(views: Sequence[ScoringView]) -> list[ViewScores]:
        return [ViewScores(*found) for found in score_sequences(policy, [view.sequence() for view in views])]

    return AnnotateContext(0, policy.chat, generator(seed, "diagnose", "texts"), score, True, policy.context_limit)


def _prefixes(
    policy: Policy, teacher: Policy, row: Trajectory, told: Sequence[ScoringView], settings: ProbeSettings, rng: np.random.Generator
) -> list[Prefix]:
    """Choose places among all sampled tokens of a row, and read both distributions there."""
    sampled = [(s, int(i)) for s, segment in enumerate(row.segments) for i in np.flatnonzero(segment.action_mask)]
    places = np.sort(rng.permutation(len(sampled))[: settings.positions])
    found = []
    for number, (segment, view) in enumerate(zip(row.segments, told, strict=True)):
        mine = [(int(place), sampled[place][1]) for place in places if sampled[place][0] == number]
        if not mine:
            continue
        at = np.array([position for _, position in mine])
        own = _logits(policy, segment.ids, at)
        other = _logits(teacher, np.concatenate([view.prefix_ids, view.token_ids]), at - segment.prompt_length + len(view.prefix_ids))
        for (place, position), student, theirs in zip(mine, own, other, strict=True):
            span = next(span for span in segment.spans if span.start <= position < span.end)
            tokens = student.topk(min(settings.candidates, len(student))).indices.cpu().numpy()
            before, said = segment.ids[: span.start], segment.ids[span.start : position]
            found.append(Prefix(row, span.turn, place, before, said, tokens, student, theirs))
    return found


def _logits(policy: Policy, ids: np.ndarray, positions: np.ndarray) -> torch.Tensor:
    """Return float64 ``[S, V]``: what predicts ``ids[p]``."""
    with torch.no_grad():
        hidden = policy.hidden(torch.from_numpy(ids)[None].to(policy.device))[0]
        return policy.logits(hidden[torch.from_numpy(positions - 1).to(policy.device)]).double().cpu()


def _state(prefix: Prefix, outcomes: np.ndarray) -> State:
    chosen = torch.from_numpy(prefix.candidates)
    logprobs = prefix.student.log_softmax(-1)
    length = max(1, prefix.row.action_length - 1)
    return State(
        task=prefix.row.task.task_id,
        correct=prefix.row.success,
        position=prefix.place / length,
        entropy=float(-(logprobs.exp() * logprobs).sum()),
        probs=logprobs.exp()[chosen].numpy(),
        outcomes=outcomes,
        gradients={signal: descent(signal, prefix.student, prefix.teacher)[chosen].numpy() for signal in SIGNALS},
    )


def descent(signal: str, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return −∂D/∂z ``[V]`` of a distillation loss at the student's logits ``[V]``, as autograd takes it from the loss itself."""
    logits = student.clone().requires_grad_()
    loss = DistillLoss(divergence=signal, support="full")  # type: ignore[arg-type]
    value = loss.token_features(logits[None], teacher[None, None], torch.zeros(1, dtype=torch.int64))["divergence"].sum()
    (slope,) = torch.autograd.grad(value, logits)
    return -slope
