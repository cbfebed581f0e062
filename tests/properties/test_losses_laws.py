"""Laws of the losses: what must hold for every input, not only for the printed ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from sdgym.algos.advantages import advantages
from sdgym.algos.losses import DistillLoss, PolicyGradientLoss
from sdgym.algos.losses import divergence as d
from sdgym.algos.losses.policy_gradient import ppo
from sdgym.objective import LossInputs, aggregate

ROUNDING = 1e-10  # float64, logits up to ±8, at most 8 summands
VOCAB = 6
logits = arrays(np.float64, (2, VOCAB), elements=st.floats(-8, 8))

quick = settings(max_examples=30, deadline=None, derandomize=True)

SUPPORTS = [(support, residual) for support in ("full", "student_topk", "teacher_topk") for residual in ("tail", "renorm")]
DIRECTIONS = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jensen_shannon", 0.5), ("jensen_shannon", 0.1), ("mixed", 0.5)]


def divergence(student: Tensor, teacher: Tensor, name: str = "reverse_kl", alpha: float = 0.5, **given_: object) -> Tensor:
    loss = DistillLoss(name, alpha=alpha, **given_)  # type: ignore[arg-type]
    return loss.token_features(student[None], teacher[None, None], torch.zeros(1, dtype=torch.int64))["divergence"][0]


@pytest.mark.parametrize(("name", "alpha"), DIRECTIONS)
@pytest.mark.parametrize(("support", "residual"), SUPPORTS)
@given(pair=logits, k=st.integers(1, VOCAB))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_never_negative_and_zero_with_zero_gradient_at_agreement(
    name: str, alpha: float, support: str, residual: str, pair: np.ndarray, k: int
) -> None:
    student, teacher = torch.from_numpy(pair[0]).requires_grad_(), torch.from_numpy(pair[1])
    assert divergence(student, teacher, name, alpha, support=support, residual=residual, top_k=k).item() >= -ROUNDING
    same = divergence(
        student, student.detach() + 3.0, name, alpha, support=support, residual=residual, top_k=k
    )  # a constant shift changes nothing
    assert abs(same.item()) < ROUNDING
    assert torch.autograd.grad(same, student)[0].abs().max() < ROUNDING


@given(pair=logits, alpha=st.floats(0.05, 0.95))
@quick
def test_jensen_shannon_is_bounded_and_symmetric(pair: np.ndarray, alpha: float) -> None:
    s, t = (torch.from_numpy(z).log_softmax(-1) for z in pair)
    value = d.jensen_shannon(s, t, alpha).item()
    entropy = -alpha * math.log(alpha) - (1 - alpha) * math.log(1 - alpha)
    assert value <= entropy + ROUNDING  # ln 2 at α = ½
    assert value == pytest.approx(d.jensen_shannon(t, s, 1 - alpha).item(), abs=ROUNDING)


@given(pair=arrays(np.float64, (2, VOCAB), elements=st.floats(-2, 2)))
@quick
def test_jensen_shannon_tends_to_scaled_kl_at_its_ends(pair: np.ndarray) -> None:
    s, t = (torch.from_numpy(z).log_softmax(-1) for z in pair)
    a = 1e-6  # truncation is of order a·(log-ratios up to 8)²
    assert d.jensen_shannon(s, t, a).item() / a == pytest.approx(d.forward_kl(s, t).item(), abs=2e-3)
    assert d.jensen_shannon(s, t, 1 - a).item() / a == pytest.approx(d.reverse_kl(s, t).item(), abs=2e-3)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon"])
@given(pair=logits)
@quick
def test_support_of_everything_is_full_and_coarsening_loses_information(name: str, pair: np.ndarray) -> None:
    student, teacher = torch.from_numpy(pair[0]), torch.from_numpy(pair[1])
    full = divergence(student, teacher, name, support="full").item()
    assert divergence(student, teacher, name, top_k=VOCAB, residual="renorm").item() == pytest.approx(full, abs=ROUNDING)
    # A tail below 1e-7 is clamped to 1e-7, which moves the value by less than 1e-7 · |log-ratio ≤ 34|.
    assert divergence(student, teacher, name, top_k=VOCAB - 1).item() == pytest.approx(full, abs=4e-6)
    values = [divergence(student, teacher, name, top_k=k).item() for k in range(1, VOCAB)]
    assert all(a <= b + 4e-6 for a, b in itertools.pairwise(values)), "data-processing inequality: finer supports see more"


@given(pair=logits, clip=st.floats(0.001, 1.0))
@quick
def test_clips_only_lower(pair: np.ndarray, clip: float) -> None:
    s, t = (torch.from_numpy(z).log_softmax(-1) for z in pair)
    for f in (d.forward_kl, d.reverse_kl, d.jensen_shannon, d.mixed):
        assert f(s, t, pointwise_clip=clip).item() <= f(s, t).item() + ROUNDING  # type: ignore[operator]


def test_point_wise_clip_turns_the_pull_on_the_teachers_favourite_around() -> None:
    """The hazard of algorithms-core §3a, kept visible: descent on the clipped loss *lowers* the favourite's logit."""
    student = torch.tensor([1.0, 0.5, -0.2, -1.0, 0.0], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([0.2, 1.2, -0.5, -0.3, 0.1], dtype=torch.float64)
    (clipped,) = torch.autograd.grad(divergence(student, teacher, "forward_kl", support="full", pointwise_clip=0.05), student)
    (plain,) = torch.autograd.grad(divergence(student, teacher, "forward_kl", support="full"), student)
    assert plain[1] < 0 < clipped[1]


@given(w=st.floats(0.01, 20), a=st.floats(-3, 3), low=st.floats(0, 0.9), high=st.floats(0, 2), dual=st.floats(1.5, 5))
@quick
def test_clipping_is_pessimistic_and_the_dual_clip_bounds_it(w: float, a: float, low: float, high: float, dual: float) -> None:
    ratio, advantage = torch.tensor(w, dtype=torch.float64), torch.tensor(a, dtype=torch.float64)
    clipped = ppo(ratio, advantage, low, high).item()
    assert clipped >= -w * a - ROUNDING
    both = ppo(ratio, advantage, low, high, dual).item()
    assert both <= clipped + ROUNDING
    if a < 0:
        assert both <= -dual * a + ROUNDING


# ---- aggregation -----------------------------------------------------------------------------------------------

token_lists = st.lists(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=1, max_size=5), min_size=1, max_size=6)


def flat(rows: list[list[tuple[float, bool]]]) -> tuple[Tensor, Tensor, Tensor, int]:
    values = torch.tensor([v for row in rows for v, _ in row], dtype=torch.float64)
    weight = torch.tensor([float(m) for row in rows for _, m in row], dtype=torch.float64)
    index = torch.tensor([i for i, row in enumerate(rows) for _ in row])
    return values, weight, index, len(rows)


@pytest.mark.parametrize("mode", ["token_mean_global", "seq_mean_token_mean", "seq_mean_token_sum", "token_sum_norm"])
@given(rows=token_lists, cut=st.integers(0, 6), count_empty=st.booleans())
@quick
def test_cutting_a_batch_into_micro_batches_changes_nothing(
    mode: str, rows: list[list[tuple[float, bool]]], cut: int, count_empty: bool
) -> None:
    tokens = sum(m for row in rows for _, m in row)
    filled = sum(any(m for _, m in row) for row in rows)
    denominator = {"token_mean_global": tokens, "token_sum_norm": len(rows)}.get(mode, len(rows) if count_empty else filled)
    whole = aggregate(*flat(rows), mode, max_length=7, count_empty=count_empty)  # type: ignore[arg-type]
    parts = [p for p in (rows[:cut], rows[cut:]) if p]
    summed = sum(aggregate(*flat(p), mode, denominator=float(denominator), max_length=7, count_empty=count_empty) for p in parts)  # type: ignore[arg-type]
    assert float(summed) == pytest.approx(whole.item(), abs=ROUNDING)


def test_the_micro_batch_mean_does_depend_on_the_cut() -> None:
    rows = [[(1.0, True)] * 2, [(3.0, True)] * 4]
    halves = [aggregate(*flat([row]), "token_mean_micro").item() for row in rows]
    assert sum(halves) / 2 == 2.0 != aggregate(*flat(rows), "token_mean_micro").item()


@given(rows=token_lists, scale=st.floats(0.1, 4))
@quick
def test_weights_scale_the_value_but_not_the_denominator(rows: list[list[tuple[float, bool]]], scale: float) -> None:
    values, weight, index, count = flat(rows)
    once = aggregate(values, weight, index, count, "token_mean_global").item()
    assert aggregate(values, weight * scale, index, count, "token_mean_global").item() == pytest.approx(scale * once, abs=ROUNDING)


@given(rows=token_lists)
@quick
def test_gspo_equals_ppo_for_answers_of_one_token(rows: list[list[tuple[float, bool]]]) -> None:
    values = torch.tensor([row[0][0] for row in rows], dtype=torch.float64).requires_grad_()
    n = len(rows)
    zeros = torch.zeros(n, dtype=torch.float64)
    inputs = LossInputs(
        zeros.long(), torch.arange(n), n, values, values.detach() * 0.9, None, zeros[None], zeros + 1, values.detach() + 0.5, zeros.long()
    )
    (a,) = torch.autograd.grad(PolicyGradientLoss("gspo")(inputs)[0].sum(), values)
    (b,) = torch.autograd.grad(PolicyGradientLoss("ppo")(inputs)[0].sum(), values)
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


# ---- advantages ------------------------------------------------------------------------------------------------

rewards = st.lists(st.one_of(st.integers(0, 8).map(lambda k: k / 8), st.just(math.nan)), min_size=2, max_size=8)


def column(values: list[float]) -> tuple[np.ndarray, list[list[int]]]:
    return np.array(values)[:, None], [list(range(len(values)))]


@given(values=rewards, shift=st.integers(-3, 3))
@quick
def test_a_baseline_removes_any_constant(values: list[float], shift: int) -> None:
    array, groups = column(values)
    for options in ({"scale": "group"}, {"scale": "none"}, {"scale": "none", "baseline": "leave_one_out"}):
        np.testing.assert_allclose(advantages(array + shift, groups, **options), advantages(array, groups, **options), atol=1e-6)  # type: ignore[arg-type]


@given(values=rewards)
@quick
def test_group_advantages_sum_to_zero_and_masked_rows_are_zero(values: list[float]) -> None:
    array, groups = column(values)
    got = advantages(array, groups)[:, 0]
    assert got.sum() == pytest.approx(0.0, abs=1e-9)
    assert not got[np.isnan(array[:, 0])].any()


@given(values=rewards)
@quick
def test_rloo_is_a_rescaled_dr_grpo(values: list[float]) -> None:
    array, groups = column(values)
    count = int((~np.isnan(array)).sum())
    dr, rloo = advantages(array, groups, scale="none"), advantages(array, groups, scale="none", baseline="leave_one_out")
    np.testing.assert_allclose(rloo, dr * (count / max(count - 1, 1)), atol=1e-12)
    for i in np.flatnonzero(~np.isnan(array[:, 0])):
        others = np.delete(array[:, 0], i)
        if count > 1:
            assert rloo[i, 0] == pytest.approx(array[i, 0] - np.nanmean(others), abs=1e-12)


@given(values=rewards, data=st.data())
@quick
def test_order_within_the_group_does_not_matter(values: list[float], data: st.DataObject) -> None:
    array, groups = column(values)
    order = data.draw(st.permutations(range(len(values))))
    np.testing.assert_allclose(advantages(array, groups)[order], advantages(array[order], groups), atol=1e-9)


@given(values=rewards, scale=st.sampled_from(["group", "none", "batch"]))
@quick
def test_ungradable_rows_might_as_well_not_exist(values: list[float], scale: str) -> None:
    array, groups = column(values)
    kept = array[~np.isnan(array[:, 0])]
    if len(kept):
        alone = advantages(kept, [list(range(len(kept)))], scale=scale)  # type: ignore[arg-type]
        np.testing.assert_allclose(advantages(array, groups, scale=scale)[~np.isnan(array[:, 0])], alone, atol=1e-12)  # type: ignore[arg-type]
