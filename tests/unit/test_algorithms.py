"""What each algorithm's terms say: rows, weights, references, coefficients; evaluated by the plain interpreter."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np
import pytest
import torch

from sdgym.algos.base import AnnotateContext, Batch, student_views, supervision_class
from sdgym.algos.conditioning.answers import WrongPeer
from sdgym.algos.conditioning.verdict import Contrast
from sdgym.algos.losses import DistillLoss
from sdgym.algos.opsd import reference_of
from sdgym.algos.presets import build_algorithm
from sdgym.algos.terms import build_items
from sdgym.chat import ChatFormat
from sdgym.checkpoint import decode, encode
from sdgym.core import LossTerm, Task
from sdgym.errors import AlignmentError, ConfigError
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
VOCAB = len(CHAT.tokenizer)
FLOAT32 = 2e-6  # advantages and weights are stored as float32


@pytest.fixture(scope="module")
def policy() -> BagModel:
    return BagModel(VOCAB, seed=1)


@pytest.fixture(scope="module")
def teacher() -> BagModel:
    return BagModel(VOCAB, seed=2)


def tasks() -> list[Task]:
    return [scripted_task(f"t{i}", f"{i}+4?", answer=str(i + 4), solution=f"{i}+4={i + 4}") for i in range(3)]


def make_batch(policy: BagModel | None = None) -> Batch:
    """Two groups of four: mixed (one truncated, one ungradable) and all wrong; lengths differ."""
    first, second, _ = tasks()
    scripts = [
        (first, "4", [1.0], "", False),
        (first, "five 5", [0.0], "too high", False),
        (first, "4444444", [0.0], "too long", True),
        (first, "?", None, "", False),
        (second, "1", [0.0], "too low", False),
        (second, "22", [0.0], "", False),
        (second, "333", [0.0], "wrong digit", False),
        (second, "99", [0.0], "too high", False),
    ]
    rows = [scripted_row(CHAT, t, i % 4, [a], r, feedback=f, truncated=c, policy=policy) for i, (t, a, r, f, c) in enumerate(scripts)]
    return group_rows(rows)


def annotate(name: str, batch: Batch, interpreter: Interpreter, overrides: dict[str, Any] | None = None, **context: Any) -> list[LossTerm]:
    return build_algorithm(name, overrides).annotate(batch, interpreter.context(CHAT, **context))  # type: ignore[no-any-return]


def rows_of(term: LossTerm) -> list[int]:
    return [item.view.row for item in term.items]


# ---- GRPO and its variants -------------------------------------------------------------------------------------


def sequence_logprobs(batch: Batch, policy: BagModel, i: int) -> torch.Tensor:
    segment = batch.rows[i].segments[0]
    return policy.logprobs(segment.ids, np.flatnonzero(segment.action_mask))


@pytest.mark.parametrize(
    ("name", "reduce"),
    [
        ("grpo", lambda a, n, lengths: a / n / len(lengths)),
        ("dr_grpo", lambda a, n, lengths: a / (len(lengths) * 24)),
        ("rloo", lambda a, n, lengths: a / len(lengths)),
        ("cispo", lambda a, n, lengths: a / sum(n for n in lengths if n)),
    ],
)
def test_on_policy_gradient_is_the_papers(name: str, reduce: Any, policy: BagModel) -> None:
    """−Σ_i c_i·A_i·Σ_t ∇log π with each variant's advantage and normaliser, written out here."""
    batch = make_batch()
    rewards = np.array([1.0, 0.0, 0.0])
    centred = rewards - rewards.mean()
    scale = {"grpo": rewards.std(ddof=1) + 1e-6, "cispo": rewards.std(ddof=1) + 1e-6, "dr_grpo": 1.0, "rloo": 2 / 3}[name]
    advantage = [*(centred / scale), 0.0, 0.0, 0.0, 0.0, 0.0]
    lengths = [row.action_length if row.usable else 0 for row in batch.rows]
    total = sum(
        -reduce(a, max(n, 1), lengths) * sequence_logprobs(batch, policy, i).sum()
        for i, (a, n) in enumerate(zip(advantage, lengths, strict=True))
        if a
    )
    expected = torch.autograd.grad(total, policy.parameters)
    got = Interpreter(policy, longest_answer=24).gradient(annotate(name, batch, Interpreter(policy)))
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e.numpy(), atol=FLOAT32)
    assert max(np.abs(g).max() for g in got) > 1e-3


def test_ungradable_rows_are_absent_and_truncated_ones_can_be_masked(policy: BagModel) -> None:
    batch, interpreter = make_batch(), Interpreter(policy)
    assert rows_of(annotate("grpo", batch, interpreter)[0]) == [0, 1, 2, 4, 5, 6, 7]
    assert rows_of(annotate("grpo", batch, interpreter, {"mask_truncated": True})[0]) == [0, 1, 4, 5, 6, 7]


def test_old_logprobs_are_scored_only_off_policy(policy: BagModel) -> None:
    batch, interpreter = make_batch(), Interpreter(policy)
    on, off = annotate("grpo", batch, interpreter)[0], annotate("grpo", batch, interpreter, on_policy=False)[0]
    assert all(item.old_logprobs is None for item in on.items)
    for item in off.items:
        assert item.old_logprobs is not None
        np.testing.assert_allclose(item.old_logprobs, sequence_logprobs(batch, policy, item.view.row).detach().numpy(), atol=1e-12)
    later = BagModel(VOCAB, seed=9)  # after some updates the ratio is no longer 1
    assert abs(Interpreter(later).objective([off]).item() - Interpreter(later).objective([on]).item()) > 1e-3


def test_reference_kl_is_to_the_frozen_policy_in_the_students_own_context(policy: BagModel, teacher: BagModel) -> None:
    algorithm = build_algorithm("grpo", {"kl_beta": 0.5, "kl_estimator": "k2", "aggregation": "token_mean_global", "scale": "none"})
    assert algorithm.teacher_weights.kind == "frozen"
    batch, interpreter = make_batch(), Interpreter(policy, teacher)
    terms = algorithm.annotate(batch, interpreter.context(CHAT))
    total, count = 0.0, 0
    for i in rows_of(terms[0]):
        ell = (sequence_logprobs(batch, policy, i) - sequence_logprobs(batch, teacher, i)).detach().numpy()
        total, count = total + 0.25 * (ell**2).sum(), count + len(ell)
    advantage = sum(-a * batch.rows[i].action_length for i, a in zip((0, 1, 2), (2 / 3, -1 / 3, -1 / 3), strict=True))
    assert interpreter.objective(terms).item() == pytest.approx((total + advantage) / count, abs=FLOAT32)


def test_dynamic_sampling_compares_turns_where_credit_does() -> None:
    """Equal sums, other turns: no gradient from outcomes, one from turns."""
    rows = [
        scripted_row(CHAT, tasks()[0], i, ["a", "b"], rewards, observations=["go on"]) for i, rewards in enumerate(([1.0, 0.0], [0.0, 1.0]))
    ]
    assert not build_algorithm("dapo").accept_group(rows)
    assert build_algorithm("dapo", {"credit": "turn"}).accept_group(rows)


def test_dynamic_sampling_rejects_groups_without_spread() -> None:
    batch, dapo, grpo = make_batch(), build_algorithm("dapo"), build_algorithm("grpo")
    mixed, failed = ([batch.rows[i] for i in group] for group in batch.groups)
    assert dapo.accept_group(mixed) and not dapo.accept_group(failed)
    assert not dapo.accept_group([mixed[0], mixed[3]]), "an ungradable row is no spread"
    assert grpo.accept_group(failed)


def test_overlong_shaping_lowers_the_reward_of_long_answers(policy: BagModel) -> None:
    """Limit 10, cache 2 (a fifth): a wrong answer of 9 tokens loses ½, one of 10 loses 1."""
    task = tasks()[0]
    rows = [scripted_row(CHAT, task, i, [text], [0.0], max_tokens=10) for i, text in enumerate(["1", "12345678", "123456789"])]
    got = build_algorithm("dapo", {"scale": "none"}).advantages(group_rows(rows))[:, 0]
    np.testing.assert_allclose(got, np.array([0.0, -0.5, -1.0]) + 0.5, atol=1e-12)


def test_turn_credit_reaches_the_tokens_of_its_turn() -> None:
    task = tasks()[0]
    rows = [
        scripted_row(CHAT, task, 0, ["up", "left"], [0.0, 1.0], observations=["no"]),
        scripted_row(CHAT, task, 1, ["down", "right"], [0.5, 0.0], observations=["yes"]),
    ]
    batch = group_rows(rows)
    (term,) = annotate("dr_grpo", batch, Interpreter(BagModel(VOCAB)), {"credit": "turn"})
    for item, values in zip(term.items, ([0.25, 0.5], [-0.25, -0.5]), strict=True):
        turns = batch.rows[item.view.row].turn_of_token()
        assert item.advantage is not None and item.view.token_ids[~item.view.loss_mask].size  # the observation is attended to, not scored
        np.testing.assert_allclose(item.advantage, np.array(values)[turns], atol=1e-7)


@pytest.mark.parametrize("name", ["grpo", "rloo", "sdpo_hybrid"])
def test_a_single_rollout_is_refused_where_a_group_is_needed(name: str) -> None:
    with pytest.raises(ConfigError, match="group_size of at least 2"):
        build_algorithm(name).validate(None, {"group_size": 1})
    build_algorithm(name).validate(None, {"group_size": 2})


def test_nothing_to_learn_from_is_no_term(policy: BagModel) -> None:
    rows = [scripted_row(CHAT, tasks()[0], i, ["x"], None) for i in range(2)]
    for name in ("grpo", "rft", "opsd_v1", "sdpo_rich", "sharpen"):
        assert annotate(name, group_rows(rows), Interpreter(policy)) == []


# ---- rejection fine-tuning -------------------------------------------------------------------------------------


def success_batch() -> Batch:
    first, second, _ = tasks()
    script = [
        (first, "3", 0.0),
        (first, "4", 1.0),
        (first, "4", 1.0),
        (first, "=4", 1.0),
        (second, "5", 1.0),
        (second, "is 5", 1.0),
        (second, "5.", 1.0),
    ]
    rows = [scripted_row(CHAT, t, i, [a], [r]) for i, (t, a, r) in enumerate(script)]
    rows.append(scripted_row(CHAT, second, 7, ["5 5 5"], [1.0], truncated=True))
    return group_rows(rows)


def test_rft_imitates_distinct_untruncated_successes_up_to_the_cap(policy: BagModel) -> None:
    batch = success_batch()
    (term,) = annotate("rft", batch, Interpreter(policy), {"max_per_task": 2})
    assert rows_of(term) == [1, 3, 4, 5]
    logprobs = [sequence_logprobs(batch, policy, i) for i in rows_of(term)]
    expected = -sum(x.sum() for x in logprobs) / sum(len(x) for x in logprobs)
    assert Interpreter(policy).objective([term]).item() == pytest.approx(expected.item(), abs=1e-12)


def test_rft_gradient_is_reinforce_without_baseline(policy: BagModel) -> None:
    """Distinct successes, r ∈ {0, 1}: equal to −r·log π up to the normaliser (Σ over successes against all rows)."""
    rows = [scripted_row(CHAT, tasks()[0], i, [a], [r]) for i, (a, r) in enumerate([("4", 1.0), ("55", 0.0), ("four", 1.0)])]
    batch, interpreter = group_rows(rows), Interpreter(policy)
    rft = interpreter.gradient(annotate("rft", batch, interpreter))
    settings = {"objective": "reinforce", "baseline": "none", "scale": "none", "aggregation": "token_mean_global"}
    reinforce = interpreter.gradient(annotate("grpo", batch, interpreter, settings))
    factor = sum(r.action_length for r in rows) / sum(r.action_length for r in rows if r.success)
    for a, b in zip(rft, reinforce, strict=True):
        np.testing.assert_allclose(a, factor * b, atol=FLOAT32)


def test_offline_rft_collects_from_the_start_and_passes_over_its_pool(policy: BagModel) -> None:
    algorithm = build_algorithm("rft_offline", {"collect_steps": 2, "pool_batch": 3})
    collect, train = algorithm.phases
    assert (collect.steps, collect.rollouts, train.steps, train.rollouts) == (2, True, None, False)
    context = Interpreter(policy).context(CHAT)
    assert collect.annotate(success_batch(), context) == [] and collect.annotate(success_batch(), context) == []
    seen = []
    for size in (3, 2, 3):
        (term,) = train.annotate(Batch([], []), context)
        assert len(term.items) == size and rows_of(term) == list(range(size)) and term.rows is None
        seen += [tuple(item.view.token_ids) for item in term.items]
    assert len(set(seen[:5])) == 5, "one pass shows every distinct success once: the second collection added none"
    assert set(seen[5:]) <= set(seen[:5])


def test_offline_rft_resumes_in_the_middle_of_a_pass(policy: BagModel) -> None:
    def terms_after(restore: bool) -> list[list[int]]:
        algorithm = build_algorithm("rft_offline", {"pool_batch": 2})
        algorithm.phases[0].annotate(success_batch(), Interpreter(policy).context(CHAT))
        algorithm.phases[1].annotate(Batch([], []), Interpreter(policy).context(CHAT, seed=5))
        if restore:
            state = decode(*encode(algorithm.state_dict()))  # what a checkpoint makes of it
            algorithm = build_algorithm("rft_offline", {"pool_batch": 2})
            algorithm.load_state_dict(state)
        (term,) = algorithm.phases[1].annotate(Batch([], []), Interpreter(policy).context(CHAT, seed=6))
        return [list(item.view.token_ids) for item in term.items]

    assert terms_after(restore=True) == terms_after(restore=False)


def test_offline_rft_refuses_to_end_before_it_trains() -> None:
    algorithm = build_algorithm("rft_offline", {"collect_steps": 5})
    with pytest.raises(ConfigError, match="steps must be larger, got 5"):
        algorithm.validate(None, {"steps": 5})
    algorithm.validate(None, {"steps": 6})


def test_an_empty_pool_is_no_update(policy: BagModel) -> None:
    algorithm = build_algorithm("rft_offline")
    assert algorithm.phases[1].annotate(Batch([], []), Interpreter(policy).context(CHAT)) == []


# ---- OPSD and SDPO ---------------------------------------------------------------------------------------------


def test_opsd_teaches_every_gradable_row_from_the_reference(policy: BagModel, teacher: BagModel) -> None:
    batch, interpreter = make_batch(policy), Interpreter(policy, teacher)
    (term,) = annotate("opsd_v1", batch, interpreter)
    assert rows_of(term) == [0, 1, 2, 4, 5, 6, 7]
    total, count = 0.0, 0
    for item in term.items:
        (view,) = item.references
        assert (view.weights, view.grad, view.kind) == ("teacher", False, "reference")
        text = CHAT.tokenizer.decode(view.prefix_ids)
        assert batch.rows[view.row].task.privileged["reference_solution"] in text
        p = interpreter.logits(item.view).softmax(-1).detach().numpy()
        q = interpreter.logits(view).softmax(-1).detach().numpy()
        m = (p + q) / 2
        total += 0.5 * float((q * np.log(q / m) + p * np.log(p / m)).sum())
        count += len(p)
    assert interpreter.objective([term]).item() == pytest.approx(total / count, abs=1e-9)


@pytest.mark.parametrize("name", ["opsd_v1", "opsd_v3", "sdpo_rich", "sdpo_norich"])
def test_a_teacher_without_news_teaches_nothing(name: str, policy: BagModel) -> None:
    """Control P0 with live weights: the teacher is the student, so loss and gradient vanish."""
    interpreter = Interpreter(policy)
    terms = annotate(name, make_batch(policy), interpreter, {"control": "P0", "teacher": "live"})
    assert terms and terms[0].items
    assert interpreter.objective(terms).item() == pytest.approx(0.0, abs=1e-9)
    assert max(np.abs(g).max() for g in interpreter.gradient(terms)) < 1e-9
    told = interpreter.gradient(annotate(name, make_batch(policy), interpreter, {"teacher": "live"}))
    assert max(np.abs(g).max() for g in told) > 1e-4


@pytest.mark.parametrize("control", ["P1", "P2", "P3"])
def test_controls_reach_the_conditioner(control: str, policy: BagModel) -> None:
    batch = make_batch(policy)
    for name in ("opsd_v1", "sdpo_rich"):
        terms = annotate(name, batch, Interpreter(policy), {"control": control})
        texts = [CHAT.tokenizer.decode(item.references[0].prefix_ids) for term in terms for item in term.items]
        kinds = {item.references[0].kind for term in terms for item in term.items}
        assert all(kind.endswith(f"/{control}") for kind in kinds) and kinds
        own = [batch.rows[item.view.row].task.privileged["reference_solution"] for term in terms for item in term.items]
        assert not any(solution in text for solution, text in zip(own, texts, strict=True))


def sources(batch: Batch, policy: BagModel, **overrides: Any) -> dict[int, str]:
    """Row → where its teacher's text came from."""
    terms = annotate("sdpo_rich", batch, Interpreter(policy), overrides)
    return {item.view.row: f"{item.references[0].kind}:{item.references[0].source}" for term in terms for item in term.items}


def reward_group(rewards: list[float], feedback: list[str] | None = None) -> Batch:
    feedback = feedback or [""] * len(rewards)
    return group_rows(
        [scripted_row(CHAT, tasks()[0], i, [f"a{i}"], [r], feedback=f) for i, (r, f) in enumerate(zip(rewards, feedback, strict=True))]
    )


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [([0, 1, 0, 0], [1, None, 1, 1]), ([0, 1, 1, 0], [1, 2, 1, 1]), ([1, 1, 1], [1, 0, 0]), ([0, 0], [None, None])],
)
def test_demonstrations_exclude_self(rewards: list[float], expected: list[int | None], policy: BagModel) -> None:
    """The selection table of algorithms-core §4e."""
    found = sources(reward_group(rewards), policy)
    assert found == {i: f"peer+feedback:row {j}" for i, j in enumerate(expected) if j is not None}
    with_self = sources(reward_group(rewards), policy, exclude_self=False)
    first = rewards.index(1) if 1 in rewards else None
    assert with_self == ({i: f"peer+feedback:row {first}" for i in range(len(rewards))} if first is not None else {})


@pytest.mark.parametrize(
    ("peer", "said", "only_without", "expected"),
    [
        (True, True, True, "row 1"),
        (True, True, False, "row 1, row 0"),
        (True, False, True, "row 1"),
        (True, False, False, "row 1"),
        (False, True, True, "row 0"),
        (False, True, False, "row 0"),
        (False, False, True, None),
        (False, False, False, None),
    ],
)
def test_feedback_gating(peer: bool, said: bool, only_without: bool, expected: str | None, policy: BagModel) -> None:
    """The truth table: has a peer × has feedback × feedback only without a solution."""
    batch = reward_group([0.0, float(peer)], ["too low" if said else "", ""])
    assert sources(batch, policy, only_without_solution=only_without).get(0, "none:None").split(":")[1] == str(expected)


def test_success_threshold_decides_who_is_a_peer(policy: BagModel) -> None:
    batch = reward_group([0.6, 0.0])
    assert sources(batch, policy, success_threshold=0.5) == {1: "peer+feedback:row 0"}
    assert sources(batch, policy, success_threshold=1.0) == {}
    assert sources(batch, policy, success_threshold=None) == {}, "the environment calls 0.6 a failure"
    said = reward_group([0.6, 0.0], ["test 3 fails", ""])
    both = sources(said, policy, success_threshold=0.5, only_without_solution=False)
    assert both == {0: "peer+feedback:row 0", 1: "peer+feedback:row 0"}, "what is said counts, also above the threshold"


def test_no_demonstration_is_a_failure_whose_reward_adds_up() -> None:
    assert build_algorithm("sdpo_rich").config.success_threshold is None  # type: ignore[attr-defined]
    several, single = types.SimpleNamespace(max_turns=3), types.SimpleNamespace(max_turns=1)
    judged = build_algorithm("sdpo_rich", {"success_threshold": 0.5})
    judged.validate(single, {})
    with pytest.raises(ConfigError, match="a sum over turns"):
        judged.validate(several, {})


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("sdpo_rich", {}, "feedback"),
        ("sdpo_norich", {}, "reward"),
        ("sdpo_rich", {"context": "outcome"}, "reward"),
        ("vpd", {}, "feedback"),
        ("vpd_contrast", {}, "reward"),
        ("vpd_critique", {}, "reward"),
    ],
)
def test_a_method_is_ranked_by_what_its_teacher_reads(name: str, overrides: dict[str, Any], expected: str) -> None:
    assert supervision_class(build_algorithm(name, overrides)) == expected


def test_a_silent_sibling_does_not_stand_for_the_group(policy: BagModel) -> None:
    rows = [scripted_row(CHAT, tasks()[0], i, [said], [reward]) for i, (said, reward) in enumerate((("", 0.0), ("no", 0.0), ("yes", 1.0)))]
    batch = group_rows(rows)
    for conditioner in (Contrast(), WrongPeer()):
        told = conditioner.tell(2, batch, batch.groups[0])
        assert told is not None and told.source == "row 1"


def test_one_task_without_a_reference_is_not_a_world_without() -> None:
    def world(known: int) -> types.SimpleNamespace:
        def make_task(seed: int, split: str) -> types.SimpleNamespace:
            return types.SimpleNamespace(privileged={"reference_solution": "2+2=4"} if seed == known else {})

        return types.SimpleNamespace(unwrapped=types.SimpleNamespace(make_task=make_task, split="train"))

    assert reference_of(world(5)) == "2+2=4" and reference_of(world(-1)) == ""


def test_rows_without_a_teacher_count_as_zeros_in_sdpo(policy: BagModel, teacher: BagModel) -> None:
    """seq_mean over all N rows (the source's micro-batches of one sequence), here 3 taught rows of 4."""
    interpreter = Interpreter(policy, teacher)
    (term,) = annotate("sdpo_rich", reward_group([0, 1, 0, 0]), interpreter)
    assert rows_of(term) == [0, 2, 3] and term.rows == 4 and term.count_empty
    means = [interpreter.values(term.loss, item).mean().item() for item in term.items]
    assert interpreter.objective([term]).item() == pytest.approx(sum(means) / 4, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "divergence", "k", "rate"), [("sdpo_rich", "reverse_kl", 20, 0.01), ("sdpo_norich", "jensen_shannon", 100, 0.05)]
)
def test_sdpo_presets(name: str, divergence: str, k: int, rate: float) -> None:
    algorithm = build_algorithm(name)
    expected = DistillLoss(
        divergence,
        0.5,
        support="student_topk",
        top_k=k,
        residual="tail",
        importance="capped",
        importance_cap=2.0,
        rollout_correction="token",
        rollout_cap=2.0,
    )  # type: ignore[arg-type]
    assert algorithm.loss == expected
    assert (algorithm.teacher_weights.kind, algorithm.teacher_weights.rate, algorithm.teacher_weights.unit) == ("ema", rate, "step")


def test_hybrid_mixes_by_coefficients_and_its_ends_are_its_parents(policy: BagModel, teacher: BagModel) -> None:
    batch, interpreter = make_batch(policy), Interpreter(policy, teacher)
    grpo_settings = dict(build_algorithm("sdpo_hybrid").config.policy)
    grpo = interpreter.gradient(annotate("grpo", batch, interpreter, grpo_settings))
    sdpo = interpreter.gradient(annotate("sdpo_rich", batch, interpreter))
    terms = annotate("sdpo_hybrid", batch, interpreter)
    assert [(t.name, pytest.approx(t.coefficient)) for t in terms] == [("policy", 0.9), ("distill", 0.1)]
    for mixed, a, b in zip(interpreter.gradient(terms), grpo, sdpo, strict=True):
        np.testing.assert_allclose(mixed, 0.9 * a + 0.1 * b, atol=1e-12)
    for weight, parent in ((1.0, grpo), (0.0, sdpo)):
        ends = interpreter.gradient(annotate("sdpo_hybrid", batch, interpreter, {"policy_weight": weight}))
        assert all(np.array_equal(a, b) for a, b in zip(ends, parent, strict=True)), "bit-equal"


def test_opsd_equals_sdpo_where_both_are_told_the_same(policy: BagModel, teacher: BagModel) -> None:
    """Equivalence matrix: same divergence, weights, normaliser; the peer's words are the reference solution."""
    task = scripted_task("t", "3+4?", solution="7")
    batch = group_rows([scripted_row(CHAT, task, i, [a], [r]) for i, (a, r) in enumerate([("5", 0.0), ("7", 1.0), ("66", 0.0)])])
    interpreter = Interpreter(policy, teacher)
    shared = {
        "divergence": "reverse_kl",
        "support": "full",
        "aggregation": "token_mean_global",
        "count_empty": False,
        "importance": "none",
        "rollout_correction": "none",
    }
    opsd = annotate("opsd_v1", batch, interpreter, shared)
    sdpo = annotate("sdpo_norich", batch, interpreter, shared | {"exclude_self": False})
    same_frame = {item.view.row: item.references[0] for item in opsd[0].items}
    told = [dataclasses.replace(item, references=(same_frame[item.view.row],)) for item in sdpo[0].items]
    for a, b in zip(interpreter.gradient(opsd), interpreter.gradient([dataclasses.replace(sdpo[0], items=told)]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_hybrid_cannot_keep_a_reference_kl_to_a_moving_teacher() -> None:
    with pytest.raises(ConfigError, match="moving teacher"):
        build_algorithm("sdpo_hybrid", {"policy.kl_beta": 0.1})
    build_algorithm("sdpo_hybrid", {"policy.kl_beta": 0.1, "teacher": "frozen"})


def test_skipped_tokens_leave_mask_and_denominator(policy: BagModel, teacher: BagModel) -> None:
    interpreter = Interpreter(policy, teacher)
    (term,) = annotate("opsd_v1", make_batch(policy), interpreter, {"skip_first": 2})
    for item in term.items:
        np.testing.assert_array_equal(item.weight, (np.arange(len(item.weight)) >= 2).astype(np.float32))
    kept = [interpreter.values(term.loss, item)[2:].detach() for item in term.items]
    assert interpreter.objective([term]).item() == pytest.approx(float(torch.cat(kept).mean()), abs=1e-9)


class World:
    """What ``validate`` sees of an environment."""

    env_id, split = "test/World-v0", "train"

    def __init__(self, privileged: dict[str, str]) -> None:
        self.privileged = privileged

    @property
    def unwrapped(self) -> World:
        return self

    def make_task(self, seed: int, split: str) -> Task:
        return dataclasses.replace(tasks()[0], privileged=self.privileged)


def test_opsd_refuses_a_world_without_reference_solutions() -> None:
    with pytest.raises(ConfigError, match="test/World-v0 do not have"):
        build_algorithm("opsd_v1").validate(World({"answer": "7"}), {})
    build_algorithm("opsd_v1").validate(World({"reference_solution": "3+4=7"}), {})


def test_opsd_refuses_a_world_that_is_no_text_env() -> None:
    class Plain:
        env_id = "test/Plain-v0"

        @property
        def unwrapped(self) -> Plain:
            return self

    with pytest.raises(ConfigError, match="test/Plain-v0"):
        build_algorithm("opsd_v1").validate(Plain(), {})


# ---- sharpening and shared building blocks ---------------------------------------------------------------------


def test_sharpening_reads_no_reward(policy: BagModel) -> None:
    interpreter = Interpreter(policy)
    batch = make_batch(policy)
    other = group_rows(
        [dataclasses.replace(row, reward=None if row.reward is None else 1 - row.reward, success=not row.success) for row in batch.rows]
    )
    a, b = (interpreter.gradient(annotate("sharpen", x, interpreter)) for x in (batch, other))
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True)) and max(np.abs(x).max() for x in a) > 1e-3


def test_sharpening_lowers_entropy_step_by_step() -> None:
    model = BagModel(VOCAB, seed=4)
    interpreter, batch = Interpreter(model), make_batch()

    def entropy() -> float:
        views = [v for i in range(3) for v in student_views(batch, i)]
        return float(np.mean(np.concatenate([s.entropy for s in interpreter.score(views)])))

    before = entropy()
    for _ in range(5):
        gradient = interpreter.gradient(annotate("sharpen", batch, interpreter))
        with torch.no_grad():
            for p, g in zip(model.parameters, gradient, strict=True):
                p -= 0.5 * torch.from_numpy(g)
        after = entropy()
        assert after < before
        before = after


def test_a_reference_that_scores_other_tokens_is_refused(policy: BagModel) -> None:
    batch = make_batch(policy)
    context: AnnotateContext = Interpreter(policy).context(CHAT)
    wrong = [student_views(batch, (i + 1) % len(batch.rows)) for i in range(len(batch.rows))]
    with pytest.raises(AlignmentError, match="row 0"):
        build_items(batch, context, [0], references=[wrong])


def test_items_carry_the_samplers_logprobs(policy: BagModel) -> None:
    batch = make_batch(policy)
    (term,) = annotate("grpo", batch, Interpreter(policy))
    for item in term.items:
        np.testing.assert_allclose(item.rollout_logprobs, sequence_logprobs(batch, policy, item.view.row).detach().numpy(), atol=1e-12)
