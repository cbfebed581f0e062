"""How long answers are: measured groups of rollouts, and the lognormal law fitted to them."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from sdgym.core import Trajectory
from sdgym.errors import DataError
from sdgym.files import replace_file

MEASURED = pathlib.Path(__file__).with_name("measured")
"""What was measured, one file per model and world."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One episode.

    Attributes:
        prompt: tokens before the first action.
        turns: sampled tokens per turn, H entries, each at least 1.
        observed: tokens that the world's answer adds before each further turn, H - 1 entries.
    """

    prompt: int
    turns: tuple[int, ...]
    observed: tuple[int, ...] = ()

    @property
    def sampled(self) -> int:
        """Tokens of all turns."""
        return sum(self.turns)


Group = list[Row]


class Source(Protocol):
    """Where batches come from."""

    def draw(self, rng: np.random.Generator, tasks: int, group: int) -> list[Group]:
        """Return ``tasks`` groups of ``group`` rows."""


@dataclasses.dataclass(frozen=True)
class Lognormal:
    """Tokens of a turn: exp(mu + sigma·z), rounded, cut to [1, limit]; z is normal and correlated within a group.

    Attributes:
        mu, sigma: of the logarithm, before the cut.
        limit: most tokens of a turn.
        correlation: of log lengths of two rows of a group: tasks differ in how much there is to say.
        prompt, turns, observed: the same for every row.
    """

    mu: float
    sigma: float
    limit: int
    correlation: float = 0.0
    prompt: int = 0
    turns: int = 1
    observed: int = 0

    @classmethod
    def of_mean(cls, mean: float, sigma: float, limit: int, **fields: Any) -> Lognormal:
        """Return the law whose mean before the cut is ``mean``: mu = ln(mean) - sigma²/2."""
        return cls(math.log(mean) - sigma**2 / 2, sigma, limit, **fields)

    def draw(self, rng: np.random.Generator, tasks: int, group: int) -> list[Group]:
        """See :class:`Source`."""
        shared = rng.standard_normal((tasks, 1, 1)) * math.sqrt(self.correlation)
        own = rng.standard_normal((tasks, group, self.turns)) * math.sqrt(1 - self.correlation)
        tokens = np.clip(np.rint(np.exp(self.mu + self.sigma * (shared + own))), 1, self.limit).astype(int)
        observed = (self.observed,) * (self.turns - 1)
        return [[Row(self.prompt, tuple(row), observed) for row in rows] for rows in tokens.tolist()]


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Measured groups.

    Attributes:
        groups: as they were recorded.
        limit: most tokens of a turn; a turn of that length was cut.
        source: where they come from, in words.
    """

    groups: tuple[tuple[Row, ...], ...]
    limit: int
    source: str = ""

    def draw(self, rng: np.random.Generator, tasks: int, group: int) -> list[Group]:
        """Draw groups with replacement, and members of each with replacement."""
        chosen = rng.integers(len(self.groups), size=tasks)
        return [[self.groups[g][i] for i in rng.integers(len(self.groups[g]), size=group)] for g in chosen]

    def fit(self) -> Lognormal:
        """Return the lognormal law: maximum likelihood with turns at the limit censored; correlation by analysis of variance.

        Raises:
            DataError: fewer than two different lengths below the limit.
        """
        from scipy import optimize, stats

        turns = np.array([n for group in self.groups for row in group for n in row.turns], np.float64)
        cut, logs = turns >= self.limit, np.log(turns)
        if len(np.unique(turns[~cut])) < 2:
            raise DataError(f"{self.source or 'these lengths'}: a law needs at least two different lengths below the limit of {self.limit}")

        def negative(point: np.ndarray) -> float:
            z = (logs - point[0]) / np.exp(point[1])
            return float(-(stats.norm.logpdf(z[~cut]) - point[1]).sum() - stats.norm.logsf(z[cut]).sum())

        found = optimize.minimize(negative, [logs.mean(), math.log(logs.std() + 1e-3)], method="Nelder-Mead")
        rows = [row for group in self.groups for row in group]
        return Lognormal(
            float(found.x[0]),
            float(np.exp(found.x[1])),
            self.limit,
            intraclass_correlation([[float(np.mean(np.log(row.turns))) for row in group] for group in self.groups]),
            round(float(np.mean([row.prompt for row in rows]))),
            max(1, round(float(np.mean([len(row.turns) for row in rows])))),
            round(float(np.mean([n for row in rows for n in row.observed] or [0]))),
        )

    def save(self, path: pathlib.Path) -> None:
        """Write JSON, one group per line."""
        lines = [
            json.dumps({"prompt": g[0].prompt, "turns": [r.turns for r in g], "observed": [r.observed for r in g if r.observed]})
            for g in self.groups
        ]
        head = f'{{"source": {json.dumps(self.source)},\n"limit": {self.limit},\n"groups": [\n'
        replace_file(path, head + ",\n".join(lines) + "\n]}\n")

    @classmethod
    def load(cls, name: str | pathlib.Path) -> Lengths:
        """Read a file, or one of those measured by its name. Raises :class:`DataError`."""
        path = pathlib.Path(name) if pathlib.Path(name).suffix else MEASURED / f"{name}.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            groups = tuple(_group(line) for line in record["groups"])
            return cls(groups, int(record["limit"]), str(record["source"]))
        except OSError:
            known = ", ".join(sorted(p.stem for p in MEASURED.glob("*.json") if not p.stem.startswith("steps-")))
            raise DataError(f"no measured lengths {str(name)!r}; there are {known}, or give a .json file") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{str(path)!r} holds no measured lengths: {error}") from None


def _group(line: dict[str, Any]) -> tuple[Row, ...]:
    observed = line["observed"] or [()] * len(line["turns"])
    return tuple(Row(int(line["prompt"]), tuple(turns), tuple(seen)) for turns, seen in zip(line["turns"], observed, strict=True))


def intraclass_correlation(groups: Sequence[Sequence[float]]) -> float:
    """Return the share of variance that lies between groups, in [0, 1): (MSB - MSW) / (MSB + (k - 1)·MSW), k the mean size."""
    sizes = [len(group) for group in groups]
    total, k = sum(sizes), sum(sizes) / len(groups)
    if len(groups) < 2 or total == len(groups):
        return 0.0
    grand = sum(map(sum, groups)) / total
    between = sum(len(g) * (float(np.mean(g)) - grand) ** 2 for g in groups) / (len(groups) - 1)
    within = sum(float(np.var(g)) * len(g) for g in groups) / (total - len(groups))
    return min(max(0.0, (between - within) / (between + (k - 1) * within)), 0.999) if between + within > 0 else 0.0


def row_of(trajectory: Trajectory) -> Row:
    """Return the lengths of a recorded episode; where the template rewrote history, the new segment is read again as a whole."""
    turns: list[int] = []
    observed: list[int] = []
    for segment in trajectory.segments:
        before = 0
        for span in segment.spans:
            observed.append(span.start - before)
            turns.append(span.end - span.start)
            before = span.end
    return Row(observed[0], tuple(turns), tuple(observed[1:]))


def groups_of(trajectories: Sequence[Trajectory]) -> list[Group]:
    """Return the groups of recorded episodes; those in which nothing was sampled are left out."""
    found: dict[str, Group] = {}
    for trajectory in trajectories:
        if trajectory.action_length:
            found.setdefault(trajectory.group_id, []).append(row_of(trajectory))
    return list(found.values())


def of_run(folder: pathlib.Path) -> Lengths:
    """Return the lengths in a run's trajectories. Raises :class:`DataError` where there are none."""
    from sdgym.buffer import RolloutBuffer

    files = sorted((folder / "trajectories").glob("step_*.parquet"))
    rows = [row for file in files for row in RolloutBuffer.load(file).rows]
    groups = groups_of(rows)
    if not groups:
        raise DataError(f"{str(folder)!r} holds no trajectories: train with --set log.trajectories_every=1")
    limit = max(int(row.sampling.get("max_tokens", 0)) for row in rows)
    return Lengths(tuple(map(tuple, groups)), limit, f"{len(rows)} rollouts of {folder.name}")
