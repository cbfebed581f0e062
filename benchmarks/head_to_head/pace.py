"""How many steps fit: a slow machine trains fewer steps instead of leaving methods or worlds out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sdgym.benchmarks.head_to_head.suite import Suite, world_name
from sdgym.config import merge

UPDATE_COST = 1.5
"""Seconds of update per second of rollout, rounded up from a mean of 1.2 over the five methods of `quick`."""
SHARE = 0.9  # of the budget that the first seeds may take; the rest is for what the estimate misses
FEWEST = 5


@dataclasses.dataclass(frozen=True)
class Pace:
    """What measuring the start has told about this machine, with as many processes at once as trials later.

    Attributes:
        rollouts, seconds: what one process drew, and how long that took.
        overhead: seconds a process needs before it does anything.
    """

    rollouts: int
    seconds: float
    overhead: float

    @property
    def rollouts_per_second(self) -> float:
        """Of one process."""
        return self.rollouts / max(self.seconds, 1e-3)


def trial_seconds(settings: Mapping[str, Any], steps: int, pace: Pace) -> float:
    """Predict the seconds of one trial with ``steps`` steps."""
    evaluation = settings["eval"]
    every = int(evaluation["every"]) or steps
    per_eval = int(evaluation["tasks"]) * (int(evaluation["samples"]) + 1)
    test = int(evaluation["test_tasks"]) * (int(evaluation["samples"]) + 1)
    group = int(settings["group_size"] or 8)
    training = steps * int(settings["tasks_per_step"]) * group * (1.0 + UPDATE_COST)
    rollouts = training + (steps // every + 1) * per_eval + test
    return pace.overhead + rollouts / pace.rollouts_per_second


def fit_steps(suite: Suite, paces: Mapping[str, Pace], cores: int) -> tuple[Suite, str | None]:
    """Return the suite with as many steps as let the first seed of every cell fit into the budget, and why if fewer.

    Args:
        suite: with worlds that can be run.
        paces: per world name.
        cores: trials at once.

    A function of the recorded paces alone, so that a second call finds the trials of the first.
    """
    if suite.time_budget is None:
        return suite, None
    room = SHARE * suite.time_budget * cores - sum(p.seconds + p.overhead for p in paces.values())
    cells = [(suite.trial_settings(arm, world, 0), paces[world_name(world)]) for world in suite.envs for arm in suite.arms]
    wanted = max(int(settings["steps"]) for settings, _ in cells)

    def total(steps: int) -> float:
        return sum(trial_seconds(settings, min(steps, int(settings["steps"])), pace) for settings, pace in cells)

    fitting = next((steps for steps in range(wanted, FEWEST, -1) if total(steps) <= room), FEWEST)
    if fitting >= wanted:
        return suite, None
    speed = sum(p.rollouts_per_second for p in paces.values()) / len(paces)
    why = f"{fitting} steps per trial instead of {wanted}: at {speed:.0f} rollouts per second and process more would not fit into {suite.time_budget:.0f} s"
    return suite.model_copy(update={"settings": merge(suite.settings, {"steps": fitting})}), why
