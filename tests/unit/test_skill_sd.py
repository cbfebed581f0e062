"""Skill-SD: the loss and its fixture, the bank, the cycle of a step, the terms, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdgym
from sdgym.algos.base import Batch, CollectContext, student_views
from sdgym.algos.losses import DistillLoss, ImportanceWeightedKL
from sdgym.algos.presets import build_algorithm
from sdgym.algos.skill_sd import SkillSD
from sdgym.algos.skills import SkillBank, Summary, TemplateSummariser, recurs, shelf_of
from sdgym.chat import ChatFormat
from sdgym.checkpoint import decode, encode
from sdgym.core import Feedback, LossTerm, Task, Trajectory
from sdgym.errors import ConfigError
from sdgym.objective import LossInputs
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
VOCAB = len(CHAT.tokenizer)
POLICY, TEACHER = BagModel(VOCAB, seed=1), BagModel(VOCAB, seed=2)
PRINTED, EXACT = 1e-5, 1e-9
STUDENT_LOGITS, TEACHER_LOGITS = [1.0, 0.5, -0.2, -1.0, 0.0], [0.2, 1.2, -0.5, -0.3, 0.1]  # fixture A


# ---- the loss ------------------------------------------------------------------------------------------------------


def inputs_of(logprobs: Tensor, old: Tensor, reference: Tensor) -> LossInputs:
    size = len(logprobs)
    zeros = torch.zeros(size, dtype=torch.float64)
    return LossInputs(
        torch.zeros(size, dtype=torch.int64),
        torch.zeros(size, dtype=torch.int64),
        1,
        logprobs,
        old,
        None,
        reference[None],
        zeros + 1,
        zeros,
        torch.zeros(1, dtype=torch.int64),
    )


def drawn(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of the student (a leaf), of π_old and of the teacher, far enough apart that nothing cancels."""
    rng = np.random.default_rng(seed)
    x, old, ref = (torch.from_numpy(rng.normal(-1.5, 0.6, count)) for _ in range(3))
    return x.requires_grad_(), old, ref


def test_printed_fixture() -> None:
    """Fixture A, y = 2, log π_old = −1.9: value and logit gradient, and SDPO's surrogate with the same gradient."""
    slope = [-0.126467, -0.076706, 0.266812, -0.017115, -0.046524]
    for loss, value in ((ImportanceWeightedKL(), 0.049455), (DistillLoss(support="sampled", importance="capped"), -0.634204)):
        logits = torch.tensor(STUDENT_LOGITS, dtype=torch.float64, requires_grad=True)
        own = logits.log_softmax(-1)[2:3]
        reference = torch.tensor(TEACHER_LOGITS, dtype=torch.float64).log_softmax(-1)[2:3]
        values, _ = loss(inputs_of(own, torch.tensor([-1.9], dtype=torch.float64), reference))
        assert values.item() == pytest.approx(value, abs=PRINTED)
        np.testing.assert_allclose(torch.autograd.grad(values.sum(), logits)[0], slope, atol=PRINTED)


def test_gradient_is_that_of_the_plain_product_with_a_differentiable_ratio() -> None:
    """∇(ρ·k3) by finite differences of Eq. 12 as written, for random old log-probs; it is ρ·ℓ."""
    x, old, ref = drawn(40)
    (slope,) = torch.autograd.grad(ImportanceWeightedKL()(inputs_of(x, old, ref))[0].sum(), x)

    def plain(values: Tensor) -> Tensor:
        ell = values - ref
        return torch.exp(values - old) * (torch.exp(-ell) - 1 + ell)

    point, h = x.detach(), 1e-6
    numeric = (plain(point + h) - plain(point - h)) / (2 * h)
    np.testing.assert_allclose(slope, numeric, rtol=1e-7, atol=1e-8)  # h² of the third derivative, at most about 1e2
    np.testing.assert_allclose(slope, torch.exp(point - old) * (point - ref), atol=EXACT)
    np.testing.assert_allclose(ImportanceWeightedKL()(inputs_of(x, old, ref))[0].detach(), plain(point), atol=EXACT)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_expected_gradient_is_that_of_the_reverse_kl_on_and_off_policy(shift: float) -> None:
    """The mean over y ~ π_old, summed over the whole vocabulary, is ∇KL(π_θ‖π_T); plain k3 and a detached ratio are not."""
    logits = torch.tensor(STUDENT_LOGITS, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(TEACHER_LOGITS, dtype=torch.float64).log_softmax(-1)
    old = (logits.detach() + shift * torch.tensor([1.0, -1.0, 0.5, 0.0, -0.5])).log_softmax(-1)
    own = logits.log_softmax(-1)
    kl = (own.exp() * (own - teacher)).sum()
    (expected,) = torch.autograd.grad(kl, logits, retain_graph=True)

    def mean_gradient(values: Tensor) -> Tensor:
        return torch.autograd.grad((old.exp() * values).sum(), logits, retain_graph=True)[0]

    np.testing.assert_allclose(mean_gradient(ImportanceWeightedKL()(inputs_of(own, old, teacher))[0]), expected, atol=EXACT)
    ell, rho = own - teacher, torch.exp(own - old)
    k3 = torch.exp(-ell) - 1 + ell
    for wrong in (k3, rho.detach() * k3):
        assert (mean_gradient(wrong) - expected).abs().max() > 0.01


def test_monte_carlo_gradient_is_unbiased() -> None:
    """200,000 draws from π_old: each component within five standard errors (no seed passes by luck: p < 1e-5)."""
    logits = torch.tensor(STUDENT_LOGITS, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(TEACHER_LOGITS, dtype=torch.float64).log_softmax(-1)
    old = torch.tensor([0.6, 0.9, -0.4, -0.6, 0.2], dtype=torch.float64).log_softmax(-1)
    y = torch.from_numpy(np.random.default_rng(3).choice(5, 200_000, p=old.exp().numpy()))
    own = logits.log_softmax(-1)
    (expected,) = torch.autograd.grad((own.exp() * (own - teacher)).sum(), logits, retain_graph=True)
    p = own.detach().exp()
    coefficient = torch.exp(own.detach() - old)[y] * (own.detach() - teacher)[y]
    each = coefficient[:, None] * (torch.eye(5, dtype=torch.float64)[y] - p)
    error = each.std(0) / math.sqrt(len(y))
    values, _ = ImportanceWeightedKL()(inputs_of(own[y], old[y], teacher[y]))
    (got,) = torch.autograd.grad(values.mean(), logits)
    assert ((got - expected).abs() < 5 * error).all()


def test_bounds_bound_value_and_gradient_and_are_reported() -> None:
    x = torch.tensor([-1.0, -1.0, -30.0], dtype=torch.float64, requires_grad=True)
    old, ref = torch.tensor([-1.0, -3.0, -30.0]), torch.tensor([-40.0, -1.5, -1.0])
    values, metrics = ImportanceWeightedKL(ratio_cap=2.0, log_ratio_clip=10.0)(inputs_of(x, old.double(), ref.double()))
    np.testing.assert_allclose(torch.autograd.grad(values.sum(), x)[0], [10.0, 2.0 * 0.5, -10.0], atol=EXACT)
    np.testing.assert_array_equal(metrics["bounded"], [1, 1, 1])
    np.testing.assert_allclose(metrics["lift"], [-39.0, -0.5, 29.0])
    assert values.isfinite().all()
    free = ImportanceWeightedKL()(inputs_of(x, old.double(), ref.double()))[1]
    np.testing.assert_allclose(free["importance"], [1.0, math.exp(2), 1.0])


def test_equal_teacher_is_silent() -> None:
    x, old, _ = drawn(10)
    values, _ = ImportanceWeightedKL()(inputs_of(x, old, x.detach()))
    assert values.abs().max() == 0 and torch.autograd.grad(values.sum(), x)[0].abs().max() == 0


# ---- the bank ------------------------------------------------------------------------------------------------------


def test_unseen_skills_come_first_in_order_of_arrival() -> None:
    bank = SkillBank()
    for text in ("a", "b", "c"):
        bank.add("s", text, "g", 0.0)
    found = [bank.retrieve("s") for _ in range(3)]
    assert [skill.text for skill in found if skill] == ["a", "b", "c"]
    bank.add("s", "late", "g", -5.0)
    late = bank.retrieve("s")
    assert late is not None and late.text == "late", "even a skill with the lowest prior is tried once"


@pytest.mark.parametrize(("c", "expected"), [(0.0, "often"), (1.0, "rare")])
def test_upper_confidence_bound(c: float, expected: str) -> None:
    """often: mean .6, n = 8; rare: mean .5, n = 1. At c = 1 their bounds are .6+√(ln 9/8) = 1.124 and .5+√(ln 9) = 1.982."""
    bank = SkillBank(exploration=c)
    for name, uses, mean in (("often", 8, 0.6), ("rare", 1, 0.5)):
        bank.add("s", name, "g", 0.0)
        skill = bank.shelves["s"][-1]
        skill.uses, skill.outcomes, skill.total = uses, uses, uses * mean
    found = bank.retrieve("s")
    assert found is not None and found.text == expected


def test_equal_bounds_go_to_the_older_skill() -> None:
    bank = SkillBank(exploration=0.0)
    for name in ("first", "second"):
        bank.add("s", name, "g", 0.0)
    for skill in bank.shelves["s"]:
        skill.uses = skill.outcomes = 1
    assert [bank.retrieve("s").text for _ in range(3)] == ["first"] * 3  # type: ignore[union-attr]


def test_a_retrieval_without_outcome_yet_counts_as_a_use() -> None:
    """Several groups of one step share a shelf: their retrievals spread although no outcome is known in between."""
    bank = SkillBank()
    for name in ("a", "b"):
        bank.add("s", name, "g", 0.5)
    assert [bank.retrieve("s").text for _ in range(4)] == ["a", "b", "a", "b"]  # type: ignore[union-attr]


def test_own_skills_are_not_returned_to_their_rollouts() -> None:
    bank = SkillBank()
    bank.add("s", "mine", "group 1", 1.0)
    assert bank.retrieve("s", exclude={"group 1"}) is None and bank.shelves["s"][0].uses == 0
    assert bank.retrieve("s", exclude={"group 2"}) is not None and bank.retrieve("elsewhere") is None


def test_a_full_shelf_loses_its_worst_then_its_oldest() -> None:
    bank = SkillBank(capacity=2)
    for text, prior in (("low", 0.1), ("high", 0.9), ("middle", 0.5)):
        bank.add("s", text, "g", prior)
    assert [skill.text for skill in bank.shelves["s"]] == ["high", "middle"]
    bank.record(bank.shelves["s"][0], 0.0)  # what it was worth beats what was expected
    bank.add("s", "newer", "g", 0.5)
    assert [skill.text for skill in bank.shelves["s"]] == ["middle", "newer"]
    bank.add("s", "newest", "g", 0.5)
    assert [skill.text for skill in bank.shelves["s"]] == ["newer", "newest"], "first in, first out among equals"
    bank.add("s", "newest", "g", 0.5)
    assert len(bank) == 2, "a text that is there already is not added again"


def test_bank_survives_a_checkpoint() -> None:
    def run(restore: bool) -> list[str]:
        bank, seen = SkillBank(capacity=3), []
        for step in range(8):
            if restore and step == 4:
                state = decode(*encode(bank.state_dict()))
                bank = SkillBank(capacity=3)
                bank.load_state_dict(state)
            skill = bank.retrieve("s")
            if skill is not None:
                bank.record(skill, step % 3 / 2)
                seen.append(f"{skill.skill_id}:{skill.mean:.3f}")
            bank.add("s", f"skill {step}", f"g{step}", step % 2)
        return seen

    assert run(restore=True) == run(restore=False) and len(run(restore=False)) == 7


def test_shelves() -> None:
    one = Task("tiny-train-1-abc", (), "train", 1, {}, {"family": "cave", "level": "tiny"})
    again = Task("tiny-train-2-abc", (), "train", 2, {}, {"family": "cave", "level": "tiny"})
    other = Task("tiny-train-3-def", (), "train", 3, {}, {"family": "hall", "level": "tiny"})
    for scope, same, different in (("task", True, True), ("family", True, True), ("world", True, False)):
        assert (shelf_of(one, scope) == shelf_of(again, scope)) is same  # type: ignore[arg-type]
        assert (shelf_of(one, scope) != shelf_of(other, scope)) is different  # type: ignore[arg-type]


# ---- the cycle of a step -------------------------------------------------------------------------------------------


def context_of(interpreter: Interpreter, report: Callable[[str, float], None] = lambda name, value: None, **given: Any) -> CollectContext:
    plain = interpreter.context(CHAT, **given)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    return CollectContext(**fields | {"report": report}, draw=None)  # type: ignore[arg-type]


def rows_of(task: Task, script: Sequence[tuple[str, float | None]], step: int = 0) -> list[Trajectory]:
    rows = [
        scripted_row(CHAT, task, i, [a], None if r is None else [r], feedback="" if r else f"{a} is no good", policy=POLICY)
        for i, (a, r) in enumerate(script)
    ]
    return [dataclasses.replace(row, group_id=f"{step}-{task.task_id}") for row in rows]


FIRST, SECOND = scripted_task("a", "3+4?"), scripted_task("b", "2*3?", answer="6", solution="2*3=6")


def batch_at(step: int) -> Batch:
    """Two tasks, other words at every step, one row that could not be graded."""
    return group_rows(
        [*rows_of(FIRST, [("7", 1.0), (f"no {step}", 0.0), ("?", None)], step), *rows_of(SECOND, [(f"6.{step}", 0.0), ("x", 0.0)], step)]
    )


def run_step(algorithm: SkillSD, batch: Batch, interpreter: Interpreter | None = None, **given: Any) -> list[LossTerm]:
    (phase,) = algorithm.phases
    context = context_of(interpreter or Interpreter(POLICY, TEACHER), **given)
    assert phase.collect is not None and phase.collect(batch, context) is batch.rows
    return phase.annotate(batch, context)


def test_the_first_step_is_grpo_and_the_second_has_skills() -> None:
    algorithm: SkillSD = build_algorithm("skill_sd")
    reported: dict[str, float] = {}
    assert [term.name for term in run_step(algorithm, batch_at(0), report=reported.__setitem__)] == ["policy"]
    assert reported == {"skills": 4.0, "groups_with_skill": 0.0}
    policy, distill = run_step(algorithm, batch_at(1), report=reported.__setitem__)
    assert reported["groups_with_skill"] == 1.0 and (policy.coefficient, distill.coefficient) == (1.0, 0.001)
    assert [item.view.row for item in distill.items] == [0, 1, 3, 4], "the ungradable row has no part"
    for item in distill.items:
        (view,) = item.references
        text = CHAT.tokenizer.decode(view.prefix_ids)
        skill = algorithm.context.chosen[batch_at(1).rows[item.view.row].group_id]
        assert (view.weights, view.grad, view.kind, view.source) == ("teacher", False, "skill", f"skill {skill.skill_id}")
        assert skill.text in text and text.index(batch_at(1).rows[item.view.row].task.messages[-1]["content"]) < text.index(skill.text)
        assert skill.text not in CHAT.tokenizer.decode(item.view.prefix_ids), "the student never reads it"


def test_no_rollout_is_scored_under_a_skill_of_its_groups_making() -> None:
    """Over many steps on one shelf, although every step's skills are written before its terms are built."""
    algorithm: SkillSD = build_algorithm("skill_sd", {"scope": "world", "shelf_size": 3})
    for step in range(12):
        batch = batch_at(step)
        run_step(algorithm, batch)
        for group, skill in algorithm.context.chosen.items():
            assert skill.origin != group and not skill.origin.startswith(f"{step}-")
    assert algorithm.context.chosen


def test_the_outcome_of_a_use_is_the_groups_mean_reward() -> None:
    algorithm: SkillSD = build_algorithm("skill_sd", {"scope": "task", "shelf_size": 1})
    run_step(algorithm, batch_at(0))
    run_step(algorithm, batch_at(1))
    records = {shelf: (s.uses, s.outcomes, s.total, s.origin) for shelf, (s,) in algorithm.bank.shelves.items()}
    assert records["a"] == (0, 0, 0.0, "1-a"), "a used skill with mean .5 yields to a newer one of the same worth"
    assert records["b"] == (0, 0, 0.0, "1-b")
    wide: SkillSD = build_algorithm("skill_sd", {"scope": "task"})
    run_step(wide, batch_at(0))
    run_step(wide, batch_at(1))
    used = [skill for skill in wide.bank.shelves["a"] if skill.uses]
    assert [(skill.outcomes, skill.total) for skill in used] == [(1, 0.5)], "the ungradable row is no part of the mean"


def test_the_best_attempts_of_a_group_are_summarised() -> None:
    algorithm: SkillSD = build_algorithm("skill_sd", {"summaries_per_group": 1, "scope": "task"})
    run_step(algorithm, batch_at(0))
    assert [skill.text for skill in algorithm.bank.shelves["a"]] == ["What worked: 7. How to do it: Take these steps in this order: 7."]


def test_scope_keeps_shelves_apart() -> None:
    algorithm: SkillSD = build_algorithm("skill_sd", {"scope": "task"})
    run_step(algorithm, group_rows(rows_of(FIRST, [("7", 1.0), ("8", 0.0)])))
    _, distill = run_step(algorithm, batch_at(1))
    assert {item.view.row for item in distill.items} == {0, 1}, "the second task has no skill yet"


# ---- the objective -------------------------------------------------------------------------------------------------


def test_weight_zero_is_grpo() -> None:
    grpo = build_algorithm("grpo").annotate(batch_at(1), Interpreter(POLICY).context(CHAT))
    algorithm: SkillSD = build_algorithm("skill_sd", {"skill_weight": 0.0})
    assert algorithm.phases[0].collect is None
    terms = algorithm.annotate(batch_at(1), Interpreter(POLICY).context(CHAT))
    for a, b in zip(Interpreter(POLICY).gradient(terms), Interpreter(POLICY).gradient(grpo), strict=True):
        np.testing.assert_array_equal(a, b)
    assert max(np.abs(g).max() for g in Interpreter(POLICY).gradient(grpo)) > 1e-4


def test_a_teacher_without_news_is_silent() -> None:
    """P0 with the same weights: ℓ = 0, so value and gradient vanish."""
    algorithm: SkillSD = build_algorithm("skill_sd", {"control": "P0", "skill_weight": 1.0})
    same = Interpreter(POLICY, POLICY)
    run_step(algorithm, batch_at(0), same)
    _, distill = run_step(algorithm, batch_at(1), same)
    assert same.objective([distill]).item() == 0.0
    assert max(np.abs(g).max() for g in same.gradient([distill])) == 0.0
    told: SkillSD = build_algorithm("skill_sd", {"skill_weight": 1.0})
    run_step(told, batch_at(0), same)
    assert max(np.abs(g).max() for g in same.gradient(run_step(told, batch_at(1), same)[1:])) > 1e-4


def test_equal_rewards_silence_grpo_but_not_the_skill() -> None:
    algorithm: SkillSD = build_algorithm("skill_sd")
    interpreter = Interpreter(POLICY, TEACHER)
    run_step(algorithm, batch_at(0))
    policy, distill = run_step(algorithm, group_rows(rows_of(FIRST, [("1", 0.0), ("22", 0.0)], 1)))
    assert max(np.abs(g).max() for g in interpreter.gradient([policy])) == 0.0
    assert max(np.abs(g).max() for g in interpreter.gradient([distill])) > 1e-6


def test_multi_turn_terms_are_the_formula() -> None:
    """Off-policy, two turns: (1/N) Σ ρ·k3 over action tokens of both turns, behind the skill and the same transcript."""
    script = [(["up", "left"], [0.0, 1.0]), (["down", "up up"], [0.25, 0.0])]
    rows = [scripted_row(CHAT, FIRST, i, a, r, observations=["wall"], feedback="stuck", policy=POLICY) for i, (a, r) in enumerate(script)]
    algorithm: SkillSD = build_algorithm("skill_sd", {"minibatches": 2})
    run_step(algorithm, batch_at(0))
    batch = group_rows(rows)
    old = BagModel(VOCAB, seed=1)
    old.parameters[2].data += 0.02 * TEACHER.parameters[2].data
    _, distill = run_step(algorithm, batch, Interpreter(old, TEACHER), on_policy=False)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for item in distill.items:
        row = batch.rows[item.view.row]
        segment, (skill,) = row.segments[0], set(s.text for s in algorithm.context.chosen.values())
        places = np.flatnonzero(segment.action_mask)
        prefix = item.references[0].prefix_ids
        assert skill in CHAT.tokenizer.decode(prefix) and "wall" in CHAT.tokenizer.decode(item.references[0].token_ids)
        behind = np.concatenate([prefix, segment.ids[segment.prompt_length :]])
        ell = POLICY.logprobs(segment.ids, places) - TEACHER.logprobs(behind, places + len(behind) - len(segment.ids)).detach()
        rho = torch.exp(POLICY.logprobs(segment.ids, places) - old.logprobs(segment.ids, places).detach())
        total, count = total + (rho * (torch.exp(-ell) - 1 + ell)).sum(), count + len(places)
    interpreter = Interpreter(POLICY, TEACHER)
    assert interpreter.objective([dataclasses.replace(distill, coefficient=1.0)]).item() == pytest.approx((total / count).item(), abs=1e-8)
    for got, expected in zip(interpreter.gradient([distill]), torch.autograd.grad(0.001 * total / count, POLICY.parameters), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-9)


def test_a_skill_that_does_not_fit_drops_the_row_and_never_the_history() -> None:
    algorithm: SkillSD = build_algorithm("skill_sd")
    run_step(algorithm, batch_at(0))
    batch = batch_at(1)
    skilled = max(
        len(item.references[0].prefix_ids) + len(item.references[0].token_ids)
        for item in run_step(algorithm, batch)[1].items
    )  # fmt: skip
    plain = max(len(view.prefix_ids) + len(view.token_ids) for i in (0, 1, 3, 4) for view in student_views(batch, i))
    assert plain < skilled
    context = dataclasses.replace(context_of(Interpreter(POLICY, TEACHER)), max_context=plain)
    assert [term.name for term in algorithm.annotate(batch, context)] == ["policy"]


def test_controls_reach_the_teacher() -> None:
    for control in ("P1", "P3"):
        algorithm: SkillSD = build_algorithm("skill_sd", {"control": control})
        run_step(algorithm, batch_at(0))
        _, distill = run_step(algorithm, batch_at(1))
        for item in distill.items:
            assert item.references[0].kind == f"skill/{control}"
            assert algorithm.context.chosen[f"1-{'a' if item.view.row < 3 else 'b'}"].text not in CHAT.tokenizer.decode(
                item.references[0].prefix_ids
            )


def test_resumed_run_goes_on_with_the_same_skills() -> None:
    def chosen(restore: bool) -> list[str]:
        algorithm: SkillSD = build_algorithm("skill_sd")
        run_step(algorithm, batch_at(0))
        if restore:
            state = decode(*encode(algorithm.state_dict()))
            algorithm = build_algorithm("skill_sd")
            algorithm.load_state_dict(state)
        found = []
        for step in (1, 2, 3):
            run_step(algorithm, batch_at(step))
            found += [f"{group}: {skill.skill_id} {skill.text}" for group, skill in algorithm.context.chosen.items()]
        return found

    assert chosen(restore=True) == chosen(restore=False) and len(chosen(restore=False)) == 6


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"summariser": "endpoint"}, "needs summariser_url and summariser_model: set both, or use summariser=template"),
        (
            {"summariser": "endpoint", "summariser_url": "file:///etc", "summariser_model": "m"},
            "needs an address such as http://localhost:8000/v1",
        ),
        ({"policy.kl_beta": 0.1}, r"use policy\.kl_beta=0 or teacher=frozen"),
        ({"ratio_cap": 0.5}, "use 1 or more, or null for no cap"),
        ({"summariser": "oracle"}, "'summariser' should be 'template', 'policy' or 'endpoint'"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_sentence(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_algorithm("skill_sd", overrides)
    assert "\n" not in str(caught.value)


def test_shelves_per_task_are_refused_where_no_task_comes_twice() -> None:
    run = {"group_size": 8, "steps": 10, "tasks_per_step": 8}
    letters = sdgym.make(LETTERS_ID)
    with pytest.raises(ConfigError, match=r"scope=task keeps skills .* do not: use scope=family"):
        build_algorithm("skill_sd", {"scope": "task"}).validate(letters, run)
    build_algorithm("skill_sd").validate(letters, run)
    with pytest.raises(ConfigError, match="group_size of at least 2"):
        build_algorithm("skill_sd").validate(letters, run | {"group_size": 1})


@pytest.mark.parametrize(("size", "expected"), [(50, True), (500, True), (50_000_000, False)])
def test_recurrence_is_seen_for_a_world_that_the_run_goes_through(size: int, expected: bool) -> None:
    """1,000 draws from 50 or 500 tasks come again; from fifty millions they do not."""

    class World:
        split = "train"

        def make_task(self, seed: int, split: str) -> Task:
            return Task(f"tiny-train-{seed}-{seed % size}", (), split, seed)

    assert recurs(World(), 1000) is expected


# ---- the template --------------------------------------------------------------------------------------------------


def summary_of(actions: list[str], rewards: list[float], said: dict[int, str]) -> Summary:
    row = scripted_row(CHAT, FIRST, 0, actions, rewards, observations=["seen"] * (len(actions) - 1))
    row = dataclasses.replace(row, feedback=[Feedback("verifier", text, turn) for turn, text in said.items()])
    (summary,) = TemplateSummariser()([row], None)  # type: ignore[arg-type]
    assert summary is not None
    return summary


def test_template_says_what_the_environment_said() -> None:
    assert summary_of(["7"], [1.0], {}) == Summary("7", "", "Take these steps in this order: 7")
    assert summary_of(["8"], [0.0], {0: "too high"}) == Summary("", "8 was told: too high", "Give another answer")
    assert summary_of(["8"], [0.0], {}) == Summary("", "8 did not solve the task", "")
    several = summary_of(["up", "left left"], [0.5, 0.0], {0: "box moved", 1: "wall"})
    assert several.worked == "turn 1 (up)"
    assert several.wrong == "turn 1 (up) was told: box moved turn 2 (left left) was told: wall"
    assert several.workflow == "Change turn 1 (up)"
    assert summary_of(["up", "left"], [0.0, 1.0], {0: "wall"}).workflow == "Take these steps in this order: up then left"


def test_summary_text_leaves_out_what_is_empty() -> None:
    assert Summary("a.", "", " b\n c ").text() == "What worked: a. How to do it: b c."
    assert Summary().text() == ""
