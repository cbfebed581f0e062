"""Graders by name: functions that judge one answer to one row of data, for worlds made of local data.

To add one: ``graders.register("name", function)``, or ``"package.module:function"`` from a plugin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from sdgym.core import Outcome, Verdict
from sdgym.errors import ConfigError
from sdgym.registry import Registry

Grade = float | bool | tuple[float, str] | Verdict
Grader = Callable[[str, Mapping[str, Any]], Grade]
"""``(answer, row)`` → a score in [0, 1], a score and what to say about the answer, or a :class:`Verdict`.

A grader reads the answer as a stranger's text. What it raises counts as its own failure, never as a wrong answer.
"""
graders: Registry[Grader] = Registry("grader")


def grade(grader: Grader, answer: str, row: Mapping[str, Any]) -> Verdict:
    """Return the verdict of ``grader`` on the part of ``answer`` after its reasoning.

    Raises:
        ConfigError: the grader returned something that is no grade.
    """
    _, _, rest = answer.rpartition("</think>")
    if "<think>" in rest:
        return Verdict(Outcome.NO_ANSWER, 0.0, "The reasoning is not closed.")
    if not rest.strip():
        return Verdict(Outcome.NO_ANSWER, 0.0, "There is no answer.")
    found = grader(rest, row)
    if isinstance(found, Verdict):
        return found
    score, said = found if isinstance(found, tuple) else (found, "")
    if not isinstance(score, int | float) or not math.isfinite(score) or not 0.0 <= score <= 1.0:
        raise ConfigError(f"a grader returns a score from 0 to 1, perhaps with a text, or a Verdict; got {found!r}")
    right = score >= 1.0
    return Verdict(Outcome.CORRECT if right else Outcome.WRONG, float(score), said or ("Right." if right else "Wrong."))


def exact(answer: str, row: Mapping[str, Any]) -> Grade:
    """Compare with the column ``answer``, blanks at the ends aside."""
    return answer.strip() == str(row["answer"]).strip()


def caseless(answer: str, row: Mapping[str, Any]) -> Grade:
    """Compare with the column ``answer`` without regard to case and to how words are spaced."""
    return answer.casefold().split() == str(row["answer"]).casefold().split()


graders.register("exact", exact)
graders.register("caseless", caseless)
