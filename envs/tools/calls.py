"""From what a model wrote to tool calls. Text from outside: sizes, depth and numbers are bounded before anything is parsed.

Accepted, several in one turn:

- ``{"tool": "mail.show", "args": {"id": 7}}``, also with ``name``/``arguments``/``parameters``/``function``;
- ``{"mail.show": {"id": 7}}``;
- ``{"answer": 42}`` for ``supervisor.complete_task``;
- a list of these, one after another, in a code fence, after other text, or each inside
  ``<tool_call>…</tool_call>`` as chat templates with native tool calls write them;
- the formats of chat templates that do not write JSON (:mod:`sdgym.envs.tools.native`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

from sdgym.envs.tools import native

MAX_CHARS, MAX_DEPTH, MAX_VALUES = 32_000, 12, 100
COMPLETE = "supervisor.complete_task"

_THOUGHT = re.compile(r"^.*</think>", re.S)
_NATIVE = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.S)
_OPENING = re.compile(r'\{\s*"|\[\s*\{')
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}\[\]]', re.S)  # possessive: a text that never ends costs one pass
_NAMES, _ARGS = ("tool", "name"), ("args", "arguments", "parameters")


class CallSyntaxError(Exception):
    """The action holds no call that can be understood; the message says why."""


@dataclasses.dataclass(frozen=True)
class ToolCall:
    """One call as written: nothing about it is checked yet."""

    tool: str
    args: dict[str, Any]

    def text(self) -> str:
        """Return the call in its short form."""
        return json.dumps({self.tool: self.args}, separators=(",", ":"), ensure_ascii=False)


def parse_calls(action: str, limit: int) -> list[ToolCall]:
    """Return the calls of an action in order.

    Raises:
        CallSyntaxError: no call, broken JSON, or something too large, too deep or too much.
    """
    text = _THOUGHT.sub("", action) if "</think>" in action else action
    if len(text) > MAX_CHARS:
        raise CallSyntaxError(f"the action has {len(text)} characters, at most {MAX_CHARS} are read")
    pieces = _NATIVE.findall(text)
    calls = [call for piece in pieces or [text] for call in _piece(piece, tagged=bool(pieces))]
    if len(calls) > limit:
        raise CallSyntaxError(f"{len(calls)} calls in one turn, at most {limit} are allowed")
    return calls


def parse_value(text: str) -> Any:
    """Return the one JSON object in a text that is nothing else. Raises :class:`CallSyntaxError` as :func:`parse_calls` does."""
    if len(text) > MAX_CHARS:
        raise CallSyntaxError(f"they have {len(text)} characters, at most {MAX_CHARS} are read")
    if text == "{}":
        return {}
    return _values(text)[0]


def read_value(text: str) -> Any:
    """Return the JSON value that ``text`` is; ``text`` itself where it is none, or too deep or too large."""
    try:
        _bound_depth(text, 0)
        value, end = _DECODER.raw_decode(text)
    except (ValueError, CallSyntaxError):
        return text
    return value if end == len(text) else text


def _piece(text: str, tagged: bool) -> list[ToolCall]:
    """Return the calls in ``text``, in whichever format begins first; what turns out to be no list of calls was prose."""
    found = _OPENING.search(text)
    start, other = found.start() if found else len(text), native.begins(text)
    try:
        if tagged and (native.KEY in text[:start] or native.is_name(text)):
            return [_plain(*call) for call in native.keyed(text)]
        if other < start:
            return [_plain(*call) for call in native.parse(text[other:])]
    except ValueError as error:
        if found is None:
            raise CallSyntaxError(str(error)) from None
    return [call for value in _values(text) for call in _calls(value)]


def _plain(tool: str, args: dict[str, Any]) -> ToolCall:
    """Return a call whose arguments are as bounded as if they had been written as JSON."""
    for name, value in args.items():
        if not isinstance(value, native.Written):
            try:
                parse_value(json.dumps({name: value}))
            except TypeError:
                raise ValueError(f"the argument {name[:40]!r} is no plain data") from None
            except CallSyntaxError as error:
                raise ValueError(f"the argument {name[:40]!r}: {error}") from None
    return ToolCall(tool, args)


def _values(text: str) -> list[Any]:
    """Return the JSON objects, and the lists of objects, in a text; brackets that do not open one are prose."""
    values: list[Any] = []
    at = 0
    while len(values) <= MAX_VALUES and (found := _OPENING.search(text, at)):
        _bound_depth(text, found.start())
        try:
            value, at = _DECODER.raw_decode(text, found.start())
        except ValueError as error:
            where = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
            raise CallSyntaxError(f"the JSON is broken{where}: {str(error).split(':')[0]}") from None
        values.append(value)
    if not values:
        raise CallSyntaxError("there is no JSON object in it")
    return values


def _bound_depth(text: str, start: int) -> None:
    """Raise :class:`CallSyntaxError` if the brackets from ``start`` nest deeper than :data:`MAX_DEPTH` (texts left out)."""
    depth = 0
    for match in _TOKEN.finditer(text, start):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(match[0], 0)
        if depth > MAX_DEPTH:
            raise CallSyntaxError(f"the JSON nests deeper than {MAX_DEPTH} levels")
        if depth <= 0:
            return


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _integer(digits: str) -> int:
    if len(digits) > 18:
        raise ValueError("a number has too many digits")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=_integer, parse_float=_real)


def _calls(value: Any) -> list[ToolCall]:
    if isinstance(value, list):
        return [call for item in value for call in _calls(item)]
    if not isinstance(value, dict):
        raise CallSyntaxError("a call is a JSON object")
    inner = value.get("function")
    if isinstance(inner, dict):
        return _calls(inner)
    tool = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    if tool is not None:
        return [ToolCall(tool, _arguments(tool, next((value[key] for key in _ARGS if key in value), {})))]
    if set(value) == {"answer"}:
        return [ToolCall(COMPLETE, value)]
    if len(value) == 1:
        tool, args = next(iter(value.items()))
        return [ToolCall(tool, _arguments(tool, args))]
    raise CallSyntaxError(f'an object with the keys {", ".join(sorted(map(repr, value)))[:80]} is no call: it needs "tool" and "args"')


def _arguments(tool: str, args: Any) -> dict[str, Any]:
    if isinstance(args, str):  # OpenAI's layout: arguments as JSON inside a text
        try:
            args = _values(args)[0] if args.strip() else {}
        except CallSyntaxError as error:
            raise CallSyntaxError(f"the arguments of {tool[:60]!r}: {error}") from None
    if not isinstance(args, dict):
        raise CallSyntaxError(f"the arguments of {tool[:60]!r} must be a JSON object")
    return args
