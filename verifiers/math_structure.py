"""Take tuples, sets, intervals and matrices apart by their own notation, without computer algebra.

What stands inside is left as text; a bracket that does not belong to the declared type is not read.
"""

from __future__ import annotations

import dataclasses
import re

MAX_ELEMENTS = 16
_OPEN, _CLOSE = "([{", ")]}"
_MATRIX = re.compile(r"\\begin\{([pbv]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_RELATION = re.compile(r"\\le|\\ge|<|>|\\lt|\\gt")
_ELEMENT_HEAD = re.compile(r"[a-zA-Z](?:_\{?\d+\}?)?(?:=|\\in)")
_INFINITE = {"\\infty": 1, "+\\infty": 1, "-\\infty": -1, "infty": 1, "-infty": -1, "oo": 1, "-oo": -1, "inf": 1, "-inf": -1}


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    r"""One interval: endpoints as text (infinite ones as ``-\infty`` and ``\infty``) and which sides are open."""

    low: str
    high: str
    open_low: bool
    open_high: bool


def split_top(text: str, separators: str = ",") -> list[str] | None:
    """Split at separators outside all brackets; None if the brackets do not balance."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1 if text[at + 1 : at + 2] not in ("{", "}") else 0
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
            if depth < 0:
                return None
        elif char in separators and depth == 0:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    return [*parts, text[start:]] if depth == 0 else None


def _filled(parts: list[str] | None) -> list[str] | None:
    return parts if parts and all(parts) and len(parts) <= MAX_ELEMENTS else None


def as_tuple(text: str) -> list[str] | None:
    r"""Read ``(a,b)``, ``\langle a,b\rangle``, ``a,b`` or a column or row vector."""
    rows = as_matrix(text) if "matrix}" in text else None
    if rows is not None:
        return [row[0] for row in rows] if all(len(row) == 1 for row in rows) else rows[0] if len(rows) == 1 else None
    for opening, closing in (("\\langle", "\\rangle"), ("(", ")")):
        if text.startswith(opening) and text.endswith(closing):
            inner = _filled(split_top(text[len(opening) : -len(closing)], ",;"))
            if inner is not None:
                return inner
    return _filled(split_top(text))


def as_set(text: str) -> list[str] | None:
    r"""Read ``\{a,b\}``, ``a,b``, ``x=a or x=b``, with ``\pm`` standing for two elements; ``\emptyset`` is empty."""
    body = _ELEMENT_HEAD.sub("", text, count=1) if _ELEMENT_HEAD.match(text) else text
    if body in ("\\emptyset", "\\varnothing", "\\{\\}", "{}"):
        return []
    if body.startswith("\\{") and body.endswith("\\}"):
        body = body[2:-2]
    parts = _filled(split_top(body.replace(",;", ","), ",;"))
    if parts is None:
        return None
    elements = []
    for part in parts:
        element = _ELEMENT_HEAD.sub("", part, count=1) if _ELEMENT_HEAD.match(part) else part
        if "\\pm" in element:
            elements += [element.replace("\\pm", sign).removeprefix("+") for sign in "+-"]
        else:
            elements.append(element)
    return list(dict.fromkeys(elements)) if len(elements) <= MAX_ELEMENTS else None


def as_matrix(text: str) -> list[list[str]] | None:
    r"""Read a LaTeX matrix environment or ``[[a,b],[c,d]]``; rows of equal length."""
    match = _MATRIX.fullmatch(text)
    if match is not None:
        lines = match.group(2).removesuffix("\\\\").split("\\\\")
        rows: list[list[str]] = [line.split("&") for line in lines]
    elif text.startswith("[[") and text.endswith("]]"):
        inner = split_top(text[1:-1]) or []
        rows = [split_top(row[1:-1]) or [] for row in inner if row.startswith("[") and row.endswith("]")]
        if len(rows) != len(inner):
            return None
    else:
        return None
    cells = sum(len(row) for row in rows)
    sound = rows and len({len(row) for row in rows}) == 1 and all(all(row) for row in rows) and cells <= 2 * MAX_ELEMENTS
    return rows if sound else None


def as_spans(text: str) -> list[Span] | None:
    r"""Read intervals joined by ``\cup``, an inequality, a chain ``a<x\le b``, or ``\mathbb{R}``."""
    body = _ELEMENT_HEAD.sub("", text, count=1) if re.match(r"[a-zA-Z]\\in", text) else text
    if body in ("\\mathbb{R}", "\\R", "\\mathbb R"):
        return [Span("-\\infty", "\\infty", True, True)]
    pieces = body.replace(";", "\\cup").replace("\u222a", "\\cup").split("\\cup")
    spans = [_span(piece) for piece in pieces]
    found = [span for span in spans if span is not None]
    return found if len(found) == len(spans) <= 4 else None


def _span(piece: str) -> Span | None:
    if piece[:1] in "([" and piece[-1:] in ")]" and piece:
        ends = split_top(piece[1:-1])
        if ends is None or len(ends) != 2 or not all(ends):
            return None
        return _make(ends[0], ends[1], piece[0] == "(", piece[-1] == ")")
    return _inequality(piece)


def _inequality(piece: str) -> Span | None:
    relations = [symbol.replace("\\lt", "<").replace("\\gt", ">") for symbol in _RELATION.findall(piece)]
    sides = [side.strip() for side in _RELATION.split(piece)]
    if len(relations) == 1 and all(sides):
        left, right = sides
        if _is_variable(right):
            left, right, relations = right, left, [{"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}[relations[0]]]
        if not _is_variable(left):
            return None
        strict = relations[0] in "<>"
        below = relations[0] in ("<", "\\le")
        return _make("-\\infty", right, True, strict) if below else _make(right, "\\infty", strict, True)
    if len(relations) == 2 and _is_variable(sides[1]) and sides[0] and sides[2]:
        if set(relations) <= {"<", "\\le"}:
            return _make(sides[0], sides[2], relations[0] == "<", relations[1] == "<")
        if set(relations) <= {">", "\\ge"}:
            return _make(sides[2], sides[0], relations[1] == ">", relations[0] == ">")
    return None


def _is_variable(text: str) -> bool:
    return len(text) == 1 and text.isalpha()


def _make(low: str, high: str, open_low: bool, open_high: bool) -> Span:
    names = {-1: "-\\infty", 1: "\\infty"}
    low, high = (names[_INFINITE[end]] if end in _INFINITE else end for end in (low, high))
    return Span(low, high, open_low or low == "-\\infty", open_high or high == "\\infty")
