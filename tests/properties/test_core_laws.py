"""Statements of algorithms-core that hold for every input: logit gradients, expectations of estimators, agreement, mixtures."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdgym.algos.losses import DistillLoss, ImportanceWeightedKL, PolicyGradientLoss
from sdgym.algos.losses import divergence as d
from sdgym.algos.losses.distill import sampled_surrogate
from sdgym.algos.losses.policy_gradient import ppo, reference_kl
from sdgym.objective import LossInputs, aggregate
from sdgym.teacher import Teacher

EXACT, PRINTED = 1e-12, 1e-6  # float64 with a handful of operations; fixtures are printed to six digits
STUDENT = torch.tensor([1.0, 0.5, -0.2, -1.0, 0.0], dtype=torch.float64)
TEACHERS = {"A": [0.2, 1.2, -0.5, -0.3, 0.1], "B": [-0.5, 1.2, 0.4, -0.3, 0.1]}


def pairs(count: int = 5, size: int = 7) -> list[tuple[Tensor, Tensor]]:
    """Random (student, teacher) logits."""
    rng = np.random.default_rng(11)
    return [tuple(torch.from_numpy(rng.normal(0, 1.5, size)) for _ in range(2)) for _ in range(count)]  # type: ignore[misc]


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value, logits, retain_graph=True)[0]


def assert_equal(a: Tensor, b: Tensor, tolerance: float = EXACT) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


def inputs_of(logprobs: Tensor, reference: Tensor, old: Tensor | None = None, **given: Any) -> LossInputs:
    zeros = torch.zeros(len(logprobs), dtype=torch.float64)
    whole = LossInputs(
        token_ids=zeros.long(),
        item_index=zeros.long(),
        num_items=1,
        logprobs=logprobs,
        old_logprobs=logprobs.detach() if old is None else old,
        rollout_logprobs=None,
        reference_logprobs=reference.detach()[None],
        weight=zeros + 1,
        advantage=zeros,
        label=torch.zeros(1, dtype=torch.int64),
    )
    return dataclasses.replace(whole, **given)


# ---- logit gradients (§0) and the printed distributions (§11) ------------------------------------------------------


def test_the_printed_distributions() -> None:
    printed = {
        "student": [0.414776, 0.251574, 0.124928, 0.056134, 0.152588],
        "A": [0.174635, 0.474707, 0.086721, 0.105921, 0.158016],
        "B": [0.083493, 0.457036, 0.205359, 0.101978, 0.152134],
    }
    for name, logits in {"student": STUDENT.tolist(), **TEACHERS}.items():
        assert_equal(torch.tensor(logits, dtype=torch.float64).softmax(-1), torch.tensor(printed[name], dtype=torch.float64), PRINTED)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8])
def test_logit_gradients_are_the_closed_forms(alpha: float) -> None:
    for z, teacher in pairs():
        z = z.clone().requires_grad_()
        s, t = z.log_softmax(-1), teacher.log_softmax(-1)
        p, q = s.detach().exp(), t.exp()
        m = alpha * q + (1 - alpha) * p
        kl = (p * (p / q).log()).sum()
        forward, reverse = p - q, p * ((p / q).log() - kl)
        assert_equal(gradient(d.forward_kl(s, t), z), forward)
        assert_equal(gradient(d.reverse_kl(s, t), z), reverse)
        assert_equal(gradient(d.jensen_shannon(s, t, alpha), z), (1 - alpha) * p * ((p / m).log() - (p * (p / m).log()).sum()))
        assert_equal(gradient(d.mixed(s, t, 0.3), z), 0.3 * forward + 0.7 * reverse)
        for y in range(len(z)):
            assert_equal(gradient(sampled_surrogate(s[y] - t[y], s[y]), z), (s[y] - t[y]).detach() * (torch.eye(len(z))[y].double() - p))


@pytest.mark.parametrize("clip", [0.01, 0.05, 0.3])
def test_gradient_of_the_clipped_forward_kl(clip: float) -> None:
    """p·Σ_{v∈K} q_v − q ⊙ 1[K] with the kept set K = {v : q·log(q/p) < τ} (§3a)."""
    dropped = 0
    for z, teacher in pairs():
        z = z.clone().requires_grad_()
        s, t = z.log_softmax(-1), teacher.log_softmax(-1)
        p, q = s.detach().exp(), t.exp()
        kept = (q * (t - s.detach()) < clip).double()
        dropped += int((1 - kept).sum())
        assert_equal(gradient(d.forward_kl(s, t, clip), z), p * (q * kept).sum() - q * kept)
    assert dropped


# ---- truncated supports (§10) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", ["tail", "renorm"])
def test_stopping_the_log_ratio_changes_nothing_for_proper_distributions(residual: str) -> None:
    for z, teacher in pairs():
        z = z.clone().requires_grad_()
        ids = z.detach().topk(3).indices
        s, t = d.apply_residual(*d.gather_support(z, teacher, ids), residual)  # type: ignore[arg-type]
        assert_equal(gradient(d.reverse_kl(s, t), z), gradient(d.reverse_kl_fixed_coefficient(s, t), z))


def test_plain_differentiation_of_a_truncated_sum_loses_direction() -> None:
    """Fixture B, K = 2: value .51468 and cosine .975; stopped, the same value and .992."""
    z, teacher = STUDENT.clone().requires_grad_(), torch.tensor(TEACHERS["B"], dtype=torch.float64)
    s, t = d.gather_support(z, teacher, torch.tensor([0, 1]))
    full = gradient(d.reverse_kl(z.log_softmax(-1), teacher.log_softmax(-1)), z)
    for form, cosine in ((d.reverse_kl, 0.975), (d.reverse_kl_fixed_coefficient, 0.992)):
        assert form(s, t).item() == pytest.approx(0.51468, abs=1e-5)
        assert torch.cosine_similarity(gradient(form(s, t), z), full, dim=0).item() == pytest.approx(cosine, abs=6e-4)


# ---- expectations of estimators (§1a) ------------------------------------------------------------------------------


def test_expected_gradients_of_the_reference_kl_estimators() -> None:
    """Summed over y ~ π: k1 has none, k2 the reverse KL's, k3 the *forward* KL's; w·k3 with its gradient is unbiased under any π_old."""
    for z, reference in pairs():
        z = z.clone().requires_grad_()
        own, ref = z.log_softmax(-1), reference.log_softmax(-1)
        reverse = gradient((own.exp() * (own - ref)).sum(), z)
        forward = gradient((ref.exp() * (ref - own)).sum(), z)
        on_policy = own.detach().exp()
        for estimator, expected in (("k1", torch.zeros_like(z)), ("k2", reverse), ("k3", forward)):
            assert_equal(gradient((on_policy * reference_kl(own - ref, estimator)).sum(), z), expected)  # type: ignore[arg-type]
            with_k2 = reference_kl(own - ref, estimator, "k2")  # type: ignore[arg-type]
            assert_equal(gradient((on_policy * with_k2).sum(), z), reverse)
        old = (z.detach() + torch.linspace(-1, 1, len(z)).double()).log_softmax(-1)
        weighted = reference_kl(own - ref, "k3", "ratio", torch.exp(own - old), own)
        assert_equal(gradient((old.exp() * weighted).sum(), z), reverse)
        assert (forward - reverse).abs().max() > 0.01, "the two directions differ, or nothing was shown"


def test_trls_delta_is_the_dual_clip() -> None:
    """−min(min(w, δ)·A, clip(w)·A) = verl's dual clip with c = δ, for δ > 1 + ε_h."""
    w, a = (x.reshape(-1) for x in torch.meshgrid(torch.linspace(0.05, 8, 60), torch.linspace(-2, 2, 21), indexing="ij"))
    for delta in (1.5, 3.0):
        theirs = -torch.minimum(w.clamp(max=delta) * a, w.clamp(0.8, 1.28) * a)
        assert_equal(ppo(w, a, 0.2, 0.28, dual_clip=delta), theirs, 1e-6)  # float32


# ---- agreement (§11) -----------------------------------------------------------------------------------------------

SILENT = [
    DistillLoss(support="sampled"),
    DistillLoss(support="sampled", estimator="k2"),
    DistillLoss(support="sampled", estimator="k3"),
    DistillLoss(support="sampled", importance="capped"),
    DistillLoss(support="sampled", estimator="k3", importance="differentiable"),
    ImportanceWeightedKL(),
    DistillLoss("forward_kl", support="full", pointwise_clip=0.05),
    DistillLoss("reverse_kl", support="full", token_clip=0.05),
    DistillLoss("mixed", support="teacher_topk", top_k=3, residual="renorm"),
]


@pytest.mark.parametrize(
    "loss", SILENT, ids=lambda loss: f"{type(loss).__name__}-{getattr(loss, 'support', '')}-{getattr(loss, 'estimator', '')}"
)
def test_a_teacher_that_agrees_is_silent_token_by_token(loss: DistillLoss | ImportanceWeightedKL) -> None:
    """Off-policy too: ρ multiplies a zero. Value and gradient vanish for every token, not only in the mean."""
    for z, other in pairs():
        z = z.clone().requires_grad_()
        rows = z.expand(len(z), -1)
        features = loss.token_features(rows, rows.detach()[None], torch.arange(len(z)))
        own = z.log_softmax(-1)
        values, _ = loss(inputs_of(own, own, other.log_softmax(-1), features=features))
        for value in values:
            assert abs(value.item()) < EXACT and gradient(value, z).abs().max() < EXACT


@pytest.mark.parametrize(("k", "silent"), [(3, False), (7, True)])
def test_the_soft_cross_entropy_is_the_exception(k: int, silent: bool) -> None:
    """tinker's targets are the teacher conditioned on its top K: only K = V leaves nothing to learn from one's equal."""
    loss = DistillLoss("forward_kl", support="teacher_topk", top_k=k, residual="teacher_renorm")
    for z, _ in pairs():
        z = z.clone().requires_grad_()
        value = loss.token_features(z[None], z.detach()[None, None], torch.zeros(1, dtype=torch.int64))["divergence"][0]
        assert bool(gradient(value, z).abs().max() < EXACT) is silent


# ---- mixtures and means --------------------------------------------------------------------------------------------


def test_mixing_losses_is_mixing_advantages_on_policy() -> None:
    """λ·L_GRPO + (1−λ)·sampled SDPO has the gradient of the advantage λA + (1−λ)·log(T/S) (SDPO Eq. 3)."""
    rng = np.random.default_rng(2)
    x, ref, a = (torch.from_numpy(rng.normal(-1, 0.5, 9)) for _ in range(3))
    x.requires_grad_()
    policy = PolicyGradientLoss()(inputs_of(x, ref, advantage=a))[0].sum()
    distilled = DistillLoss(support="sampled")(inputs_of(x, ref))[0].sum()
    mixed = PolicyGradientLoss()(inputs_of(x, ref, advantage=0.9 * a + 0.1 * (ref - x.detach())))[0].sum()
    assert_equal(gradient(0.9 * policy + 0.1 * distilled, x), gradient(mixed, x))


def test_micro_batches_of_one_sequence_count_a_masked_one() -> None:
    """Two sequences, 2 tokens of loss 1 and 4 masked ones: 1.0 over all tokens, 0.5 as the mean of micro-batch means (§0.1)."""
    one, masked = (torch.ones(2), torch.ones(2)), (torch.ones(4), torch.zeros(4))
    means = [aggregate(v, w, torch.zeros(len(v), dtype=torch.int64), 1, "token_mean_micro") for v, w in (one, masked)]
    assert sum(float(m) for m in means) / 2 == 0.5
    values, weight = torch.cat([one[0], masked[0]]), torch.cat([one[1], masked[1]])
    assert float(aggregate(values, weight, torch.tensor([0, 0, 1, 1, 1, 1]), 2, "token_mean_global")) == 1.0


@pytest.mark.parametrize("updates", [1, 2, 50])
def test_an_average_begins_with_a_copy(updates: int) -> None:
    """OPSD's moving teacher (§3g): the first update copies θ0, so n of them towards θ leave θ − (θ − θ0)·0.999^{n−1}."""
    student = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(student.weight, 2.0)
    teacher = Teacher(student, "ema", rate=0.001, unit="update")  # the copy
    nn.init.constant_(student.weight, 5.0)
    for _ in range(updates - 1):
        teacher.after_update()
    assert teacher.model is not None
    kept = float(next(teacher.model.parameters()))
    assert kept == pytest.approx(5.0 - 3.0 * 0.999 ** (updates - 1), abs=1e-5)  # 49 roundings of float32 sums near 2: 49 · 1.2e-7
    assert not math.isclose(kept, 5.0)
