"""Statistics against closed forms, enumeration and published behaviour."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sdgym.stats import MIN_SEEDS, bootstrap_interval, estimate, pass_at_k


@pytest.mark.parametrize("n, c, k", [(n, c, k) for n in range(1, 7) for c in range(n + 1) for k in range(1, n + 1)])
def test_pass_at_k_equals_enumeration(n: int, c: int, k: int) -> None:
    outcomes = [1] * c + [0] * (n - c)
    subsets = list(itertools.combinations(outcomes, k))
    assert pass_at_k(n, c, k) == pytest.approx(np.mean([max(s) for s in subsets]), abs=1e-12)


def test_pass_at_k_survives_large_counts() -> None:
    exact = 1 - math.comb(9_900, 1_000) / math.comb(10_000, 1_000)
    assert pass_at_k(10_000, 100, 1_000) == pytest.approx(exact, abs=1e-15)


@pytest.mark.parametrize("n, c, k", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_nonsense(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def test_bootstrap_bounds_are_the_exact_quantiles_of_a_binomial() -> None:
    """Resampling 10 zeros and 10 ones gives Binomial(20, 1/2)/20, whose 2.5 % and 97.5 % quantiles are 6/20 and 14/20."""
    low, high = bootstrap_interval([0.0] * 10 + [1.0] * 10)
    cumulative = np.cumsum([math.comb(20, i) / 2**20 for i in range(21)])
    assert low == pytest.approx(np.searchsorted(cumulative, 0.025) / 20)
    assert high == pytest.approx(np.searchsorted(cumulative, 0.975) / 20)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    """Percentile intervals of 20 normal values cover 92.5 % at a nominal 95 % (t-quantile 2.09 and n/(n-1) ignored)."""
    rng = np.random.Generator(np.random.PCG64(3))
    hits = 0
    for trial in range(400):
        low, high = bootstrap_interval(rng.normal(size=20).tolist(), resamples=1_000, seed=trial)
        hits += low <= 0.0 <= high
    assert 0.925 - 3 * 0.0132 < hits / 400 < 0.925 + 3 * 0.0132  # three standard errors of 400 trials


def test_bootstrap_depends_on_the_seed_alone() -> None:
    values = [0.1, 0.4, 0.2, 0.9, 0.3]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, resamples=50) != bootstrap_interval(values, resamples=50, seed=1)


def test_equal_values_have_a_point_interval() -> None:
    assert bootstrap_interval([0.25] * 8) == (0.25, 0.25)


def test_few_seeds_get_no_interval() -> None:
    few, enough = estimate([0.5] * (MIN_SEEDS - 1)), estimate([0.1, 0.2, 0.3, 0.4, 0.5])
    assert (few.n, few.mean, few.low, few.high) == (4, 0.5, None, None)
    assert enough.mean == pytest.approx(0.3)
    assert enough.low is not None and enough.high is not None and enough.low < enough.mean < enough.high
    assert math.isnan(estimate([]).mean)


@pytest.mark.parametrize("values, confidence", [([], 0.95), ([1.0], 0.0), ([1.0], 1.0)])
def test_bootstrap_refuses_nonsense(values: list[float], confidence: float) -> None:
    with pytest.raises(ValueError):
        bootstrap_interval(values, confidence)
