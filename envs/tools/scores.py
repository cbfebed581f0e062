"""Scores over many episodes: task and scenario goal completion, and pass^k."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from sdgym.errors import ConfigError


def goal_completion(rows: Iterable[tuple[str, float]]) -> tuple[float, float]:
    """Return ``(TGC, SGC)``: the mean success over tasks, and over scenarios of the worst task in each (AppWorld).

    Args:
        rows: ``(scenario, success)`` of every task; the scenario is ``task.meta["scenario"]``.

    Raises:
        ConfigError: there are no rows.
    """
    scenarios: defaultdict[str, list[float]] = defaultdict(list)
    for scenario, success in rows:
        scenarios[scenario].append(success)
    if not scenarios:
        raise ConfigError("goal completion of no tasks is not defined; pass one row per task")
    total = sum(len(group) for group in scenarios.values())
    return sum(map(sum, scenarios.values())) / total, sum(map(min, scenarios.values())) / len(scenarios)


def pass_hat_k(attempts: int, successes: int, k: int) -> float:
    """Return the chance that ``k`` of the attempts, drawn without replacement, are all successes: C(c, k) / C(n, k) (tau-bench).

    Raises:
        ConfigError: ``k`` is not in 1 … ``attempts``.
    """
    if not 1 <= k <= attempts or not 0 <= successes <= attempts:
        raise ConfigError(
            f"pass^k needs 1 <= k <= attempts and successes among them, got k={k}, attempts={attempts}, successes={successes}"
        )
    return math.comb(successes, k) / math.comb(attempts, k)
