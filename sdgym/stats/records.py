"""From the per-item records of an evaluation to the cells of a comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdgym.stats.hierarchy import Cell


@dataclasses.dataclass(frozen=True)
class ScoredRun:
    """One finished run and its per-item records (lines of ``eval.jsonl``).

    Attributes:
        arm, world: names.
        checkpoint: the policy it started from.
        seed: its run seed.
        before, after: the records of the start and of the end, of one split, in the order of the tasks.
    """

    arm: str
    world: str
    checkpoint: str
    seed: int
    before: Sequence[Mapping[str, Any]]
    after: Sequence[Mapping[str, Any]]


def success_rates(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return float ``[T]``: successes / samples per task, NaN for a task without a sample that counts."""
    return np.array([r["successes"] / r["samples"] if r["samples"] else np.nan for r in records], np.float64)


def build_cells(runs: Sequence[ScoredRun]) -> list[Cell]:
    """Group runs by (arm, world), in the order of their first run.

    Raises:
        ValueError: two runs of a world were scored on different tasks, which cannot be compared.
    """
    tasks: dict[str, list[str]] = {}
    groups: dict[tuple[str, str], list[ScoredRun]] = {}
    for run in runs:
        for records in (run.before, run.after):
            ids = [str(r["task_id"]) for r in records]
            if tasks.setdefault(run.world, ids) != ids:
                raise ValueError(f"the runs in {run.world} were not scored on the same tasks ({run.arm}, seed {run.seed})")
        groups.setdefault((run.arm, run.world), []).append(run)
    return [
        Cell(
            arm,
            world,
            tuple((run.checkpoint, run.seed) for run in members),
            np.stack([success_rates(run.before) for run in members]),
            np.stack([success_rates(run.after) for run in members]),
        )
        for (arm, world), members in groups.items()
    ]
