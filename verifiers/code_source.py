"""Find the program in what a model wrote."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple

LONGEST = 64_000
"""Characters of a program; more is refused unread."""
_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_BLANK = re.compile(r"\A(?:[ \t]*\n)+")
_PYTHON = ("", "python", "py", "python3")


class Extracted(NamedTuple):
    """A program, or None and the reason."""

    source: str | None
    problem: str = ""


def extract(text: str) -> Extracted:
    """Return the program of a response: its last fenced Python block, else the whole text after the reasoning.

    Text up to the last ``</think>`` is reasoning; an unclosed ``<think>`` means that there is no answer yet.
    """
    _, closed, rest = text.rpartition("</think>")
    if "<think>" in (rest if closed else text):
        return Extracted(None, "The reasoning is not closed.")
    if len(rest) > LONGEST:
        return Extracted(None, f"The answer is longer than {LONGEST} characters.")
    blocks = [body for _, language, body in _FENCE.findall(rest) if language.lower() in _PYTHON]
    source = blocks[-1] if blocks else rest
    source = textwrap.dedent(_BLANK.sub("", source.replace("\r\n", "\n"))).rstrip()
    return Extracted(source) if source.strip() else Extracted(None, "There is no program.")
