"""What a comparison says: means, ranking, pre-declared contrasts, profiles, agreement of rankings.

Everything is computed from a :class:`sdgym.stats.hierarchy.Design`. Pooling over worlds takes normalised gains, so
that an easy world does not outvote a hard one. A function returns an interval only from n = 5 runs on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sdgym.stats.basic import MIN_SEEDS, Estimate, holm, least_p, percentile_interval, sign_flip_test
from sdgym.stats.hierarchy import Design, Measure, divide, interquartile_mean, weighted_mean


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A pre-declared comparison of two arms.

    Attributes:
        treatment, control: the arms.
        world: where, or "" for all worlds that both are in (normalised gains averaged over them).
        measure: what is compared.
        difference: treatment − control over the keys (checkpoint, seed) that both have; n counts them.
        p: two-sided p-value of the sign-flip test over the paired runs of all its worlds, None below n = 5.
        p_holm: the same, adjusted for the family of contrasts it was tested with.
        attainable: the smallest adjusted p-value that so many paired runs can have first in that family: they all agree.
        improvement: probability that a run of the treatment beats one of the control.
    """

    treatment: str
    control: str
    world: str
    measure: Measure
    difference: Estimate
    p: float | None
    p_holm: float | None
    attainable: float | None
    improvement: Estimate

    @property
    def verdict(self) -> str:
        """``higher``, ``lower``, ``no difference shown`` or ``too few runs``.

        A difference counts if its interval excludes 0 *and* its adjusted p-value is below 0.05: the first
        speaks of new checkpoints, seeds and tasks, the second guards the family. Where the interval excludes 0 but no
        outcome of so few runs could have passed the test, there are too few of them.
        """
        d = self.difference
        if d.low is None or d.high is None or self.p_holm is None or self.attainable is None:
            return "too few runs"
        if d.low <= 0 <= d.high:
            return "no difference shown"
        if self.p_holm < 0.05:
            return "higher" if d.low > 0 else "lower"
        return "too few runs" if self.attainable >= 0.05 else "no difference shown"

    def reversed(self) -> Contrast:
        """Return control − treatment."""
        return dataclasses.replace(
            self,
            treatment=self.control,
            control=self.treatment,
            difference=_turned(self.difference, 0.0),
            improvement=_turned(self.improvement, 1.0),
        )


def _turned(value: Estimate, total: float) -> Estimate:
    low, high = (None if bound is None else total - bound for bound in (value.high, value.low))
    return Estimate(value.n, total - value.mean, low, high)


@dataclasses.dataclass(frozen=True)
class Rank:
    """One row of a ranking.

    Attributes:
        arm: name.
        score: interquartile mean of the normalised gain over runs and worlds.
        rank: 1 is best, by ``score``.
        ranks: interval of the rank over resamples (equal scores share the mean rank), None below n = 5.
        best: share of resamples in which the arm is first (ties shared), None below n = 5.
    """

    arm: str
    score: Estimate
    rank: int
    ranks: tuple[float, float] | None
    best: float | None


@dataclasses.dataclass(frozen=True)
class Profile:
    """A performance profile: the share of runs above each threshold, averaged over worlds; bounds None below n = 5."""

    arm: str
    n: int
    thresholds: tuple[float, ...]
    share: tuple[float, ...]
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Kendall's τ-b between two rankings of the same arms; the interval is None where an arm has fewer than 5 runs."""

    arms: tuple[str, ...]
    tau: Estimate


def mean_score(design: Design, arm: str, world: str, measure: Measure = "after") -> Estimate:
    """Return the mean over the runs of ``arm`` in ``world``."""
    point = float(np.nanmean(design.scores(arm, world, measure)))
    draws = weighted_mean(design.drawn_scores(arm, world, measure), design.counts(world))
    return _estimate(design.n(arm, world), point, draws)


def pooled_score(design: Design, arm: str) -> Estimate:
    """Return the interquartile mean of the normalised gain over all runs and worlds of ``arm`` (Agarwal et al. 2021, §4.2)."""
    worlds = design.worlds_of(arm)
    point = interquartile_mean(np.concatenate([design.scores(arm, world) for world in worlds]))
    return _estimate(design.n(arm), float(point), _drawn_pooled(design, arm, worlds))


def _drawn_pooled(design: Design, arm: str, worlds: Sequence[str]) -> np.ndarray:
    values = np.concatenate([design.drawn_scores(arm, world) for world in worlds], axis=1)
    counts = np.concatenate([design.counts(world) for world in worlds], axis=1)
    return interquartile_mean(values, counts)


def probability_of_improvement(design: Design, treatment: str, control: str, world: str = "") -> Estimate:
    """Return P(a run of ``treatment`` scores above a run of ``control``), ties half (Agarwal et al. 2021, §4.3).

    Per world the Mann–Whitney statistic divided by the number of pairs, then the mean over worlds. n is the
    smaller number of runs.
    """
    worlds = (world,) if world else design.worlds_of(treatment, control)
    points, draws = [], []
    for name in worlds:
        ones = np.ones((1, len(design.runs(name))), np.int64)
        points.append(_above(design.scores(treatment, name)[None], design.scores(control, name)[None], ones)[0])
        draws.append(_above(design.drawn_scores(treatment, name), design.drawn_scores(control, name), design.counts(name)))
    n = min(design.n(treatment, name) for name in worlds) if worlds else 0
    n = min([n, *(design.n(control, name) for name in worlds)])
    return _estimate(n, float(np.mean(points)) if points else math.nan, np.mean(draws, axis=0) if draws else np.zeros(0))


def _above(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return ``[B]``: Σ_ij w_i w_j (1[a_i > b_j] + ½·1[a_i = b_j]) / Σ_ij w_i w_j over the runs that are there."""
    wa, wb = np.where(np.isnan(a), 0, counts), np.where(np.isnan(b), 0, counts)
    wins = np.zeros(len(a))
    for j in range(b.shape[1]):
        better = (a > b[:, j, None]) + 0.5 * (a == b[:, j, None])
        wins += wb[:, j] * (wa * better).sum(axis=1)
    pairs = wa.sum(axis=1) * wb.sum(axis=1)
    return divide(wins, pairs)


def profile(design: Design, arm: str, thresholds: Sequence[float]) -> Profile:
    """Return the share of runs whose normalised gain exceeds each threshold (run-score distribution, Agarwal et al. 2021, §4.2)."""
    levels = np.asarray(thresholds, np.float64)
    worlds, points, draws = design.worlds_of(arm), [], []
    for world in worlds:
        scores, drawn, counts = design.scores(arm, world), design.drawn_scores(arm, world), design.counts(world)
        known = scores[~np.isnan(scores)]
        points.append([(known > level).mean() for level in levels])
        draws.append(np.stack([weighted_mean(np.where(np.isnan(drawn), np.nan, drawn > level), counts) for level in levels], axis=1))
    n, share = design.n(arm), np.mean(points, axis=0)
    bounds = np.nanquantile(np.mean(draws, axis=0), [0.025, 0.975], axis=0) if n >= MIN_SEEDS else None
    low, high = (None, None) if bounds is None else (tuple(bounds[0].tolist()), tuple(bounds[1].tolist()))
    return Profile(arm, n, tuple(levels.tolist()), tuple(share.tolist()), low, high)


def contrasts(
    design: Design, declared: Sequence[tuple[str, str]], worlds: Sequence[str] = ("",), measure: Measure = "gain"
) -> list[Contrast]:
    """Test the declared (treatment, control) pairs; all of them together form one family for Holm's correction.

    Args:
        design: the runs.
        declared: pairs fixed before the runs; pairs without a common run are left out.
        worlds: "" pools a pair's worlds, a name looks at one. Several make one larger family.
        measure: ``gain`` where worlds are pooled.
    """
    tested: list[tuple[tuple[str, str, str], Estimate, int, float | None]] = []
    for world in worlds:
        for a, b in declared:
            common = [name for name in design.worlds_of(a, b) if world in ("", name)]
            difference, runs = _difference(design, a, b, common, measure)
            if difference.n:
                p = sign_flip_test(runs, design.seed) if difference.n >= MIN_SEEDS else None
                tested.append(((a, b, world), difference, len(runs), p))
    family = [p for *_, p in tested if p is not None]
    adjusted = iter(holm(family))
    found = []
    for (a, b, world), difference, pairs, p in tested:
        p_holm, attainable = (None, None) if p is None else (next(adjusted), min(1.0, len(family) * least_p(pairs)))
        better = probability_of_improvement(design, a, b, world)
        found.append(Contrast(a, b, world, measure, difference, p, p_holm, attainable, better))
    return found


def _difference(design: Design, a: str, b: str, worlds: Sequence[str], measure: Measure) -> tuple[Estimate, list[float]]:
    """Return the paired difference, averaged over runs and then worlds, and the difference of every run.

    n counts the keys (checkpoint, seed), not runs: five seeds in two worlds are n = 5 and ten differences to flip.
    """
    keys: set[tuple[str, int]] = set()
    runs: list[float] = []
    points, draws = [], []
    for world in worlds:
        found = design.scores(a, world, measure) - design.scores(b, world, measure)
        there = ~np.isnan(found)
        if not there.any():
            continue
        keys |= {run for run, known in zip(design.runs(world), there, strict=True) if known}
        runs += found[there].tolist()
        points.append(float(found[there].mean()))
        drawn = design.drawn_scores(a, world, measure) - design.drawn_scores(b, world, measure)
        draws.append(weighted_mean(drawn, design.counts(world)))
    if not points:
        return Estimate(0, math.nan), runs
    return _estimate(len(keys), float(np.mean(points)), np.mean(draws, axis=0)), runs


def ranking(design: Design, arms: Sequence[str] | None = None) -> list[Rank]:
    """Rank ``arms`` (default all) by the interquartile mean of the normalised gain, best first.

    Rank only arms that may learn from the same information: one ranking per class of supervision. Scores are
    taken over the worlds that all of them are in.
    """
    chosen = tuple(arms if arms is not None else design.arms)
    worlds = design.worlds_of(*chosen)
    if not worlds:
        return []
    points = np.array([interquartile_mean(np.concatenate([design.scores(arm, w) for w in worlds])) for arm in chosen])
    draws = np.stack([_drawn_pooled(design, arm, worlds) for arm in chosen], axis=1)  # [B, arms]
    places = _ranks(draws[~np.isnan(draws).any(axis=1)])  # a resample may leave nothing to gain, and so no rank
    first = places == places.min(axis=1, keepdims=True)
    best = (first / first.sum(axis=1, keepdims=True)).mean(axis=0) if len(places) else np.full(len(chosen), np.nan)
    enough = len(places) > 0 and min(design.n(arm, w) for arm in chosen for w in worlds) >= MIN_SEEDS
    rows = []
    for place, i in enumerate(np.argsort(-points, kind="stable"), 1):
        score = _estimate(min(design.n(chosen[i], w) for w in worlds), float(points[i]), draws[:, i])
        span = percentile_interval(places[:, i]) if enough else None
        rows.append(Rank(chosen[i], score, place, span, float(best[i]) if enough else None))
    return rows


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Return ``[B, arms]``: rank of each score within its row, 1 the highest, ties sharing their mean rank."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(-scores, axis=1))


def rank_agreement(first: Design, second: Design, arms: Sequence[str] | None = None) -> Agreement:
    """Return Kendall's τ-b (Kendall 1945) between the rankings of the arms in two designs.

    Designs of two worlds, two checkpoints or two measures of cost: does the winner depend on where one looks?
    The interval is the percentile bootstrap of τ over resamples of both.
    """
    from scipy.stats import kendalltau

    chosen = tuple(arm for arm in (arms if arms is not None else first.arms) if arm in first.arms and arm in second.arms)
    if len(chosen) < 2:
        return Agreement(chosen, Estimate(0, math.nan))
    pairs = [[pooled_score(design, arm).mean for arm in chosen] for design in (first, second)]
    tau = float(kendalltau(*pairs).statistic)
    draws = [np.stack([_drawn_pooled(design, arm, design.worlds_of(arm)) for arm in chosen], axis=1) for design in (first, second)]
    n = min(design.n(arm) for design in (first, second) for arm in chosen)
    return Agreement(chosen, _estimate(n, tau, kendall_rows(*draws)))


def kendall_rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return ``[B]``: τ-b between the rows of ``a [B, m]`` and ``b [B, m]``: Σ sgn·sgn / √(Σ|sgn| Σ|sgn|) over pairs.

    The same number as :func:`scipy.stats.kendalltau`, for thousands of rows at once; NaN where all of a row is tied.
    """
    i, j = np.triu_indices(a.shape[1], 1)
    x, y = np.sign(a[:, i] - a[:, j]), np.sign(b[:, i] - b[:, j])
    scale = np.sqrt(np.abs(x).sum(axis=1) * np.abs(y).sum(axis=1))
    return divide((x * y).sum(axis=1), scale)


def _estimate(n: int, point: float, draws: np.ndarray) -> Estimate:
    return Estimate(n, point, *percentile_interval(draws)) if n >= MIN_SEEDS else Estimate(n, point)
