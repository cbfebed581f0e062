"""Thinking is explicit per side: the run's for the student, the algorithm's for the teacher."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sdgym.algos.base import AnnotateContext
from sdgym.algos.conditioning import Reference
from sdgym.algos.presets import build_algorithm, paper_run
from sdgym.chat import ChatFormat
from sdgym.config import make_config
from sdgym.testing.objective import group_rows, scripted_row, scripted_task
from sdgym.testing_policy import small_tokenizer

HEAD = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
SWITCH = HEAD + (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ALWAYS = HEAD + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
TASK = scripted_task("a", "3+4?")
CLOSED = "<think>\n\n</think>\n\n"


def ending(chat: ChatFormat) -> str:
    return str(chat.tokenizer.decode(chat.prompt_ids(list(TASK.messages)))).rpartition("assistant\n")[2]


def test_a_template_with_a_switch_is_switched_on_either_side() -> None:
    plain = ChatFormat(small_tokenizer(SWITCH))
    off = plain.thinking(False)
    assert (ending(plain), ending(off), ending(off.thinking(True))) == ("", CLOSED, "")
    assert plain.thinking(None) is plain and plain.thinking(False) is off and off.thinking(False) is off
    assert off.end_ids == plain.end_ids


def test_a_template_that_always_opens_a_block_gets_it_closed() -> None:
    plain = ChatFormat(small_tokenizer(ALWAYS))
    assert (ending(plain), ending(plain.thinking(True)), ending(plain.thinking(False))) == ("<think>\n", "<think>\n", CLOSED)


def test_later_turns_are_closed_too() -> None:
    chat = ChatFormat(small_tokenizer(SWITCH)).thinking(False)
    history = [*TASK.messages, {"role": "assistant", "content": "7"}]
    ids = chat.continuation_ids(history, [{"role": "user", "content": "sure?"}], ended=True)  # type: ignore[arg-type, list-item]
    whole = chat.prompt_ids([*history, {"role": "user", "content": "sure?"}])  # type: ignore[list-item]
    assert CLOSED in chat.tokenizer.decode(whole[-20:]) and (ids is None or CLOSED in chat.tokenizer.decode(ids))


@pytest.mark.parametrize(("control", "thinking", "expected"), [("none", True, ""), ("none", None, CLOSED), ("P0", True, CLOSED)])
def test_the_teacher_thinks_where_the_student_does_not(control: str, thinking: bool | None, expected: str) -> None:
    """OPSD v3: off for the student, on for the teacher; the control P0 reads exactly as the student."""
    student = ChatFormat(small_tokenizer(SWITCH)).thinking(False)
    row = scripted_row(student, TASK, 0, ["7"], [1.0])
    context = AnnotateContext(0, student, np.random.default_rng(0), lambda views: [], True, 4096)
    ((view,),) = [v for v in Reference(control=control, thinking=thinking).views(group_rows([row]), context) if v]  # type: ignore[arg-type]
    assert student.tokenizer.decode(view.prefix_ids).rpartition("assistant\n")[2] == expected
    own = dataclasses.replace(view, prefix_ids=row.segments[0].ids[: row.segments[0].prompt_length])
    assert np.array_equal(view.prefix_ids, own.prefix_ids) is (control == "P0")
    assert np.array_equal(view.scored_ids(), row.action_ids())


def test_settings_reach_both_sides() -> None:
    assert build_algorithm("opsd_v3").conditioners[0].thinking is True and paper_run("opsd_v3")["thinking"] is False
    assert build_algorithm("sdpo").conditioners[0].thinking is None and make_config().thinking is None
    for name in ("sdpo_norich", "skill_sd", "vpd", "opsd_v1"):
        assert build_algorithm(name, {"teacher_thinking": False}).conditioners[0].thinking is False
