"""ATESD's controller: a Beta policy over the share of the reference that is shown, paid in the student's later progress."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STATE = 6
"""Numbers the controller sees."""


def progress_reward(losses: Sequence[float], discount: float, *, gains_only: bool = True) -> float:
    """Return Σ_i γ^{i−1}·max(0, ℓ_{i−1} − ℓ_i) over ``losses`` ℓ_0 … ℓ_L.

    Without ``gains_only`` and with γ = 1 the sum telescopes to ℓ_0 − ℓ_L: it could not tell steady from lucky progress.
    """
    gains = [before - after for before, after in itertools.pairwise(losses)]
    return math.fsum(discount**i * (max(0.0, gain) if gains_only else gain) for i, gain in enumerate(gains))


@dataclasses.dataclass
class _Pending:
    """An action whose consequences are still being watched."""

    state: list[float]
    action: float
    solution: float
    losses: list[float]


class BetaController:
    """(a, b) = 1 + softplus(W·s), α ~ Beta(a, b); REINFORCE on the standardised reward, with a penalty on too much entropy.

    Args:
        rate: of gradient ascent on W ``[2, STATE]``, which starts at 0, so that α starts symmetric about ½.
        horizon: L, probe losses after an action that pay for it.
        discount: γ.
        solution_weight: λ_gt, on the teacher's mean log-prob of the reference.
        entropy_limit, entropy_weight: H_target and c of c·max(0, H − H_target)², H the entropy of Beta(a, b).
    """

    def __init__(
        self, rate: float, horizon: int, discount: float, solution_weight: float, entropy_limit: float, entropy_weight: float
    ) -> None:
        self.rate, self.horizon, self.discount, self.solution_weight = rate, horizon, discount, solution_weight
        self.entropy_limit, self.entropy_weight = entropy_limit, entropy_weight
        self.weights = np.zeros((2, STATE))
        self.rewards: list[float] = []
        self._pending: list[_Pending] = []

    def shape(self, state: Sequence[float]) -> tuple[float, float]:
        """Return a and b, both above 1: one mode, never at the ends."""
        a, b = 1.0 + np.logaddexp(0.0, self.weights @ np.asarray(state, np.float64))
        return float(a), float(b)

    def act(self, state: Sequence[float], loss: float, rng: np.random.Generator) -> float:
        """Draw α for ``state`` and begin to watch it; ``loss`` is ℓ_0, the probe's loss before α has had any effect."""
        action = float(np.clip(rng.beta(*self.shape(state)), 1e-4, 1 - 1e-4))
        self._pending.append(_Pending([float(x) for x in state], action, 0.0, [float(loss)]))
        return action

    def value_solution(self, logprob: float) -> None:
        """Tell what the teacher of the newest action thinks of the references (mean log-prob per token)."""
        if self._pending:
            self._pending[-1].solution = float(logprob)

    def observe(self, loss: float) -> int:
        """Take in a probe loss; pay every action that has seen ``horizon`` of them. Returns how many."""
        for entry in self._pending:
            entry.losses.append(float(loss))
        due = [entry for entry in self._pending if len(entry.losses) > self.horizon]
        for entry in due:
            reward = progress_reward(entry.losses, self.discount) + self.solution_weight * entry.solution
            self._learn(entry, reward)
        self._pending = [entry for entry in self._pending if entry not in due]
        return len(due)

    def _learn(self, entry: _Pending, reward: float) -> None:
        self.rewards.append(reward)
        spread = float(np.std(self.rewards))
        advantage = (reward - float(np.mean(self.rewards))) / spread if spread > 1e-12 else 0.0
        self.weights += self.rate * self.gradient(entry.state, entry.action, advantage)

    def gradient(self, state: Sequence[float], action: float, advantage: float) -> np.ndarray:
        """Return ∇_W [advantage·log Beta(action; a, b) − c·max(0, H − H_target)²], ``[2, STATE]``."""
        import torch

        weights = torch.tensor(self.weights, dtype=torch.float64, requires_grad=True)
        shape = 1.0 + torch.nn.functional.softplus(weights @ torch.tensor(list(state), dtype=torch.float64))
        policy = torch.distributions.Beta(shape[0], shape[1])
        excess = (policy.entropy() - self.entropy_limit).clamp(min=0.0)
        objective = advantage * policy.log_prob(torch.tensor(action, dtype=torch.float64)) - self.entropy_weight * excess.square()
        (found,) = torch.autograd.grad(objective, weights)
        return np.asarray(found.numpy())

    def state_dict(self) -> dict[str, Any]:
        """Return weights, rewards seen, and actions still being watched."""
        pending = [dataclasses.asdict(entry) for entry in self._pending]
        return {"weights": self.weights, "rewards": list(self.rewards), "pending": pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        self.weights, self.rewards = np.array(state["weights"], np.float64), [float(r) for r in state["rewards"]]
        self._pending = [_Pending(**entry) for entry in state["pending"]]
