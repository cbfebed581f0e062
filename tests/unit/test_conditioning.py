"""Conditioners: what the teacher is told, in which frame, and that it scores exactly the student's tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.conditioning import FeedbackOnly, OutcomeOnly, Peer, PeerFeedback, Reference, conditioners
from sdgym.algos.conditioning.base import Told
from sdgym.algos.conditioning.frames import KINDS, attempt_text, feedback_text, filler, phrases, section, with_block
from sdgym.chat import ChatFormat
from sdgym.core import Feedback, Task, Trajectory
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.testing.objective import group_rows, scripted_row, scripted_task
from sdgym.testing_policy import small_tokenizer


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return ChatFormat(small_tokenizer())


def context_of(chat: ChatFormat, seed: int = 0, max_context: int = 4096) -> AnnotateContext:
    return AnnotateContext(0, chat, np.random.default_rng(seed), lambda views: [], True, max_context)


def task_of(name: str, answer: str, level: str = "tiny") -> Task:
    task = scripted_task(name, f"question {name}", answer=answer, solution=f"worked {name} = {answer}")
    return dataclasses.replace(task, meta={"level": level})


def rows_of(chat: ChatFormat, task: Task, actions: list[str], feedback: str = "{} is wrong") -> list[Trajectory]:
    """One single-turn row per action; an action equal to the task's answer succeeds."""
    answer = task.privileged.get("answer")
    return [
        scripted_row(chat, task, k, [a], [float(a == answer)], feedback="" if a == answer else feedback.format(a))
        for k, a in enumerate(actions)
    ]


def prompt_of(chat: ChatFormat, views: list | None) -> str:
    assert views is not None
    return chat.tokenizer.decode(views[0].prefix_ids)


# ---- what is told -------------------------------------------------------------------------------


def test_peer_is_the_first_other_success(chat: ChatFormat) -> None:
    """algorithms-core §4e: rewards [0,1,0,0] give demonstrations [1,-,1,1]; [0,1,1,0] give [1,2,1,1]."""
    for actions, expected in ((["a", "7", "b", "c"], [1, None, 1, 1]), (["a", "7", "7", "c"], [1, 2, 1, 1])):
        batch = group_rows(rows_of(chat, task_of("t", "7"), actions))
        told = [Peer().tell(i, batch, batch.groups[0]) for i in range(4)]
        assert [None if t is None else int(t.source.split()[1]) for t in told] == expected
    with_self = [Peer(exclude_self=False).tell(i, batch, batch.groups[0]) for i in range(4)]
    assert [t.source for t in with_self if t] == ["row 1"] * 4


@pytest.mark.parametrize(
    ("has_peer", "has_feedback", "only_without", "kinds"),
    [
        (False, False, True, None),
        (False, False, False, None),
        (True, False, True, ["peer"]),
        (True, False, False, ["peer"]),
        (False, True, True, ["feedback"]),
        (False, True, False, ["feedback"]),
        (True, True, True, ["peer"]),
        (True, True, False, ["peer", "feedback"]),
    ],
)
def test_gating_of_peer_and_feedback(
    chat: ChatFormat, has_peer: bool, has_feedback: bool, only_without: bool, kinds: list[str] | None
) -> None:
    batch = group_rows(rows_of(chat, task_of("t", "7"), ["5", "7" if has_peer else "6"], "{} is wrong" if has_feedback else " "))
    told = PeerFeedback(only_without_solution=only_without).tell(0, batch, batch.groups[0])
    assert (None if told is None else [kind for kind, _ in told.sections]) == kinds


def test_a_success_has_no_feedback_even_if_something_was_said(chat: ChatFormat) -> None:
    rows = rows_of(chat, task_of("t", "7"), ["7"])
    rows[0].feedback = [Feedback("verifier", "well done", 0)]
    assert FeedbackOnly().tell(0, group_rows(rows), [0]) is None


def test_reference_is_missing_without_text(chat: ChatFormat) -> None:
    task = dataclasses.replace(task_of("t", "7"), privileged={"answer": "7"})
    assert Reference().views(group_rows(rows_of(chat, task, ["7"])), context_of(chat)) == [None]


def test_an_errored_row_has_no_teacher_and_is_no_demonstration(chat: ChatFormat) -> None:
    task = task_of("t", "7")
    rows = [*rows_of(chat, task, ["5"]), scripted_row(chat, task, 1, ["7"], None)]
    rows[1].success = True
    batch = group_rows(rows)
    assert Reference().views(batch, context_of(chat))[1] is None
    assert Peer().views(batch, context_of(chat))[0] is None


# ---- the view -----------------------------------------------------------------------------------


def test_view_scores_the_rows_own_tokens_after_another_prompt(chat: ChatFormat) -> None:
    rows = rows_of(chat, task_of("t", "7"), ["5", "7"])
    for i, views in enumerate(Reference().views(group_rows(rows), context_of(chat))):
        assert views is not None
        (view,) = views
        assert np.array_equal(view.scored_ids(), rows[i].action_ids())
        assert np.array_equal(view.index_map, np.arange(rows[i].action_length))
        assert (view.weights, view.grad, view.row) == ("teacher", False, i)
        prompt = prompt_of(chat, views)
        assert "question t" in prompt and "worked t = 7" in prompt
        assert prompt.index("question t") < prompt.index("worked t = 7") < prompt.index("Now solve the problem.")
        assert prompt.endswith("<|im_start|>assistant\n")
        ids, positions = view.sequence()
        assert np.array_equal(ids[positions], rows[i].action_ids())


def test_multi_turn_rows_keep_observations_unscored(chat: ChatFormat) -> None:
    task = task_of("t", "7")
    row = scripted_row(chat, task, 0, ["go", "7"], [0.0, 1.0], observations=["you went"])
    ((view,),) = [v for v in Reference().views(group_rows([row]), context_of(chat)) if v]
    assert np.array_equal(view.scored_ids(), row.action_ids())
    assert "you went" in chat.tokenizer.decode(view.token_ids) and "you went" not in chat.tokenizer.decode(view.scored_ids())


def test_later_segment_is_prefixed_by_the_whole_history(chat: ChatFormat) -> None:
    task = task_of("t", "7")
    row = scripted_row(chat, task, 0, ["go", "7"], [0.0, 1.0], observations=["you went"])
    whole = row.segments[0]
    cut = whole.spans[1].start
    first = dataclasses.replace(whole, ids=whole.ids[: whole.spans[0].end], action_mask=whole.action_mask[: whole.spans[0].end])
    first = dataclasses.replace(first, logprobs=whole.logprobs[: whole.spans[0].end], spans=whole.spans[:1])
    shifted = dataclasses.replace(whole.spans[1], start=cut, end=whole.spans[1].end)
    later = whole.action_mask & (np.arange(len(whole.ids)) >= cut)
    row.segments = [first, dataclasses.replace(whole, action_mask=later, spans=(shifted,), prompt_length=cut)]
    (views,) = Reference().views(group_rows([row]), context_of(chat))
    assert views is not None and len(views) == 2
    second = chat.tokenizer.decode(views[1].prefix_ids)
    assert second.index("worked t = 7") < second.index("go") < second.index("you went")
    assert np.array_equal(np.concatenate([v.scored_ids() for v in views]), row.action_ids())
    assert np.array_equal(np.concatenate([v.index_map for v in views]), np.arange(row.action_length))


def test_a_row_that_does_not_fit_drops_out_and_the_slot_can_be_cut_instead(chat: ChatFormat) -> None:
    task = task_of("t", "7")
    task = dataclasses.replace(task, privileged={"answer": "7", "reference_solution": "alpha " + "beta " * 200 + "omega"})
    batch = group_rows(rows_of(chat, task, ["7"]))
    assert Reference().views(batch, context_of(chat, max_context=400)) == [None]
    for overflow, kept, lost in (("head", "alpha", "omega"), ("tail", "omega", "alpha")):
        (views,) = Reference(slot_tokens=40, overflow=overflow).views(batch, context_of(chat, max_context=400))
        assert views is not None and views[0].truncated
        prompt = prompt_of(chat, views)
        assert kept in prompt and lost not in prompt
        assert "Now solve the problem." in prompt and prompt.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("overflow, kept, lost", [("head", "alpha", "omega"), ("tail", "omega", "alpha")])
@pytest.mark.parametrize("placement", ["user", "system", "response"])
def test_without_a_slot_a_text_is_cut_to_what_the_context_leaves(
    chat: ChatFormat, overflow: str, kept: str, lost: str, placement: str
) -> None:
    task = task_of("t", "7")
    task = dataclasses.replace(task, privileged={"answer": "7", "reference_solution": "alpha " + "beta " * 200 + "omega"})
    batch = group_rows(rows_of(chat, task, ["7"]))
    conditioner = Reference(overflow=overflow, placement=placement)  # type: ignore[arg-type]
    (views,) = conditioner.views(batch, context_of(chat, max_context=400))
    assert views is not None and views[0].truncated
    assert 380 < len(views[0].prefix_ids) + len(views[0].token_ids) <= 400
    assert kept in prompt_of(chat, views) and lost not in prompt_of(chat, views)
    (whole,) = conditioner.views(batch, context_of(chat, max_context=4000))
    assert whole is not None and not whole[0].truncated and lost in prompt_of(chat, whole)


def test_a_very_long_text_is_cut_in_few_looks(chat: ChatFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 words: one look per word would be quadratic."""
    words = ["beta"] * 4000
    row = rows_of(chat, task_of("t", "7"), ["7"])[0]
    encode = ChatFormat.encode_text
    looks: list[str] = []
    monkeypatch.setattr(ChatFormat, "encode_text", lambda self, text: (looks.append(text), encode(self, text))[1])
    given = Told((("reference", " ".join(words)),), "reference")
    fitted = Reference(slot_tokens=40, overflow="tail")._fit_slot(row, given, chat, context_of(chat))
    assert fitted is not None
    told, cut = fitted
    ((_, text),) = told.sections
    assert cut and len(encode(chat, text)) <= 40 < len(encode(chat, f"{text} beta"))
    assert len(looks) < 20


def test_a_text_longer_than_the_slot_drops_the_row(chat: ChatFormat) -> None:
    task = task_of("t", "7")
    batch = group_rows(rows_of(chat, task, ["7"]))
    length = len(chat.encode_text(task.privileged["reference_solution"]))
    assert Reference(slot_tokens=length - 1).views(batch, context_of(chat)) == [None]
    assert Reference(slot_tokens=length).views(batch, context_of(chat)) != [None]


def test_a_success_with_nothing_to_show_is_no_peer(chat: ChatFormat) -> None:
    batch = group_rows(rows_of(chat, task_of("t", "7"), ["<think>7</think>", "so 7", "5"]))
    for row in batch.rows[:2]:
        row.turn_rewards[:] = [1.0]
        row.success = True
    told = Peer().tell(2, batch, [0, 1, 2])
    assert told is not None and told.sections == (("peer", "so 7"),) and told.source == "row 1"
    assert Peer().tell(1, batch, [0, 1, 2]) is None


# ---- controls -----------------------------------------------------------------------------------


def test_tasks_without_answers_are_partners_of_each_other(chat: ChatFormat) -> None:
    def unanswered(name: str) -> Task:
        return dataclasses.replace(task_of(name, "7"), privileged={"reference_solution": f"worked {name}"})

    batch = group_rows([*rows_of(chat, unanswered("one"), ["5"]), *rows_of(chat, unanswered("two"), ["6"])])
    texts = [prompt_of(chat, views) for views in Reference("P2").views(batch, context_of(chat)) if views is not None]
    assert len(texts) == 2 and "worked two" in texts[0] and "worked one" in texts[1]


def two_groups(chat: ChatFormat) -> Batch:
    rows = rows_of(chat, task_of("one", "7"), ["5", "7"]) + rows_of(chat, task_of("two", "9"), ["6", "9"])
    return group_rows(rows)


def test_p0_teacher_reads_the_students_prompt(chat: ChatFormat) -> None:
    batch = two_groups(chat)
    for row, views in zip(batch.rows, Reference("P0").views(batch, context_of(chat)), strict=True):
        assert views is not None
        segment = row.segments[0]
        assert np.array_equal(views[0].prefix_ids, segment.ids[: segment.prompt_length])


def test_p1_keeps_frame_and_length_and_says_nothing(chat: ChatFormat) -> None:
    batch = two_groups(chat)
    real, idle = (Reference(c).views(batch, context_of(chat)) for c in ("none", "P1"))
    for a, b in zip(real, idle, strict=True):
        text = prompt_of(chat, b)
        assert "A correct solution:" in text and "worked" not in text
        assert 0 <= len(b[0].prefix_ids) - len(a[0].prefix_ids) <= 12  # filler ends at a word
        assert b[0].kind == "reference/P1"


def test_p2_tells_of_another_task_with_another_answer_and_the_same_outcome(chat: ChatFormat) -> None:
    batch = two_groups(chat)
    views = Reference("P2").views(batch, context_of(chat))
    for i, found in enumerate(views):
        own, other = ("one", "two") if i < 2 else ("two", "one")
        assert f"worked {other}" in prompt_of(chat, found) and f"worked {own}" not in prompt_of(chat, found)


@pytest.mark.parametrize("change", ["answer", "level", "outcome"])
def test_p2_refuses_partners_of_equal_answer_other_level_or_other_outcome(chat: ChatFormat, change: str) -> None:
    mine = rows_of(chat, task_of("one", "7"), ["5"])
    theirs = task_of("two", "7" if change == "answer" else "9", "easy" if change == "level" else "tiny")
    action = theirs.privileged["answer"] if change == "outcome" else "0"
    batch = group_rows(mine + rows_of(chat, theirs, [action]))
    assert Reference("P2").views(batch, context_of(chat)) == [None, None]


def test_p3_says_only_the_outcome(chat: ChatFormat) -> None:
    batch = two_groups(chat)
    for row, views in zip(batch.rows, Reference("P3").views(batch, context_of(chat)), strict=True):
        text = prompt_of(chat, views)
        assert f"An earlier attempt was {'correct' if row.success else 'wrong'}." in text and "worked" not in text
    plain = OutcomeOnly().views(batch, context_of(chat))
    p3 = Reference("P3").views(batch, context_of(chat))
    assert all(np.array_equal(a[0].prefix_ids, b[0].prefix_ids) for a, b in zip(plain, p3, strict=True))


def test_controls_cover_the_same_rows_as_the_real_text(chat: ChatFormat) -> None:
    batch = two_groups(chat)
    usable = [v is not None for v in FeedbackOnly().views(batch, context_of(chat))]
    assert usable == [True, False, True, False]
    for control in ("P0", "P1", "P2", "P3"):
        assert [v is not None for v in FeedbackOnly(control).views(batch, context_of(chat))] == usable


def test_views_are_a_function_of_the_generator(chat: ChatFormat) -> None:
    batch = two_groups(chat)
    first, again, other = ([v[0].prefix_ids.tolist() for v in Reference("P1").views(batch, context_of(chat, s)) if v] for s in (1, 1, 2))
    assert first == again != other


# ---- wording ------------------------------------------------------------------------------------


def test_every_kind_has_twenty_wordings_and_a_fifth_is_held_out() -> None:
    for kind in KINDS:
        pools = phrases()[kind]
        both = [*pools["trained"], *pools["heldout"]]
        assert len(pools["trained"]) >= 20 and len(set(both)) == len(both)
        assert len(pools["heldout"]) / len(both) >= 0.2
        assert all(text.count("{text}") == 1 for text in both)


def test_braces_in_privileged_text_are_only_text() -> None:
    assert section("reference", r"\boxed{text} {text} {0}").endswith(r"\boxed{text} {text} {0}")


def test_without_sections_messages_stay_as_they_are() -> None:
    messages = scripted_task("t", "q").messages
    assert with_block(messages, []) == list(messages)


def test_texts_of_episodes() -> None:
    said = [Feedback("verifier", "first", 0), Feedback("verifier", " ", 1), Feedback("verifier", "third", 2)]
    assert feedback_text(said) == "Turn 1: first Turn 3: third"
    assert feedback_text(said[:2]) == "first"
    assert attempt_text(["<think>hm</think> 7", "8"]) == "7 then 8"
    assert attempt_text(["<think>hm</think> 7"], strip_think=False) == "<think>hm</think> 7"


def test_filler_is_just_long_enough() -> None:
    for length in (1, 7, 40):
        text = filler(np.random.default_rng(0), length, len)
        assert len(text) >= length and (len(text.split()) == 1 or len(" ".join(text.split()[:-1])) < length)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'P2'"):
        Reference(control="p2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="drop, head or tail"):
        Reference(overflow="cut")  # type: ignore[arg-type]
    assert set(conditioners.names()) >= {"feedback", "outcome", "peer", "peer+feedback", "reference"}
