"""SD-Zero: positions, masks, cuts, stages, fixtures and refusals of algorithms-core §5."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import sdgym
from sdgym.algos.base import AnnotateContext, Batch, CollectContext, student_views
from sdgym.algos.conditioning.revision import Cues, SelfRevision, attempt_ids, cut_to, kept_tokens
from sdgym.algos.losses import DistillLoss
from sdgym.algos.presets import build_algorithm, load_preset
from sdgym.algos.self_revision import Revision, RevisionPool, attempts, revise
from sdgym.chat import ChatFormat
from sdgym.checkpoint import decode, encode
from sdgym.core import Task, Trajectory
from sdgym.errors import ConfigError, DataError
from sdgym.generation.base import Sample
from sdgym.meters import top_share
from sdgym.seeding import generator
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
VOCAB = len(CHAT.tokenizer)
POLICY, TEACHER = BagModel(VOCAB, seed=1), BagModel(VOCAB, seed=2)
CUES = Cues("Again.", "No.")
TASK, OTHER = scripted_task("a", "3+4?", answer="7"), scripted_task("b", "2*3?", answer="6")


def batch() -> Batch:
    """Right, wrong, right but cut off, ungradable; a second task with a wrong and an empty answer."""
    script: list[tuple[Task, str, list[float] | None, bool]] = [
        (TASK, "7", [1.0], False),
        (TASK, "is 5", [0.0], False),
        (TASK, "777777", [1.0], True),
        (TASK, "?", None, False),
        (OTHER, "12", [0.0], False),
        (OTHER, "", [0.0], True),
    ]
    return group_rows([scripted_row(CHAT, t, i % 4, [a], r, truncated=cut) for i, (t, a, r, cut) in enumerate(script)])


def views(conditioner: SelfRevision, rows: Batch, **changes: Any) -> list[Any]:
    context = dataclasses.replace(Interpreter(POLICY).context(CHAT), **changes)
    return [None if v is None else v[0] for v in conditioner.views(rows, context)]


# ---- the teacher's input -----------------------------------------------------------------------------------------


def test_the_teacher_reads_prompt_attempt_and_phrase_then_scores_the_same_tokens() -> None:
    rows, found = batch(), views(SelfRevision(CUES), batch())
    for i, phrase in ((0, "\n\nAgain.\n\n"), (1, "\n\nNo.\n\n"), (4, "\n\nNo.\n\n")):
        segment, view = rows.rows[i].segments[0], found[i]
        x, y = segment.ids[: segment.prompt_length], segment.ids[segment.prompt_length :]
        p = CHAT.encode_text(phrase)
        assert y[-1] == CHAT.end_ids[0]
        np.testing.assert_array_equal(view.prefix_ids, np.concatenate([x, y[:-1], p])), "the first copy stays an open turn"
        np.testing.assert_array_equal(view.token_ids, y)
        ids, positions = view.sequence()
        assert view.loss_mask.sum() == len(y) == len(positions)
        np.testing.assert_array_equal(positions - 1, len(x) + (len(y) - 1) + len(p) + np.arange(len(y)) - 1)
        np.testing.assert_array_equal(ids[positions], y)
        assert view.weights == "teacher" and not view.grad and not view.truncated
    assert found[3] is None and found[5] is None, "ungradable and empty rows have no teacher"


def test_logit_index_without_an_end_token_is_the_papers() -> None:
    """|x| + |y| + |P| + t − 1 for a row that was cut off (it has no end token to lose)."""
    row, view = batch().rows[2], views(SelfRevision(CUES), batch())[2]
    x, y, p = row.segments[0].prompt_length, row.action_length, len(CHAT.encode_text("\n\nNo.\n\n"))
    np.testing.assert_array_equal(view.sequence()[1] - 1, x + y + p + np.arange(y) - 1)


def test_a_truncated_attempt_is_wrong_whatever_its_reward() -> None:
    rows = batch().rows
    assert [CUES.is_right(row) for row in rows] == [True, False, False, False, False, False]
    half = dataclasses.replace(rows[0], reward=0.5)
    assert not CUES.is_right(half) and CUES.is_right(dataclasses.replace(half, reward=0.51)), "reward > 0.5, strictly"


@pytest.mark.parametrize(
    ("prompt", "answer", "phrase", "budget", "kept"),
    [(20, 40, 10, 100, 35), (95, 40, 10, 100, 0), (20, 35, 10, 100, 35), (20, 35, 10, 99, 34), (88, 5, 10, 100, 1), (89, 5, 10, 100, 0)],
)
def test_an_answer_that_must_fit_twice_is_cut(prompt: int, answer: int, phrase: int, budget: int, kept: int) -> None:
    """Rows one and two are the printed fixture: (max 100, |x| 20, |P| 10), |y| = 40 → 35; |x| = 95 → masked."""
    assert kept_tokens(prompt, answer, phrase, budget) == kept


def test_both_sides_are_cut_alike() -> None:
    rows = batch()
    x, y = rows.rows[1].segments[0].prompt_length, rows.rows[1].action_length
    p = len(CUES.ids(rows.rows[1], CHAT))
    budget = x + p + 2 * (y - 2)
    for changes, conditioner in (({}, SelfRevision(CUES, budget)), ({"max_context": budget}, SelfRevision(CUES))):
        teacher = views(conditioner, rows, **changes)[1]
        student = cut_to(student_views(rows, 1)[0], teacher)
        assert teacher.truncated and len(teacher.sequence()[0]) <= budget
        np.testing.assert_array_equal(teacher.scored_ids(), student.scored_ids())
        np.testing.assert_array_equal(student.token_ids, rows.rows[1].action_ids()[: y - 2])
        np.testing.assert_array_equal(teacher.index_map, student.index_map)
    algorithm = build_algorithm("sd_zero_repo", {"teacher_tokens": budget, "phrase_wrong": "No.", "phrase_right": "Again."})
    (term,) = algorithm.annotate(rows, Interpreter(POLICY).context(CHAT))
    assert [len(item.view.token_ids) for item in term.items if item.view.row == 1] == [y - 2]
    assert views(SelfRevision(CUES, x + p + 1), rows)[1] is None, "no room for a single token: masked"


def test_controls_say_less_but_score_the_same() -> None:
    rows = batch()
    row = rows.rows[1]
    x, p = row.segments[0].ids[: row.segments[0].prompt_length], CUES.ids(row, CHAT)
    prefixes = {control: views(SelfRevision(CUES, control=control), rows)[1] for control in ("P0", "P1", "P2", "P3")}
    np.testing.assert_array_equal(prefixes["P0"].prefix_ids, x)
    np.testing.assert_array_equal(prefixes["P3"].prefix_ids, np.concatenate([x, p]))
    np.testing.assert_array_equal(prefixes["P2"].prefix_ids, np.concatenate([x, CHAT.encode_text("12"), p]))
    filled = prefixes["P1"].prefix_ids
    assert len(filled) > len(x) + len(p) and CHAT.encode_text("is 5").tobytes() not in filled.tobytes()
    for view in prefixes.values():
        np.testing.assert_array_equal(view.token_ids, row.action_ids())
        assert view.kind.startswith("revision/P")


# ---- phase 2 -----------------------------------------------------------------------------------------------------


def test_no_attempt_and_no_phrase_leave_no_loss() -> None:
    """Empty y-prefix, P_r = "" and the untrained reviser: the contexts agree, so value and gradient are 0 for every preset."""
    for preset in ("sd_zero_repo", "sd_zero_paper"):
        algorithm = build_algorithm(preset, {"control": "P0"})
        terms = algorithm.annotate(batch(), Interpreter(POLICY).context(CHAT))
        assert [item.view.row for item in terms[0].items] == [0, 1, 2, 4]
        interpreter = Interpreter(POLICY, POLICY)
        assert abs(interpreter.objective(terms).item()) < 1e-12
        assert max(np.abs(g).max() for g in interpreter.gradient(terms)) < 1e-9
        told = build_algorithm(preset).annotate(batch(), interpreter.context(CHAT))
        assert interpreter.objective(told).item() > 1e-3, "with attempt and phrase it is not 0"


@pytest.mark.parametrize("preset", ["sd_zero_repo", "sd_zero_paper"])
def test_the_distillation_loss_is_the_written_out_divergence(preset: str) -> None:
    """Global token mean of the reverse KL (paper), or ½FKL + ½RKL on the reviser's renormalised top 64 (repository)."""
    rows, algorithm = batch(), build_algorithm(preset)
    terms = algorithm.annotate(rows, Interpreter(POLICY, TEACHER).context(CHAT))
    total, count = 0.0, 0
    for i in (0, 1, 2, 4):
        segment = rows.rows[i].segments[0]
        x, y = segment.ids[: segment.prompt_length], segment.ids[segment.prompt_length :]
        first = y[:-1] if y[-1] == CHAT.end_ids[0] else y
        context = np.concatenate([x, first, Cues().ids(rows.rows[i], CHAT)])
        p = POLICY.logits(segment.ids, len(x) + np.arange(len(y))).detach().softmax(-1)
        q = TEACHER.logits(np.concatenate([context, y]), len(context) + np.arange(len(y))).detach().softmax(-1)
        if preset == "sd_zero_repo":
            top = q.topk(64, -1).indices
            p, q = (d.gather(-1, top) / d.gather(-1, top).sum(-1, keepdim=True) for d in (p, q))
            total += 0.5 * float((q * (q / p).log()).sum()) + 0.5 * float((p * (p / q).log()).sum())
        else:
            total += float((p * (p / q).log()).sum())
        count += len(y)
    assert Interpreter(POLICY, TEACHER).objective(terms).item() == pytest.approx(total / count, rel=1e-9)


def test_phase_two_is_opsd_with_the_attempt_and_its_phrase_as_privileged_context() -> None:
    settings = {"divergence": "jensen_shannon", "support": "full"}
    opsd = build_algorithm("opsd_v1", settings)
    opsd.conditioners = (SelfRevision(Cues()),)
    mine, theirs = (a.annotate(batch(), Interpreter(POLICY, TEACHER).context(CHAT)) for a in (build_algorithm("sd_zero", settings), opsd))
    for a, b in zip(*(Interpreter(POLICY, TEACHER).gradient(terms) for terms in (mine, theirs)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_split_right_from_wrong() -> None:
    (term,) = build_algorithm("sd_zero").annotate(batch(), Interpreter(POLICY).context(CHAT))
    assert [(item.view.row, item.label) for item in term.items] == [(0, 1), (1, -1), (2, -1), (4, -1)]


def divergence(loss: DistillLoss, teacher: list[float]) -> tuple[float, np.ndarray]:
    student = torch.tensor([[1.0, 0.5, -0.2, -1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = loss.token_features(student, torch.tensor([[teacher]], dtype=torch.float64), torch.tensor([0]))["divergence"].sum()
    (gradient,) = torch.autograd.grad(value, student)
    return float(value.detach()), gradient[0].numpy()


TEACHER_A, TEACHER_B = [0.2, 1.2, -0.5, -0.3, 0.1], [-0.5, 1.2, 0.4, -0.3, 0.1]


def test_printed_fixtures_of_the_repositorys_loss() -> None:
    loss = dataclasses.replace(build_algorithm("sd_zero_repo").loss, top_k=2)
    assert divergence(loss, TEACHER_A)[0] == pytest.approx(0.265138, abs=1e-6)
    value, gradient = divergence(loss, TEACHER_B)
    assert value == pytest.approx(0.001089, abs=1e-6)
    np.testing.assert_allclose(gradient, [0, -0.021979, 0.021979, 0, 0], atol=1e-6)
    assert (gradient[[0, 3, 4]] == 0).all(), "off the teacher's support the gradient is exactly 0"


def test_printed_fixture_of_the_floored_teacher() -> None:
    """``zero_outside_topk``, fixture A with K = 2: the reverse part is 32.5679, and now mass off the support is pushed down."""
    settings = {"divergence": "reverse_kl", "residual": "floor", "top_k": 2}
    value, gradient = divergence(build_algorithm("sd_zero_repo", settings).loss, TEACHER_A)
    assert value == pytest.approx(32.5679, abs=1e-4)
    assert (gradient[[2, 3, 4]] > 1).all() and (gradient[:2] < -1).all()
    p, q = (
        torch.tensor([1.0, 0.5, -0.2, -1.0, 0.0], dtype=torch.float64).softmax(-1),
        torch.tensor(TEACHER_A, dtype=torch.float64).softmax(-1),
    )
    kept = q[:2] / q[:2].sum()
    by_hand = (p[:2] * (p[:2] / kept).log()).sum() + (p[2:] * p[2:].log()).sum() + 100 * p[2:].sum()
    assert value == pytest.approx(float(by_hand), abs=1e-9)
    with pytest.raises(ConfigError, match="floor belongs to support=teacher_topk"):
        build_algorithm("sd_zero_repo", {"residual": "floor", "support": "student_topk"})


@pytest.mark.parametrize(("weight", "direction"), [(1.0, "forward_kl"), (0.0, "reverse_kl")])
def test_the_mixture_has_the_two_directions_as_its_ends(weight: float, direction: str) -> None:
    mixed = build_algorithm("sd_zero_repo", {"forward_weight": weight, "top_k": 3}).loss
    plain = build_algorithm("sd_zero_repo", {"divergence": direction, "top_k": 3}).loss
    for teacher in (TEACHER_A, TEACHER_B):
        (value, gradient), (other, expected) = divergence(mixed, teacher), divergence(plain, teacher)
        assert value == pytest.approx(other, abs=1e-12)
        np.testing.assert_allclose(gradient, expected, atol=1e-12)


# ---- phase 1 -----------------------------------------------------------------------------------------------------


class ScriptedDraws:
    """Continues every prompt with the next of the scripted revisions; right ones earn a reward of 1."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.prompts, self.stream = list(texts), [], ""

    def tasks(self) -> list[Task]:
        return [TASK, OTHER]

    def play(self, stream: str, tasks: Sequence[Task], prompts: Sequence[np.ndarray], samples: int = 1) -> list[Trajectory]:
        self.stream, self.prompts = stream, list(prompts)
        rows = []
        for i in range(len(tasks) * samples):
            task, text = tasks[i // samples], self.texts[i % len(self.texts)]
            row = scripted_row(CHAT, task, i % samples, [text], [float(task.privileged["answer"] in text)], truncated=text.endswith("…"))
            old, prompt = row.segments[0], prompts[i // samples]
            ids = np.concatenate([prompt, old.ids[old.prompt_length :]])
            mask = np.arange(len(ids)) >= len(prompt)
            segment = dataclasses.replace(
                old, ids=ids, action_mask=mask, logprobs=np.zeros(len(ids), np.float32), prompt_length=len(prompt)
            )
            rows.append(dataclasses.replace(row, segments=[segment]))
        return rows

    def generate(self, stream: str, prompts: Sequence[np.ndarray], max_tokens: int | None = None) -> list[Sample]:
        raise AssertionError("SD-Zero draws no free text")


def collect_context(draw: ScriptedDraws, reports: dict[str, float], **changes: Any) -> CollectContext:
    base = dataclasses.replace(Interpreter(POLICY).context(CHAT), report=reports.__setitem__, **changes)
    return CollectContext(**{field.name: getattr(base, field.name) for field in dataclasses.fields(AnnotateContext)}, draw=draw)


def test_wrong_attempts_are_revised_and_right_revisions_kept_once() -> None:
    """Three continuations per wrong attempt: a right one twice, a wrong one. The cut-off attempt counts as wrong."""
    draw, reports = ScriptedDraws(["so 7 or 6", "so 7 or 6", "8"]), {}
    algorithm = build_algorithm("sd_zero_repo")
    rows = algorithm.collect(batch(), collect_context(draw, reports))
    assert draw.stream == "revision"
    assert len(rows) == len(batch().rows) + 9, "the revisions join the step's rows, for the trajectory log"
    starts = [CHAT.tokenizer.decode(prompt).split("assistant\n")[1] for prompt in draw.prompts]
    assert starts == [f"{text}\n\n{Cues.wrong}\n\n" for text in ("is 5", "777777", "12")]
    assert [(e.task_id, CHAT.decode_action(e.attempt)) for e in algorithm.pool.entries] == [("a", "is 5"), ("a", "777777"), ("b", "12")]
    assert reports == {"revised": pytest.approx(6 / 9), "pool": 3.0}
    assert not any(entry.right for entry in algorithm.pool.entries)


def test_the_papers_variant_also_restates_right_attempts() -> None:
    draw, algorithm = ScriptedDraws(["so 7 or 6"]), build_algorithm("sd_zero_paper")
    algorithm.collect(batch(), collect_context(draw, {}))
    assert CHAT.tokenizer.decode(draw.prompts[0]).endswith(f"7\n\n{Cues.right}\n\n")
    assert [entry.right for entry in algorithm.pool.entries] == [True, False, False, False]


def test_revisions_that_hit_the_limit_or_fill_the_context_are_left_out() -> None:
    draw, algorithm = ScriptedDraws(["so 7…"]), build_algorithm("sd_zero_repo")
    algorithm.collect(batch(), collect_context(draw, {}))
    assert draw.prompts and not algorithm.pool.entries
    longest = max(len(prompt) for prompt in draw.prompts)
    pairs = revise(attempts(batch(), CUES, False), Cues(), 1, collect_context(draw, {}, max_context=longest))
    assert len(draw.prompts) == 2 and len(pairs) == 2, "a prompt as long as the context has no room for a revision"


def entry(right: bool, number: int = 0) -> Revision:
    ids = [np.arange(n, dtype=np.int64) + 10 * number for n in (5, 3, 2, 4)]
    return Revision(f"t{number}", right, *ids)


def test_generation_trains_everything_after_the_prompt_and_revision_only_the_second_answer() -> None:
    """Mask sums |y_init| + |P| + |y_rev| = 9 and |y_rev| = 4; both read the same 14 tokens."""
    whole, late = entry(False).item(3, "generation"), entry(False).item(3, "revision")
    assert whole.view.loss_mask.sum() == whole.weight.sum() == 9 and late.view.loss_mask.sum() == late.weight.sum() == 4
    np.testing.assert_array_equal(whole.view.sequence()[0], late.view.sequence()[0])
    np.testing.assert_array_equal(whole.view.sequence()[1], np.arange(5, 14))
    np.testing.assert_array_equal(late.view.sequence()[1], np.arange(10, 14))
    assert {whole.view.provenance, late.view.provenance} == {"rewritten"} and whole.view.row == 3


def test_joint_and_sequential_losses_are_the_papers_likelihoods() -> None:
    """The joint objective is L_revision + L_generation; the stages are its summands. With x alone, generation is RFT's."""
    draw = ScriptedDraws(["so 7 or 6"])
    joint, staged = build_algorithm("sd_zero_paper"), build_algorithm("sd_zero_repo", {"revise_right": True})
    for algorithm in (joint, staged):
        algorithm.collect(batch(), collect_context(draw, {}))
    empty, interpreter = Batch((), ()), Interpreter(POLICY)
    terms = joint.train_on_pool(empty, interpreter.context(CHAT), "all")
    assert [term.name for term in terms] == ["generation", "revision"]
    sums, counts = np.zeros(2), np.zeros(2)
    for e in joint.pool.entries:
        ids = np.concatenate([e.prompt, e.attempt, e.phrase, e.revised])
        for k, start in enumerate((len(e.prompt), len(ids) - len(e.revised))):
            sums[k] -= float(POLICY.logprobs(ids, np.arange(start, len(ids))).sum().detach())
            counts[k] += len(ids) - start
    assert interpreter.objective(terms).item() == pytest.approx((sums / counts).sum(), rel=1e-9)
    (only,) = staged.train_on_pool(empty, interpreter.context(CHAT), "revision")
    first = staged.pool.stage("revision")[0]
    ids = np.concatenate([first.prompt, first.attempt, first.phrase, first.revised])
    expected = -float(POLICY.logprobs(ids, np.arange(len(ids) - len(first.revised), len(ids))).mean().detach())
    assert len(only.items) == 1 and interpreter.objective([only]).item() == pytest.approx(expected, rel=1e-9)


def test_without_attempt_and_phrase_the_generation_loss_is_rfts() -> None:
    row = scripted_row(CHAT, TASK, 0, ["7"], [1.0])
    view = student_views(group_rows([row]), 0)[0]
    nothing = np.zeros(0, np.int64)
    item = Revision("a", False, view.prefix_ids, nothing, nothing, view.token_ids).item(0, "generation")
    (rft,) = build_algorithm("rft").annotate(group_rows([row]), Interpreter(POLICY).context(CHAT))
    (term,) = (dataclasses.replace(rft, items=[item]),)
    mine, theirs = (Interpreter(POLICY).gradient([t]) for t in (term, rft))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_stages_share_the_pool_as_the_repository_does() -> None:
    """12 tuples, a share of a third: revision gets the 3 right ones and 1 wrong, generation the other wrong ones."""
    pool = RevisionPool(100, 1 / 3)
    pool.entries = [entry(number % 4 == 0, number) for number in range(12)]
    revision, generation = pool.stage("revision"), pool.stage("generation")
    assert [e.task_id for e in revision] == ["t0", "t4", "t8", "t1"]
    assert [e.task_id for e in generation] == ["t2", "t3", "t5", "t6", "t7", "t9", "t10", "t11"]
    many = RevisionPool(100, 1 / 6)
    many.entries = [entry(number < 6, number) for number in range(12)]
    assert all(not e.right for e in many.stage("generation")), "right attempts beyond the share train neither stage"
    assert len(many.stage("generation")) == 6 and len(many.stage("revision")) == 2


def test_passes_cover_a_stage_and_survive_a_restart_of_the_program() -> None:
    def filled() -> RevisionPool:
        pool = RevisionPool(8, 0.5)
        pool.entries = [entry(False, number) for number in range(7)]
        return pool

    pool, rng = filled(), generator(0, "draws")
    seen = [e.task_id for _ in range(3) for e in pool.draw("all", 3, rng)]
    assert sorted(seen) == sorted(e.task_id for e in pool.entries), "3 + 3 + 1: one pass"
    pool.draw("all", 3, rng)
    twin = RevisionPool(8, 0.5)
    twin.load_state_dict(decode(*encode(pool.state_dict())))
    assert [e.key for e in twin.entries] == [e.key for e in pool.entries]
    assert [e.right for e in twin.entries] == [e.right for e in pool.entries]
    assert [e.task_id for e in twin.draw("all", 3, generator(1, "x"))] == [e.task_id for e in pool.draw("all", 3, generator(1, "x"))]
    empty = RevisionPool(8, 0.5)
    empty.load_state_dict(decode(*encode(empty.state_dict())))
    assert empty.entries == [] and empty.draw("all", 3, rng) == []
    full = filled()
    row = scripted_row(CHAT, TASK, 0, ["7"], [1.0])
    full.add([(row, row)] * 3, CUES, CHAT.end_ids)
    assert len(full.entries) == 8, "the pool ends at its capacity"


# ---- schedule and refusals ---------------------------------------------------------------------------------------


def test_phases_of_the_presets() -> None:
    def plan(name: str, **overrides: Any) -> list[tuple[str, bool, int | None]]:
        return [(p.name, p.rollouts, p.steps) for p in build_algorithm(name, overrides).phases]

    assert plan("sd_zero_repo") == [
        ("collect", True, 8), ("generation", False, 8), ("revision", False, 8), ("distill-1", True, None)
    ]  # fmt: skip
    assert plan("sd_zero_paper", collect_steps=2, stage_steps=3) == [("collect", True, 2), ("all", False, 3), ("distill-1", True, None)]
    assert plan("sd_zero_iterative", round_steps=5)[-2:] == [("distill-1", True, 5), ("distill-2", True, None)]
    algorithm = build_algorithm("sd_zero")
    assert algorithm.teacher_weights.kind == "phase_start", "each round starts from the student of its beginning"
    assert load_preset("sd_zero_paper").status == "reconstruction" and load_preset("sd_zero_repo").status == "code-read"


def test_an_empty_pool_is_an_error_with_a_way_out() -> None:
    training = build_algorithm("sd_zero").phases[1]
    with pytest.raises(DataError, match=r"no verified revision .* raise collect_steps"):
        training.on_enter()


@pytest.mark.parametrize(
    ("env", "overrides", "steps", "words"),
    [
        ({"id": "sdgym.testing_engine:sdgym-test/Letters-v0", "turns": 2}, {}, 99, "revises one answer, and sdgym-test/Letters-v0 has 2 turns: use"),
        ({"id": "sdgym/Math-v0"}, {}, 24, "needs 24 steps .* lower collect_steps"),
        ({"id": "sdgym/Math-v0"}, {"rounds": 2, "round_steps": 9}, 33, "needs 33 steps .* lower round_steps"),
        ({"id": "sdgym/Math-v0"}, {"rounds": 2}, 99, "rounds=2 needs round_steps"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_a_way_out(env: dict[str, Any], overrides: dict[str, Any], steps: int, words: str) -> None:
    world = sdgym.make(env.pop("id"), **env).unwrapped
    with pytest.raises(ConfigError, match=words) as caught:
        build_algorithm("sd_zero", overrides).validate(world, {"steps": steps})
    assert "\n" not in str(caught.value)
    build_algorithm("sd_zero").validate(sdgym.make("sdgym/Math-v0").unwrapped, {"steps": 25})


# ---- self-localisation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([0.0] * 19 + [3.0], 0.1, 1.0), ([1.0, -1.0] * 10, 0.1, 0.1), ([4.0, 1, 1, 1, 1, 1, 1], 0.1, 0.4), ([3.0, -5.0], 0.5, 0.625)],
)
def test_share_of_the_heaviest_tokens(values: list[float], share: float, expected: float) -> None:
    assert top_share(np.array(values), share) == pytest.approx(expected)


def test_attempt_ids_keep_an_open_turn() -> None:
    rows = batch().rows
    assert CHAT.decode_action(attempt_ids(rows[1], CHAT.end_ids)) == "is 5"
    assert len(attempt_ids(rows[1], CHAT.end_ids)) == rows[1].action_length - 1
    assert len(attempt_ids(rows[2], CHAT.end_ids)) == rows[2].action_length, "a cut-off answer has no end token to lose"
