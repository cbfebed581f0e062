"""Means with intervals, pass@k and Holm's correction: what needs no more than a list of numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sdgym.seeding import generator

MIN_SEEDS = 5
"""Fewer runs than this get no interval: a percentile bootstrap of 3 values only repeats them."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number over independent runs.

    Attributes:
        n: runs.
        mean: the point estimate (their mean unless the function says otherwise), NaN for none.
        low, high: bounds of the interval, or None where ``n < MIN_SEEDS``.
    """

    n: int
    mean: float
    low: float | None = None
    high: float | None = None


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean (Efron & Tibshirani 1993, §13.3).

    Args:
        values: independent observations, at least one.
        confidence: in (0, 1).
        resamples: bootstrap samples.
        seed: of the resampling; equal input gives equal bounds.

    Raises:
        ValueError: no values, or a confidence outside (0, 1).
    """
    data = np.asarray(values, np.float64)
    if data.size == 0:
        raise ValueError("a bootstrap interval needs at least one value")
    draws = generator(seed, "bootstrap", data.size).integers(0, data.size, (resamples, data.size))
    return percentile_interval(data[draws].mean(axis=1), confidence)


def percentile_interval(draws: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Return the central ``confidence`` quantiles of bootstrap values, those that are NaN left out; NaN if all are.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    tail = (1.0 - confidence) / 2.0
    known = draws[~np.isnan(draws)]
    if not known.size:
        return math.nan, math.nan
    low, high = np.quantile(known, [tail, 1.0 - tail])
    return float(low), float(high)


def estimate(values: Sequence[float], confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Return the mean over runs, with an interval only where there are at least :data:`MIN_SEEDS`."""
    n = len(values)
    mean = float(np.mean(values)) if n else float("nan")
    if n < MIN_SEEDS:
        return Estimate(n, mean)
    return Estimate(n, mean, *bootstrap_interval(values, confidence, seed=seed))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the unbiased estimate of the chance that one of ``k`` samples is correct (Chen et al. 2021, eq. 1).

    1 − C(n−c, k) / C(n, k), in integers up to the last division, so that nothing overflows.

    Raises:
        ValueError: not ``0 <= correct <= samples`` or not ``1 <= k <= samples``.
    """
    if not 0 <= correct <= samples:
        raise ValueError(f"correct must lie between 0 and the number of samples ({samples}), got {correct}")
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs at least {k} samples and k at least 1, there are {samples} samples")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for the family they form, by Holm's step-down method (Holm 1979).

    p̃_(i) = max_{j ≤ i} min(1, (m − j + 1)·p_(j)); rejecting where p̃ ≤ α keeps the chance of any false
    rejection in the family at most α, whatever the dependence. The order of the input is kept.

    Raises:
        ValueError: a value outside [0, 1].
    """
    p = np.asarray(p_values, np.float64)
    if p.size and not ((p >= 0.0) & (p <= 1.0)).all():
        raise ValueError(f"p-values lie in [0, 1], got {list(p_values)}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(1.0, (p.size - np.arange(p.size)) * p[order]))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return [float(value) for value in adjusted]


DRAWS = 9_999
"""Sign patterns drawn where there are too many to enumerate."""


def least_p(runs: int) -> float:
    """Return the smallest p-value that :func:`sign_flip_test` can give for so many differences: all have one sign."""
    return max(2.0 ** (1 - runs), 2.0 / (DRAWS + 1))


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p-value of "paired differences are symmetric about 0" (Fisher's randomisation test).

    Every sign pattern is enumerated up to 13 differences, 9,999 are drawn above
    (:func:`scipy.stats.permutation_test`). With n differences no p-value is below 2^(1−n), so five runs
    that all agree give 0.0625: few runs cannot pretend to certainty. NaN without differences.
    """
    from scipy.stats import permutation_test

    data = np.asarray(differences, np.float64)
    if data.size < 2:
        return 1.0 if data.size else math.nan
    found = permutation_test(
        (data,), np.mean, permutation_type="samples", vectorized=True, n_resamples=DRAWS, rng=generator(seed, "sign-flip", data.size)
    )
    return float(found.pvalue)
