r"""From a model's response to one answer string, without any computer algebra.

Strict on purpose: the answer is what stands in ``\boxed{…}`` after the last closed reasoning block; a
response that boxes two different things has not committed to an answer. Everything here is linear in the
length of the text and never raises on what a model wrote.
"""

from __future__ import annotations

import dataclasses
import re

MAX_RESPONSE = 65_536
"""Characters of a response that are looked at, counted from its end."""
MAX_ANSWER = 512
"""Longest answer that is parsed at all."""
MAX_BOXES = 16
"""More differently written boxes than this are different answers without a closer look."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textrm|mbox|rm)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"(\\\\)|\\[,;:!> ]|\\quad|\\qquad|~|\\displaystyle|\\left(?![a-z])|\\right(?![a-z])|\\limits")
_THOUSANDS = re.compile(r"(?<![\d.,])[+-]?\d{1,3}(?:,\d{3})+(?![\d,])")
_COMMANDS = (
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\(?:leqslant|leq|le)(?![a-zA-Z])|<=|≤"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq|ge)(?![a-zA-Z])|>=|≥"), r"\\ge "),
    (re.compile(r"\^\{?\\circ\}?|°"), ""),
)
_SUBSTITUTES = (
    ("{,}", ","),
    ("\\$", ""),
    ("$", ""),
    ("\\%", "%"),
    ("\u2212", "-"),
    ("\u2013", "-"),
    ("\u00d7", "*"),
    ("\u00b7", "*"),
    ("\u221e", "\\infty "),
    ("\u03c0", "\\pi "),
    ("\u221a", "\\sqrt "),
    ("**", "^"),
)
_JUNCTION = re.compile(r"(?<![a-zA-Z\\])(?:or|and)(?![a-zA-Z])")
_PLAIN = re.compile(r"[-+/^()=0-9xy]*", re.ASCII)
"""What no rule changes: most answers by far."""
_NEEDED_SPACE = re.compile(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])")


@dataclasses.dataclass(frozen=True, slots=True)
class Extraction:
    """What a response committed to.

    Attributes:
        answer: the raw text inside the box, or None.
        problem: why there is none, as a sentence for the student ("" where there is one).
        ambiguous: several different boxes.
    """

    answer: str | None
    problem: str = ""
    ambiguous: bool = False


def extract(response: str) -> Extraction:
    """Find the one boxed answer of ``response``. Never raises."""
    text = response[-MAX_RESPONSE:]
    opened, closed = text.rfind("<think>"), text.rfind("</think>")
    if opened > closed:
        return Extraction(None, "The reasoning block is not closed.")
    if closed >= 0:
        text = text[closed + len("</think>") :]
    boxes, unbalanced = _boxes(text)
    if not boxes:
        return Extraction(None, "The braces of \\boxed{} are not balanced." if unbalanced else "There is no \\boxed{} answer.")
    different = list(dict.fromkeys(boxes))
    if len(different) > MAX_BOXES or len({normalise(box) for box in different}) > 1:
        return Extraction(None, "There are several different \\boxed{} answers.", ambiguous=True)
    if not boxes[-1].strip():
        return Extraction(None, "The \\boxed{} is empty.")
    return Extraction(boxes[-1].strip())


def _boxes(text: str) -> tuple[list[str], bool]:
    """Return the contents of all balanced outermost boxes in order, and whether an unbalanced one follows."""
    found: list[str] = []
    at = 0
    while match := _BOX.search(text, at):
        end = _closing(text, match.end())
        if end < 0:
            return found, True
        found.append(text[match.end() : end])
        at = end + 1
    return found, False


def _closing(text: str, start: int) -> int:
    """Return the index of the brace that closes the one just before ``start``, or -1."""
    depth, at = 1, start
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1  # an escaped brace does not count
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return -1


def normalise(answer: str) -> str:
    r"""Return ``answer`` without typography: spacing, ``$``, ``\left``/``\right``, text wrappers, thousands commas.

    Idempotent. Only notation changes, never mathematical structure: ``(x+1)^2`` stays as it is.
    """
    text = answer[: 4 * MAX_ANSWER]
    if _PLAIN.fullmatch(text):
        return text
    for _ in range(MAX_ANSWER):  # each rule can uncover another; one level of nesting goes per pass
        before = text
        for old, new in _SUBSTITUTES:
            text = text.replace(old, new)
        for pattern, command in _COMMANDS:
            text = pattern.sub(command, text)
        text = _SPACING.sub(r"\1", text)  # a row separator is not spacing
        text = _WRAPPED.sub(r"\1", text.replace("\0", ""))
        text = _JUNCTION.sub(";", text)  # while words are still apart
        text = "".join(_NEEDED_SPACE.sub("\\1\0", text).split()).replace("\0", " ")  # \sin x keeps its space
        text = text.removesuffix(".") if not text.endswith("..") else text
        text = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text) if _lone_number(text) else text
        if text == before:
            break
    return text


def _lone_number(text: str) -> bool:
    """Whether ``text`` has no brackets: inside a tuple or set, ``1,234`` may be two numbers."""
    return not any(char in text for char in "()[]{}")


def shown(answer: str, limit: int = 40) -> str:
    """Return ``answer`` as it is quoted in feedback: normalised, one line, at most ``limit`` characters."""
    text = normalise(answer)
    return text if len(text) <= limit else text[: limit - 1] + "\u2026"


_BARE_NAME = re.compile(r"(?<![\\a-zA-Z])(pi|theta|infty|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|ln|log|sqrt)(?![a-zA-Z])")
_ROOT = re.compile(r"\\sqrt\(")


def latex(text: str) -> str:
    """Return normalised ``text`` with names typed without a backslash (``pi``, ``sqrt(2)``) as LaTeX."""
    text = _BARE_NAME.sub(r"\\\1", text)
    while match := _ROOT.search(text):
        depth, at = 1, match.end()
        while at < len(text) and depth:
            depth += (text[at] == "(") - (text[at] == ")")
            at += 1
        if depth:
            break
        text = f"{text[: match.end() - 1]}{{{text[match.end() : at - 1]}}}{text[at:]}"
    return text
