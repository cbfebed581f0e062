"""The numbers of a report, computed from runs: one row per (environment, method), references above them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from sdgym.evaluation import ELSEWHERE
from sdgym.report.load import Run, Score
from sdgym.stats import Design, Estimate, ScoredRun, build_cells, estimate, mean_score


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the start reaches without training."""

    name: str
    note: str
    value: float
    n: int


@dataclasses.dataclass(frozen=True)
class Retained:
    """Success on the ``test`` tasks of a world that was not trained in; ``before`` has n = 0 where it was not measured."""

    world: str
    before: Estimate
    after: Estimate

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after.mean - self.before.mean


@dataclasses.dataclass(frozen=True)
class Row:
    """One method on one environment, over its seeds.

    Attributes:
        before, after: success at the evaluation temperature at step 0 and at the end; n counts seeds. The interval of
            ``after`` speaks of new seeds and new tasks (:class:`sdgym.stats.Design`).
        greedy, passed: greedy success and pass@k at the end, k the block's samples.
        tokens, seconds: means per seed.
        failed: seeds that did not finish.
        ends: success at the end, one per seed.
        retention: one per world of ``eval.retention``.
    """

    arm: str
    supervision: str
    before: Estimate
    after: Estimate
    greedy: Estimate
    passed: Estimate
    tokens: float
    seconds: float
    failed: int = 0
    ends: tuple[float, ...] = ()
    retention: tuple[Retained, ...] = ()

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after.mean - self.before.mean


@dataclasses.dataclass(frozen=True)
class Block:
    """All rows of one environment."""

    env: str
    level: str
    model: str
    split: str
    tasks: int
    samples: int
    temperature: float
    references: tuple[Reference, ...]
    rows: tuple[Row, ...]


def blocks(runs: Sequence[Run]) -> list[Block]:
    """Group finished runs by environment, level and model; methods keep the order of their first run."""
    worlds: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        worlds.setdefault((run.env, run.level, run.model), []).append(run)
    return [_block(*world, members) for world, members in worlds.items()]


def _block(env: str, level: str, model: str, runs: Sequence[Run]) -> Block:
    done = [run for run in runs if run.finished]
    arms: dict[str, list[Run]] = {}
    for run in done:
        arms.setdefault(run.arm, []).append(run)
    first, design = (done or list(runs))[0], _design(done)
    score = first.first
    return Block(
        env,
        level,
        model,
        first.split,
        score.tasks if score else 0,
        score.samples if score else 0,
        first.temperature,
        _references(done),
        tuple(_row(arm, members, design) for arm, members in arms.items()),
    )


def _references(runs: Sequence[Run]) -> tuple[Reference, ...]:
    """The start's greedy success and majority vote, averaged over the runs (all start from the same policy)."""
    starts: list[Score] = [run.first for run in runs if run.first is not None]
    votes = max((s.samples for s in starts), default=0)
    found = []
    for name, note, values in (
        ("start, greedy", "decoding alone", [s.greedy for s in starts]),
        (f"start, maj@{votes}", "decoding alone", [s.majority for s in starts]),
    ):
        known = [v for v in values if v is not None]
        if known:
            found.append(Reference(name, note, sum(known) / len(known), len(known)))
    return tuple(found)


def _design(runs: Sequence[Run]) -> Design | None:
    """Return the runs of a block as a design; None for none, for other tasks in some, or for one run twice."""
    scored = [ScoredRun(r.arm, "", r.model, r.seed, r.items_at(0), r.items_at(r.last.step)) for r in runs if r.last is not None]
    try:
        return Design(build_cells([run for run in scored if run.before]))
    except ValueError:
        return None


def _row(arm: str, runs: Sequence[Run], design: Design | None) -> Row:
    before = [run.first.success for run in runs if run.first is not None]
    after = [run.last.success for run in runs if run.last is not None]
    whole = design is not None and (arm, "") in design.cells and design.n(arm, "") == len(runs)
    greedy = [run.last.greedy for run in runs if run.last is not None and run.last.greedy is not None]
    passed = [run.last.passed for run in runs if run.last is not None and run.last.passed is not None]
    tokens = [run.tokens for run in runs]
    seconds = [run.seconds for run in runs]
    return Row(
        arm,
        runs[0].supervision,
        estimate(before),
        mean_score(design, arm, "") if design is not None and whole else estimate(after),
        estimate(greedy),
        estimate(passed),
        sum(tokens) / len(tokens),
        sum(seconds) / len(seconds),
        ends=tuple(after),
        retention=_retention(runs),
    )


def _retention(runs: Sequence[Run]) -> tuple[Retained, ...]:
    """Return what was kept (or gained) in each world that the runs were not trained in."""
    splits = dict.fromkeys(score.split for run in runs for score in run.scores if ELSEWHERE in score.split)
    found = []
    for split in splits:
        ends = [[s for s in run.scores if s.split == split] for run in runs]
        before = [s.success for scores in ends for s in scores if s.step == 0]
        after = [scores[-1].success for scores in ends if scores and scores[-1].step > 0]
        found.append(Retained(split.partition(ELSEWHERE)[2], estimate(before), estimate(after)))
    return tuple(found)


SUPERVISION = {
    "reward": "Rewards alone",
    "feedback": "Rewards and feedback",
    "reference": "References",
    "external": "An external model",
    "none": "Neither rewards nor feedback",
}


def classes(block: Block) -> list[tuple[str, list[Row]]]:
    """Return the rows of each supervision class, best first; only within a class is the order a ranking."""
    names = [*SUPERVISION, *dict.fromkeys(r.supervision for r in block.rows if r.supervision not in SUPERVISION)]
    found = [(SUPERVISION.get(name, "Not known here"), [r for r in block.rows if r.supervision == name]) for name in names]
    return [(title, sorted(rows, key=lambda r: (-r.after.mean, r.arm))) for title, rows in found if rows]


def scale(block: Block) -> float:
    """Return the right end of the block's common axis: the largest value in it, rounded up to a tenth."""
    values = [v for row in block.rows for v in (*row.ends, row.after.high or 0.0, row.before.mean) if not math.isnan(v)]
    values += [r.value for r in block.references]
    return min(1.0, max(1, math.ceil(10 * max(values, default=1.0) - 1e-9)) / 10)


def axis(values: Sequence[float | None]) -> tuple[float, float]:
    """Return the ends of an axis that holds ``values``, at multiples of a tenth."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    low, high = math.floor(10 * min(known, default=0.0) + 1e-9) / 10, math.ceil(10 * max(known, default=1.0) - 1e-9) / 10
    return low, max(high, low + 0.1)


def place(value: float, ends: tuple[float, float]) -> float:
    """Return where ``value`` lies between ``ends``, in percent."""
    return 100 * (value - ends[0]) / (ends[1] - ends[0])


COSTS = {
    "sampled tokens": "sampled_tokens",
    "of these discarded": "discarded_tokens",
    "of these second passes": "second_pass_tokens",
    "teacher-scored": "teacher_tokens",
    "trained": "trained_tokens",
    "verifier calls": "verifier_calls",
    "environment steps": "env_steps",
    "FLOPs": "flops",
}


def costs(block: Block, runs: Sequence[Run]) -> list[tuple[str, list[float]]]:
    """Return per method what one finished run spent on training, in the order of :data:`COSTS`, then seconds."""
    found = []
    for row in block.rows:
        members = [r for r in runs if (r.env, r.level, r.model, r.arm) == (block.env, block.level, block.model, row.arm) and r.finished]
        spent = [sum(r.at(r.metrics[-1]["step"], f"ledger/{key}") for r in members) / len(members) for key in COSTS.values()]
        found.append((row.arm, [*spent, row.seconds]))
    return found


def percent(value: float) -> str:
    """``0.314`` as ``31.4 %``; a dash for NaN."""
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """``0.314`` as ``+31.4``: percentage points."""
    return "–" if math.isnan(value) else f"{100 * value:+.1f}"


def count(value: float) -> str:
    """``1234567`` as ``1.23 M``."""
    if not math.isfinite(value):
        return "–"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"
