"""Rollouts, branches and logits behind the alignment probe."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.conditioning.base import Conditioner
from sdgym.algos.losses import DistillLoss
from sdgym.core import MASKED_OUTCOMES, Outcome, ScoringView, Trajectory, ViewScores
from sdgym.diagnose.alignment import SIGNALS, State
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


@dataclasses.dataclass
class _Prefix:
    """A place to branch from: row, index of the next token in the answer, candidates, and both sides' logits ``[V]``."""

    row: Trajectory
    place: int
    candidates: np.ndarray
    student: torch.Tensor
    teacher: torch.Tensor


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
        env: judges whole answers; single-turn.
        driver: plays and continues with ``policy``'s weights.
        conditioner: what the teacher reads.
        tasks: what is played.
        sampling: of rollouts and branches.
        settings: see :class:`ProbeSettings`.

    Raises:
        ConfigError: a world of several turns.
    """
    if int(getattr(env, "max_turns", 1)) > 1:
        name = getattr(env, "env_id", "this world")
        raise ConfigError(f"the probe branches inside one answer, and {name} has {env.max_turns} turns: choose a single-turn world")
    rows = driver.collect(tasks, settings.samples, sampling, Job("diagnose", 0, evaluation=True))
    count = settings.samples
    batch = Batch(rows, [list(range(i, i + count)) for i in range(0, len(rows), count)])
    views = conditioner.views(batch, _context(policy, settings.seed))
    rng = generator(settings.seed, "diagnose", "places")
    prefixes = [p for row, told in zip(rows, views, strict=True) if told for p in _prefixes(policy, teacher, row, told[0], settings, rng)]
    outcomes = _branch(prefixes, policy, env, driver, sampling, settings)
    return [_state(prefix, found) for prefix, found in zip(prefixes, outcomes, strict=True)]


def _context(policy: Policy, seed: int) -> AnnotateContext:
    def score(views: Sequence[ScoringView]) -> list[ViewScores]:
        return [ViewScores(*found) for found in score_sequences(policy, [view.sequence() for view in views])]

    return AnnotateContext(0, policy.chat, generator(seed, "diagnose", "texts"), score, True, policy.context_limit)


def _prefixes(
    policy: Policy, teacher: Policy, row: Trajectory, told: ScoringView, settings: ProbeSettings, rng: np.random.Generator
) -> list[_Prefix]:
    """Choose places of a row, and read both distributions there."""
    segment = row.segments[0]
    length = len(segment.ids) - segment.prompt_length
    places = np.sort(rng.permutation(length)[: settings.positions])
    own = _logits(policy, segment.ids, segment.prompt_length + places)
    ids = np.concatenate([told.prefix_ids, told.token_ids])
    other = _logits(teacher, ids, len(told.prefix_ids) + places)
    return [
        _Prefix(row, int(place), mine.topk(min(settings.candidates, len(mine))).indices.cpu().numpy(), mine, theirs)
        for place, mine, theirs in zip(places, own, other, strict=True)
    ]


def _logits(policy: Policy, ids: np.ndarray, positions: np.ndarray) -> torch.Tensor:
    """Return float64 ``[S, V]``: what predicts ``ids[p]``."""
    with torch.no_grad():
        hidden = policy.hidden(torch.from_numpy(ids)[None].to(policy.device))[0]
        return policy.logits(hidden[torch.from_numpy(positions - 1).to(policy.device)]).double().cpu()


def _branch(
    prefixes: Sequence[_Prefix], policy: Policy, env: Any, driver: RolloutDriver, sampling: SamplingParams, settings: ProbeSettings
) -> list[np.ndarray]:
    """Force every candidate, continue it M times, judge the whole answers; return success ``[K, M]`` per prefix."""
    ends = set(policy.chat.end_ids)
    starts: list[tuple[_Prefix, np.ndarray]] = []
    for prefix in prefixes:
        segment = prefix.row.segments[0]
        said = segment.ids[segment.prompt_length : segment.prompt_length + prefix.place]
        starts += [(prefix, np.append(said, token)) for token in prefix.candidates]
    judge = _judge(env, policy)
    found: list[np.ndarray] = [np.zeros(0)] * len(starts)
    by_room: dict[int, list[int]] = {}
    for i, (prefix, said) in enumerate(starts):
        room = 0 if int(said[-1]) in ends else sampling.max_tokens - len(said)
        if room <= 0:
            found[i] = np.full(settings.branches, judge(prefix.row, said))
        else:
            by_room.setdefault(room, []).append(i)
    for room, members in sorted(by_room.items()):
        prompts = [_after(starts[i]) for i in members for _ in range(settings.branches)]
        job = Job(f"diagnose-{room}", 0, evaluation=True)
        samples = driver.generate(prompts, dataclasses.replace(sampling, max_tokens=room), job)
        for k, i in enumerate(members):
            prefix, said = starts[i]
            mine = samples[k * settings.branches : (k + 1) * settings.branches]
            found[i] = np.array([judge(prefix.row, np.concatenate([said, sample.ids])) for sample in mine])
    sizes = [len(prefix.candidates) for prefix in prefixes]
    cuts = np.cumsum([0, *sizes])
    return [np.stack(found[a:b]) for a, b in itertools.pairwise(cuts)]


def _after(start: tuple[_Prefix, np.ndarray]) -> np.ndarray:
    segment = start[0].row.segments[0]
    return np.concatenate([segment.ids[: segment.prompt_length], start[1]])


def _judge(env: Any, policy: Policy) -> Callable[[Trajectory, np.ndarray], float]:
    """Return the judge of whole answers: 1 or 0, NaN where grading failed; equal texts are judged once."""
    known: dict[tuple[str, str], float] = {}

    def judge(row: Trajectory, ids: np.ndarray) -> float:
        key = (row.task.task_id, policy.chat.decode_action(ids))
        if key not in known:
            env.reset(options={"task": row.task})
            info = env.step(key[1])[4]
            known[key] = float("nan") if Outcome(info.get("outcome", "")) in MASKED_OUTCOMES else float(info["success"] > 0)
        return known[key]

    return judge


def _state(prefix: _Prefix, outcomes: np.ndarray) -> State:
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
