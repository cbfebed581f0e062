"""Equality with the SDPO loss functions of TRL 1.16 on shared random logits, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdgym.algos.losses import DistillLoss
from sdgym.objective import LossInputs, aggregate

trl_losses = pytest.importorskip("trl.experimental.sdpo.loss_utils", reason="trl is not installed")

ROWS, LENGTH, VOCAB = 3, 5, 11
DIRECTIONS = {0.0: "forward_kl", 1.0: "reverse_kl", 0.5: "jensen_shannon", 0.3: "jensen_shannon"}


def logits(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, LENGTH, VOCAB, dtype=torch.float64, generator=generator).mul_(2).requires_grad_()


def ours(loss: DistillLoss, student: Tensor, teacher: Tensor, ids: Tensor, old: Tensor | None = None) -> Tensor:
    """Per-token losses ``[ROWS, LENGTH]`` through the flat interface."""
    flat, reference, tokens = student.reshape(-1, VOCAB), teacher.detach().reshape(1, -1, VOCAB), ids.reshape(-1)
    logprobs = flat.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    index = torch.arange(ROWS).repeat_interleave(LENGTH)
    zeros = torch.zeros(len(tokens), dtype=torch.float64)
    inputs = LossInputs(
        tokens,
        index,
        ROWS,
        logprobs,
        logprobs.detach() if old is None else old.reshape(-1),
        None,
        reference.log_softmax(-1).gather(-1, tokens[None, :, None])[..., 0],
        zeros + 1,
        zeros,
        torch.zeros(ROWS, dtype=torch.int64),
        loss.token_features(flat, reference, tokens) if loss.needs != "sampled" else {},
    )
    return loss(inputs)[0].reshape(ROWS, LENGTH)


def check(mine: Tensor, theirs: Tensor, student: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
    (a,) = torch.autograd.grad(mine.sum(), student, retain_graph=True)
    (b,) = torch.autograd.grad(theirs.sum(), student)
    torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    assert a.abs().max() > 1e-3


@pytest.mark.parametrize("alpha", DIRECTIONS)
@pytest.mark.parametrize(("k", "tail"), [(1, True), (4, True), (4, False), (VOCAB, True), (VOCAB, False)])
def test_topk(alpha: float, k: int, tail: bool) -> None:
    student, teacher, ids = logits(0), logits(1), torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    loss = DistillLoss(DIRECTIONS[alpha], alpha=alpha if 0 < alpha < 1 else 0.5, top_k=k, residual="tail" if tail else "renorm")  # type: ignore[arg-type]
    theirs = trl_losses.compute_topk_self_distillation_loss(
        student, teacher.detach(), distillation_topk=k, distillation_alpha=alpha, distillation_add_tail=tail
    )
    check(ours(loss, student, teacher, ids), theirs, student)


@pytest.mark.parametrize("alpha", DIRECTIONS)
def test_full(alpha: float) -> None:
    student, teacher, ids = logits(2), logits(3), torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    loss = DistillLoss(DIRECTIONS[alpha], alpha=alpha if 0 < alpha < 1 else 0.5, support="full")  # type: ignore[arg-type]
    theirs = trl_losses.compute_full_logit_self_distillation_loss(student, teacher.detach(), distillation_alpha=alpha)
    check(ours(loss, student, teacher, ids), theirs, student)


def test_sampled_with_importance_cap() -> None:
    student, teacher = logits(4), logits(5)
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=generator)
    chosen = student.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    old = chosen.detach() - torch.randn(ROWS, LENGTH, dtype=torch.float64, generator=generator)
    theirs = trl_losses.compute_sampled_token_self_distillation_loss(student, teacher.detach(), ids, distillation_alpha=1.0)
    theirs = trl_losses.apply_importance_sampling_clipping(theirs, chosen, old, 2.0)
    loss = DistillLoss("reverse_kl", support="sampled", importance="capped", importance_cap=2.0)
    mine = ours(loss, student, teacher, ids, old)
    assert ((chosen.detach() - old).exp() > 2.0).any() and ((chosen.detach() - old).exp() < 1.0).any()
    check(mine, theirs, student)


def test_reduction_with_a_masked_sequence() -> None:
    """TRL's mean over all sequences, one of them masked, is seq_mean_token_mean with count_empty."""
    student, teacher, ids = logits(7), logits(8), torch.zeros(ROWS, LENGTH, dtype=torch.int64)
    mask = torch.ones(ROWS, LENGTH, dtype=torch.float64)
    mask[1] = 0
    mask[2, 3:] = 0
    theirs = trl_losses.compute_full_logit_self_distillation_loss(student, teacher.detach(), distillation_alpha=1.0)
    theirs = ((theirs * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
    mine = ours(DistillLoss("reverse_kl", support="full"), student, teacher, ids).reshape(-1)
    index = torch.arange(ROWS).repeat_interleave(LENGTH)
    torch.testing.assert_close(
        aggregate(mine, mask.reshape(-1), index, ROWS, "seq_mean_token_mean", count_empty=True), theirs, atol=1e-12, rtol=0
    )
