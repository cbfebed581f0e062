"""The memory of a distillation update does not grow with tokens × vocabulary: [chunk, V] blocks are counted as they live and die."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from sdgym.algos.losses import DistillLoss, HingeLoss, ImportanceWeightedKL, PolicyGradientLoss, SharpenLoss
from sdgym.algos.losses.ranking import EntropyLoss, RankLoss
from sdgym.algos.losses.tempered import CurioLoss
from sdgym.benchmarks.speed.live_memory import LiveBytes
from sdgym.core import LossItem, LossTerm, ScoringView
from sdgym.learner import Learner
from sdgym.ledger import Ledger
from sdgym.seeding import generator
from sdgym.teacher import Teacher
from sdgym.testing_policy import random_policy

V, CHUNK, LENGTH = 261, 16, 16
FEW, MANY = 3 * CHUNK, 8 * CHUNK
BLOCK = CHUNK * V * 4
K: dict[str, Any] = {"top_k": 7}
LOSSES: dict[str, tuple[Any, int]] = {  # name: loss, references per item
    "full": (DistillLoss(support="full"), 1),
    "full js": (DistillLoss(support="full", divergence="jensen_shannon"), 1),
    "student top-k": (DistillLoss(**K), 1),
    "teacher top-k": (DistillLoss(**K, support="teacher_topk", divergence="forward_kl"), 1),
    "stop-gradient top-k": (DistillLoss(**K, residual="none"), 1),
    "mixed": (DistillLoss(**K, divergence="mixed", support="teacher_topk", residual="renorm"), 1),
    "floor": (DistillLoss(**K, support="teacher_topk", residual="floor"), 1),
    "two teachers": (DistillLoss(**K, mixture="geometric"), 2),
    "two teachers, full": (DistillLoss(support="full", mixture="arithmetic"), 2),
    "sampled": (DistillLoss(support="sampled"), 1),
    "importance-weighted": (ImportanceWeightedKL(), 1),
    "hinge": (HingeLoss(), 2),
    "sharpen": (SharpenLoss(), 0),
    "rank": (RankLoss(top_k=5), 1),
    "entropy": (EntropyLoss(), 0),
    "curio": (CurioLoss(), 1),
}


def items(tokens: int, references: int) -> list[LossItem]:
    """``tokens`` scored ones in rows of :data:`LENGTH`; the references have read one token less."""
    found = []
    for row in range(tokens // LENGTH):
        ids = generator(0, "memory", row).integers(5, 250, LENGTH + 3)
        view = ScoringView(row, ids[:3], ids[3:], np.ones(LENGTH, bool), np.arange(LENGTH))
        told = tuple(
            dataclasses.replace(view, prefix_ids=ids[1 + number : 3], weights="teacher", grad=False) for number in range(references)
        )
        ones = np.ones(LENGTH, np.float32)
        found.append(LossItem(view, ones, references=told, advantage=ones))
    return found


def peak_blocks(losses: Sequence[tuple[Any, int]], tokens: int, logit_elements: int = CHUNK * V) -> float:
    """Return the most [CHUNK, V] blocks that were alive at once in one update whose tokens share one forward pass."""
    policy = random_policy(hidden=32, layers=1, heads=2, kv_heads=1)
    teacher = Teacher(policy.model, "frozen")
    learner = Learner(policy.model, teacher, Ledger(), micro_tokens=1 << 20, token_cost=0, logit_elements=logit_elements)
    assert teacher.model is not None
    weights = [p for model in (policy.model, teacher.model) for p in model.parameters()]
    terms = [LossTerm(str(number), loss, items(tokens, references)) for number, (loss, references) in enumerate(losses)]
    with LiveBytes(V, weights) as live:
        learner.update(terms, [], [range(tokens)])
    return live.peak / BLOCK


@pytest.mark.parametrize("name", LOSSES)
def test_blocks_of_logits_do_not_add_up_with_tokens(name: str) -> None:
    few, many = (peak_blocks([LOSSES[name]], tokens) for tokens in (FEW, MANY))
    assert few >= 2, "the student's logits and something made of them, or nothing was counted"
    assert many <= 1.05 * few, "up to one number per token, spread over V without a copy; five more blocks if chunks were kept"


def test_terms_on_the_same_tokens_do_not_add_up_either() -> None:
    losses = [LOSSES["student top-k"], LOSSES["entropy"], (PolicyGradientLoss(), 0)]
    few, many = (peak_blocks(losses, tokens) for tokens in (FEW, MANY))
    assert many <= 1.05 * few


def test_without_chunks_they_do() -> None:
    few, many = (peak_blocks([LOSSES["full"]], tokens, logit_elements=1 << 30) for tokens in (FEW, MANY))
    assert many > 2.5 * few, "8 / 3"
