"""Tool calls as chat templates write them other than as JSON, each a list of ``(name, arguments)``.

- ``<function=mail.show><parameter=id>7</parameter></function>`` (Qwen from 3.5 on, Nemotron 3);
- ``mail.show<arg_key>id</arg_key><arg_value>7</arg_value>`` (GLM 4.5 on);
- ``[mail.show(id=7)]`` (LFM 2).

The first two write every value as bare text: it becomes a :class:`Written`, which the API's own schema makes
a number or a truth value. One pass over the text in each case, however hostile it is.
"""

from __future__ import annotations

import ast
import re
from typing import Any

FUNCTION, KEY = "<function=", "<arg_key>"
MAX_LIST = 8_000
"""Characters of a list of calls."""
_NAME = re.compile(r"[A-Za-z_][\w.]{0,80}")
_LIST = re.compile(r"\[\s*[A-Za-z_]\w*+(?:\.\w++)*+\(")
_CLOSER = re.compile(r"""'(?:[^'\\]|\\.)*+'?|"(?:[^"\\]|\\.)*+"?|[()\[\]{}]""", re.S)  # possessive, as in the grammar of JSON
_ESCAPE, _ESCAPED = re.compile(r"\\(.)", re.S), "\\'\"nrtbfuUxN"
_WORDS = {"true": True, "false": False, "null": None}
Calls = list[tuple[str, dict[str, Any]]]


class Written(str):
    """The value of an argument in a format that does not tell a number from a text."""


def begins(text: str) -> int:
    """Return where a call in one of these formats begins, the length of ``text`` if there is none."""
    found = _LIST.search(text)
    places = [text.find(FUNCTION), found.start() if found else -1]
    return min((at for at in places if at >= 0), default=len(text))


def parse(text: str) -> Calls:
    """Return the calls of a text that begins with one. Raises ValueError."""
    return functions(text) if text.startswith(FUNCTION) else listed(text)


def functions(text: str) -> Calls:
    """Return the calls in ``<function=…>`` elements. Raises ValueError for one without a name."""
    calls: Calls = []
    for part in text.split(FUNCTION)[1:]:
        name, _, body = part.partition(">")
        arguments = {}
        for piece in body.partition("</function>")[0].split("<parameter=")[1:]:
            key, _, value = piece.partition(">")
            arguments[key.strip()] = Written(value.partition("</parameter>")[0].removeprefix("\n").removesuffix("\n"))
        calls.append((_named(name), arguments))
    return calls


def keyed(text: str) -> Calls:
    """Return the one call that is a name and ``<arg_key>`` and ``<arg_value>`` elements. Raises ValueError for one without a name."""
    name, *pairs = text.split(KEY)
    arguments = {}
    for pair in pairs:
        key, _, rest = pair.partition("</arg_key>")
        arguments[key.strip()] = Written(rest.partition("<arg_value>")[2].partition("</arg_value>")[0])
    return [(_named(name), arguments)]


def listed(text: str) -> Calls:
    """Return the calls of a list ``[name(key=value), …]``, values as in Python or JSON. Raises ValueError for anything else."""
    source = _bracketed(text)
    if len(source) > MAX_LIST:
        raise ValueError(f"a list of calls has {len(source)} characters, at most {MAX_LIST} are read")
    try:
        tree = ast.parse(source, mode="eval").body
        items = tree.elts if isinstance(tree, ast.List) else []
        return [_call(item) for item in items]
    except SyntaxError as error:
        raise ValueError(f"the list of calls is broken: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError("the list of calls nests too deeply") from None


def is_name(text: str) -> bool:
    """Return whether ``text`` is the name of an API and nothing else."""
    return _NAME.fullmatch(text.strip()) is not None


def _named(text: str) -> str:
    if not is_name(text):
        raise ValueError(f"{text.strip()[:40]!r} is no name of an API")
    return text.strip()


def _bracketed(text: str) -> str:
    """Return ``text``, which begins with a bracket, up to where that is closed, with quotes as Python wants them."""
    depth = 0
    for match in _CLOSER.finditer(text):
        depth += (match[0] in "([{") - (match[0] in ")]}")
        if depth <= 0:
            return _CLOSER.sub(_quoted, text[: match.end()])
    raise ValueError("the list of calls is not closed")


def _quoted(match: re.Match[str]) -> str:
    """Return a quoted text with its line ends escaped, and with every backslash that escapes nothing, of which Python would warn."""
    return _ESCAPE.sub(lambda pair: pair[0] if pair[1] in _ESCAPED else "\\" + pair[0], match[0]).replace("\n", "\\n")


def _call(item: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(item, ast.Call) or item.args:
        raise ValueError("a list of calls holds name(key=value)")
    arguments = {keyword.arg: _value(keyword.value) for keyword in item.keywords if keyword.arg is not None}
    return _named(ast.unparse(item.func)), arguments


class _Constants(ast.NodeTransformer):
    """Turns JSON's words into Python's constants."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(_WORDS[node.id]) if node.id in _WORDS else node


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(_Constants().visit(node))
    except (ValueError, TypeError):  # Python's own words name an address in memory
        raise ValueError("a value in the list of calls is no plain data") from None
