"""Divergences against printed fixtures, and against a NumPy oracle written from the definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sdgym.algos.losses import DistillLoss, SharpenLoss
from sdgym.algos.losses import divergence as d
from sdgym.errors import ConfigError
from sdgym.objective import LossInputs

PRINTED = 1e-5  # fixtures are printed to five or six digits
EXACT = 1e-9  # float64 against float64, some tens of operations

STUDENT = [1.0, 0.5, -0.2, -1.0, 0.0]
A = [0.2, 1.2, -0.5, -0.3, 0.1]
B = [-0.5, 1.2, 0.4, -0.3, 0.1]


def features(loss: DistillLoss | SharpenLoss, student: Tensor, teacher: list[float] | np.ndarray) -> dict[str, Tensor]:
    return loss.token_features(
        student[None], torch.tensor(np.asarray(teacher), dtype=torch.float64)[None, None], torch.zeros(1, dtype=torch.int64)
    )


def value_and_gradient(
    loss: DistillLoss | SharpenLoss, teacher: list[float] | np.ndarray, student: list[float] | np.ndarray = STUDENT
) -> tuple[float, np.ndarray]:
    logits = torch.tensor(np.asarray(student), dtype=torch.float64, requires_grad=True)
    value = features(loss, logits, teacher)["divergence"].sum()
    (gradient,) = torch.autograd.grad(value, logits)
    return float(value.detach()), gradient.numpy()


def numeric_gradient(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences: error O(step²) = 1e-12 of truncation and about 1e-10 of rounding."""
    out = np.zeros_like(x)
    for i in range(len(x)):
        e = np.zeros_like(x)
        e[i] = step
        out[i] = (f(x + e) - f(x - e)) / (2 * step)
    return out


FIXTURES = [
    # teacher, loss, value, gradient with respect to the student's logits (None: not printed)
    (A, DistillLoss("forward_kl", support="full"), 0.191475, [0.240141, -0.223132, 0.038207, -0.049788, -0.005429]),
    (A, DistillLoss("reverse_kl", support="full"), 0.203687, [0.274314, -0.210982, 0.020158, -0.047076, -0.036414]),
    (A, DistillLoss("jensen_shannon", support="full"), 0.048248, [0.061161, -0.052064, 0.00744, -0.011617, -0.00492]),
    (A, DistillLoss("jensen_shannon", alpha=0.1, support="full"), 0.017203, None),
    (A, DistillLoss("reverse_kl", top_k=2), 0.182470, None),
    (A, DistillLoss("forward_kl", top_k=2), 0.167788, None),
    (A, DistillLoss("jensen_shannon", top_k=2), 0.042710, None),
    (A, DistillLoss("reverse_kl", top_k=2, residual="renorm"), 0.272874, None),
    (A, DistillLoss("forward_kl", top_k=2, residual="renorm"), 0.257403, None),
    (A, DistillLoss("jensen_shannon", top_k=2, residual="renorm"), 0.064713, None),
    (A, DistillLoss("mixed", support="teacher_topk", top_k=2, residual="renorm"), 0.265138, None),
    (A, DistillLoss("forward_kl", support="full", pointwise_clip=0.05), -0.077199, [-0.000689, 0.105503, -0.03433, 0.023541, -0.094025]),
    (B, DistillLoss("reverse_kl", support="full"), 0.41953, None),
    (B, DistillLoss("forward_kl", support="full"), 0.301522, None),
    (B, DistillLoss("jensen_shannon", support="full"), 0.083504, None),
    (B, DistillLoss("reverse_kl", top_k=2), 0.407918, [0.495682, -0.252817, -0.090936, -0.04086, -0.111069]),
    (B, DistillLoss("forward_kl", top_k=2), 0.286048, None),
    (B, DistillLoss("jensen_shannon", top_k=2), 0.080197, None),
    (B, DistillLoss("reverse_kl", top_k=2, residual="renorm"), 0.563120, [0.517008, -0.517008, 0, 0, 0]),
    (B, DistillLoss("forward_kl", top_k=2, residual="renorm"), 0.466467, None),
    (B, DistillLoss("jensen_shannon", top_k=2, residual="renorm"), 0.121443, None),
    (B, DistillLoss("reverse_kl", top_k=2, support="teacher_topk"), 0.170208, [0.183854, -0.193015, -0.083356, 0.024882, 0.067636]),
    (B, DistillLoss("forward_kl", top_k=2, support="teacher_topk"), 0.167819, None),
    (B, DistillLoss("jensen_shannon", top_k=2, support="teacher_topk"), 0.041641, None),
    (B, DistillLoss("reverse_kl", top_k=2, support="teacher_topk", residual="renorm"), 0.001096, [0, -0.022171, 0.022171, 0, 0]),
    (B, DistillLoss("forward_kl", top_k=2, support="teacher_topk", residual="renorm"), 0.001083, None),
    (B, DistillLoss("jensen_shannon", top_k=2, support="teacher_topk", residual="renorm"), 0.000272, None),
    (B, DistillLoss("mixed", top_k=2, support="teacher_topk", residual="renorm"), 0.001089, [0, -0.021979, 0.021979, 0, 0]),
    (B, DistillLoss("reverse_kl", top_k=2, residual="none"), 0.51468, None),
]


@pytest.mark.parametrize(
    ("teacher", "loss", "value", "gradient"),
    FIXTURES,
    ids=[f"{'A' if t is A else 'B'}-{x.divergence}-{x.support}-{x.residual}-{x.alpha}-{x.pointwise_clip}" for t, x, _, _ in FIXTURES],
)
def test_printed_fixture(teacher: list[float], loss: DistillLoss, value: float, gradient: list[float] | None) -> None:
    got, slope = value_and_gradient(loss, teacher)
    assert got == pytest.approx(value, abs=PRINTED)
    if gradient is not None:
        np.testing.assert_allclose(slope, gradient, atol=PRINTED)


@pytest.mark.parametrize(("divergence", "value"), [("reverse_kl", 0.343901), ("forward_kl", 0.254262), ("jensen_shannon", 0.070144)])
def test_fixture_b_at_temperature_1_1(divergence: str, value: float) -> None:
    student, teacher = np.array(STUDENT) / 1.1, np.array(B) / 1.1
    assert value_and_gradient(DistillLoss(divergence, support="full"), teacher, student)[0] == pytest.approx(value, abs=PRINTED)  # type: ignore[arg-type]


def test_soft_cross_entropy_of_tinker_is_forward_kl_plus_the_teachers_entropy() -> None:
    loss = DistillLoss("forward_kl", support="teacher_topk", top_k=2, residual="teacher_renorm")
    value, gradient = value_and_gradient(loss, B)
    q = np.exp([1.2, 0.4]) / np.exp([1.2, 0.4]).sum()
    assert value - (q * np.log(q)).sum() == pytest.approx(1.597034, abs=PRINTED)
    np.testing.assert_allclose(gradient, [0.414776, -0.4384, -0.185097, 0.056134, 0.152588], atol=PRINTED)


# ---- oracle: probabilities and loops, nothing shared with the code under test ---------------------------


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def oracle(z_student: np.ndarray, z_teacher: np.ndarray, loss: DistillLoss) -> float:
    p, q = softmax(z_student), softmax(z_teacher)
    if loss.support != "full":
        ranking = p if loss.support == "student_topk" else q
        ids = sorted(range(len(p)), key=lambda v: -ranking[v])[: loss.top_k]
        rest = [v for v in range(len(p)) if v not in ids]
        p_rest, q_rest = sum(p[v] for v in rest), sum(q[v] for v in rest)
        p, q = np.array([p[v] for v in ids]), np.array([q[v] for v in ids])
        if loss.residual == "tail":
            p, q = np.append(p, p_rest), np.append(q, q_rest)
        elif loss.residual == "renorm":
            p, q = p / p.sum(), q / q.sum()
        elif loss.residual == "teacher_renorm":
            q = q / q.sum()
    total = 0.0
    for s, t in zip(p, q, strict=True):
        forward, reverse = t * math.log(t / s), s * math.log(s / t)
        m = loss.alpha * t + (1 - loss.alpha) * s
        term = {
            "forward_kl": forward,
            "reverse_kl": reverse,
            "jensen_shannon": loss.alpha * t * math.log(t / m) + (1 - loss.alpha) * s * math.log(s / m),
            "mixed": loss.forward_weight * forward + (1 - loss.forward_weight) * reverse,
        }[loss.divergence]
        total += min(term, loss.pointwise_clip) if loss.pointwise_clip is not None and loss.divergence != "mixed" else term
    return total


ALL = [
    DistillLoss(divergence, alpha=alpha, forward_weight=0.3, support=support, top_k=3, residual=residual)  # type: ignore[arg-type]
    for divergence, alpha in [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jensen_shannon", 0.5), ("jensen_shannon", 0.2), ("mixed", 0.5)]
    for support in ("full", "student_topk", "teacher_topk")
    for residual in ("tail", "renorm")
]
ALL += [DistillLoss("forward_kl", support="full", pointwise_clip=0.02), DistillLoss("jensen_shannon", support="full", pointwise_clip=0.01)]
ALL += [DistillLoss("forward_kl", support="teacher_topk", top_k=3, residual="teacher_renorm")]


@pytest.mark.parametrize("loss", ALL, ids=lambda x: f"{x.divergence}-{x.support}-{x.residual}-{x.alpha}-{x.pointwise_clip}")
def test_oracle_and_finite_differences(loss: DistillLoss) -> None:
    rng = np.random.default_rng(7)
    for _ in range(3):
        z_student, z_teacher = rng.normal(0, 1.5, 7), rng.normal(0, 1.5, 7)
        value, gradient = value_and_gradient(loss, z_teacher, z_student)
        assert value == pytest.approx(oracle(z_student, z_teacher, loss), abs=EXACT)
        expected = numeric_gradient(lambda z, t=z_teacher: oracle(z, t, loss), z_student)  # type: ignore[misc]
        np.testing.assert_allclose(gradient, expected, atol=2e-9)  # central differences carry about 1e-9


@pytest.mark.parametrize("support", ["full", "student_topk", "teacher_topk"])
def test_no_gradient_reaches_the_teacher(support: str) -> None:
    teacher = torch.tensor([[A]], dtype=torch.float64, requires_grad=True)
    student = torch.tensor([STUDENT], dtype=torch.float64, requires_grad=True)
    for divergence in ("forward_kl", "reverse_kl", "jensen_shannon", "mixed"):
        loss = DistillLoss(divergence, support=support, top_k=2)  # type: ignore[arg-type]
        loss.token_features(student, teacher, torch.zeros(1, dtype=torch.int64))["divergence"].sum().backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.abs().max() > 0.1


def test_fixed_coefficient_drops_exactly_the_gradient_of_the_captured_mass() -> None:
    """Lattice 10: ∇(plain sum) − ∇(sg form) = ∇P_θ(K); at S = T the sg form is at rest, the plain sum is not."""
    logits = torch.tensor(STUDENT, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 1])
    for teacher in (torch.tensor(B, dtype=torch.float64), logits.detach()):
        student_logp, teacher_logp = d.gather_support(logits, teacher, ids)
        (plain,) = torch.autograd.grad(d.reverse_kl(student_logp, teacher_logp), logits, retain_graph=True)
        (fixed,) = torch.autograd.grad(d.reverse_kl_fixed_coefficient(student_logp, teacher_logp), logits, retain_graph=True)
        (mass,) = torch.autograd.grad(student_logp.exp().sum(), logits)
        torch.testing.assert_close(plain - fixed, mass, atol=1e-12, rtol=0)
    torch.testing.assert_close(fixed, torch.zeros_like(fixed), atol=1e-15, rtol=0)
    assert plain.abs().max() > 0.05


def test_cosines_of_the_truncated_estimators() -> None:
    """The table of algorithms-core §10."""
    full = value_and_gradient(DistillLoss("reverse_kl", support="full"), B)[1]

    def cosine(loss: DistillLoss) -> float:
        g = value_and_gradient(loss, B)[1]
        return float(g @ full / np.linalg.norm(g) / np.linalg.norm(full))

    expected = {
        ("student_topk", "tail"): 0.995,
        ("student_topk", "none"): 0.992,
        ("student_topk", "renorm"): 0.924,
        ("teacher_topk", "tail"): 0.870,
        ("teacher_topk", "renorm"): 0.175,
    }
    for (support, residual), value in expected.items():
        assert cosine(DistillLoss("reverse_kl", support=support, top_k=2, residual=residual)) == pytest.approx(value, abs=6e-4)  # type: ignore[arg-type]


def test_tail_of_a_full_support_is_finite_and_still() -> None:
    """ΣP = 1 in rounding: the bucket is clamped, the value finite, and no gradient passes the clamp."""
    logits = torch.tensor([40.0, -40.0, -40.0], requires_grad=True)
    lp = d.add_tail(logits.log_softmax(-1)[:2])
    assert torch.isfinite(lp).all() and lp[-1].item() == pytest.approx(math.log(1e-7), rel=1e-4)  # float32
    (gradient,) = torch.autograd.grad(lp[-1], logits)
    assert torch.equal(gradient, torch.zeros(3))


def test_tail_reverse_kl_grows_with_k() -> None:
    values = [value_and_gradient(DistillLoss("reverse_kl", top_k=k), B)[0] for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(values, [0.40236, 0.40792, 0.41933, 0.41953], atol=PRINTED)


def test_token_clip_bounds_the_sum_and_stops_its_gradient() -> None:
    loss = DistillLoss("forward_kl", support="full", token_clip=0.1)
    logits = torch.tensor([STUDENT, A], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[A, [0.25, 1.2, -0.5, -0.3, 0.1]]], dtype=torch.float64)
    found = loss.token_features(logits, teacher, torch.zeros(2, dtype=torch.int64))
    zeros = torch.zeros(2, dtype=torch.float64)
    inputs = LossInputs(zeros.long(), zeros.long(), 1, zeros, zeros, None, zeros[None], zeros + 1, zeros, zeros, found)
    values, _ = loss(inputs)
    assert values[0].item() == 0.1 and 0 < values[1].item() < 0.1
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    assert torch.equal(gradient[0], torch.zeros(5, dtype=torch.float64)) and gradient[1].abs().max() > 0


def test_metrics_of_the_support() -> None:
    found = features(DistillLoss("reverse_kl", top_k=2), torch.tensor(STUDENT, dtype=torch.float64), B)
    p, q = softmax(np.array(STUDENT)), softmax(np.array(B))
    assert found["captured_mass"].item() == pytest.approx(p[0] + p[1], abs=EXACT)
    assert found["teacher_captured_mass"].item() == pytest.approx(q[0] + q[1], abs=EXACT)
    assert found["teacher_entropy"].item() == pytest.approx(-(q * np.log(q)).sum(), abs=EXACT)


def test_sharpening_pulls_towards_the_square_of_the_distribution() -> None:
    """τ = 0.5: the target is p²/Σp², and the logit gradient p − target; a one-hot or uniform policy is at rest."""
    value, gradient = value_and_gradient(SharpenLoss(0.5), B)
    p = softmax(np.array(STUDENT))
    target = p**2 / (p**2).sum()
    assert value == pytest.approx((target * np.log(target / p)).sum(), abs=EXACT)
    np.testing.assert_allclose(gradient, p - target, atol=EXACT)
    for still in ([0.0] * 5, [80.0, 0.0, 0.0, 0.0, 0.0]):
        np.testing.assert_allclose(value_and_gradient(SharpenLoss(0.5), B, still)[1], 0.0, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {"divergence": "forward_kl", "support": "sampled"},
        {"divergence": "jensen_shannon", "alpha": 0.0},
        {"divergence": "jensen_shannon", "alpha": 1.0},
        {"importance": "differentiable"},
        {"importance": "differentiable", "support": "sampled", "estimator": "k2"},
        {"top_k": 0},
        {"divergence": "jensen_shannon", "residual": "none"},
        {"divergence": "reverse_kl", "residual": "teacher_renorm"},
    ],
)
def test_combinations_without_an_estimator_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DistillLoss(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_the_ends_of_jensen_shannon_are_not_members(alpha: float) -> None:
    with pytest.raises(ValueError, match="forward_kl or reverse_kl"):
        d.jensen_shannon(torch.zeros(2), torch.zeros(2), alpha)
