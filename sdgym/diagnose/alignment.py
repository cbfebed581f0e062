"""Gradients on a few candidate tokens, compared: pure NumPy (algorithms-wider §5.17).

At a prefix, K candidate tokens have the student's probabilities P and, if forced, success rates s. The reward's gradient
with respect to their logits is P_j(s_j − Σ_k P_k s_k); every method's is P_j(f_j − Σ_k P_k f_k) for some signal f. What is
compared is the direction in which mass moves *among the candidates*; mass that leaves them is projected out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sdgym.stats import Estimate, bootstrap_interval

SIGNALS = ("forward_kl", "reverse_kl", "jensen_shannon")
"""Distillation directions that are measured, each as the negative gradient of its divergence."""
MIN_TASKS = 5
"""Fewer tasks than this get no interval."""
FLAT = 1e-12


def ideal_gradient(probs: np.ndarray, success: np.ndarray) -> np.ndarray:
    """Return P_j(s_j − Σ_k P_k s_k), ``[K]``: ∂/∂z of the expected success Σ P s under a softmax over the candidates.

    Args:
        probs: P ``[K]``, renormalised over the candidates.
        success: s ``[K]``.
    """
    return np.asarray(probs * (success - (probs * success).sum()))


def within(gradient: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Return the part of a full-vocabulary logit gradient that moves mass among the candidates, ``[K]``; it sums to 0.

    A gradient P_v(f_v − f̄) over the whole vocabulary becomes P̃_j(f_j − Σ_k P̃_k f_k) with P̃ = P / P(S).

    Args:
        gradient: its entries at the candidates ``[K]``.
        probs: the candidates' probabilities over the whole vocabulary ``[K]``.
    """
    mass = probs.sum()
    return np.asarray((gradient - probs / mass * gradient.sum()) / mass)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two vectors; NaN where one of them is flat and has no direction."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b / size) if size > FLAT and math.isfinite(size) else math.nan


@dataclasses.dataclass(frozen=True)
class State:
    """One prefix of one attempt.

    Attributes:
        task, correct: whose attempt, and whether it was right.
        position: place of the prefix in the answer, 0 its start, 1 its end.
        entropy: of the student there, nats.
        probs: the candidates' probabilities over the whole vocabulary ``[K]``.
        outcomes: success of every branch, ``[K, M]``; NaN where grading failed.
        gradients: per name of :data:`SIGNALS` the negative gradient of the divergence at the candidates ``[K]``.
    """

    task: str
    correct: bool
    position: float
    entropy: float
    probs: np.ndarray
    outcomes: np.ndarray
    gradients: dict[str, np.ndarray]

    def ideal(self, branches: slice = slice(None)) -> np.ndarray:
        """Return the reward's gradient ``[K]`` as some of the branches estimate it; NaN where a candidate has none that counts."""
        chosen = self.outcomes[:, branches]
        counted = np.maximum(1, (~np.isnan(chosen)).sum(1))
        rates = np.where(np.isnan(chosen).all(1), np.nan, np.nansum(chosen, 1) / counted)
        return ideal_gradient(self.probs / self.probs.sum(), rates)

    def alignment(self, signal: str) -> float:
        """Return the cosine between the reward's gradient and a method's; NaN where either has no direction."""
        return cosine(self.ideal(), within(self.gradients[signal], self.probs))

    def reliability(self) -> float:
        """Return the cosine between the reward's gradients of two halves of the branches: what noise leaves of a perfect agreement."""
        half = self.outcomes.shape[1] // 2
        return cosine(self.ideal(slice(0, half)), self.ideal(slice(half, 2 * half)))


@dataclasses.dataclass(frozen=True)
class Group:
    """A class of states.

    Attributes:
        name: what they have in common.
        states: how many there are. decided: share of them in which the candidates' success differs, so that reward has a direction.
        aligned: per signal, the mean cosine over those; intervals are over tasks.
        agreeing: per signal, the share of them with a positive cosine.
        reliability: mean cosine between two halves of the branches.
    """

    name: str
    states: int
    decided: float
    aligned: dict[str, Estimate]
    agreeing: dict[str, float]
    reliability: float


def groups(states: Sequence[State]) -> list[Group]:
    """Return the table: all states, by outcome of the attempt, by place in it, and by the student's entropy (median split)."""
    middle = float(np.median([s.entropy for s in states])) if states else 0.0
    found = [("all", list(states))]
    for word, correct in (("wrong attempts", False), ("right attempts", True)):
        mine = [s for s in states if s.correct is correct]
        found += [
            (word, mine),
            (f"{word}, first third", [s for s in mine if s.position < 1 / 3]),
            (f"{word}, middle", [s for s in mine if 1 / 3 <= s.position < 2 / 3]),
            (f"{word}, last third", [s for s in mine if s.position >= 2 / 3]),
            (f"{word}, unsure tokens", [s for s in mine if s.entropy >= middle]),
            (f"{word}, sure tokens", [s for s in mine if s.entropy < middle]),
        ]
    return [summarise(name, members) for name, members in found if members]


def summarise(name: str, states: Sequence[State]) -> Group:
    """Return one line of the table."""
    decided = [s for s in states if np.linalg.norm(np.nan_to_num(s.ideal())) > FLAT and np.isfinite(s.ideal()).all()]
    values = {signal: [(s.task, s.alignment(signal)) for s in decided] for signal in SIGNALS}
    finite = {signal: [(task, v) for task, v in pairs if math.isfinite(v)] for signal, pairs in values.items()}
    return Group(
        name,
        len(states),
        len(decided) / len(states),
        {signal: _over_tasks(pairs) for signal, pairs in finite.items()},
        {signal: _mean([float(v > 0) for _, v in pairs]) for signal, pairs in finite.items()},
        _mean([v for s in decided if math.isfinite(v := s.reliability())]),
    )


def _over_tasks(pairs: Sequence[tuple[str, float]]) -> Estimate:
    """Return the mean over tasks of each task's mean; states of one task are not independent."""
    by_task: dict[str, list[float]] = {}
    for task, value in pairs:
        by_task.setdefault(task, []).append(value)
    means = [_mean(v) for v in by_task.values()]
    low, high = bootstrap_interval(means) if len(means) >= MIN_TASKS else (None, None)
    return Estimate(len(means), _mean(means), low, high)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
