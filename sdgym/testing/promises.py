"""Whether the test that a checklist names is there."""

from __future__ import annotations

import re
from pathlib import Path


def missing(place: str, tests: Path) -> str:
    """Return what of ``FILE::FUNCTION`` or ``FILE::FUNCTION[LINE OF ITS TABLE]`` is not to be found below ``tests``, "" if all is there."""
    parts = re.fullmatch(r"(.+\.py)::(\w+)(?:\[(.+)\])?", place)
    if parts is None:
        return f"{place} is not FILE::FUNCTION"
    file, function, line = parts.groups()
    text = (tests / file).read_text(encoding="utf-8")
    if not re.search(rf"^def {function}\(", text, re.MULTILINE):
        return f"there is no {place}"
    return "" if line is None or f'("{line}"' in text else f"the table of {place} has no such line"
