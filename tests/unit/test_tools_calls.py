"""The call grammar: every accepted spelling, and bounded work on hostile text."""

from __future__ import annotations

import time

import pytest

from sdgym.envs.tools.calls import MAX_CHARS, CallSyntaxError, ToolCall, parse_calls

SHOW = ToolCall("mail.show", {"id": 7})


@pytest.mark.parametrize(
    "text",
    [
        '{"tool": "mail.show", "args": {"id": 7}}',
        '{"name": "mail.show", "arguments": {"id": 7}}',
        '{"name": "mail.show", "parameters": {"id": 7}}',
        '{"name": "mail.show", "arguments": "{\\"id\\": 7}"}',
        '{"type": "function", "function": {"name": "mail.show", "arguments": {"id": 7}}}',
        '{"mail.show": {"id": 7}}',
        '[{"mail.show": {"id": 7}}]',
        '```json\n{"mail.show": {"id": 7}}\n```',
        'I look at [7] first.\n{"mail.show": {"id": 7}}',
        'I will use {braces} here.\n{"mail.show": {"id": 7}} and then see',
        '<think>{"mail.delete": {"id": 7}}</think>{"mail.show": {"id": 7}}',
        '<tool_call>\n{"name": "mail.show", "arguments": {"id": 7}}\n</tool_call>',
        'Sure. <tool_call>{"name": "mail.show", "arguments": {"id": 7}}',
    ],
)
def test_one_call_in_every_spelling(text: str) -> None:
    assert parse_calls(text, 10) == [SHOW]


def test_several_calls_keep_their_order() -> None:
    star = ToolCall("mail.star", {})
    assert parse_calls('{"mail.show":{"id":7}}\n{"mail.star":{}}', 10) == [SHOW, star]
    assert parse_calls('[{"mail.show":{"id":7}},{"tool":"mail.star"}]', 10) == [SHOW, star]
    assert parse_calls(
        '<tool_call>{"name":"mail.show","arguments":{"id":7}}</tool_call><tool_call>{"name":"mail.star"}</tool_call>', 10
    ) == [SHOW, star]
    with pytest.raises(CallSyntaxError, match="2 calls in one turn, at most 1"):
        parse_calls('{"mail.show":{"id":7}}{"mail.star":{}}', 1)


def test_answer_is_short_for_the_end_of_the_task() -> None:
    assert parse_calls('{"answer": [1, "b"]}', 1) == [ToolCall("supervisor.complete_task", {"answer": [1, "b"]})]


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no JSON object"),
        ("mail.show(7)", "no JSON object"),
        ("[1, 2]", "no JSON object"),
        ('{"mail.show": {"id": 7}', "broken at character"),
        ('{"mail.show": {"id": NaN}}', "broken"),
        ('{"mail.show": {"id": ' + "9" * 5_000 + "}}", "broken"),
        ('{"mail.show": {"id": 1e999}}', "broken"),
        ('{"a": 1, "b": 2}', "is no call"),
        ('{"mail.show": 7}', "must be a JSON object"),
        ('{"tool": "mail.show", "args": "7"}', "arguments of 'mail.show'"),
        ('{"mail.show": ' * 20 + "7" + "}" * 20, "deeper than"),
        ("[" * 5_000, "no JSON object"),
        ('[{"a":' * 20, "deeper than"),
        ('[{"a":{}}, 5]', "is a JSON object"),
        ("x" * (MAX_CHARS + 1), "characters"),
    ],
)
def test_what_is_no_call_is_told_why(text: str, said: str) -> None:
    with pytest.raises(CallSyntaxError, match=said):
        parse_calls(text, 10)


@pytest.mark.parametrize(
    "text",
    [
        '{"' * 16_000, "{ " * 16_000, '"' * MAX_CHARS, "\\" * MAX_CHARS, '{"a":"' + '\\"' * 15_000, "{}" * 16_000, '[{"a":{}},' * 3_000,
        '{"a":{}}' * 4_000, "<tool_call>" * 2_900, "</think>" * 4_000,
    ],
)  # fmt: skip
def test_hostile_text_is_refused_quickly(text: str) -> None:
    """Linear work: about 10 ms here; quadratic work on 32,000 characters would take minutes."""
    started = time.process_time()
    with pytest.raises(CallSyntaxError):
        parse_calls(text, 10)
    assert time.process_time() - started < 1.0
