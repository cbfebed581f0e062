"""How long a comparison takes, and how many steps fit: a slow machine trains fewer steps instead of leaving methods out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sdgym.benchmarks.head_to_head.suite import Suite, world_name
from sdgym.model_store import EMBEDDED
from sdgym.trees import merge

UPDATE_COST = 1.5
"""Seconds of update per second of rollout in a world that costs next to nothing itself, rounded up from a mean of 1.2 over the methods of `quick`."""
SHARE = 0.9  # of the budget that the first seeds may take; the rest is for what the estimate misses
FEWEST = 5
LIFT_DRAWS = 10  # rollouts per task of a lift measurement: a group of 8, and one each by student and teacher


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast a process draws, for one world.

    Attributes:
        rollouts, seconds: what one process drew, and how long that took, with as many beside it as trials later.
        overhead: seconds a process needs before it does anything.
        tokens: sampled in these rollouts.
    """

    rollouts: int
    seconds: float
    overhead: float
    tokens: int = 0

    @property
    def rollouts_per_second(self) -> float:
        """Of one process."""
        return self.rollouts / max(self.seconds, 1e-3)

    @property
    def tokens_per_rollout(self) -> float:
        """Mean length of an answer, all turns; NOMINAL's where it was not recorded."""
        return self.tokens / self.rollouts if self.tokens else NOMINAL.tokens / NOMINAL.rollouts


NOMINAL = Pace(rollouts=320, seconds=3.6, overhead=3.0, tokens=1_650)
"""`sdgym eval` of `tiny` on 64 tasks of Math and Sokoban, level tiny, one thread of a busy 2-core machine."""
RECORDED = {**dict.fromkeys(EMBEDDED, NOMINAL), "smollm2-135m": Pace(rollouts=120, seconds=53.3, overhead=3.0, tokens=1_821)}
"""Per policy the pace on one thread of a busy 2-core machine, so that a suite can say what it costs before anything has run."""


def mean_pace(paces: Sequence[Pace]) -> Pace:
    """Return the pace of all of ``paces`` together."""
    return Pace(sum(p.rollouts for p in paces), sum(p.seconds for p in paces), paces[0].overhead, sum(p.tokens for p in paces))


def expected_steps(settings: Mapping[str, Any], pace: Pace) -> int:
    """Return the steps of a trial: as configured, or as many as its budget of sampled tokens will last."""
    budget = (settings.get("budget") or {}).get("sampled_tokens")
    if not budget:
        return int(settings["steps"])
    per_step = int(settings["tasks_per_step"]) * int(settings["group_size"] or 8) * pace.tokens_per_rollout
    return min(int(settings["steps"]), math.ceil(int(budget) / per_step))


def fastest(paces: Iterable[Pace]) -> Pace:
    """Return the pace of the world that costs least."""
    return max(paces, key=lambda pace: pace.rollouts_per_second)


def trial_seconds(settings: Mapping[str, Any], steps: int, pace: Pace, bare: Pace | None = None) -> float:
    """Predict the seconds of one trial with ``steps`` steps.

    Args:
        settings: of the trial.
        steps: of training.
        pace: of its world.
        bare: of the fastest world there is: an update plays none, it reads what was written. None takes ``pace``.
    """
    evaluation = settings["eval"]
    every = int(evaluation["every"]) or steps
    per_eval = int(evaluation["tasks"]) * (int(evaluation["samples"]) + 1)
    worlds = 1 + len(evaluation.get("retention", ()))
    test = worlds * int(evaluation["test_tasks"]) * (int(evaluation["samples"]) + 1)
    group = int(settings["group_size"] or 8)
    training = steps * int(settings["tasks_per_step"]) * group
    rollouts = training + (steps // every + 1) * per_eval + test
    return pace.overhead + rollouts / pace.rollouts_per_second + UPDATE_COST * training / (bare or pace).rollouts_per_second


def core_hours(suite: Suite, paces: Mapping[str, Pace], tune: bool = False, lifts: int = 0) -> float:
    """Predict the core-hours of an expanded suite, every seed included.

    Args:
        suite: as it will run.
        paces: per world name.
        tune: whether each arm gets its search first.
        lifts: arms whose teacher lift is measured.
    """
    total, bare = 0.0, fastest(paces.values())
    for world in suite.envs:
        pace = paces[world_name(world)]
        per_seed = 0.0
        for arm in suite.arms:
            settings = suite.trial_settings(arm, world, 0)
            per_seed += trial_seconds(settings, expected_steps(settings, pace), pace, bare)
        runs = suite.seeds * len(suite.policies) + (suite.tune.trials if tune else 0)
        lift = pace.overhead + suite.lift_tasks * LIFT_DRAWS / pace.rollouts_per_second
        total += per_seed * runs + lift * lifts * len(suite.policies)
    return total / 3600.0


def recorded_hours(suite: Suite, tune: bool = False, lifts: int = 0) -> float | None:
    """Predict the core-hours from :data:`RECORDED`, as :func:`core_hours` does; None where a policy has no recorded pace."""
    if not set(suite.policies) <= set(RECORDED):
        return None
    total = 0.0
    for number, policy in enumerate(suite.policies):
        paces = {world_name(world): RECORDED[policy] for world in suite.envs}
        total += core_hours(suite.model_copy(update={"policies": (policy,)}), paces, tune and number == 0, lifts)  # tuned from the first
    return total


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
    wanted, bare = max(int(settings["steps"]) for settings, _ in cells), fastest(paces.values())

    def total(steps: int) -> float:
        return sum(trial_seconds(settings, min(steps, int(settings["steps"])), pace, bare) for settings, pace in cells)

    fitting = next((steps for steps in range(wanted, FEWEST, -1) if total(steps) <= room), FEWEST)
    if fitting >= wanted:
        return suite, None
    speed = sum(p.rollouts_per_second for p in paces.values()) / len(paces)
    why = f"{fitting} steps per trial instead of {wanted}: at {speed:.0f} rollouts per second and process more would not fit into {suite.time_budget:.0f} s"
    return suite.model_copy(update={"settings": merge(suite.settings, {"steps": fitting})}), why
