"""The call grammar: every accepted spelling, and bounded work on hostile text."""

from __future__ import annotations

import time

import pytest

from sdgym.envs.tools.api import ApiError
from sdgym.envs.tools.apps import APPS
from sdgym.envs.tools.calls import MAX_CHARS, CallSyntaxError, ToolCall, parse_calls
from sdgym.envs.tools.native import Written

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
        "[mail.show(id=7)]",
        "I look at it. [ mail.show( id = 7 ) ] Let us see, [whatever(it is)].",
        'As [said(above)]: {"mail.show": {"id": 7}}',
        '{"mail.show": {"id": 7}} and not <function=mail.delete></function>',
    ],
)
def test_one_call_in_every_spelling(text: str) -> None:
    assert parse_calls(text, 10) == [SHOW]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=mail.show>\n<parameter=id>\n7\n</parameter>\n</function>\n</tool_call>",
        "First this. <function=mail.show><parameter=id>7</parameter></function>",
        "<tool_call>\n<function=mail.show>\n<parameter=id>\n7",
        "<tool_call>mail.show\n<arg_key>id</arg_key>\n<arg_value>7</arg_value>\n</tool_call>",
    ],
)
def test_formats_without_types_leave_them_to_the_schema(text: str) -> None:
    (call,) = parse_calls(text, 10)
    assert call == ToolCall("mail.show", {"id": "7"}) and type(call.args["id"]) is Written
    assert APPS["mail"].apis["show"].bind(call.args) == {"id": 7}
    text_wanted = APPS["notes"].apis["create"].bind({"title": Written("7"), "body": Written("true")})
    assert (text_wanted["title"], text_wanted["body"]) == ("7", "true") and type(text_wanted["title"]) is str
    assert APPS["mail"].apis["mark"].bind({"id": Written("7"), "read": Written("False")}) == {"id": 7, "read": False}
    with pytest.raises(ApiError, match="id must be an integer, got the text 'seven'"):
        APPS["mail"].apis["show"].bind({"id": Written("seven")})
    end = APPS["supervisor"].apis["complete_task"]
    assert end.bind({"answer": Written('["a", 2]')})["answer"] == ["a", 2] and end.bind({"answer": Written("7")})["answer"] == "7"
    for hostile in ("[" * 5_000, "9" * 5_000, '{"a": ' * 50, "[1,", "[" + "1," * 20_000):
        with pytest.raises(ApiError, match="must be an integer"):
            APPS["mail"].apis["show"].bind({"id": Written(hostile)})


@pytest.mark.filterwarnings("error")
def test_quotes_in_a_list_of_calls_hold_any_text() -> None:
    texts = (r"\d\:", "a\nb", r"\n", "\\", "it's", 'say "no"', "é\u202e", r"\7\8", "\\\n")
    for text in texts:
        escaped = text.replace("'", r"\'") if text in texts[4:7] else text.replace("\\", r"\\")
        assert parse_calls(f"[mail.search(query='{escaped}')]", 1) == [ToolCall("mail.search", {"query": text})]
    assert parse_calls(r"[mail.search(query='\d\:')]", 1) == [ToolCall("mail.search", {"query": r"\d\:"})]


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
        ("<function=>", "is no name of an API"),
        ("<tool_call>a b<arg_key>c</arg_key></tool_call>", "'a b' is no name"),
        ("[mail.show(7)]", r"holds name\(key=value\)"),
        ("[mail.show(id=open)]", "no plain data"),
        ("[mail.show(id={[]: 1})]", "no plain data"),
        ("[mail.show(id={1})]", "the argument 'id' is no plain data"),
        ("[mail.show(id=" + "9" * 1_000 + ")]", "the argument 'id': the JSON is broken"),
        ("[mail.show(id=1e999)]", "the argument 'id': the JSON is broken"),
        ("[mail.show(id=" + "[" * 150 + "]" * 150 + ")]", "deeper than"),
        ("[mail.show(id=" + "-" * 7_000 + "1)]", "list of calls"),
        ("[mail.show(id=7)", "is not closed"),
        ("[mail.show(id=')]", "is not closed"),
        ("[mail.show(id=7 8)]", "the list of calls is broken"),
        ("[mail.show(id=\ud800)]", "."),
        ("[mail.show(id='" + "x" * 9_000 + "')]", "at most 8000"),
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
        "<function=" * 3_000, "<function=a b><parameter=" * 1_200, "[a(" * 10_000, "[a.b" * 8_000, "['" * 16_000, "[a(b='" + "\\'" * 15_000,
        "<tool_call>a b" + "<arg_key>" * 3_000, "[" + "a." * 15_000, "[a(" + "(" * 30_000,
    ],
)  # fmt: skip
def test_hostile_text_is_refused_quickly(text: str) -> None:
    """Linear work: about 10 ms here; quadratic work on 32,000 characters would take minutes."""
    started = time.process_time()
    with pytest.raises(CallSyntaxError):
        parse_calls(text, 10)
    assert time.process_time() - started < 1.0
