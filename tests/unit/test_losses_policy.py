"""Policy-gradient, sampled-distillation and sequence losses: printed fixtures, closed forms, finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdgym.algos.losses import BCOLoss, DistillLoss, NLLLoss, PolicyGradientLoss
from sdgym.algos.losses.policy_gradient import reference_kl
from sdgym.algos.losses.sequence import bco_shift, implicit_reward
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.objective import LossInputs, TokenLoss, aggregate

PRINTED, EXACT = 1e-5, 1e-9
STUDENT, TEACHER = [1.0, 0.5, -0.2, -1.0, 0.0], [0.2, 1.2, -0.5, -0.3, 0.1]


def make_inputs(logprobs: Tensor, lengths: list[int] | None = None, **given: Any) -> LossInputs:
    """Float64 inputs with neutral defaults; ``lengths`` are those of the R items."""
    size = len(logprobs)
    lengths = lengths or [size]
    zeros = torch.zeros(size, dtype=torch.float64)
    columns: dict[str, Any] = {
        "old_logprobs": logprobs.detach(),
        "rollout_logprobs": None,
        "reference_logprobs": zeros[None],
        "weight": zeros + 1,
        "advantage": zeros,
        "label": torch.zeros(len(lengths), dtype=torch.int64),
    } | {k: v if v is None or isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64) for k, v in given.items()}
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return LossInputs(torch.zeros(size, dtype=torch.int64), index, len(lengths), logprobs, **columns)


def leaf(values: list[float] | np.ndarray) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def gradient(loss: TokenLoss, logprobs: Tensor, lengths: list[int] | None = None, **given: Any) -> np.ndarray:
    values, _ = loss(make_inputs(logprobs, lengths, **given))
    return torch.autograd.grad(values.sum(), logprobs)[0].numpy()


# ---- clipped surrogates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("w", "advantage", "dual", "value", "slope"),
    [
        (1.5, 1.0, None, -1.28, 0.0),
        (1.5, -1.0, None, 1.5, 1.5),
        (0.5, 1.0, None, -0.5, -0.5),
        (0.5, -1.0, None, 0.8, 0.0),
        (5.0, -1.0, 3.0, 3.0, 0.0),
        (5.0, -1.0, None, 5.0, 5.0),
        (5.0, 1.0, 3.0, -1.28, 0.0),
        (2.0, -1.0, 3.0, 2.0, 2.0),
    ],
)
def test_ppo_and_dual_clip(w: float, advantage: float, dual: float | None, value: float, slope: float) -> None:
    """Value and d/d log π (= −w·A where unclipped, 0 where clipped)."""
    logprobs = leaf([-0.7])
    loss = PolicyGradientLoss(clip_low=0.2, clip_high=0.28, dual_clip=dual)
    values, metrics = loss(make_inputs(logprobs, old_logprobs=[-0.7 - math.log(w)], advantage=[advantage]))
    assert values.item() == pytest.approx(value, abs=EXACT)
    assert torch.autograd.grad(values.sum(), logprobs)[0].item() == pytest.approx(slope, abs=EXACT)
    assert metrics["clip_frac"].item() == float(slope == 0.0)
    assert metrics["ratio"].item() == pytest.approx(w, abs=EXACT)


def test_cispo_keeps_the_gradient_where_ppo_drops_it() -> None:
    given = {"old_logprobs": [-0.7 - math.log(1.5)], "advantage": [1.0]}
    cispo = PolicyGradientLoss("cispo", 0.2, 0.28)
    values, metrics = cispo(make_inputs(leaf([-0.7]), **given))
    assert values.item() == pytest.approx(0.896, abs=EXACT) and metrics["clip_frac"].item() == 1.0
    assert gradient(cispo, leaf([-0.7]), **given).item() == pytest.approx(-1.28, abs=EXACT)
    assert gradient(PolicyGradientLoss("ppo", 0.2, 0.28), leaf([-0.7]), **given).item() == 0.0


def test_cispo_cap_is_absolute_and_one_sided() -> None:
    """TRL: min(w, epsilon_high); verl: the band around 1. The names are separate because the numbers differ."""
    for w, cap, band in [(1.5, 1.5, 1.28), (9.0, 5.0, 1.28), (0.5, 0.5, 0.8)]:
        given = {"old_logprobs": [-0.7 - math.log(w)], "advantage": [1.0]}
        assert gradient(PolicyGradientLoss("cispo_cap", ratio_cap=5.0), leaf([-0.7]), **given).item() == pytest.approx(-cap, abs=EXACT)
        assert gradient(PolicyGradientLoss("cispo", 0.2, 0.28), leaf([-0.7]), **given).item() == pytest.approx(-band, abs=EXACT)


def test_gspo_ratio_is_the_geometric_mean_over_unmasked_tokens() -> None:
    old = [-1.1, -0.8, -1.3, -1.0]
    logprobs = leaf([-1.0, -1.0, -1.0, 5.0])  # log-ratios .1, −.2, .3; the last token is masked
    values, metrics = PolicyGradientLoss("gspo", 0.2, 0.2)(
        make_inputs(logprobs, old_logprobs=old, advantage=[1.0] * 4, weight=[1.0, 1.0, 1.0, 0.0])
    )
    np.testing.assert_allclose(metrics["ratio"][:3].numpy(), 1.068939, atol=PRINTED)
    np.testing.assert_allclose(values[:3].detach().numpy(), -1.068939, atol=PRINTED)


@pytest.mark.parametrize("objective", ["ppo", "gspo", "cispo", "cispo_cap", "reinforce"])
def test_on_policy_every_objective_is_the_policy_gradient(objective: str) -> None:
    rng = np.random.default_rng(0)
    advantage = rng.normal(size=1 if objective == "gspo" else 6)
    got = gradient(PolicyGradientLoss(objective), leaf(rng.normal(-1, 0.3, len(advantage))), advantage=advantage)  # type: ignore[arg-type]
    np.testing.assert_allclose(got, -advantage, atol=EXACT)


@pytest.mark.parametrize("objective", ["ppo", "gspo"])
def test_gradient_against_finite_differences(objective: str) -> None:
    """GSPO: of the paper's per-sequence loss −min(s·A, clip(s)·A), which the token form must reproduce."""
    rng = np.random.default_rng(3)
    lengths, x = [3, 1, 4], rng.normal(-1, 0.5, 8)
    old, per_item = x - rng.normal(0, 0.3, 8), rng.normal(size=3)
    advantage = np.repeat(per_item, lengths)

    def oracle(z: np.ndarray) -> float:
        total, start = 0.0, 0
        for n, a in zip(lengths, per_item, strict=True):
            ratios = np.exp(z[start : start + n] - old[start : start + n])
            s = np.exp(np.mean(np.log(ratios)))
            rs = [s] * n if objective == "gspo" else ratios
            total += sum(-min(r * a, min(max(r, 0.8), 1.2) * a) for r in rs)
            start += n
        return total

    got = gradient(PolicyGradientLoss(objective), leaf(x), lengths, old_logprobs=old, advantage=advantage)  # type: ignore[arg-type]
    expected = np.array([(oracle(x + e) - oracle(x - e)) / 2e-6 for e in np.eye(8) * 1e-6])
    if objective == "gspo":  # per token the form has s·∇log π_t; only the sum over the sequence is the paper's
        starts = np.cumsum([0, *lengths[:-1]])
        got, expected = np.add.reduceat(got, starts), np.add.reduceat(expected, starts)
    np.testing.assert_allclose(got, expected, atol=2e-9)


def test_rollout_correction() -> None:
    """token: min(π_old/π_roll, cap) per token; sequence_mask: the product, 0 above the cap. Neither carries gradient."""
    old, rollout = (
        np.array([-1.0, -1.0, -1.0, -1.0]),
        np.array([-1.0 - math.log(4), -1.0 + math.log(2), -1.0 - math.log(3), -1.0 - math.log(1.5)]),
    )
    given = {"lengths": [2, 2], "old_logprobs": old, "rollout_logprobs": rollout, "advantage": [1.0] * 4}
    token = gradient(PolicyGradientLoss(rollout_correction="token", rollout_cap=2.0), leaf(old), **given)
    np.testing.assert_allclose(token, [-2.0, -0.5, -2.0, -1.5], atol=EXACT)
    sequence = gradient(PolicyGradientLoss(rollout_correction="sequence_mask", rollout_cap=3.0), leaf(old), **given)
    np.testing.assert_allclose(sequence, [-2.0, -2.0, 0.0, 0.0], atol=EXACT)  # products 2 and 4.5
    without = gradient(PolicyGradientLoss(rollout_correction="token"), leaf(old), **given | {"rollout_logprobs": None})
    np.testing.assert_allclose(without, -1.0, atol=EXACT)


# ---- reference KL --------------------------------------------------------------------------------------------


def test_reference_kl_values_and_gradients() -> None:
    """k1 → ∇, k2 → ℓ∇, k3 → (1 − e^{−ℓ})∇, k3 with the k2 gradient → ℓ∇, w·k3 → w·ℓ∇ (algorithms-core §1a)."""
    rng = np.random.default_rng(1)
    x, ref, old = rng.normal(-1, 0.5, 5), rng.normal(-1, 0.5, 5), rng.normal(-1, 0.5, 5)
    ell, w = x - ref, np.exp(x - old)
    k3 = np.exp(-ell) - 1 + ell
    cases = {
        ("k1", "own"): (ell, np.ones(5)),
        ("k2", "own"): (ell**2 / 2, ell),
        ("k3", "own"): (k3, 1 - np.exp(-ell)),
        ("k1", "k2"): (ell, ell),
        ("k3", "k2"): (k3, ell),
        ("k3", "ratio"): (w * k3, w * ell),
    }
    for (estimator, form), (value, slope) in cases.items():
        logprobs = leaf(x)
        ratio = torch.exp(logprobs - torch.tensor(old))
        got = reference_kl(logprobs - torch.tensor(ref), estimator, form, ratio, logprobs)  # type: ignore[arg-type]
        np.testing.assert_allclose(got.detach().numpy(), value, atol=EXACT)
        np.testing.assert_allclose(torch.autograd.grad(got.sum(), logprobs)[0].numpy(), slope, atol=EXACT)


def test_ratio_form_is_the_derivative_of_w_times_k3() -> None:
    """The gradient is written out; here it is checked against differences of the value itself."""
    x, ref, old = np.array([-0.4, -2.0]), np.array([-1.0, -1.2]), np.array([-0.7, -1.9])

    def value(z: np.ndarray) -> float:
        return float((np.exp(z - old) * (np.exp(ref - z) - 1 + z - ref)).sum())

    got = gradient(PolicyGradientLoss(kl_beta=1.0, kl_gradient="ratio"), leaf(x), old_logprobs=old, reference_logprobs=ref[None])
    expected = [(value(x + e) - value(x - e)) / 2e-6 for e in np.eye(2) * 1e-6]
    np.testing.assert_allclose(got, expected, atol=2e-9)


def test_reference_kl_term_is_added_with_its_coefficient_and_ignores_the_mismatch_correction() -> None:
    given = {"reference_logprobs": [[-1.5]], "advantage": [2.0], "rollout_logprobs": [-9.0], "old_logprobs": [-1.0]}
    values, metrics = PolicyGradientLoss(kl_beta=0.1, rollout_correction="token", rollout_cap=2.0)(make_inputs(leaf([-1.0]), **given))
    k3 = math.exp(-0.5) - 1 + 0.5
    assert values.item() == pytest.approx(-2.0 * 2.0 + 0.1 * k3, abs=EXACT)
    assert metrics["reference_kl"].item() == pytest.approx(k3, abs=EXACT)


def test_extreme_log_ratios_stay_finite() -> None:
    for loss in (
        PolicyGradientLoss(kl_beta=1.0),
        PolicyGradientLoss(kl_beta=1.0, kl_gradient="ratio"),
        DistillLoss(support="sampled", estimator="k3", importance="differentiable"),
    ):
        logprobs = torch.tensor([-200.0, -0.1], requires_grad=True)  # float32, as in training
        inputs = make_inputs(
            logprobs,
            old_logprobs=torch.tensor([-0.1, -300.0]),
            reference_logprobs=torch.tensor([[-0.1, -300.0]]),
            advantage=torch.ones(2),
            weight=torch.ones(2),
        )
        values, _ = loss(inputs)
        values.sum().backward()
        assert torch.isfinite(values).all() and logprobs.grad is not None and torch.isfinite(logprobs.grad).all()


def test_bias_correction_needs_k3() -> None:
    with pytest.raises(ConfigError, match="k3 only"):
        PolicyGradientLoss(kl_beta=0.1, kl_gradient="ratio", kl_estimator="k1")


# ---- sampled distillation ------------------------------------------------------------------------------------


def sampled_case(loss: DistillLoss) -> tuple[float, np.ndarray]:
    """Fixture A, y = 2, old log-prob −1.9: value, and gradient with respect to the student's logits."""
    logits = leaf(STUDENT)
    logprobs = logits.log_softmax(-1)[2:3]
    reference = torch.tensor(TEACHER, dtype=torch.float64).log_softmax(-1)[None, 2:3]
    values, _ = loss(make_inputs(logprobs, old_logprobs=[-1.9], reference_logprobs=reference))
    return values.item(), torch.autograd.grad(values.sum(), logits)[0].numpy()


IW_GRADIENT = [-0.126467, -0.076706, 0.266812, -0.017115, -0.046524]


@pytest.mark.parametrize(
    ("settings", "value", "slope"),
    [
        ({"estimator": "k3", "importance": "differentiable"}, 0.049455, IW_GRADIENT),
        ({"estimator": "surrogate", "importance": "capped"}, -0.634204, IW_GRADIENT),
        ({"estimator": "k2"}, None, [-0.151411, -0.091835, 0.319438, -0.020491, -0.055701]),
        ({"estimator": "k3"}, None, [-0.126852, -0.07694, 0.267625, -0.017168, -0.046666]),
    ],
)
def test_sampled_fixture(settings: dict[str, Any], value: float | None, slope: list[float]) -> None:
    got, found = sampled_case(DistillLoss("reverse_kl", support="sampled", **settings))
    if value is not None:
        assert got == pytest.approx(value, abs=PRINTED)
    np.testing.assert_allclose(found, slope, atol=PRINTED)


def test_skill_sd_gradient_is_rho_ell() -> None:
    """∇(ρ·k3) = ρ·ℓ·∇log π for any old log-probs, equal to SDPO's sampled surrogate while the cap is inactive."""
    rng = np.random.default_rng(5)
    x, ref = rng.normal(-1, 0.4, 20), rng.normal(-1, 0.4, 20)
    old = x - rng.uniform(-0.6, 0.6, 20)
    given = {"old_logprobs": old, "reference_logprobs": ref[None]}
    expected = np.exp(x - old) * (x - ref)
    np.testing.assert_allclose(
        gradient(DistillLoss(support="sampled", estimator="k3", importance="differentiable"), leaf(x), **given), expected, atol=EXACT
    )
    np.testing.assert_allclose(gradient(DistillLoss(support="sampled", importance="capped"), leaf(x), **given), expected, atol=EXACT)


def test_importance_cap_is_one_sided_and_without_gradient() -> None:
    logprobs = leaf([-1.0, -1.0])
    inputs = make_inputs(logprobs, old_logprobs=[-1.0 - math.log(3), -1.0 - math.log(0.5)])
    inputs.features = {"divergence": torch.ones(2, dtype=torch.float64, requires_grad=True)}
    values, _ = DistillLoss("reverse_kl", importance="capped", importance_cap=2.0)(inputs)
    np.testing.assert_allclose(values.detach().numpy(), [2.0, 0.5], atol=EXACT)
    assert torch.autograd.grad(values.sum(), logprobs, allow_unused=True)[0] is None


def test_expected_sampled_gradient_is_the_reverse_kl_gradient() -> None:
    """E_{y~S} of the surrogate's gradient, summed exactly over the vocabulary, equals that of the full reverse KL."""
    logits, teacher = leaf(STUDENT), torch.tensor(TEACHER, dtype=torch.float64)
    probability = logits.detach().softmax(-1)
    surrogate = torch.stack(
        [
            DistillLoss("reverse_kl", support="sampled")(
                make_inputs(logits.log_softmax(-1)[v : v + 1], reference_logprobs=teacher.log_softmax(-1)[None, v : v + 1])
            )[0][0]
            for v in range(5)
        ]
    )
    (expected,) = torch.autograd.grad((probability * surrogate).sum(), logits)
    full = DistillLoss("reverse_kl", support="full").token_features(logits[None], teacher[None, None], torch.zeros(1, dtype=torch.int64))
    (reverse,) = torch.autograd.grad(full["divergence"].sum(), logits)
    torch.testing.assert_close(expected, reverse, atol=1e-12, rtol=0)


# ---- sequence losses -----------------------------------------------------------------------------------------


def test_nll() -> None:
    np.testing.assert_array_equal(gradient(NLLLoss(), leaf([-0.5, -2.0])), [-1.0, -1.0])
    assert NLLLoss()(make_inputs(leaf([-0.5, -2.0])))[0].tolist() == [0.5, 2.0]


def test_bco_fixture() -> None:
    """β = .1, sequence log-ratios [3, −1, .5], labels [+, −, +]: r̃, δ, loss and ∂L/∂log q as printed (algorithms-core §7g)."""
    lengths, prior = [2, 1, 2], torch.tensor([-1.0, -1.0, -2.0, -1.5, -0.5], dtype=torch.float64)
    logq = (prior + torch.tensor([1.0, 2.0, -1.0, 0.0, 0.5], dtype=torch.float64)).requires_grad_()
    inputs = make_inputs(logq, lengths, reference_logprobs=prior[None], label=torch.tensor([1, -1, 1]))
    rewards = implicit_reward(logq.detach(), prior, inputs, 0.1)
    np.testing.assert_allclose(rewards.numpy(), [0.3, -0.1, 0.05], atol=EXACT)
    shift = bco_shift(rewards[[0, 2]], rewards[[1]])
    assert shift.item() == pytest.approx(0.0375, abs=EXACT)
    values, metrics = BCOLoss(0.1, float(shift))(inputs)
    loss = values[[0, 2]].mean() + values[1]
    assert loss.item() == pytest.approx(1.255460, abs=PRINTED)
    (slope,) = torch.autograd.grad(loss, logq)
    np.testing.assert_allclose(slope.numpy(), [-0.021737, -0.021737, 0.046568, -0.024844, -0.024844], atol=PRINTED)
    assert metrics["accuracy"].item() == 1.0


def test_bco_without_information_starts_at_two_ln_two_and_still_pulls() -> None:
    prior = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    logq = prior.clone().requires_grad_()
    values, _ = BCOLoss(0.1, 0.0)(make_inputs(logq, [1, 1], reference_logprobs=prior[None], label=torch.tensor([1, -1])))
    assert values.sum().item() == pytest.approx(2 * math.log(2), abs=EXACT)
    np.testing.assert_allclose(torch.autograd.grad(values.sum(), logq)[0].numpy(), [-0.05, 0.05], atol=EXACT)


def test_bco_prior_and_shift_carry_no_gradient() -> None:
    """φ = θ: the E-step must not move the student's context through its prior."""
    logq, prior = leaf([-1.0, -2.0]), leaf([-1.5, -1.0])
    inputs = make_inputs(logq, [1, 1], reference_logprobs=prior[None], label=torch.tensor([1, -1]))
    values, _ = BCOLoss(0.1, 0.0)(inputs)
    assert torch.autograd.grad(values.sum(), prior, allow_unused=True)[0] is None
    rewards = implicit_reward(logq, prior, inputs, 0.1)
    assert rewards.requires_grad and not bco_shift(rewards[:1], rewards[1:]).requires_grad


def test_bco_shift_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="accepted and one rejected"):
        bco_shift(torch.ones(2), torch.ones(0))


# ---- aggregation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token_mean_global", 14 / 6),
        ("token_mean_micro", 14 / 6),
        ("seq_mean_token_mean", 2.0),
        ("seq_mean_token_sum", 7.0),
        ("token_sum_norm", 1.75),
    ],
)
def test_aggregation_fixture(mode: str, expected: float) -> None:
    """Lengths 2 and 4, losses 1 and 3 per token, L_max 4."""
    values = torch.tensor([1.0, 1.0, 3.0, 3.0, 3.0, 3.0], dtype=torch.float64)
    index = torch.tensor([0, 0, 1, 1, 1, 1])
    assert aggregate(values, torch.ones(6, dtype=torch.float64), index, 2, mode, max_length=4).item() == pytest.approx(expected, abs=EXACT)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count_empty", "expected"), [(False, 1.0), (True, 0.5)])
def test_masked_sequences_count_only_where_asked(count_empty: bool, expected: float) -> None:
    """Length 2 with loss 1, length 4 masked (algorithms-core §0.1): verl and TRL differ here."""
    weight = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    index = torch.tensor([0, 0, 1, 1, 1, 1])
    assert aggregate(torch.ones(6), weight, index, 2, "seq_mean_token_mean", count_empty=count_empty).item() == expected
    assert aggregate(torch.ones(6), weight, index, 2, "token_mean_global").item() == 1.0


@pytest.mark.parametrize("mode", ["token_mean_global", "token_mean_micro", "seq_mean_token_mean", "seq_mean_token_sum", "token_sum_norm"])
def test_empty_mask_gives_a_zero_attached_to_the_graph(mode: str) -> None:
    values = torch.ones(3, requires_grad=True)
    total = aggregate(values, torch.zeros(3), torch.tensor([0, 0, 1]), 2, mode, max_length=5)  # type: ignore[arg-type]
    assert total.item() == 0.0
    assert torch.equal(torch.autograd.grad(total, values)[0], torch.zeros(3))


def test_a_masked_infinity_poisons_neither_value_nor_gradient() -> None:
    x = torch.tensor([0.0, 2.0], requires_grad=True)
    total = aggregate(torch.log(x), torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), 1, "token_mean_global")
    assert total.item() == pytest.approx(math.log(2), abs=1e-7)
    assert torch.autograd.grad(total, x)[0][1].item() == 0.5


def test_token_sum_norm_needs_its_length() -> None:
    with pytest.raises(ValueError, match="max_length"):
        aggregate(torch.ones(1), torch.ones(1), torch.zeros(1, dtype=torch.int64), 1, "token_sum_norm")
    with pytest.raises(UnknownNameError, match="did you mean 'seq_mean_token_mean'"):
        aggregate(torch.ones(1), torch.ones(1), torch.zeros(1, dtype=torch.int64), 1, "sequence_mean_token_mean")  # type: ignore[arg-type]
