"""Evaluation: the same tasks, the same noise, every time; per-item records and the usual estimators."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sdgym.core import Task, Trajectory
from sdgym.generation.base import SamplingParams
from sdgym.rollout import Job, RolloutDriver
from sdgym.seeding import derive
from sdgym.stats import pass_at_k

ELSEWHERE = "@"  # between split and world, in the records of worlds that a run was not trained in


@dataclasses.dataclass(frozen=True)
class ItemResult:
    """One task.

    Attributes:
        task_id: which.
        samples: rollouts at the sampling temperature that count (infrastructure failures do not).
        successes: how many of them solved the task.
        reward: their mean reward, NaN without samples.
        majority: success of the answer most of them gave (ties averaged), NaN without samples.
        greedy: success of the greedy rollout, NaN if it was not taken or did not count.
    """

    task_id: str
    samples: int
    successes: int
    reward: float
    majority: float
    greedy: float


@dataclasses.dataclass(frozen=True)
class EvalReport:
    """What a policy can do on a set of tasks.

    Attributes:
        split: where the tasks come from.
        items: one record per task.
        temperature: of the sampled rollouts.
        rows: the trajectories behind it, sampled ones first.
    """

    split: str
    items: tuple[ItemResult, ...]
    temperature: float
    rows: tuple[Trajectory, ...] = dataclasses.field(default=(), repr=False)

    @property
    def n(self) -> int:
        """Tasks with at least one rollout that counts."""
        return len(self._sampled())

    @property
    def success(self) -> float:
        """Mean over tasks of the success rate at the sampling temperature."""
        return _mean([item.successes / item.samples for item in self._sampled()])

    @property
    def greedy(self) -> float:
        """Mean success of the greedy rollouts."""
        return _mean([item.greedy for item in self.items])

    @property
    def majority(self) -> float:
        """maj@k: mean success of the majority's answer."""
        return _mean([item.majority for item in self.items])

    def pass_at(self, k: int) -> float:
        """Return pass@k, the unbiased estimator, over the tasks with at least ``k`` rollouts; NaN if there are none."""
        return _mean([pass_at_k(item.samples, item.successes, k) for item in self._sampled() if item.samples >= k])

    def metrics(self, prefix: str = "eval") -> dict[str, float]:
        """Return the report under the run's metric names."""
        k = max((item.samples for item in self.items), default=0)
        out = {"success": self.success, "greedy": self.greedy, f"maj@{k}": self.majority, "n": float(self.n)}
        out |= {f"pass@{j}": self.pass_at(j) for j in sorted({1 << i for i in range(1, k.bit_length())} | {k}) if j > 1}
        rewards = [item.reward for item in self._sampled()]
        lengths = [float(row.action_length) for row in self.rows]
        errored = float(sum(not row.usable for row in self.rows))
        out |= {"reward": _mean(rewards), "length": _mean(lengths), "errored": errored}
        return {f"{prefix}/{name}": value for name, value in out.items()}

    def records(self, **extra: Any) -> list[dict[str, Any]]:
        """Return one flat record per task, ``extra`` first."""
        return [{**extra, "split": self.split, **dataclasses.asdict(item)} for item in self.items]

    def _sampled(self) -> list[ItemResult]:
        return [item for item in self.items if item.samples]


def majority_success(rows: Sequence[Trajectory], key: Callable[[Trajectory], str], weights: Sequence[float] | None = None) -> float:
    """Return the success of the answer with the most votes; tied answers count equally. NaN without rows.

    Args:
        rows: of one task.
        key: what counts as a row's answer.
        weights: of each row's vote; None counts heads (maj@k).
    """
    votes: dict[str, list[tuple[float, bool]]] = {}
    for row, weight in zip(rows, weights if weights is not None else [1.0] * len(rows), strict=True):
        votes.setdefault(key(row), []).append((weight, row.success))
    totals = {answer: math.fsum(weight for weight, _ in found) for answer, found in votes.items()}
    most = max(totals.values(), default=0.0)
    return _mean([_mean([float(right) for _, right in votes[answer]]) for answer, total in totals.items() if total == most])


def weighted_vote(rows: Sequence[Trajectory], samples: int, key: Callable[[Trajectory], str], weights: np.ndarray) -> float:
    """Return vote@k: the mean over tasks of the success of the answer with the largest sum of ``weights [N]``.

    Args:
        rows: ``samples`` consecutive ones per task; those that do not count have no vote.
        samples: k.
        key, weights: see :func:`majority_success`.
    """
    found = []
    for start in range(0, len(rows), samples):
        mine = [i for i in range(start, start + samples) if rows[i].usable]
        found.append(majority_success([rows[i] for i in mine], key, [float(weights[i]) for i in mine]))
    return _mean(found)


def final_answer(row: Trajectory) -> str:
    """Return what counts as a row's answer where the environment has no ``answer_key``: its actions, blanks normalised."""
    return "\n".join(" ".join(action.split()) for action in row.actions)


def answer_key(env: Any) -> Callable[[Trajectory], str]:
    """Return the environment's ``answer_key(task, actions) -> str`` as a function of a row, or :func:`final_answer`."""
    own = getattr(env, "answer_key", None)
    if own is None:
        return final_answer
    return lambda row: str(own(row.task, row.actions))


def run_evaluation(
    driver: RolloutDriver,
    tasks: Sequence[Task],
    samples: int,
    sampling: SamplingParams,
    *,
    split: str,
    seed: int,
    key: Callable[[Trajectory], str] = final_answer,
    greedy: bool = True,
    policy_version: int = 0,
) -> EvalReport:
    """Roll out every task ``samples`` times with ``sampling`` and once greedily.

    The noise depends on ``seed``, split, task position and member alone, so two policies (or one at two
    steps) meet the same luck.
    """

    def job(stream: str) -> Job:
        return Job(f"{stream}-{split}", 0, policy_version=policy_version, evaluation=True, seed=derive(seed, "evaluation"))

    drawn = driver.collect(tasks, samples, sampling, job("eval"))
    best = driver.collect(tasks, 1, dataclasses.replace(sampling, temperature=0.0), job("greedy")) if greedy else []
    items = []
    for i, task in enumerate(tasks):
        mine = [row for row in drawn[i * samples : (i + 1) * samples] if row.usable]
        successes = sum(row.success for row in mine)
        first = best[i] if best else None
        items.append(
            ItemResult(
                task_id=task.task_id,
                samples=len(mine),
                successes=successes,
                reward=_mean([row.reward for row in mine if row.reward is not None]),
                majority=majority_success(mine, key),
                greedy=float(first.success) if first is not None and first.usable else math.nan,
            )
        )
    return EvalReport(split, tuple(items), sampling.temperature, (*drawn, *best))


def eval_tasks(env: Any, split: str, seed: int, count: int) -> list[Task]:
    """Return ``count`` tasks of ``split``: a function of the environment, ``split`` and ``seed`` alone."""
    return list(env.tasks(split, derive(seed, "evaluation-tasks") >> 16, count))


def retained(report: EvalReport, label: str) -> EvalReport:
    """Return a report on a world that was not trained in, under a split of its own: ``test@label``."""
    return dataclasses.replace(report, split=f"{report.split}{ELSEWHERE}{label}")


def _mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are numbers; NaN if there are none."""
    finite = [v for v in values if not math.isnan(v)]
    return float(np.mean(finite)) if finite else math.nan


def report_from_records(records: Sequence[Mapping[str, Any]], split: str, temperature: float = 1.0) -> EvalReport:
    """Rebuild a report (without rows) from lines of ``eval.jsonl``."""
    names = [field.name for field in dataclasses.fields(ItemResult)]
    values: list[dict[str, Any]] = [{name: math.nan if record[name] is None else record[name] for name in names} for record in records]
    items = [ItemResult(**value) for value in values]
    return EvalReport(split, tuple(items), temperature)
