"""The axes of the composition as pure functions: printed fixtures, limits and properties (algorithms-wider §3 and §5)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdgym.algos.advantages import advantages
from sdgym.algos.composition import token_weights as u
from sdgym.algos.composition.credit import centred, clipped, margin_shifts, modulate
from sdgym.algos.composition.rewards import cosine_length_reward
from sdgym.algos.composition.sample_weights import balanced, pass_kernel, pass_rates, told_by_sibling
from sdgym.algos.composition.settings import StrengthSettings
from sdgym.algos.composition.views import arithmetic, evidence, gate, gated, geometric
from sdgym.algos.losses import DistillLoss, HingeLoss
from sdgym.algos.losses import divergence as d
from sdgym.chat import ChatFormat
from sdgym.objective import LossInputs
from sdgym.testing.objective import group_rows, scripted_row, scripted_task
from sdgym.testing_policy import small_tokenizer

EXACT = 1e-12  # float64 arithmetic in another order
RNG = np.random.default_rng(7)
CHAT = ChatFormat(small_tokenizer())


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.logaddexp.reduce(values, axis=-1, keepdims=True)


def random_views(m: int, tokens: int = 400, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probs ``[M, S]`` and ``[S]`` of a sampled token under M teachers and the student."""
    return log_softmax(scale * RNG.normal(size=(m, tokens, 5)))[..., 0], log_softmax(scale * RNG.normal(size=(tokens, 5)))[..., 0]


# ---- modulation (lattice 1–3) ---------------------------------------------------------------------------------------


def test_modulation_by_hand() -> None:
    """λ = ¼, ε = .2. A = 2: e^.1 is inside the clip, e^1 at its end. A = −2: e^{−Δ}."""
    got = modulate(np.array([2.0, 2.0, -2.0, -2.0, 0.0]), np.array([0.1, 1.0, 0.1, -1.0, 5.0]), 0.25, 0.2)
    expected = [2 * (0.75 + 0.25 * math.exp(0.1)), 2 * 1.05, -2 * (0.75 + 0.25 * math.exp(-0.1)), -2 * 1.05, 0.0]
    np.testing.assert_allclose(got, expected, atol=EXACT)
    assert clipped(np.array([2.0, 2.0, -2.0, 0.0]), np.array([0.1, 1.0, 1.0, 9.0]), 0.2).tolist() == [False, True, True, False]


floats = st.floats(-30, 30)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(floats, floats), min_size=1, max_size=8), st.floats(0, 1), st.floats(0.01, 0.99))
def test_a_modulated_advantage_keeps_its_sign_and_stays_within_its_bounds(
    pairs: list[tuple[float, float]], lam: float, clip: float
) -> None:
    a, delta = (np.array(column) for column in zip(*pairs, strict=True))
    got = modulate(a, delta, lam, clip)
    assert np.all(np.sign(got) == np.sign(a)) or np.all(got[np.sign(got) != np.sign(a)] == 0)  # subnormal products
    assert np.all(np.abs(got) <= (1 + lam * clip) * np.abs(a) * (1 + 1e-12)) and np.all(
        np.abs(got) >= (1 - lam * clip) * np.abs(a) * (1 - 1e-12)
    )


@pytest.mark.parametrize("clip", [0.01, 0.2, 5.0])
def test_without_strength_or_evidence_the_advantage_is_untouched(clip: float) -> None:
    a, delta = RNG.normal(size=50), RNG.normal(size=50)
    np.testing.assert_array_equal(modulate(a, delta, 0.0, clip), a)
    np.testing.assert_allclose(modulate(a, np.zeros(50), 0.7, clip), a, rtol=1e-15)


def test_contrast_with_the_student_as_its_negative_is_the_single_teacher_and_with_itself_nothing() -> None:
    (logq, logp) = random_views(1)
    np.testing.assert_array_equal(evidence(np.stack([logq[0], logp]), logp, "contrast"), evidence(logq, logp, "single"))
    assert not evidence(np.stack([logq[0], logq[0]]), logp, "contrast").any()


# ---- several views (lattice 4–6, 18) --------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 3])
def test_gate_of_one_view_or_of_identical_ones_is_the_single_teacher(copies: int) -> None:
    logq, logp = random_views(1)
    np.testing.assert_allclose(evidence(np.repeat(logq, copies, 0), logp, "gated"), evidence(logq, logp, "single"), atol=1e-12)


def test_gate_by_hand() -> None:
    """Views .4 and .1, student .3: A = (.2877, −1.0986), A_G = −.40547, J = log .25 − log .2 = .22314; C = .58496, R = .64502."""
    logq, logp = np.log([[0.4], [0.1]]), np.log([0.3])
    a = np.log([0.4 / 0.3, 0.1 / 0.3])
    c, j = abs(a.mean()) / np.abs(a).mean(), math.log(0.25 / 0.2)
    r = abs(a.mean()) / (abs(a.mean()) + j)
    assert (c, r) == (pytest.approx(0.58496, abs=5e-6), pytest.approx(0.64502, abs=5e-6))
    assert gate(logq, logp)[0] == pytest.approx(c * r, abs=1e-7)  # the ratios' 1e-8
    assert gated(logq, logp)[0] == pytest.approx(math.log(0.2) + c * r * j, abs=1e-7)


@pytest.mark.parametrize("m", [2, 3, 5])
def test_gated_consensus_lies_between_the_means_and_never_changes_its_sign(m: int) -> None:
    logq, logp = random_views(m, 4000)
    low, high, target = geometric(logq), arithmetic(logq), gated(logq, logp)
    assert np.all(low <= target + EXACT) and np.all(target <= high + EXACT)
    consensus = low - logp
    assert np.all(gate(logq, logp) * (high - low) <= np.abs(consensus) + EXACT)
    assert np.all((np.sign(target - logp) == np.sign(consensus)) | (np.abs(target - logp) < 1e-7))
    flipped = np.mean(np.sign(high - logp) != np.sign(consensus))
    assert flipped > 0.1, "the arithmetic mean alone does flip signs, or the guarantee would be empty"


def kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((np.exp(a) * (a - b)).sum(-1))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 0.9), (1.0, 0.0)])
def test_sum_of_reverse_kls_is_the_kl_to_the_product_of_experts_up_to_its_normaliser(weights: tuple[float, float]) -> None:
    p, q = log_softmax(RNG.normal(size=(20, 6))), log_softmax(2 * RNG.normal(size=(2, 20, 6)))
    w = np.array(weights)
    pooled = np.tensordot(w / w.sum(), q, 1)
    log_z = np.logaddexp.reduce(pooled, axis=-1)
    left = sum(weight * kl(p, view) for weight, view in zip(w, q, strict=True))
    np.testing.assert_allclose(left, w.sum() * kl(p, log_softmax(pooled)) - w.sum() * log_z, atol=1e-12)
    assert np.all(log_z <= EXACT)
    if 0 in weights:
        np.testing.assert_allclose(left, kl(p, q[0]), atol=EXACT)
    else:
        assert np.all(log_z < -1e-4), "views that differ have log Z < 0"


def test_mixtures_of_logits() -> None:
    logits = torch.from_numpy(RNG.normal(size=(3, 7, 6)))
    q = logits.log_softmax(-1)
    torch.testing.assert_close(d.mix(logits, "single"), logits[0])
    torch.testing.assert_close(d.mix(logits, "arithmetic").exp(), q.exp().mean(0))
    torch.testing.assert_close(d.mix(logits, "geometric").log_softmax(-1), q.mean(0).log_softmax(-1))


def vocabulary_gradient(loss: DistillLoss, student: torch.Tensor, teachers: torch.Tensor) -> torch.Tensor:
    own = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss.token_features(own, teachers, torch.zeros(len(own), dtype=torch.int64))["divergence"].sum(), own)
    return found


def test_geometric_target_is_the_mean_of_the_reverse_kls_and_its_sampled_form_has_the_same_expectation() -> None:
    """Lattice 6 and 18: ∇KL(p‖geometric mean) = (1/M) Σ ∇KL(p‖q_m) = E_{y~p}[sg(log p − mean log q_m)·∇log p]."""
    student, teachers = torch.from_numpy(RNG.normal(size=(9, 6))), torch.from_numpy(2 * RNG.normal(size=(2, 9, 6)))
    single, product = DistillLoss(support="full"), DistillLoss(support="full", mixture="geometric")
    mean = sum(vocabulary_gradient(single, student, t[None]) for t in teachers) / 2
    torch.testing.assert_close(vocabulary_gradient(product, student, teachers), mean)
    own = student.clone().requires_grad_()
    logp, logq = own.log_softmax(-1), teachers.log_softmax(-1)
    coefficient = (logp - logq.mean(0)).detach()
    (sampled,) = torch.autograd.grad((logp.detach().exp() * coefficient * logp).sum(), own)
    torch.testing.assert_close(sampled, mean)


@pytest.mark.parametrize("mixture", ["geometric", "arithmetic"])
def test_sampled_form_of_a_mixture(mixture: str) -> None:
    logq, logp = (torch.from_numpy(x) for x in random_views(3, 12))
    own = logp.clone().requires_grad_()
    inputs = flat_inputs(own, references=logq)
    values, metrics = DistillLoss(support="sampled", mixture=mixture)(inputs)  # type: ignore[arg-type]
    log_mean = logq.mean(0) if mixture == "geometric" else logq.exp().mean(0).log()
    torch.testing.assert_close(values, (logp - log_mean) * own)
    torch.testing.assert_close(metrics["lift"], log_mean - logp)


# ---- truncated supports (lattice 10, 15, 19; algorithms-core §10) ----------------------------------------------------


@pytest.mark.parametrize("equal", [True, False])
def test_naive_top_k_is_the_stopped_one_plus_the_gradient_of_the_captured_mass(equal: bool) -> None:
    student = torch.from_numpy(2 * RNG.normal(size=(8, 9)))
    teacher = student.clone() if equal else torch.from_numpy(2 * RNG.normal(size=(8, 9)))
    ids = student.topk(3, -1).indices

    def gradient(fn: Any) -> torch.Tensor:
        own = student.clone().requires_grad_()
        (found,) = torch.autograd.grad(fn(*d.gather_support(own, teacher, ids)).sum(), own)
        return found

    naive, stopped = gradient(d.reverse_kl), gradient(d.reverse_kl_fixed_coefficient)
    mass = gradient(lambda s, t: s.exp().sum(-1))
    torch.testing.assert_close(naive - stopped, mass)
    preset = vocabulary_gradient(DistillLoss(support="student_topk", top_k=3, residual="none"), student, teacher[None])
    torch.testing.assert_close(preset, stopped)
    tail = vocabulary_gradient(DistillLoss(support="student_topk", top_k=3), student, teacher[None])
    if equal:
        assert float(stopped.abs().max()) == 0 and float(tail.abs().max()) < 1e-12 and float(naive.abs().max()) > 1e-2
    whole = DistillLoss(support="student_topk", top_k=9, residual="none")
    torch.testing.assert_close(
        vocabulary_gradient(whole, student, teacher[None]), vocabulary_gradient(DistillLoss(support="full"), student, teacher[None])
    )


def test_a_vocabulary_clip_caps_positive_entries_only_so_the_loss_can_be_negative() -> None:
    q, p = torch.tensor([0.9, 0.1], dtype=torch.float64).log(), torch.tensor([0.1, 0.9], dtype=torch.float64).log()
    assert float(d.forward_kl(p, q, 0.05)) == pytest.approx(0.05 + 0.1 * math.log(0.1 / 0.9))
    assert float(d.forward_kl(p, q, 0.05)) < 0 < float(d.forward_kl(p, q))


@pytest.mark.parametrize(("alpha", "limit"), [(0.9, 0.09), (0.5, 0.25)])
def test_jensen_shannon_is_alpha_times_one_minus_alpha_of_the_kl_nearby(alpha: float, limit: float) -> None:
    student = torch.from_numpy(RNG.normal(size=6)).log_softmax(-1)
    teacher = (student + 1e-3 * torch.from_numpy(RNG.normal(size=6))).log_softmax(-1)
    ratio = float(d.jensen_shannon(student, teacher, alpha) / d.reverse_kl(student, teacher))
    assert ratio == pytest.approx(limit, rel=2e-3)  # second order in the distance of 1e-3


# ---- token weights ----------------------------------------------------------------------------------------------------


def test_position_weights_printed_limits() -> None:
    """Lattice 8: mean .7714 as T → ∞ (closed form), first .286, last .999; w_min = 1 is no weight."""
    long = u.by_position(np.arange(200_000), 200_000, 0.25, 0.30, 0.10)
    closed = 0.25 + 0.75 * 0.1 * (np.logaddexp(0, 7.0) - np.logaddexp(0, -3.0))
    assert long.mean() == pytest.approx(closed, abs=1e-8) and closed == pytest.approx(0.7714, abs=5e-5)
    assert (long[0], long[-1]) == (pytest.approx(0.286, abs=5e-4), pytest.approx(0.999, abs=5e-4))
    assert u.by_position(np.array([0, 1]), 2, 0.25, 0.3, 0.1)[0] == pytest.approx(0.25 + 0.75 / (1 + math.exp(0.5)))
    assert np.all(u.by_position(np.arange(5), 5, 1.0, 0.3, 0.1) == 1.0)


def test_entropy_weights() -> None:
    h = [np.array([0.0, 1.0, 2.0]), np.array([0.5])]
    w = u.normalised([u.by_teacher_entropy(x, 1.5) for x in h], [np.array([True, True, False]), np.array([True])], "batch")
    assert np.mean([w[0][0], w[0][1], w[1][0]]) == pytest.approx(1.0), "mean one over counted tokens alone"
    assert w[0][1] / w[1][0] == pytest.approx(math.exp(-1.5 * 0.5)), "the ratio does not depend on the normaliser"
    assert all(np.all(u.by_teacher_entropy(x, 0.0) == 1.0) for x in h)
    np.testing.assert_allclose(u.by_entropy_gap(np.array([2.0, 1.0]), np.array([1.0, 1.0])), [1 / (1 + math.exp(-1)), 0.5])


def test_agreement_weights() -> None:
    """Variances 0 … : γ = 0 is no weight; the published γ = .001 keeps all weights above .990; γ = 1 does not."""
    logq = [RNG.normal(size=(3, 40)), np.tile(RNG.normal(size=5), (3, 1))]
    assert all(np.all(w == 1) for w in u.by_agreement(logq, 0.0, 0.01))
    inert, strong = (np.concatenate(u.by_agreement(logq, gamma, 0.01)) for gamma in (0.001, 1.0))
    assert inert.min() >= 1 / 1.01 - EXACT and strong.min() < 0.6
    assert np.all(strong[40:] == 1.0), "contexts that agree"
    spread = np.concatenate([x.var(0) for x in logq])
    at = int(np.abs(spread[:40] / np.quantile(spread, 0.95)).argmax())
    assert strong[at] == pytest.approx(1 / (1 + min(spread[at] / np.quantile(spread, 0.95), 10)))
    assert u.by_agreement([np.zeros((3, 2))], 1.0, 0.01)[0].tolist() == [1.0, 1.0] and u.by_agreement([], 1.0, 0.01) == []
    outlier = np.zeros((2, 100))
    outlier[0, 0] = 1e3  # q95 is 0 while one variance is not: nothing to scale by
    assert np.all(u.by_agreement([outlier], 1.0, 0.01)[0] == 1.0)


def test_a_weight_per_sequence_cancels_if_it_comes_before_the_normaliser() -> None:
    """The trap of UniSD's sequence weights: w·ℓ / Σw is blind to a constant; applied afterwards it is not."""
    counted = [np.ones(4, bool), np.ones(2, bool)]
    early = u.normalised([np.full(4, 0.3), np.full(2, 5.0)], counted, "sequence")
    assert all(np.allclose(w, 1.0) for w in early)


def test_window() -> None:
    assert u.in_window(np.arange(5), 2, 4).tolist() == [0, 0, 1, 1, 0] and u.in_window(np.arange(2), 0, None).tolist() == [1, 1]


# ---- sample weights and group shifts ----------------------------------------------------------------------------------


def test_pass_kernels() -> None:
    p = np.array([0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(pass_kernel(p, 1, 1), [0, 0.1875, 0.25, 0])
    np.testing.assert_allclose(pass_kernel(p, 0.5, 0.5), np.sqrt(p * (1 - p)))
    assert np.all(pass_kernel(p, 0, 0) == 1), "unweighted"
    fine = np.linspace(0, 1, 3001)
    assert fine[pass_kernel(fine, 2, 1).argmax()] == pytest.approx(2 / 3, abs=1e-3), "mode α/(α+β)"


@pytest.mark.parametrize("right", [1, 3, 4, 7])
def test_the_kernels_are_what_the_group_baselines_weigh_implicitly(right: int) -> None:
    """Lattice 9: mean |A| = 2p(1−p) without division by the deviation, 2√(p(1−p)) with the population's."""
    values, p = np.array([[1.0]] * right + [[0.0]] * (8 - right)), right / 8
    plain = advantages(values, [list(range(8))], scale="none")
    scaled = advantages(values, [list(range(8))], scale="group", ddof=0, epsilon=1e-12)
    assert np.abs(plain).mean() == pytest.approx(2 * pass_kernel(np.array(p), 1, 1))
    assert np.abs(scaled).mean() == pytest.approx(2 * pass_kernel(np.array(p), 0.5, 0.5))


@pytest.mark.parametrize(("direction", "good", "bad"), [("both", 0.15, 0.15), ("up", 0.3, 0.0), ("down", 0.0, 0.3)])
def test_margin_shift(direction: str, good: float, bad: float) -> None:
    """Gap .1 and δ = .4: .3 is missing; afterwards the gap is exactly δ. A group above the margin, or of one kind, is left alone."""
    means, right = [0.3, 0.1, 0.1, 5.0, 0.0, 1.0, 2.0], [True, True, False, True, False, True, True]
    groups = [[0, 1, 2], [3, 4], [5, 6]]
    shift = margin_shifts(means, right, groups, 0.4, direction)  # type: ignore[arg-type]
    np.testing.assert_allclose(shift, [good, good, -bad, 0, 0, 0, 0], atol=EXACT)
    moved = np.array(means) + shift
    assert moved[:2].mean() - moved[2] == pytest.approx(0.4)


def test_balance() -> None:
    right, groups = [True, True, True, False, False, True], [[0, 1, 2, 3], [4], [5]]
    assert balanced(right, groups, 1.0).tolist() == [True, False, False, True, True, True]
    assert balanced(right, groups, 2.0).tolist() == [True, True, False, True, True, True]


def test_centring_loses_the_response_level() -> None:
    delta, counted = np.array([1.0, 2.0, 9.0]), np.array([True, True, False])
    assert centred(delta, counted)[counted].sum() == 0 and centred(delta, counted)[2] == 7.5
    np.testing.assert_allclose(centred(delta + 4, counted), centred(delta, counted))
    assert centred(delta, np.zeros(3, bool)).tolist() == delta.tolist()


def test_who_told_a_row() -> None:
    assert told_by_sibling(["row 3"], 1) and told_by_sibling(["row 3, row 1"], 1) and told_by_sibling(["mismatched: row 2"], 1)
    assert not told_by_sibling(["row 1"], 1) and not told_by_sibling(["reference"], 1)


def test_cosine_rewards() -> None:
    """Correct 1.1 → .7, wrong 0 → −.3, cut off −.5; half way is the middle."""
    assert [cosine_length_reward(True, s) for s in (0.0, 0.5)] == [pytest.approx(1.1), pytest.approx(0.9)]
    assert [cosine_length_reward(False, s) for s in (0.0, 0.5)] == [pytest.approx(0.0), pytest.approx(-0.15)]
    assert cosine_length_reward(True, 1 - 1e-9) == pytest.approx(0.7) and cosine_length_reward(True, 1.0) == -0.5


# ---- schedule and hinge -----------------------------------------------------------------------------------------------


def test_strength_of_rlsd_and_cepo() -> None:
    """Step 1 sees λ₀, step 2 λ₀(1 − 1/N), step N + 1 nothing."""
    rule = StrengthSettings(start=0.5, end=0.0, steps=50)
    assert [rule.at(k) for k in (0, 1, 25, 50, 99)] == [0.5, pytest.approx(0.49), 0.25, 0.0, 0.0]
    held = StrengthSettings(start=0.5, end=0.0, hold=10, steps=30)
    assert sum(held.at(k) for k in range(100)) == pytest.approx(0.5 * 10 + 0.5 * 31 / 2)
    assert StrengthSettings(start=4.0).at(999) == 4.0


def flat_inputs(logprobs: torch.Tensor, **changes: Any) -> LossInputs:
    zeros = torch.zeros(len(logprobs), dtype=torch.float64)
    inputs = LossInputs(zeros.long(), zeros.long(), 1, logprobs, logprobs.detach(), None, zeros[None], zeros + 1, zeros, torch.zeros(1), {})
    return dataclasses.replace(inputs, reference_logprobs=changes["references"])


def test_hinge_by_hand() -> None:
    logp = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    references = torch.tensor([[-1.2, -2.0, -1.5], [-3.0, -1.2, -1.5]], dtype=torch.float64)
    values, metrics = HingeLoss(0.1)(flat_inputs(logp, references=references))
    torch.testing.assert_close(values.detach(), torch.tensor([0.0, 0.9, 0.1], dtype=torch.float64))
    assert metrics["violated"].tolist() == [0, 1, 1]
    (slope,) = torch.autograd.grad(values[1], logp)
    assert slope[1] == 0, "both teachers are on the same side: the hinge pulls by neither"


# ---- facts that the table rests on ------------------------------------------------------------------------------------


def test_the_stated_rate_is_the_confidence_with_the_least_brier_score() -> None:
    """Lattice 16: over the rows of a group any other statement scores worse; the floor is p(1−p)."""
    ends, grid = [True, False, False, True, True], np.linspace(0, 1, 1001)
    rows = [scripted_row(CHAT, scripted_task("a", "?"), i, ["7"], [float(end)]) for i, end in enumerate(ends)]
    (p,) = set(pass_rates(group_rows(rows)))
    brier = np.mean([(grid - end) ** 2 for end in ends], axis=0)
    assert grid[brier.argmin()] == pytest.approx(p) and brier.min() == pytest.approx(p * (1 - p))


def test_gradient_of_the_forward_kl_is_that_of_cross_entropy_on_teacher_samples() -> None:
    """Lattice 17: ∇KL(sg T‖S) = −E_{y~T} ∇log S(y)."""
    student, teacher = torch.from_numpy(RNG.normal(size=(4, 6))), torch.from_numpy(RNG.normal(size=(4, 6)))
    own = student.clone().requires_grad_()
    (cross,) = torch.autograd.grad(-(teacher.softmax(-1) * own.log_softmax(-1)).sum(), own)
    torch.testing.assert_close(vocabulary_gradient(DistillLoss("forward_kl", support="full"), student, teacher[None]), cross)
