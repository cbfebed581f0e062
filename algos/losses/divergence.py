"""Divergences between a student and a teacher, their supports, and the distillation losses.

Every direction has its name; no function takes a number that flips it. S is the student (with gradient), T
the teacher (never with gradient). Fixtures: algorithms-core §11.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon", "mixed"]
Mixture = Literal["single", "geometric", "arithmetic"]
Residual = Literal["tail", "renorm", "teacher_renorm", "floor", "none"]
_FLOOR = -100.0  # log-prob that a floored teacher gives to what it leaves out (SD-Zero's loss_functions.py)
_LOG_OF_ALMOST_ONE = -1e-7  # a captured mass this close to 1 leaves a tail of 1e-7 instead of log 0


def forward_kl(student: Tensor, teacher: Tensor, pointwise_clip: float | None = None) -> Tensor:
    """KL(T‖S) = Σ_v T·log(T/S): mass-covering (OPSD v3, SDFT).

    Args:
        student, teacher: log-probs ``[..., V]``.
        pointwise_clip: upper bound of each summand, before the sum (OPSD v3: 0.05). Where it binds, the
            teacher's favourite tokens lose their pull and the gradient can point away from them
            (algorithms-core §3a); the loss can be negative.

    Returns:
        ``[...]``; gradient with respect to the student's logits: S − T.
    """
    return _clipped_sum(teacher.exp() * (teacher - student), pointwise_clip)


def reverse_kl(student: Tensor, teacher: Tensor, pointwise_clip: float | None = None) -> Tensor:
    """KL(S‖T) = Σ_v S·log(S/T): mode-seeking (SDPO Eq. 1). Logit gradient: S ⊙ (log S/T − KL). Shapes as :func:`forward_kl`."""
    return _clipped_sum(student.exp() * (student - teacher), pointwise_clip)


def reverse_kl_fixed_coefficient(student: Tensor, teacher: Tensor, pointwise_clip: float | None = None) -> Tensor:
    """Σ_v S·sg[log S/T] on a truncated, un-normalised support (algorithms-core §10).

    The stop-gradient removes the gradient of the captured mass, which plain differentiation would add.
    """
    return _clipped_sum(student.exp() * (student - teacher).detach(), pointwise_clip)


def jensen_shannon(student: Tensor, teacher: Tensor, alpha: float = 0.5, pointwise_clip: float | None = None) -> Tensor:
    """α·KL(T‖M) + (1−α)·KL(S‖M) with M = αT + (1−α)S, 0 < α < 1 (GKD, SDPO, OPSD v1). Shapes as :func:`forward_kl`.

    As α → 0 the value goes to α·KL(T‖S), as α → 1 to (1−α)·KL(S‖T): the scale changes with α, so the ends are
    not members of the family and are refused.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"jensen_shannon needs 0 < alpha < 1, not {alpha}; use forward_kl or reverse_kl for the ends")
    mixture = torch.logaddexp(teacher + math.log(alpha), student + math.log1p(-alpha))
    terms = alpha * teacher.exp() * (teacher - mixture) + (1 - alpha) * student.exp() * (student - mixture)
    return _clipped_sum(terms, pointwise_clip)


def mixed(student: Tensor, teacher: Tensor, forward_weight: float = 0.5, pointwise_clip: float | None = None) -> Tensor:
    """w·KL(T‖S) + (1−w)·KL(S‖T) (SD-Zero's repository, w = 0.5). Shapes as :func:`forward_kl`."""
    forward, reverse = forward_kl(student, teacher, pointwise_clip), reverse_kl(student, teacher, pointwise_clip)
    return forward_weight * forward + (1 - forward_weight) * reverse


def _clipped_sum(terms: Tensor, pointwise_clip: float | None) -> Tensor:
    return (terms if pointwise_clip is None else terms.clamp(max=pointwise_clip)).sum(-1)


def gather_support(student_logits: Tensor, teacher_logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probs ``[..., K]`` of both at ``ids [..., K]``, normalised over the full vocabulary (logits ``[..., V]``)."""
    student = student_logits.gather(-1, ids) - student_logits.logsumexp(-1, keepdim=True)
    teacher = teacher_logits.gather(-1, ids) - teacher_logits.logsumexp(-1, keepdim=True)
    return student, teacher


def add_tail(logprobs: Tensor) -> Tensor:
    """Append log(1 − Σ_K P) as a (K+1)-th outcome: ``[..., K]`` to ``[..., K+1]``; finite even where Σ_K P = 1 (SDPO §4a)."""
    captured = logprobs.logsumexp(-1, keepdim=True).clamp(max=_LOG_OF_ALMOST_ONE)
    return torch.cat([logprobs, torch.log(-torch.expm1(captured))], -1)


def renormalise(logprobs: Tensor) -> Tensor:
    """Return log-probs ``[..., K]`` of the distribution conditioned on the support."""
    return logprobs - logprobs.logsumexp(-1, keepdim=True)


def apply_residual(student: Tensor, teacher: Tensor, residual: Residual) -> tuple[Tensor, Tensor]:
    """Say what happens to the mass off the support ``[..., K]``.

    ``tail``: one bucket on both sides. ``renorm``: dropped on both sides (with a teacher's support, nothing then
    pushes down what the teacher dislikes: algorithms-core §10). ``teacher_renorm``: the teacher conditioned on
    the support, the student over the full vocabulary (the soft cross-entropy of tinker's SDFT).
    ``none``: both as they are.
    """
    if residual == "tail":
        return add_tail(student), add_tail(teacher)
    if residual == "renorm":
        return renormalise(student), renormalise(teacher)
    return student, renormalise(teacher) if residual == "teacher_renorm" else teacher


def floored(teacher_logits: Tensor, ids: Tensor) -> Tensor:
    """Return log-probs ``[..., V]`` of a teacher that knows only ``ids [..., K]``: renormalised there, −100 elsewhere.

    With it the student keeps its whole vocabulary, and every token off the support costs about 100 nats in the reverse
    direction (SD-Zero's ``zero_outside_topk``; normally unused).
    """
    kept = renormalise(teacher_logits.gather(-1, ids))
    whole: Tensor = torch.full_like(teacher_logits, _FLOOR).scatter(-1, ids, kept)
    return whole


def mix(logits: Tensor, mixture: Mixture) -> Tensor:
    """Make one teacher of M: ``[M, ..., V]`` to ``[..., V]``, without gradient.

    ``single``: the first. ``geometric``: Π q_m^(1/M), the product of experts, not yet normalised: whoever takes a softmax of it
    normalises it (KL(S‖it) = mean_m KL(S‖q_m) + log Z, SELFCI). ``arithmetic``: (1/M) Σ q_m.
    """
    frozen = logits.detach()
    if mixture == "single":
        return frozen[0]
    logprobs = frozen.log_softmax(-1)
    return logprobs.mean(0) if mixture == "geometric" else logprobs.logsumexp(0) - math.log(len(logprobs))


def entropy(logits: Tensor) -> Tensor:
    """Return the entropy in nats of ``logits [..., V]``: ``[...]``."""
    mean: Tensor = torch.linalg.vecdot(logits.softmax(-1), logits)
    return logits.logsumexp(-1) - mean
