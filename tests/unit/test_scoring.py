"""What the head loop computes once and what twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from sdgym import scoring
from sdgym.algos.losses import DistillLoss
from sdgym.core import ScoringView
from sdgym.packing import pack
from sdgym.scoring import Fused, ScoringModule
from sdgym.seeding import generator
from sdgym.teacher import Teacher
from sdgym.testing_policy import random_policy

TOKENS, CHUNK = 24, 5


def forward_and_backward(loss: Any, logit_elements: int, counted: Counter[str]) -> torch.Tensor:
    """One distillation of random tokens from a frozen copy that has read something else; returns the gradient, flat."""
    policy = random_policy(hidden=32, layers=1, heads=2, kv_heads=1)
    teacher = Teacher(policy.model, "frozen")
    plain = scoring.head_logits
    names = {id(policy.model): "student", id(teacher.model): "teacher"}

    def counting(model: Any, hidden: torch.Tensor) -> torch.Tensor:
        counted[names[id(model)]] += 1
        return plain(model, hidden)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "head_logits", counting)
        module = ScoringModule(policy.model, teacher, logit_elements=logit_elements)
        ids = generator(0, "scoring").integers(5, 250, TOKENS + 3)
        mask, index = np.ones(TOKENS, bool), np.arange(TOKENS)
        view = ScoringView(0, ids[:3], ids[3:], mask, index)
        told = ScoringView(0, ids[1:3], ids[3:], mask, index, weights="teacher", grad=False)
        (batch,) = pack(*([part] for part in view.sequence()), max_tokens=100)
        scores = module(batch, "policy", [Fused(loss, torch.arange(TOKENS), [[told]])])
        weights = torch.linspace(0.5, 2.0, TOKENS)
        ((scores.features[0]["divergence"] + scores.logprobs) * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("support", ["student_topk", "teacher_topk", "full"])
def test_the_backward_pass_computes_only_the_students_logits_again(support: Any) -> None:
    loss = DistillLoss(support=support, top_k=7)
    chunked, whole = Counter[str](), Counter[str]()
    got = forward_and_backward(loss, CHUNK * 261, chunked)
    expected = forward_and_backward(loss, 1 << 24, whole)
    chunks = -(-TOKENS // CHUNK)
    assert whole == {"student": 1, "teacher": 1}
    again = 2 if support == "full" else 1  # the whole vocabulary of the teacher cannot be kept
    assert chunked == {"student": 2 * chunks, "teacher": again * chunks}
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
