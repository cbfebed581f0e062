"""What compositions read, rewrite and refuse: contexts, placements, edited rollouts, one sentence per mistake."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import sdgym
from sdgym.algos.base import Batch
from sdgym.algos.composition.rewriting import stating, with_confidence
from sdgym.algos.conditioning import build_conditioners, conditioners
from sdgym.algos.conditioning.frames import section
from sdgym.algos.presets import build_algorithm
from sdgym.chat import ChatFormat
from sdgym.core import Feedback, Task
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_engine import LETTERS_ID, LettersEnv
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
INTERPRETER = Interpreter(BagModel(len(CHAT.tokenizer), seed=1))
TASK = scripted_task("a", "3+4?", solution="three and four are 7")


def batch_of(*script: tuple[str, float | None, str], task: Task = TASK) -> Batch:
    return group_rows([scripted_row(CHAT, task, i, [a], None if r is None else [r], feedback=f) for i, (a, r, f) in enumerate(script)])


def told(kind: str, batch: Batch, options: dict[str, Any] | None = None) -> list[tuple[tuple[str, str], ...] | None]:
    (conditioner,) = build_conditioners([kind], options or {})
    found = [conditioner.tell(i, batch, next(g for g in batch.groups if i in g)) for i in range(len(batch.rows))]
    return [None if t is None else t.sections for t in found]


# ---- contexts ---------------------------------------------------------------------------------------------------------


def test_answers_right_and_wrong() -> None:
    batch = batch_of(
        ("\\boxed{7}", 1.0, ""), ("so \\boxed{5}", 0.2, ""), ("\\boxed{6}", 0.1, ""), ("x" * 80, 0.1, ""), ("\\boxed{9}", None, "")
    )
    assert told("answer", batch)[0] == (("peer", "7"),)
    assert set(told("wrong_answer", batch)) == {(("peer", "6"),)}, "the lowest score, the first on ties, the same for the whole group"
    assert told("wrong_answer", batch_of(("y" * 80, 0.0, "")))[0] == (("peer", "y" * 50),), "without a box its first 50 characters"
    assert told("wrong_answer", batch_of(("7", 1.0, ""), ("7 .", 0.5, ""))) == [None, None], "nobody is below one half"
    assert told("wrong_peer", batch) == [
        (("contrast", "so \\boxed{5}"),),
        (("contrast", "\\boxed{6}"),),
        *[(("contrast", "so \\boxed{5}"),)] * 3,
    ]
    bare = Task("n", TASK.messages, "train", 0)
    assert told("answer", batch_of(("7", 1.0, ""), task=bare)) == told("partial_reference", batch_of(("7", 1.0, ""), task=bare)) == [None]


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "three and"), (1.0, "three and four are 7"), (0.45, "three and"), (0.4, "three"), (0.01, "t")]
)
def test_part_of_a_reference(share: float, text: str) -> None:
    """Half of 20 characters ends between two words and stays; in the middle of a word it goes back to the last blank, if there is one."""
    assert told("partial_reference", batch_of(("7", 1.0, "")), {"share": share}) == [(("reference", text),)]


def test_follow_ups_hints_rules_and_nothing() -> None:
    batch = batch_of(("7", 1.0, "praise"), ("5", 0.0, "too low"), ("6", 0.0, ""))
    assert told("follow_up", batch) == [(("outcome", "correct"),), (("feedback", "too low"),), None]
    spoken = dataclasses.replace(batch.rows[0], feedback=[Feedback("user", "I wanted words."), Feedback("verifier", "right")])
    assert told("follow_up", group_rows([spoken])) == [(("feedback", "I wanted words."),)]
    assert told("outcome_hint", batch)[:2] == [(("outcome", "correct"),), (("outcome", "wrong"),)]
    hinted = batch_of(("5", 0.0, ""), task=dataclasses.replace(TASK, privileged={"hint": "Count on."}))
    assert told("outcome_hint", hinted) == [(("outcome", "wrong"), ("reference", "Count on."))]
    assert told("rule", batch, {"rule": "Be brief."})[0] == (("rule", "Be brief."),) and told("plain", batch)[0] == ()


def test_an_example_is_another_task() -> None:
    other = scripted_task("b", "2*3?", answer="6", solution="six")
    batch = group_rows([*batch_of(("7", 1.0, "")).rows, *batch_of(("6", 1.0, ""), task=other).rows])
    assert told("example", batch) == [
        (("example", "2*3? six"), ("reference", "three and four are 7")),
        (("example", "3+4? three and four are 7"), ("reference", "six")),
    ]
    assert told("example", batch_of(("7", 1.0, ""))) == [None], "nowhere to take one from"


@pytest.mark.parametrize("placement", ["user", "system", "response"])
@pytest.mark.parametrize("system", [True, False])
def test_placements_score_the_same_tokens_behind_another_prefix(placement: str, system: bool) -> None:
    task = TASK if system else dataclasses.replace(TASK, messages=TASK.messages[1:])
    batch = batch_of(("so 7", 1.0, ""), task=task)
    (conditioner,) = build_conditioners(["answer"], {}, placement=placement)
    ((view,),) = conditioner.views(batch, INTERPRETER.context(CHAT))  # type: ignore[misc]
    assert view.scored_ids().tolist() == batch.rows[0].action_ids().tolist()
    prompt = task.messages[-1]["content"]
    text = CHAT.tokenizer.decode(view.prefix_ids.tolist())
    framed = section("peer", "7")
    plain = CHAT.tokenizer.decode(CHAT.prompt_ids(list(task.messages)).tolist())
    if placement == "response":
        assert text == plain + "7 " and framed not in text
    elif placement == "system":
        assert text.index(framed) < text.index(prompt) and text.count("system") == 1
    else:
        assert text.index(prompt) < text.index(framed)


@pytest.mark.parametrize("placement", ["user", "system", "response"])
def test_controls_hold_in_every_placement(placement: str) -> None:
    batch = batch_of(("so 7", 1.0, ""))
    plain = CHAT.prompt_ids(list(TASK.messages))
    prefixes = {}
    for control in ("none", "P0", "P1", "P3"):
        (conditioner,) = build_conditioners(["reference"], {}, placement=placement, control=control)
        prefixes[control] = conditioner.views(batch, INTERPRETER.context(CHAT))[0][0].prefix_ids  # type: ignore[index]
    assert prefixes["P0"].tolist() == plain.tolist()
    texts = {name: CHAT.tokenizer.decode(ids.tolist()) for name, ids in prefixes.items()}
    assert "three and four" in texts["none"] and all("three and four" not in texts[name] for name in ("P0", "P1", "P3"))
    assert "correct" in texts["P3"] and len(prefixes["P1"]) >= len(prefixes["none"])


def test_options_go_to_whom_they_belong() -> None:
    half, whole = build_conditioners(["partial_reference", "reference"], {"share": 0.25})
    assert half.share == 0.25 and not hasattr(whole, "share")  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="no option of a context called 'shar': did you mean 'share'"):
        build_conditioners(["partial_reference"], {"shar": 0.25})
    with pytest.raises(UnknownNameError, match="did you mean 'reference'"):
        build_algorithm("compose", {"contexts": ["referense"]})
    with pytest.raises(ConfigError, match=r"must lie in \(0, 1\], not 0"):
        build_conditioners(["partial_reference"], {"share": 0})
    assert all(conditioners.get(name).kind == name for name in conditioners.names())


# ---- rewriting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", "7 confidence: 0.25"),
        ("7 confidence: 0.9", "7 confidence: 0.25"),
        ("7\nConfidence: 90%", "7 confidence: 0.25"),
        ("", "confidence: 0.25"),
    ],
)
def test_a_stated_confidence_is_replaced(text: str, expected: str) -> None:
    assert stating(text, 0.25) == expected
    assert stating("no confidence: I guess", 0.5) == "no confidence: I guess confidence: 0.50"


def test_rollouts_and_demonstration_state_the_pass_rate_before_anything_is_scored() -> None:
    batch = batch_of(("7", 1.0, ""), ("5 confidence: 0.99", 0.0, ""), ("?", None, ""))
    algorithm = build_algorithm("caopd", {"skip_first": 1})
    (phase,) = algorithm.phases
    rows = phase.collect(batch, INTERPRETER.context(CHAT))
    assert [row.actions[-1] for row in rows] == ["7 confidence: 0.50", "5 confidence: 0.50", "?"]
    edited = Batch(rows, batch.groups)
    for row, before in zip(rows[:2], batch.rows, strict=False):
        assert CHAT.decode_action(row.action_ids()) == row.actions[-1] and row.action_ids()[-1] == CHAT.end_ids[0]
        assert (
            row.segments[0].ids[: row.segments[0].prompt_length].tolist()
            == before.segments[0].ids[: before.segments[0].prompt_length].tolist()
        )
        assert row.task.privileged["reference_solution"] == "three and four are 7 confidence: 0.50"
    assert batch.rows[0].task.privileged["reference_solution"] == "three and four are 7", "the task itself is untouched"
    (term,) = algorithm.annotate(edited, INTERPRETER.context(CHAT))
    assert {item.view.provenance for item in term.items} == {"rewritten"} and [item.view.row for item in term.items] == [0, 1]
    assert all(item.rollout_logprobs is None for item in term.items), "what was sampled under another text says nothing about this one"
    for item in term.items:
        assert item.weight.tolist() == [0.0] + [1.0] * (len(item.weight) - 1), "the appended tokens are trained, the first is skipped"
        text = CHAT.tokenizer.decode(item.references[0].prefix_ids.tolist())
        assert "confidence: 0.50" in text and TASK.messages[-1]["content"] in text, "question and demonstration reach the teacher"


def test_a_rewritten_row_of_several_turns_changes_in_its_last_one() -> None:
    row = scripted_row(CHAT, TASK, 0, ["up", "left"], [0.0, 1.0], observations=["wall"])
    (edited,) = with_confidence(group_rows([row]), CHAT)
    assert edited.actions == ["up", "left confidence: 1.00"] and edited.turn_of_token().tolist()[:3] == [0, 0, 0]
    assert (
        edited.segments[0].ids[: row.segments[0].spans[1].start].tolist() == row.segments[0].ids[: row.segments[0].spans[1].start].tolist()
    )
    assert len(edited.turn_of_token()) == edited.action_length


# ---- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contexts": []}, "contexts is empty: name at least one"),
        ({"contexts": ["answer", "reference"]}, "mixture=single with 2 contexts: use geometric"),
        ({"mixture": "contrast", "signal": "policy_gradient"}, "mixture=contrast with 1 contexts: .* give two"),
        ({"mixture": "gated"}, "mixture=gated with signal=target: .* use signal=policy_gradient"),
        ({"mixture": "sum", "signal": "policy_gradient"}, "mixture=sum with signal=policy_gradient: .* use geometric"),
        ({"context_weights": "failure"}, "context_weights=failure: .* use mixture=sum"),
        ({"signal": "modulate"}, "signal=modulate with combine=replace: .* set both"),
        ({"combine": "modulate"}, "signal=target with combine=modulate: .* set both"),
        (
            {"signal": "modulate", "combine": "modulate", "skip_first": 2},
            "signal=modulate with token or sample weights: .* use signal=policy_gradient",
        ),
        ({"evidence": {"margin": 0.4}}, "evidence with signal=target: .* use signal=policy_gradient"),
        ({"combine": "modulate", "signal": "modulate", "hinge": {"weight": 1.0}}, "hinge with combine=modulate: .* use hinge.weight=0"),
        ({"reward": "cosine"}, "reward=cosine with combine=replace: .* use reward=environment"),
        ({"signal": "policy_gradient", "rollout_correction": "token"}, "rollout_correction .*: set policy.rollout_correction"),
        ({"policy": {"kl_beta": 0.1}, "teacher": "ema"}, "policy.kl_beta with this teacher: .* use policy.kl_beta=0"),
        ({"combine": "shared", "aggregation": "seq_mean_token_mean"}, "combine=shared: .* token_mean_global"),
        (
            {"token_weight": {"kind": "position", "normalise": "batch"}, "aggregation": "seq_mean_token_mean"},
            "token_weight.normalise=batch",
        ),
        ({"rewrite": "confidence", "combine": "sum"}, "rewrite=confidence with GRPO: .* use combine=replace"),
        ({"token_weight": {"bta": 1.0}}, r"no setting 'token_weight\.bta': did you mean 'beta'"),
    ],
)
def test_values_that_exclude_each_other_get_one_sentence(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_algorithm("compose", settings)
    assert "\n" not in str(caught.value)


class Bare(LettersEnv):
    """Has no reference and says nothing about wrong answers."""

    def make_task(self, seed: int, split: str) -> Task:
        return dataclasses.replace(super().make_task(seed, split), privileged={})

    async def respond(self, action: str) -> Any:
        return dataclasses.replace(await super().respond(action), feedback="")


def test_worlds_and_groups_that_cannot_work_are_refused() -> None:
    bare, letters, run = Bare(), sdgym.make(LETTERS_ID).unwrapped, {"group_size": 4, "tasks_per_step": 8}
    for name in ("rlsd", "cepo", "avsd", "selfci", "paced", "pw_opsd", "sg_topk", "pi_opsd", "unisd", "caopd", "tt_opd"):
        with pytest.raises(ConfigError, match=r"which the tasks of .* do not have: use contexts=\[peer\]"):
            build_algorithm(name).validate(bare, run)
        build_algorithm(name).validate(letters, run)
    with pytest.raises(ConfigError, match=r"gives none on a wrong answer: use contexts=\[peer\]"):
        build_algorithm("hindsight").validate(bare, run)
    for name in ("srpo", "sc_sdpo", "sg_topk_rule", "tt_opd_ran"):
        build_algorithm(name).validate(bare, run)
    with pytest.raises(ConfigError, match=r"set algo\.teacher_model .* or use teacher=frozen"):
        build_algorithm("uni_opd").validate(bare, run)
    build_algorithm("uni_opd", {"teacher_model": "tiny"}).validate(bare, run)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("srpo", "a group baseline"),
        ("sc_sdpo", r"contexts=\['peer'\]"),
        ("paced", "sample_weight"),
        ("uni_opd", r"evidence\.margin"),
        ("unisd", "hinge"),
        ("caopd", "rewrite=confidence"),
    ],
)
def test_a_group_of_one_has_nothing_to_compare(name: str, reason: str) -> None:
    letters = sdgym.make(LETTERS_ID).unwrapped
    overrides = {"teacher_model": "tiny"} if name == "uni_opd" else {}
    with pytest.raises(ConfigError, match=f"{reason} needs group_size of at least 2"):
        build_algorithm(name, overrides).validate(letters, {"group_size": 1})
    build_algorithm("pw_opsd").validate(letters, {"group_size": 1})


def test_few_tasks_and_many_turns_are_refused() -> None:
    letters, turns = sdgym.make(LETTERS_ID).unwrapped, sdgym.make(LETTERS_ID, turns=2).unwrapped
    with pytest.raises(ConfigError, match="use tasks_per_step of at least 4, or fewer contexts"):
        build_algorithm("unisd").validate(letters, {"group_size": 2, "tasks_per_step": 3})
    with pytest.raises(ConfigError, match=r"edits one final answer, and .* has several turns"):
        build_algorithm("caopd").validate(turns, {"group_size": 2})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rlsd", "reference"),
        ("srpo", "reward"),
        ("hindsight", "feedback"),
        ("uni_opd", "reward"),
        ("sg_topk_rule", "none"),
        ("tt_opd_ran", "reward"),
    ],
)
def test_supervision_follows_from_what_is_used(name: str, expected: str) -> None:
    assert build_algorithm(name).supervision == expected


def test_strength_zero_asks_no_teacher() -> None:
    def score(views: Any) -> Any:
        raise AssertionError("a teacher was scored for nothing")

    context = dataclasses.replace(INTERPRETER.context(CHAT, step=50), score=score)
    (term,) = build_algorithm("rlsd").annotate(batch_of(("7", 1.0, ""), ("5", 0.0, "")), context)
    assert term.name == "policy" and not any(item.references for item in term.items)
    assert len(term.items) == 2


def test_dynamic_sampling_is_the_policys() -> None:
    same, mixed = ([scripted_row(CHAT, TASK, i, ["7"], [r]) for i, r in enumerate(rewards)] for rewards in ((1.0, 1.0), (1.0, 0.0)))
    chosen = build_algorithm("rlsd", {"policy": {"dynamic_sampling": True}})
    assert not chosen.accept_group(same) and chosen.accept_group(mixed) and build_algorithm("rlsd").accept_group(same)
    assert build_algorithm("avsd", {"policy": {"dynamic_sampling": True}}).accept_group(same), "without a policy term nothing is rejected"
    for name in ("sdpo_hybrid", "skill_sd"):
        chosen = build_algorithm(name, {"policy": {"dynamic_sampling": True}})
        assert not chosen.accept_group(same) and chosen.accept_group(mixed), name
        assert build_algorithm(name).accept_group(same), name
    assert build_algorithm("sdpo", {"policy": {"dynamic_sampling": True}}).accept_group(same)


def test_show_tells_equation_deviations_and_traps_of_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    from sdgym.commands.algos import show

    show("rlsd")
    said = capsys.readouterr().out
    assert "status: paper-read" in said and "Trap: the baseline of this name in CEPO's repository is starved" in said
    assert "clip(w_t, 1−ε, 1+ε)" in said and "teacher weights: periodic" in said and "clip: 0.2" in said and "# ε_w, §4" in said
