"""The distribution that tokens are drawn from, against independent NumPy code."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdgym.errors import NumericalError
from sdgym.generation.base import SamplingParams
from sdgym.generation.truncation import RowSampling, keep_mask, sample_tokens
from sdgym.seeding import counter_uniform, derive

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.8]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 100]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)


def oracle(logits, params):
    """Return the set of tokens that may be drawn, one token at a time."""
    scores = [x / params.temperature for x in logits.tolist()]
    peak = max(scores)
    weights = [math.exp(x - peak) for x in scores]
    ranked = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    if params.top_k:
        ranked = ranked[: params.top_k]
    if params.top_p < 1:
        mass, kept, total = 0.0, [], sum(weights[i] for i in ranked)
        for token in ranked:
            if mass >= params.top_p * total:
                break
            kept.append(token)
            mass += weights[token]
        ranked = kept or ranked[:1]
    return {i for i in ranked if weights[i] >= params.min_p * weights[ranked[0]]}


@settings(max_examples=150, deadline=None)
@given(st.lists(PARAMS, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_truncation_keeps_what_the_definition_keeps(rows, seed):
    logits = np.random.default_rng(seed).normal(0, 2, (len(rows), 17))
    sampling = RowSampling.of(rows)
    scores = torch.log_softmax(torch.from_numpy(logits) / torch.from_numpy(sampling.temperature)[:, None], -1)
    kept = keep_mask(scores, sampling).numpy()
    for row, params in enumerate(rows):
        assert set(np.flatnonzero(kept[row])) == oracle(logits[row], params)


def test_equal_logits_keep_exactly_k_lowest_ids():
    kept = keep_mask(torch.full((1, 9), -math.log(9)), RowSampling.of([SamplingParams(top_k=4)]))
    assert np.flatnonzero(kept[0].numpy()).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "params",
    [SamplingParams(), SamplingParams(temperature=0.6), SamplingParams(top_k=5), SamplingParams(top_p=0.8), SamplingParams(min_p=0.2)],
    ids=["plain", "cool", "top_k", "top_p", "min_p"],
)
def test_frequencies_match_the_distribution(params):
    draws, logits = 40_000, np.random.default_rng(5).normal(0, 1.5, 12)
    keys = np.array([derive(0, "chi-square", i) for i in range(200)], np.uint64)
    uniforms = counter_uniform(np.repeat(keys, draws // 200), np.tile(np.arange(draws // 200), 200))
    ids, logprobs = sample_tokens(torch.from_numpy(np.tile(logits, (draws, 1))), uniforms, RowSampling.of([params] * draws))
    full = np.exp(logits / params.temperature) / np.exp(logits / params.temperature).sum()
    np.testing.assert_allclose(logprobs, np.log(full)[ids], atol=1e-5)  # before truncation, whatever was cut
    allowed = sorted(oracle(logits, params))
    expected = np.zeros(12)
    expected[allowed] = full[allowed] / full[allowed].sum() * draws
    counts = np.bincount(ids, minlength=12)
    assert counts[expected == 0].sum() == 0
    chi_square = ((counts - expected)[allowed] ** 2 / expected[allowed]).sum()
    freedom = len(allowed) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)  # four standard deviations; the keys are fixed


def test_uniforms_at_both_ends_hit_possible_tokens():
    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf]])
    for uniform, token in ((1e-300, 1), (np.nextafter(1.0, 0.0), 2), (1.0, 2)):
        ids, _ = sample_tokens(logits, np.array([uniform]), RowSampling.of([SamplingParams()]))
        assert ids[0] == token


def test_one_number_decides_one_row():
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (6, 30)))
    uniforms = np.random.default_rng(1).random(6)
    together, _ = sample_tokens(logits, uniforms, RowSampling.of([SamplingParams(temperature=0.5 + i / 4) for i in range(6)]))
    for row in range(6):
        one, _ = sample_tokens(logits[row : row + 1], uniforms[row : row + 1], RowSampling.of([SamplingParams(temperature=0.5 + row / 4)]))
        assert one[0] == together[row]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    for params in (SamplingParams(), SamplingParams(temperature=0.0), SamplingParams(top_k=2)):
        with pytest.raises(NumericalError, match="1 of 3 rows"):
            sample_tokens(logits, np.full(3, 0.5), RowSampling.of([params] * 3))
