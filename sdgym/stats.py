"""Estimates and their uncertainty: means, bootstrap intervals over seeds, pass@k. NumPy only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from sdgym.seeding import generator

MIN_SEEDS = 5
"""Fewer seeds than this get no interval: a percentile bootstrap of 3 values only repeats them."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over independent runs.

    Attributes:
        n: runs.
        mean: their mean, NaN for none.
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
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    draws = generator(seed, "bootstrap", data.size).integers(0, data.size, (resamples, data.size))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(data[draws].mean(axis=1), [tail, 1.0 - tail])
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
