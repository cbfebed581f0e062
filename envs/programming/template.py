"""Tasks from a program with parameters: a statement, a reference solution, and edits that a novice would make."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable, Mapping
from typing import Any

from sdgym.envs.programming.problem import Draw, Maker, Problem, Sketch, suite_of
from sdgym.errors import EnvError
from sdgym.verifiers.code_suite import CallTest, StdioTest, Test

Parameters = Mapping[str, Any]
PUBLIC, HIDDEN, DRAWN = 2, 8, 16
"""Tests of each kind, and how many are drawn to choose from."""


@dataclasses.dataclass(frozen=True)
class Template:
    """A family of tasks.

    Attributes:
        family, skill: what it exercises.
        statement, source: text and reference solution, with ``$name`` for each parameter.
        parameters: name → bounds of an integer, or a string of which one letter is drawn.
        inputs: draws the arguments of a call (a tuple), or the standard input (a string).
        edits: ``(old, new)`` in ``source``: each alone is a novice's mistake, most tempting first.
        entry: the function or ``Class.method`` that is called; empty for a script.
    """

    family: str
    skill: str
    statement: str
    source: str
    parameters: Mapping[str, tuple[int, int] | str]
    inputs: Callable[[Draw, Parameters], Any]
    edits: tuple[tuple[str, str], ...]
    entry: str = "f"

    def sketch(self, draw: Draw) -> Sketch:
        """Draw the parameters; build the tests when they are wanted."""
        values: dict[str, Any] = {
            name: draw.pick(bounds) if isinstance(bounds, str) else draw.between(*bounds) for name, bounds in self.parameters.items()
        }
        return Sketch([self.family, self.skill, *values.values()], lambda: self._build(draw, values))

    def _build(self, draw: Draw, values: Parameters) -> Problem:
        source = self._filled(self.source, values)
        mistakes = []
        for old, new in self.edits:
            if old not in self.source:
                raise EnvError(f"the edit {old!r} does not occur in the program of {self.skill}")
            mistakes.append(self._filled(self.source.replace(old, new), values))
        tests = [self._test(self.inputs(draw, values)) for _ in range(DRAWN)]
        suite, kept = suite_of(source, mistakes, tests, PUBLIC, HIDDEN)
        ease = sum(value if isinstance(value, int) else ord(value) for value in values.values()) % 3
        return Problem(self.family, self.skill, self._filled(self.statement, values), source, suite, kept, ease)

    def _test(self, given: Any) -> Test:
        return CallTest(self.entry, tuple(given), None) if self.entry else StdioTest(given, "")

    @staticmethod
    def _filled(text: str, values: Parameters) -> str:
        return string.Template(text.strip("\n")).substitute(values)


def makers(templates: tuple[Template, ...]) -> tuple[Maker, ...]:
    """Return one maker per template."""
    return tuple(template.sketch for template in templates)
