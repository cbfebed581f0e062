"""SDFT, and the controls with the same information: SFT on references, STaR, GRPO with a KL to the moving average."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import sdgym
from sdgym.algos.base import AnnotateContext, Batch, CollectContext, student_views
from sdgym.algos.losses.base import rollout_factor
from sdgym.algos.presets import build_algorithm
from sdgym.algos.star import behind_prompt_of, is_rationalised
from sdgym.chat import ChatFormat
from sdgym.core import Message, Task, Trajectory
from sdgym.errors import ConfigError
from sdgym.objective import LossInputs
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy, small_tokenizer

CHAT = ChatFormat(small_tokenizer())
VOCAB = len(CHAT.tokenizer)
POLICY, TEACHER = BagModel(VOCAB, seed=1), BagModel(VOCAB, seed=2)
TASKS = [scripted_task(f"t{i}", f"{i}+4?", answer=str(i + 4), solution=f"{i}+4={i + 4}") for i in range(3)]
BARE = scripted_task("bare", "9?", solution=" ")


def batch() -> Batch:
    """Two groups; lengths 2 to 6 with the end token, one cut off at 3, one ungradable."""
    script: list[tuple[Task, str, list[float] | None, bool]] = [
        (TASKS[0], "4", [1.0], False),
        (TASKS[0], "five!", [0.0], False),
        (TASKS[0], "444", [1.0], True),
        (TASKS[0], "?", None, False),
        (TASKS[1], "12", [0.0], False),
        (TASKS[1], "8888", [0.0], False),
    ]
    return group_rows([scripted_row(CHAT, t, i % 4, [a], r, truncated=c, policy=POLICY) for i, (t, a, r, c) in enumerate(script)])


def annotate(name: str, overrides: dict[str, Any] | None = None, rows: Batch | None = None) -> list[Any]:
    context = Interpreter(POLICY, TEACHER).context(CHAT)
    return build_algorithm(name, overrides).annotate(rows or batch(), context)  # type: ignore[no-any-return]


# ---- SDFT --------------------------------------------------------------------------------------------------------


def test_sdft_is_the_mean_over_sequences_of_the_forward_kl_after_three_tokens() -> None:
    """Rows of up to three tokens have nothing left: they count as 0 and in the denominator, six rows in all."""
    terms, rows, means = annotate("sdft"), batch(), []
    for item in terms[0].items:
        segment = rows.rows[item.view.row].segments[0]
        n = len(segment.ids) - segment.prompt_length
        teacher_ids = np.concatenate([item.references[0].prefix_ids, segment.ids[segment.prompt_length :]])
        p = POLICY.logits(segment.ids, segment.prompt_length + np.arange(n)).detach().log_softmax(-1)
        q = TEACHER.logits(teacher_ids, len(item.references[0].prefix_ids) + np.arange(n)).detach().log_softmax(-1)
        per_token = (q.exp() * (q - p)).sum(-1)[3:]
        means.append(float(per_token.mean()) if len(per_token) else 0.0)
    assert [item.view.row for item in terms[0].items] == [0, 1, 2, 4, 5] and sum(m == 0 for m in means) == 3
    value = Interpreter(POLICY, TEACHER).objective(terms).item()
    assert value == pytest.approx(sum(means) / 6, rel=1e-9) and value > 0.01


def test_skipped_tokens_are_read_but_not_trained() -> None:
    item = annotate("sdft")[0].items[1]
    np.testing.assert_array_equal(item.weight, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(item.view.token_ids, item.references[0].token_ids)
    assert len(item.view.token_ids) == 6, "the context of later tokens is whole"


def test_with_nothing_skipped_a_frozen_teacher_and_one_divergence_sdft_is_opsd() -> None:
    same = {"skip_first": 0, "teacher": "frozen", "divergence": "jensen_shannon", "alpha": 0.5, "rollout_correction": "none"}
    mine = annotate("sdft", {**same, "aggregation": "token_mean_global", "count_empty": False})
    theirs = annotate("opsd_v1")
    assert build_algorithm("sdft", same).teacher_weights.kind == build_algorithm("opsd_v1").teacher_weights.kind == "frozen"
    for a, b in zip(*(Interpreter(POLICY, TEACHER).gradient(terms) for terms in (mine, theirs)), strict=True):
        np.testing.assert_array_equal(a, b)
    default = Interpreter(POLICY, TEACHER).gradient(annotate("sdft"))
    assert max(np.abs(a - b).max() for a, b in zip(default, Interpreter(POLICY, TEACHER).gradient(theirs), strict=True)) > 1e-4


def test_teachers_of_the_presets() -> None:
    ema = build_algorithm("sdft").teacher_weights
    assert (ema.kind, ema.rate, ema.every, ema.unit) == ("ema", 0.01, 1, "update")
    assert {build_algorithm(name).teacher_weights.kind for name in ("sdft_tinker", "sdft_trl")} == {"frozen"}
    assert build_algorithm("sdft_paper").loss.divergence == "reverse_kl"


def test_printed_gradient_of_tinkers_cross_entropy() -> None:
    """Student minus the teacher renormalised on its top 2 (fixture B)."""
    loss = dataclasses.replace(build_algorithm("sdft_tinker").loss, top_k=2)
    student = torch.tensor([[1.0, 0.5, -0.2, -1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[[-0.5, 1.2, 0.4, -0.3, 0.1]]], dtype=torch.float64)
    value = loss.token_features(student, teacher, torch.tensor([0]))["divergence"].sum()
    np.testing.assert_allclose(
        torch.autograd.grad(value, student)[0][0].numpy(), [0.414776, -0.4384, -0.185097, 0.056134, 0.152588], atol=1e-6
    )


def test_the_sequences_mean_of_capped_ratios_weighs_all_its_tokens() -> None:
    """Ratios 3, 1, ½ capped at 2 have mean 7/6; a masked token does not count; the second sequence has its own mean."""
    ratios = torch.tensor([3.0, 1.0, 0.5, 9.0, 0.25], dtype=torch.float64)
    zeros = torch.zeros(5, dtype=torch.float64)
    inputs = LossInputs(
        token_ids=torch.zeros(5, dtype=torch.int64),
        item_index=torch.tensor([0, 0, 0, 0, 1]),
        num_items=2,
        logprobs=zeros.clone().requires_grad_(),
        old_logprobs=zeros,
        rollout_logprobs=-ratios.log(),
        reference_logprobs=zeros[None],
        weight=torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64),
        advantage=zeros,
        label=torch.zeros(2),
    )
    factor = rollout_factor(inputs, "sequence_mean", 2.0)
    np.testing.assert_allclose(factor.numpy(), [7 / 6] * 4 + [0.25], rtol=1e-12)
    assert not factor.requires_grad
    np.testing.assert_allclose(rollout_factor(inputs, "token", 2.0).numpy(), [2, 1, 0.5, 2, 0.25], rtol=1e-12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=128).save(folder)
    return str(folder)


def one_step(algo: Any, model: str, out: pathlib.Path, **settings: Any) -> dict[str, float]:
    run: dict[str, Any] = {"tasks_per_step": 2, "group_size": 2, "steps": 1, "env": LETTERS_ID, "model": model}
    run |= {"eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 0}, "log": {"trajectories_every": 0}}
    sdgym.train(algo, out=out, **{**run, **settings})
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])  # type: ignore[no-any-return]


def test_skipping_whole_answers_is_refused(model: str, tmp_path: pathlib.Path) -> None:
    """Answers of at most 2 tokens, 3 skipped; with one token more than is skipped the run goes."""
    with pytest.raises(ConfigError, match=r"skip_first=3 leaves nothing of answers of at most 2 tokens: use skip_first=0"):
        one_step("sdft", model, tmp_path / "refused")
    assert one_step("sdft", model, tmp_path / "run", sampling={"max_tokens": 4})["train/updates"] == 1.0


# ---- SFT on references -------------------------------------------------------------------------------------------


class FixedDraws:
    """The tasks of the step, and scripted second attempts."""

    def __init__(self, tasks: Sequence[Task] = (), answers: Sequence[tuple[str, bool]] = ()) -> None:
        self._tasks, self.answers, self.played = list(tasks), list(answers), []

    def tasks(self) -> list[Task]:
        return self._tasks

    def play(self, stream: str, tasks: Sequence[Task], prompts: Sequence[np.ndarray], samples: int = 1) -> list[Trajectory]:
        assert samples == 1
        self.played = list(zip(tasks, prompts, strict=True))
        out = []
        for i, (task, prompt) in enumerate(self.played):
            text, cut = self.answers[i % len(self.answers)]
            row = scripted_row(CHAT, task, 0, [text], [float(task.privileged["answer"] in text)], truncated=cut)
            old = row.segments[0]
            ids = np.concatenate([prompt, old.ids[old.prompt_length :]])
            mask = np.arange(len(ids)) >= len(prompt)
            shift = len(prompt) - old.prompt_length
            spans = tuple(dataclasses.replace(s, start=s.start + shift, end=s.end + shift) for s in old.spans)
            logprobs = np.where(mask, -1.5, 0.0).astype(np.float32)
            segment = dataclasses.replace(old, ids=ids, action_mask=mask, logprobs=logprobs, spans=spans, prompt_length=len(prompt))
            out.append(dataclasses.replace(row, segments=[segment], group_id=f"second-{i}", key=(0, f"train-{stream}", 0, i, 0)))
        return out

    def generate(self, *arguments: Any) -> list[Any]:
        raise AssertionError("no free text here")


def collect_context(draw: FixedDraws, reports: dict[str, float]) -> CollectContext:
    base = dataclasses.replace(Interpreter(POLICY).context(CHAT), report=reports.__setitem__)
    return CollectContext(**{field.name: getattr(base, field.name) for field in dataclasses.fields(AnnotateContext)}, draw=draw)


def sft_terms(tasks: Sequence[Task], **changes: Any) -> tuple[list[Any], dict[str, float]]:
    algorithm, reports, empty = build_algorithm("sft_reference"), {}, Batch((), ())
    context = dataclasses.replace(collect_context(FixedDraws(tasks), reports), **changes)
    assert algorithm.collect(empty, context) == []
    return algorithm.annotate(empty, context), reports


def test_sft_is_the_token_mean_of_the_references_likelihood_end_of_turn_included() -> None:
    terms, reports = sft_terms([TASKS[0], BARE, TASKS[1]])
    assert reports == {"references": 2} and [item.view.row for item in terms[0].items] == [0, 2]
    total, count = 0.0, 0
    for task in (TASKS[0], TASKS[1]):
        prompt = CHAT.prompt_ids(list(task.messages))
        target = np.append(CHAT.encode_text(task.privileged["reference_solution"]), CHAT.end_ids[0])
        ids = np.concatenate([prompt, target])
        total -= float(POLICY.logprobs(ids, np.arange(len(prompt), len(ids))).sum().detach())
        count += len(target)
    assert Interpreter(POLICY).objective(terms).item() == pytest.approx(total / count, rel=1e-9)


def test_a_reference_that_does_not_fit_is_left_out() -> None:
    length = len(sft_terms([TASKS[0]])[0][0].items[0].view.sequence()[0])
    assert len(sft_terms([TASKS[0]], max_context=length)[0]) == 1
    assert sft_terms([TASKS[0]], max_context=length - 1) == ([], {"references": 0})


def test_sft_samples_nothing(model: str, tmp_path: pathlib.Path) -> None:
    line = one_step("sft_reference", model, tmp_path / "run")
    assert line["ledger/sampled_tokens"] == line["ledger/episodes"] == 0
    assert line["ledger/trained_tokens"] == 2 * 2, "two tasks, each a sign and the end of the turn"
    assert line["train/updates"] == 1 and line["algo/references"] == 2


# ---- STaR --------------------------------------------------------------------------------------------------------


def rationalise(overrides: dict[str, Any] | None = None, answers: Sequence[tuple[str, bool]] = (("so 4 or 5", False),)) -> Any:
    algorithm, draw, reports = build_algorithm("star", overrides), FixedDraws(answers=answers), {}
    rows = algorithm.rationalise(batch(), collect_context(draw, reports))
    return algorithm, draw, rows, reports


def test_failed_rows_are_tried_again_with_the_reference_in_view() -> None:
    _, draw, rows, reports = rationalise()
    assert [task.task_id for task, _ in draw.played] == ["t0", "t1", "t1"]
    for task, prompt in draw.played:
        told, plain = CHAT.tokenizer.decode(prompt), CHAT.tokenizer.decode(CHAT.prompt_ids(list(task.messages)))
        assert task.privileged["reference_solution"] in told and task.privileged["reference_solution"] not in plain
    assert len(rows) == 6 + 3 and [is_rationalised(row) for row in rows] == [False] * 6 + [True] * 3
    assert reports == {"rationalised": 1.0}


def test_rationalised_answers_are_learnt_behind_the_plain_prompt() -> None:
    algorithm, _, rows, _ = rationalise()
    (term,) = algorithm.annotate(group_rows(rows), Interpreter(POLICY).context(CHAT))
    assert [item.view.row for item in term.items] == [0, 6, 7], "row 2 was cut off, row 8 repeats row 7's answer"
    assert [item.view.provenance for item in term.items] == ["sampled", "reprompted", "reprompted"]
    for item in term.items[1:]:
        task = rows[item.view.row].task
        np.testing.assert_array_equal(item.view.prefix_ids, CHAT.prompt_ids(list(task.messages)))
        assert CHAT.decode_action(item.view.token_ids) == "so 4 or 5"
    (without,) = build_algorithm("star", {"keep_own": False}).annotate(group_rows(rows), Interpreter(POLICY).context(CHAT))
    assert [item.view.row for item in without.items] == [6, 7]


def test_wrong_and_truncated_second_attempts_teach_nothing() -> None:
    algorithm, _, rows, reports = rationalise(answers=[("99", False), ("so 5", True)])
    (term,) = algorithm.annotate(group_rows(rows), Interpreter(POLICY).context(CHAT))
    assert [item.view.row for item in term.items] == [0]
    assert reports["rationalised"] == pytest.approx(1 / 3), "the cut-off one was right, but is not imitated"


def test_no_more_second_attempts_than_are_missing() -> None:
    """Group one has two successes of the two wanted, group two none."""
    assert [task.task_id for task, _ in rationalise({"max_per_task": 2})[1].played] == ["t1", "t1"]
    assert [task.task_id for task, _ in rationalise({"max_per_task": 1})[1].played] == ["t1"]
    assert [task.task_id for task, _ in rationalise({"max_per_task": 1, "keep_own": False})[1].played] == ["t0", "t1"]


def test_moving_a_row_to_another_prompt_keeps_its_turns() -> None:
    plain = scripted_row(CHAT, TASKS[0], 0, ["up", "left"], [0.0, 0.0], observations=["wall"])
    messages: list[Message] = [dict(m) for m in TASKS[0].messages]  # type: ignore[misc]
    messages[-1]["content"] += " The answer is 4."
    told_task = dataclasses.replace(TASKS[0], messages=tuple(messages))
    told = scripted_row(CHAT, told_task, 0, ["down", "4"], [0.0, 1.0], observations=["free"])
    moved = behind_prompt_of(plain, told)
    direct = scripted_row(CHAT, TASKS[0], 0, ["down", "4"], [0.0, 1.0], observations=["free"])
    a, b = moved.segments[0], direct.segments[0]
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.action_mask, b.action_mask)
    assert a.spans == b.spans and a.prompt_length == b.prompt_length and moved.reward == 1.0
    np.testing.assert_array_equal(student_views(group_rows([moved]), 0)[0].scored_ids(), direct.action_ids())


def test_a_second_attempt_is_paid_for(model: str, tmp_path: pathlib.Path) -> None:
    """Four rollouts and at most four second attempts, for the random policy's failures."""
    line = one_step("star", model, tmp_path / "run")
    failures = round(4 * (1 - line["train/success"]))
    assert line["ledger/episodes"] == 4 + failures > 4


# ---- refusals and the GRPO control -------------------------------------------------------------------------------


class Unreferenced:
    """A world whose tasks have no reference solution."""

    env_id, max_turns, split = "test/Bare-v0", 1, "train"

    @property
    def unwrapped(self) -> Unreferenced:
        return self

    def make_task(self, seed: int, split: str) -> Task:
        return BARE


@pytest.mark.parametrize(("name", "instead"), [("sdft", "sdpo"), ("opsd", "sdpo"), ("sft_reference", "rft"), ("star", "rft")])
def test_a_world_without_references_is_refused(name: str, instead: str) -> None:
    words = rf"{name} needs a reference solution, which the tasks of test/Bare-v0 do not have: use {instead}"
    with pytest.raises(ConfigError, match=words):
        build_algorithm(name).validate(Unreferenced(), {})
    build_algorithm(name).validate(sdgym.make("sdgym/Math-v0").unwrapped, {})


def test_sft_refuses_several_turns_and_star_a_pool() -> None:
    world = sdgym.make(LETTERS_ID, turns=3).unwrapped
    with pytest.raises(ConfigError, match=r"imitates one answer, and sdgym-test/Letters-v0 has 3 turns: use star"):
        build_algorithm("sft_reference").validate(world, {})
    build_algorithm("star").validate(world, {})
    with pytest.raises(ConfigError, match=r"star samples in every step: use collect_steps=0, or rft"):
        build_algorithm("star", {"collect_steps": 3})


def test_grpos_reference_can_be_the_moving_average() -> None:
    """Same terms as with a frozen reference; only the weights of the reference follow the student."""
    algorithm = build_algorithm("grpo_ema")
    weights = algorithm.teacher_weights
    assert weights is not None and (weights.kind, weights.rate, weights.every, weights.unit) == ("ema", 0.05, 1, "step")
    assert build_algorithm("grpo").teacher_weights is None
    terms = annotate("grpo_ema")
    views = [view for item in terms[0].items for view in item.references]
    assert views and all(view.weights == "teacher" and not view.grad for view in views)
    values = [Interpreter(POLICY, other).objective(terms).item() for other in (POLICY, TEACHER)]
    assert abs(values[0] - values[1]) > 1e-3
    mixture = {"policy_weight": 0.5, "policy": {"kl_beta": 0.1, "reference": "ema"}, "teacher": "frozen"}
    with pytest.raises(ConfigError, match="reference KL would be taken to"):
        build_algorithm("sdpo", mixture)
