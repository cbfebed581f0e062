"""Hierarchical bootstrap over checkpoint > seed > task, drawn jointly for all arms of a comparison.

A run belongs to a checkpoint (the policy that it starts from) and a seed, and is scored on tasks. Resampling runs
alone would treat thirty runs from three checkpoints as thirty independent facts; so checkpoints are drawn first,
then seeds within each drawn checkpoint (Davison & Hinkley 1997, §3.8; Saravanan et al. 2020). All runs of a world
are scored on the *same* tasks, so tasks are no deeper nesting but a crossed factor: they are drawn once per
resample and shared by all runs (the pigeonhole bootstrap, Owen 2007). Drawing them anew for every run would
average the luck of the task sample away and give intervals that are too narrow. Every arm meets the same draws, so
differences between arms are paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from sdgym.seeding import generator

Measure = Literal["after", "change", "gain"]
RunKey = tuple[str, int]
"""(checkpoint, seed)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One arm in one world: per-task success of its runs.

    Attributes:
        arm, world: names.
        runs: n keys, one per finished run.
        before: float ``[n, T]``, success rate per task of the start; NaN where a task has no sample that counts.
        after: float ``[n, T]``, the same at the end, on the same tasks in the same order.
    """

    arm: str
    world: str
    runs: tuple[RunKey, ...]
    before: np.ndarray
    after: np.ndarray

    def __post_init__(self) -> None:
        if self.before.shape != self.after.shape or self.after.ndim != 2 or len(self.runs) != len(self.after):
            raise ValueError(
                f"{self.arm} in {self.world}: {len(self.runs)} runs need two arrays of {len(self.runs)} × tasks, "
                f"got {self.before.shape} and {self.after.shape}"
            )
        if len(set(self.runs)) < len(self.runs):
            raise ValueError(f"{self.arm} in {self.world} has two runs of the same checkpoint and seed")

    def of_checkpoint(self, checkpoint: str) -> Cell:
        """Return the runs from one checkpoint."""
        kept = [i for i, (name, _) in enumerate(self.runs) if name == checkpoint]
        return Cell(self.arm, self.world, tuple(self.runs[i] for i in kept), self.before[kept], self.after[kept])


def normalised_gain(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return (after − before) / (1 − before): the share of what was missing that was gained (Hake 1998).

    Worlds with different starts become comparable before they are pooled: 1 is perfect, 0 no change, negative
    a loss. NaN where nothing was missing.
    """
    return divide(after - np.asarray(before), 1.0 - np.asarray(before, np.float64))


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, NaN where b is 0."""
    out: np.ndarray = np.divide(a, b, out=np.full(np.shape(b), np.nan), where=np.asarray(b) != 0)
    return out


@dataclasses.dataclass(frozen=True, eq=False)
class _World:
    """The runs of a world (any arm's) and how often each resample draws each run and task."""

    runs: tuple[RunKey, ...]
    counts: np.ndarray  # [B, U]
    tasks: np.ndarray  # [B, T]


class Design:
    """All cells of a comparison with one joint set of resamples.

    Args:
        cells: any number of arms in any number of worlds; within a world all have the same tasks.
        resamples: B.
        seed: of the resampling; equal input gives equal results.

    Raises:
        ValueError: no cells, a cell twice, or different numbers of tasks in one world.
    """

    def __init__(self, cells: Sequence[Cell], resamples: int = 10_000, seed: int = 0) -> None:
        self.cells = {(cell.arm, cell.world): cell for cell in cells if cell.runs}
        if not self.cells:
            raise ValueError("a comparison needs at least one finished run")
        if len(self.cells) < sum(bool(cell.runs) for cell in cells):
            raise ValueError("two cells have the same arm and world")
        self.resamples, self.seed = resamples, seed
        self.arms = tuple(dict.fromkeys(arm for arm, _ in self.cells))
        self.worlds = tuple(dict.fromkeys(world for _, world in self.cells))
        self._checkpoints = tuple(sorted({name for cell in self.cells.values() for name, _ in cell.runs}))
        drawn = generator(seed, "checkpoints").integers(0, len(self._checkpoints), (resamples, len(self._checkpoints)))
        self._drawn = np.stack([(drawn == i).sum(axis=1) for i in range(len(self._checkpoints))], axis=1)  # [B, checkpoints]
        self._worlds = {world: self._draw(world) for world in self.worlds}
        self._scores: dict[tuple[str, str, Measure], np.ndarray] = {}

    def _draw(self, world: str) -> _World:
        members = [cell for (_, name), cell in self.cells.items() if name == world]
        sizes = {cell.after.shape[1] for cell in members}
        if len(sizes) > 1:
            raise ValueError(f"the arms in {world} were scored on different numbers of tasks ({', '.join(map(str, sorted(sizes)))})")
        runs = tuple(sorted({run for cell in members for run in cell.runs}))
        counts = np.zeros((self.resamples, len(runs)), np.int64)
        for i, checkpoint in enumerate(self._checkpoints):
            mine = [u for u, (name, _) in enumerate(runs) if name == checkpoint]
            if mine:  # a checkpoint drawn twice has its seeds drawn twice, independently
                rng = generator(self.seed, "seeds", world, checkpoint)
                counts[:, mine] = rng.multinomial(len(mine) * self._drawn[:, i], np.full(len(mine), 1.0 / len(mine)))
        tasks = sizes.pop()
        drawn = generator(self.seed, "tasks", world).multinomial(tasks, np.full(tasks, 1.0 / tasks), self.resamples)
        return _World(runs, counts, drawn)

    def n(self, arm: str, world: str | None = None) -> int:
        """Return the number of runs of ``arm``: in ``world``, or the smallest over the worlds it is in."""
        worlds = self.worlds_of(arm) if world is None else (world,)
        return min((len(self.cells[arm, name].runs) for name in worlds), default=0)

    def worlds_of(self, *arms: str) -> tuple[str, ...]:
        """Return the worlds in which all of ``arms`` have runs."""
        return tuple(world for world in self.worlds if all((arm, world) in self.cells for arm in arms))

    def scores(self, arm: str, world: str, measure: Measure = "gain") -> np.ndarray:
        """Return float ``[U]``: the score of each run of the world, NaN where ``arm`` lacks it."""
        tasks = self.cells[arm, world].after.shape[1]
        (found,) = self._measured(arm, world, measure, np.ones((1, tasks), np.int64))
        return np.asarray(found)

    def drawn_scores(self, arm: str, world: str, measure: Measure = "gain") -> np.ndarray:
        """Return float ``[B, U]``: the same under each resample's tasks."""
        key = (arm, world, measure)
        if key not in self._scores:
            self._scores[key] = self._measured(arm, world, measure, self._worlds[world].tasks)
        return self._scores[key]

    def counts(self, world: str) -> np.ndarray:
        """Return int ``[B, U]``: how often each resample draws each run."""
        return self._worlds[world].counts

    def runs(self, world: str) -> tuple[RunKey, ...]:
        """Return the U runs of ``world``, whichever arm's, sorted."""
        return self._worlds[world].runs

    def _measured(self, arm: str, world: str, measure: Measure, weights: np.ndarray) -> np.ndarray:
        cell = self.cells[arm, world]
        after = _task_mean(cell.after, weights)
        if measure == "after":
            found = after
        else:
            before = _task_mean(cell.before, weights)
            found = after - before if measure == "change" else normalised_gain(before, after)
        place = {run: u for u, run in enumerate(self._worlds[world].runs)}
        out = np.full((len(weights), len(place)), np.nan)
        out[:, [place[run] for run in cell.runs]] = found
        return out


def _task_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return ``[B, n]``: means of ``values [n, T]`` over tasks with integer ``weights [B, T]``, NaN entries left out."""
    known = ~np.isnan(values)
    total = weights @ np.where(known, values, 0.0).T
    count = weights @ known.T.astype(np.int64)
    return divide(total, count)


def weighted_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return ``[B]``: means over the last axis of ``values [B, U]``, each repeated ``counts [B, U]`` times, NaN left out."""
    weights = np.where(np.isnan(values), 0, counts)
    return divide((weights * np.nan_to_num(values)).sum(axis=-1), weights.sum(axis=-1))


def interquartile_mean(values: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """Return the mean of the middle half over the last axis (Agarwal et al. 2021, §4.2).

    The lowest and highest quarter (⌊N/4⌋ values each) are cut off; NaN are left out first. With ``counts``
    each value stands that many times. Equal to :func:`scipy.stats.trim_mean` with 0.25 on the repeated values.
    """
    values = np.asarray(values, np.float64)
    counts = np.ones(values.shape, np.int64) if counts is None else counts
    weights = np.where(np.isnan(values), 0, counts)
    order = np.argsort(values, axis=-1, kind="stable")  # NaN last, with weight 0
    values, weights = np.take_along_axis(values, order, -1), np.take_along_axis(weights, order, -1)
    ends = np.cumsum(weights, axis=-1)
    total = ends[..., -1:]
    cut = total // 4
    kept = np.clip(np.minimum(ends, total - cut) - np.maximum(ends - weights, cut), 0, None)
    return divide((kept * np.nan_to_num(values)).sum(axis=-1), kept.sum(axis=-1))
