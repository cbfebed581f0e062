"""The learner against a plain reading of the same objective: one unpacked forward per sequence, no chunks, no sharing."""

from __future__ import annotations

import copy
import dataclasses
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sdgym.algos.losses import BCOLoss, DistillLoss, NLLLoss, PolicyGradientLoss, SharpenLoss
from sdgym.config import RunConfig
from sdgym.core import LossItem, LossTerm, Outcome, ScoringView, Segment, StopReason, Task, Trajectory, TurnSpan
from sdgym.errors import AlignmentError, CheckpointError, NumericalError
from sdgym.learner import Learner, OptimizerSettings
from sdgym.ledger import Ledger
from sdgym.policy import Policy
from sdgym.seeding import generator
from sdgym.session import Session
from sdgym.teacher import Teacher
from sdgym.testing_policy import random_policy

SGD_LIKE = OptimizerSettings(lr=1e-3, grad_clip=0.0)


@pytest.fixture(scope="module")
def pristine() -> Policy:
    return random_policy(hidden=32, layers=2, heads=2, kv_heads=1)


@pytest.fixture
def policy(pristine: Policy) -> Policy:
    return copy.deepcopy(pristine)


def make_learner(policy: Policy, teacher: Teacher | None = None, **settings: Any) -> Learner:
    settings = {"micro_tokens": 8192, "optimizer": SGD_LIKE, "token_cost": policy.token_cost} | settings
    return Learner(policy.model, teacher or Teacher(policy.model), Ledger(), **settings)


def view_of(row: int, prefix: np.ndarray, tokens: np.ndarray, mask: Sequence[bool] | None = None, **extra: Any) -> ScoringView:
    chosen = np.ones(len(tokens), bool) if mask is None else np.array(mask, bool)
    return ScoringView(row, prefix, tokens, chosen, np.arange(int(chosen.sum())), **extra)


def make_items(groups: int = 3, members: int = 3, seed: int = 0, references: bool = False, old: bool = False) -> list[LossItem]:
    """Rows of unequal length that share a prefix within a group; some tokens are observations, some have weight 0."""
    items = []
    for g in range(groups):
        prefix = generator(seed, "prefix", g).integers(5, 250, 6 + 5 * g)
        for m in range(members):
            rng = generator(seed, "row", g, m)
            hint = generator(seed, "hint", g, m).integers(5, 250, 4)  # so references sort in another order than their views
            length = int(rng.integers(2, 12))
            mask = np.ones(length, bool)
            if length > 4:
                mask[2:4] = False  # an observation in the middle
            tokens, scored = rng.integers(5, 250, length), int(mask.sum())
            view = view_of(g * members + m, prefix, tokens, mask)
            teacher = dataclasses.replace(view, prefix_ids=np.concatenate([hint, prefix]), weights="teacher", grad=False)
            weight = np.where(rng.random(scored) < 0.2, 0.0, rng.choice([0.5, 1.0, 2.0], scored)).astype(np.float32)
            items.append(
                LossItem(
                    view,
                    weight,
                    references=(teacher,) if references else (),
                    advantage=rng.normal(size=scored).astype(np.float32),
                    old_logprobs=rng.normal(-5.0, 0.3, scored).astype(np.float32) if old else None,
                )
            )
    return items


def gradient(policy: Policy, terms: Sequence[LossTerm], parts: Sequence[Sequence[int]] = (range(100),), **settings: Any) -> torch.Tensor:
    """The gradient of one optimizer step, flat."""
    learner = make_learner(policy, **settings)
    learner.update(terms, [], parts)
    return flat_gradient(policy)


def flat_gradient(policy: Policy) -> torch.Tensor:
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.model.parameters()]
    return torch.cat([g.flatten().clone() for g in found])


def plain_logits(model: Any, view: ScoringView, temperature: float = 1.0) -> torch.Tensor:
    ids, positions = view.sequence()
    logits = model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0]
    return logits[torch.from_numpy(positions) - 1] / temperature


def plain_logprobs(model: Any, view: ScoringView, temperature: float = 1.0) -> torch.Tensor:
    logs = plain_logits(model, view, temperature).log_softmax(-1)
    return logs.gather(1, torch.from_numpy(view.scored_ids())[:, None])[:, 0]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal up to float32 order of summation: 1e-5 of the largest entry."""
    return float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


# ---- scoring -------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_equal_a_fresh_forward(policy: Policy, temperature: float) -> None:
    views = [item.view for item in make_items()]
    learner = make_learner(policy, temperature=temperature, micro_tokens=64)
    for view, scores in zip(views, learner.score(views), strict=True):
        logits = plain_logits(policy.model, view, temperature).detach()
        expected = plain_logprobs(policy.model, view, temperature).detach().numpy()
        entropy = torch.distributions.Categorical(logits=logits).entropy().numpy()
        np.testing.assert_allclose(scores.logprobs, expected, atol=2e-5)
        np.testing.assert_allclose(scores.entropy, entropy, atol=2e-5)


def test_teacher_views_are_scored_by_the_teacher(policy: Policy) -> None:
    teacher = Teacher(policy.model, "trust_region", rate=0.3)
    frozen = copy.deepcopy(policy.model)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(0.9)
    item = make_items(1, 1, references=True)[0]
    learner = make_learner(policy, teacher)
    own, told = learner.score([item.view, item.references[0]])
    np.testing.assert_allclose(own.logprobs, plain_logprobs(policy.model, item.view).detach(), atol=2e-5)
    mixed = 0.7 * plain_logits(frozen, item.references[0]) + 0.3 * plain_logits(policy.model, item.references[0])
    expected = mixed.log_softmax(-1).gather(1, torch.from_numpy(item.view.scored_ids())[:, None])[:, 0]
    np.testing.assert_allclose(told.logprobs, expected.detach(), atol=2e-5)
    assert learner.ledger.teacher_tokens == learner.ledger.scored_tokens == len(item.weight)


def test_insertions_are_attended_to_and_not_scored(policy: Policy) -> None:
    plain = view_of(0, np.arange(5, 10), np.arange(20, 26))
    inserted = dataclasses.replace(plain, insertions=((3, np.array([90, 91])),))
    learner = make_learner(policy)
    a, b = learner.score([plain, inserted])
    assert len(a.logprobs) == len(b.logprobs) == 6
    np.testing.assert_allclose(a.logprobs[:3], b.logprobs[:3], atol=2e-5)
    ids = np.concatenate([np.arange(5, 10), [20, 21, 22, 90, 91, 23, 24, 25]])
    logs = policy.model(input_ids=torch.from_numpy(ids)[None]).logits[0].detach().log_softmax(-1)
    expected = [float(logs[p - 1, ids[p]]) for p in (10, 11, 12)]
    np.testing.assert_allclose(b.logprobs[3:], expected, atol=2e-5)


# ---- the objective -------------------------------------------------------------------------------

WEIGHTS: dict[str, Callable[[list[np.ndarray]], list[np.ndarray]]] = {
    "token_mean_global": lambda ws: [w / sum(np.count_nonzero(v) for v in ws) for w in ws],
    "seq_mean_token_mean": lambda ws: [w / max(1, np.count_nonzero(w)) / sum(v.any() for v in ws) for w in ws],
    "seq_mean_token_sum": lambda ws: [w / sum(v.any() for v in ws) for w in ws],
    "token_sum_norm": lambda ws: [w / (len(ws) * 12) for w in ws],
}


@pytest.mark.parametrize("aggregation", list(WEIGHTS))
def test_gradient_equals_the_plain_objective(policy: Policy, aggregation: str) -> None:
    items = make_items()
    items[0] = dataclasses.replace(items[0], weight=np.zeros_like(items[0].weight))  # an empty sequence
    term = LossTerm("policy", NLLLoss(), items, 1.7, aggregation, 12)  # type: ignore[arg-type]
    got = gradient(copy.deepcopy(policy), [term], micro_tokens=96)
    factors = WEIGHTS[aggregation]([item.weight for item in items])
    loss = sum(-(plain_logprobs(policy.model, i.view) * torch.from_numpy(f)).sum() for i, f in zip(items, factors, strict=True))
    (1.7 * loss).backward()
    assert close(got, flat_gradient(policy))


@pytest.mark.parametrize("aggregation", [*WEIGHTS, "token_mean_micro"])
def test_micro_batches_change_only_the_micro_mean(pristine: Policy, aggregation: str) -> None:
    term = LossTerm("policy", PolicyGradientLoss(), make_items(old=True), aggregation=aggregation, max_length=12)  # type: ignore[arg-type]
    whole, split, single = (gradient(copy.deepcopy(pristine), [term], micro_tokens=size) for size in (8192, 64, 1))
    if aggregation == "token_mean_micro":
        assert not close(split, whole) and not close(single, whole)
    else:
        assert close(split, whole) and close(single, whole)


def test_l_max_is_the_runs_where_a_term_has_none(policy: Policy) -> None:
    items = make_items()
    own = gradient(copy.deepcopy(policy), [LossTerm("a", NLLLoss(), items, aggregation="token_sum_norm", max_length=12)], longest_answer=7)
    runs = gradient(copy.deepcopy(policy), [LossTerm("a", NLLLoss(), items, aggregation="token_sum_norm")], longest_answer=24)
    assert close(own, 2 * runs) and float(runs.abs().max()) > 0
    session = Session(
        RunConfig.model_validate({"algo": {"name": "dr_grpo"}, "env": {"id": "sdgym/Sokoban-v0", "kwargs": {"mode": "multi_turn"}}}),
        pathlib.Path(),
    )
    assert session.learner.longest == session.sampling.max_tokens * session.env.unwrapped.max_turns > session.sampling.max_tokens


def test_the_micro_mean_is_the_mean_of_micro_batch_means(policy: Policy) -> None:
    items = make_items(groups=2, members=1)
    term = LossTerm("policy", NLLLoss(), items, aggregation="token_mean_micro")
    got = gradient(copy.deepcopy(policy), [term], micro_tokens=1)  # one sequence per micro-batch
    means = [(-plain_logprobs(policy.model, i.view) * torch.from_numpy(i.weight)).sum() / max(1, np.count_nonzero(i.weight)) for i in items]
    (sum(means) / 2).backward()
    assert close(got, flat_gradient(policy))


def test_terms_with_one_key_share_the_union_of_their_tokens(policy: Policy) -> None:
    items = [dataclasses.replace(i, weight=np.ones_like(i.weight)) for i in make_items(2, 2)]
    routed = [LossTerm("a", NLLLoss(), items[:1], normaliser_key="k"), LossTerm("b", NLLLoss(), items[1:], normaliser_key="k")]
    together = gradient(copy.deepcopy(policy), [LossTerm("all", NLLLoss(), items)])
    assert close(gradient(copy.deepcopy(policy), routed), together)
    apart = [dataclasses.replace(term, normaliser_key=None) for term in routed]
    assert not close(gradient(copy.deepcopy(policy), apart), together)
    doubled = [LossTerm(n, NLLLoss(), items, normaliser_key="k") for n in "ab"]  # both terms train every token: it counts once
    assert close(gradient(policy, doubled), 2 * together)


def test_empty_sequences_count_where_a_term_says_so(policy: Policy) -> None:
    items = make_items(2, 2)
    counted = LossTerm("a", NLLLoss(), items, aggregation="seq_mean_token_mean", count_empty=True, rows=16)
    own = LossTerm("a", NLLLoss(), items, aggregation="seq_mean_token_mean")
    assert all(i.weight.any() for i in items)
    assert close(gradient(copy.deepcopy(policy), [counted]) * 4, gradient(policy, [own]))


@pytest.mark.parametrize("support", ["full", "student_topk", "teacher_topk", "sampled"])
@pytest.mark.parametrize("kind", ["frozen", "live"])
def test_distillation_gradient_equals_the_plain_objective(policy: Policy, support: str, kind: str) -> None:
    teacher = Teacher(policy.model, kind)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(0.95)
    items = make_items(references=True)
    loss = DistillLoss(support=support, top_k=7)  # type: ignore[arg-type]
    twin = copy.deepcopy(policy)
    reference = copy.deepcopy(teacher.mixture()[0][0])
    learner = make_learner(policy, teacher, micro_tokens=96, temperature=0.8)
    learner.update([LossTerm("distill", loss, items)], [], [range(100)])
    count = sum(np.count_nonzero(i.weight) for i in items)
    total = sum((plain_distillation(twin, reference, i, loss) * torch.from_numpy(i.weight)).sum() for i in items)
    (total / count).backward()
    assert close(flat_gradient(policy), flat_gradient(twin))


def plain_distillation(policy: Policy, teacher: Any, item: LossItem, loss: DistillLoss) -> torch.Tensor:
    student, ids = plain_logits(policy.model, item.view, 0.8), torch.from_numpy(item.view.scored_ids())
    with torch.no_grad():
        told = plain_logits(teacher, item.references[0], 0.8)
    if loss.support == "sampled":
        own, others = (x.log_softmax(-1).gather(1, ids[:, None])[:, 0] for x in (student, told))
        return (own - others).detach() * own
    return loss.token_features(student, told[None], ids)["divergence"]


def test_chunks_of_the_head_change_nothing(pristine: Policy) -> None:
    items = make_items(references=True)
    terms = [LossTerm("d", DistillLoss(), items), LossTerm("s", SharpenLoss(), items[2:]), LossTerm("p", PolicyGradientLoss(), items)]
    whole = gradient(copy.deepcopy(pristine), terms)
    chunked = gradient(copy.deepcopy(pristine), terms, logit_elements=261 * 5)
    assert close(chunked, whole)


def test_two_losses_are_the_sum_of_each(pristine: Policy) -> None:
    items = make_items(references=True)
    a, b = LossTerm("d", DistillLoss(), items, 0.3), LossTerm("p", PolicyGradientLoss(), items, 0.7)
    both = gradient(copy.deepcopy(pristine), [a, b])
    assert close(both, gradient(copy.deepcopy(pristine), [a]) + gradient(copy.deepcopy(pristine), [b]))


def test_sequence_losses_average_over_sequences(policy: Policy) -> None:
    items = [dataclasses.replace(i, label=1) for i in make_items(2, 2, references=True)]
    got = gradient(copy.deepcopy(policy), [LossTerm("bco", BCOLoss(beta=0.2), items)], micro_tokens=64)
    stored = make_learner(policy).score([i.references[0] for i in items])
    losses = []
    for item, reference in zip(items, stored, strict=True):
        kept = torch.from_numpy(item.weight != 0)
        reward = 0.2 * (plain_logprobs(policy.model, item.view) - torch.from_numpy(reference.logprobs))[kept].sum()
        losses.append(-torch.nn.functional.logsigmoid(reward))
    torch.stack(losses).mean().backward()
    assert close(got, flat_gradient(policy))


def test_on_policy_ratios_are_exactly_one(policy: Policy) -> None:
    metrics = make_learner(policy).update([LossTerm("p", PolicyGradientLoss(), make_items())], [], [range(100)])
    assert metrics["loss/p/ratio"] == 1.0 and metrics["train/clip_frac"] == 0.0


# ---- steps ---------------------------------------------------------------------------------------


def test_parts_are_optimizer_steps(policy: Policy) -> None:
    teacher = Teacher(policy.model, "periodic", every=2, unit="update")
    learner = make_learner(policy, teacher)
    metrics = learner.update([LossTerm("p", NLLLoss(), make_items(3, 2))], [], [[0, 1], [2, 3], [4, 5], [90]])
    assert learner.updates == learner.ledger.updates == metrics["train/updates"] == 3  # no item in the last part
    assert not all(torch.equal(a, b) for a, b in zip(teacher.mixture()[0][0].parameters(), policy.model.parameters(), strict=True))


def test_a_part_has_its_own_denominator_and_its_share_of_rows(pristine: Policy) -> None:
    items = make_items(2, 2)
    rows = [row_of(i, item, np.zeros(len(item.weight), np.float32)) for i, item in enumerate(items)]
    stated = LossTerm("p", NLLLoss(), items, aggregation="seq_mean_token_sum", count_empty=True, rows=4)
    learner = make_learner(first := copy.deepcopy(pristine))
    learner.update([stated], rows, [[0, 1]])
    alone = LossTerm("p", NLLLoss(), items[:2], aggregation="seq_mean_token_sum", count_empty=True, rows=2)
    make_learner(second := copy.deepcopy(pristine)).update([alone], rows[:2], [[0, 1]])
    assert close(flat_gradient(first), flat_gradient(second))


def test_nothing_to_train_is_no_update(policy: Policy) -> None:
    learner = make_learner(policy)
    before = policy.state_hash()
    assert learner.update([], [], [range(4)])["train/updates"] == 0
    assert policy.state_hash() == before


def test_an_empty_mask_is_a_zero_with_a_graph(policy: Policy) -> None:
    items = [dataclasses.replace(i, weight=np.zeros_like(i.weight)) for i in make_items()]
    before = policy.state_hash()
    for aggregation in (*WEIGHTS, "token_mean_micro"):
        metrics = make_learner(policy).update([LossTerm("p", NLLLoss(), items, 1.0, aggregation, 12)], [], [range(100)])  # type: ignore[arg-type]
        assert metrics["train/updates"] == 1 and metrics["train/grad_norm"] == 0.0 and metrics["loss/p"] == 0.0
    assert policy.state_hash() == before


def test_a_clipped_gradient_has_the_norm_asked_for(policy: Policy) -> None:
    learner = make_learner(policy, optimizer=OptimizerSettings(grad_clip=0.01))
    metrics = learner.update([LossTerm("p", NLLLoss(), make_items())], [], [range(100)])
    assert metrics["train/grad_norm"] > 0.01
    assert float(flat_gradient(policy).norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_the_step(policy: Policy, bad: float) -> None:
    items = make_items()
    items[3] = dataclasses.replace(items[3], advantage=np.full_like(items[3].advantage, bad), weight=np.ones_like(items[3].weight))
    before = policy.state_hash()
    with pytest.raises(NumericalError, match="lower optimizer"):
        make_learner(policy).update([LossTerm("p", PolicyGradientLoss(), items)], [], [range(100)])
    assert policy.state_hash() == before


def test_alignment_errors_name_both_lengths(policy: Policy) -> None:
    item = make_items(1, 1, references=True)[0]
    short = dataclasses.replace(item.references[0], loss_mask=np.zeros_like(item.view.loss_mask))
    other = dataclasses.replace(item.references[0], token_ids=item.view.token_ids + 1)
    learner = make_learner(policy)

    def update(changed: LossItem, *more: LossItem) -> None:
        learner.update([LossTerm("d", DistillLoss(), [changed, *more])], [], [range(9)])

    with pytest.raises(AlignmentError, match=rf"scores 0 tokens, its view {len(item.weight)}"):
        update(dataclasses.replace(item, references=(short,)))
    with pytest.raises(AlignmentError, match="another token at 0"):
        update(dataclasses.replace(item, references=(other,)))
    with pytest.raises(AlignmentError, match="different numbers of references"):
        update(item, dataclasses.replace(item, references=()))
    with pytest.raises(AlignmentError, match="weight has 1 values"):
        update(dataclasses.replace(item, weight=np.ones(1, np.float32)))
    with pytest.raises(AlignmentError, match=rf"reference_logprobs has the shape \(2, 1\), not \(1, {len(item.weight)}\)"):
        update(dataclasses.replace(item, reference_logprobs=np.zeros((2, 1), np.float32)))


def test_reference_logprobs_that_are_known_are_used_and_not_scored_again(policy: Policy) -> None:
    items = make_items(2, 2, references=True)
    known = [dataclasses.replace(item, reference_logprobs=np.full((1, len(item.weight)), -3.0, np.float32)) for item in items]
    loss, kept = DistillLoss(support="sampled", estimator="k2"), [item.weight != 0 for item in items]
    values = [
        0.5 * (plain_logprobs(policy.model, i.view) + 3.0).square()[k] * torch.from_numpy(i.weight[k])
        for i, k in zip(items, kept, strict=True)
    ]
    expected = float(torch.cat(values).detach().mean())
    learner = make_learner(policy, Teacher(policy.model, "frozen"))
    found = learner.update([LossTerm("k", loss, known)], [], [range(9)])
    assert found["loss/k"] == pytest.approx(expected, rel=1e-5) and learner.ledger.teacher_tokens == 0
    learner.update([LossTerm("k", loss, [known[0], *items[1:]])], [], [range(9)])
    assert learner.ledger.teacher_tokens == sum(len(item.weight) for item in items[1:])


def test_the_ledger_counts_scored_and_pushed_tokens(policy: Policy) -> None:
    items = make_items(2, 3, references=True)
    learner = make_learner(policy, Teacher(policy.model, "frozen"))
    scored = sum(len(i.weight) for i in items)
    learner.update([LossTerm("d", DistillLoss(), items), LossTerm("k", DistillLoss(support="sampled"), items)], [], [range(9), range(9)])
    ledger = learner.ledger
    assert ledger.trained_tokens == 2 * 2 * scored  # two terms, two updates
    assert ledger.teacher_tokens == 2 * scored + scored  # fused at each update, stored once
    assert 0 < ledger.train_inputs < 2 * 2 * sum(len(i.view.sequence()[0]) for i in items)  # shared prefixes and terms count once


def test_the_gap_to_the_sampler_is_measured(policy: Policy) -> None:
    items = make_items(1, 2)
    own = make_learner(policy).score([i.view for i in items])
    rows = [row_of(i, item, scores.logprobs + 0.25) for i, (item, scores) in enumerate(zip(items, own, strict=True))]
    metrics = make_learner(policy).update([LossTerm("p", NLLLoss(), items)], rows, [range(2), range(2)])
    assert metrics["train/logprob_gap"] == pytest.approx(0.25, abs=1e-5)  # before the first step only
    assert metrics["train/update_kl"] > 0


def test_the_gap_to_the_sampler_is_of_the_same_weights_and_temperature(policy: Policy) -> None:
    """An objective interleaved before this one has moved the weights; a method may sample at a temperature of its own."""
    items = make_items(1, 3)
    own = make_learner(policy).score([i.view for i in items])
    off = [0.25, 5.0, 9.0]
    rows = [row_of(i, item, scores.logprobs + off[i]) for i, (item, scores) in enumerate(zip(items, own, strict=True))]
    rows = [rows[0], dataclasses.replace(rows[1], sampling={"temperature": 0.5}), dataclasses.replace(rows[2], policy_version=1)]
    metrics = make_learner(policy).update([LossTerm("p", NLLLoss(), items)], rows, [range(3)])
    assert metrics["train/logprob_gap"] == pytest.approx(0.25, abs=1e-5)
    later = make_learner(policy)
    later.updates = 2
    assert "train/logprob_gap" not in later.update([LossTerm("p", NLLLoss(), items)], rows, [range(3)])


def row_of(index: int, item: LossItem, logprobs: np.ndarray) -> Trajectory:
    task, view = Task(f"tiny-train-{index}-x", ({"role": "user", "content": "?"},), "train", index), item.view
    mask = np.concatenate([np.zeros(len(view.prefix_ids), bool), view.loss_mask])
    recorded = np.zeros(len(mask), np.float32)
    recorded[mask] = logprobs
    ids = np.concatenate([view.prefix_ids, view.token_ids])
    segments = [Segment(ids, mask, recorded, (TurnSpan(0, len(view.prefix_ids), len(ids)),), len(view.prefix_ids))]
    return Trajectory(f"g{index}", 0, task, segments, [""], [""], [1.0], [], Outcome.CORRECT, 1.0, True, StopReason.TERMINATED)


def test_a_restored_learner_goes_on_with_the_same_bits(pristine: Policy) -> None:
    terms = [LossTerm("d", DistillLoss(), make_items(references=True))]

    def fresh() -> tuple[Policy, Learner]:
        policy = copy.deepcopy(pristine)
        return policy, make_learner(policy, Teacher(policy.model, "ema", rate=0.3, unit="update"))

    policy, learner = fresh()
    learner.update(terms, [], [range(9)] * 2)
    state = copy.deepcopy(learner.state_dict())
    learner.update(terms, [], [range(9)] * 2)
    other_policy, other = fresh()
    other.load_state_dict(state)
    other.update(terms, [], [range(9)] * 2)
    assert other_policy.state_hash() == policy.state_hash() and other.updates == learner.updates == 4
    without = fresh()[1]
    without.load_state_dict({**state, "optimizer": {}})
    without.update(terms, [], [range(9)] * 2)
    assert any(not torch.equal(a, b) for a, b in zip(without.parameters, learner.parameters, strict=True))  # the moments matter


def test_anothers_weights_are_refused(policy: Policy) -> None:
    state = make_learner(policy).state_dict()
    state["weights"] = {f"x.{name}": tensor for name, tensor in state["weights"].items()}
    with pytest.raises(CheckpointError, match="another model"):
        make_learner(policy).load_state_dict(state)
