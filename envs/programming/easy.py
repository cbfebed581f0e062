"""Level "easy": functions of a few lines, one line per step."""

from __future__ import annotations

from collections.abc import Sequence

from sdgym.envs.programming.pipeline import LIST, NUMBER, STRING, VARIABLES, Code, Step, chain, misconceptions
from sdgym.envs.programming.problem import Draw, Maker, Problem, Sketch, suite_of
from sdgym.envs.programming.tiny import ease_of, inputs, phrase
from sdgym.verifiers.code_suite import CallTest

LENGTH = (3, 5)
"""Steps of a chain."""


def body(steps: Sequence[Step], builds: Sequence[object], start: str) -> str:
    """Return the function whose lines are ``builds``, named after the types of ``steps``."""
    variable = VARIABLES[start]
    lines = [f"def f({variable}):"]
    for step, build in zip(steps, builds, strict=False):
        result = VARIABLES[step.gives]
        lines.append(f"    {result} = {build(Code(variable)).text}")  # type: ignore[operator]
        variable = result
    return "\n".join([*lines, f"    return {variable}"])


def _sketch(draw: Draw, family: str, start: str, guard: bool = False) -> Sketch:
    steps = chain(draw, start, draw.between(*LENGTH))
    bound = draw.between(5, 15) if guard else 0

    def build() -> Problem:
        right = [step.build for step in steps]
        programs = [body(steps, right, start)]
        programs += [body(steps, builds, start) for builds in misconceptions(steps) if len(builds) == len(steps) and builds[::-1] != right]
        programs.append(body(steps[:-1], right[:-1], start))
        opening = ""
        if guard:
            programs = [_guarded(program, bound) for program in programs]
            programs.insert(1, programs[0].replace(f"> {bound}", f">= {bound}").replace("return 0", "return x"))
            opening = f"if x is above {bound} return 0, otherwise "
        tests = [CallTest("f", (inputs(draw, start),), None) for _ in range(14)]
        suite, mistakes = suite_of(programs[0], programs[1:], tests, public=3, hidden=5)
        text = f"Write a function f({VARIABLES[start]}) of a {start}: {opening}{phrase(steps)}; return the result."
        return Problem(family, steps[-1].skill, text, programs[0], suite, mistakes, ease_of(steps))

    return Sketch([family, bound, *((step.skill, step.number) for step in steps)], build)


def _guarded(program: str, bound: int) -> str:
    header, rest = program.split("\n", 1)
    return f"{header}\n    if x > {bound}:\n        return 0\n{rest}"


def numbers(draw: Draw) -> Sketch:
    """Arithmetic on one number."""
    return _sketch(draw, "numbers", NUMBER)


def strings(draw: Draw) -> Sketch:
    """Slices and methods of a string."""
    return _sketch(draw, "strings", STRING)


def lists(draw: Draw) -> Sketch:
    """Slices, orders and sums of a list."""
    return _sketch(draw, "lists", LIST)


def guarded(draw: Draw) -> Sketch:
    """Held out: arithmetic behind a condition."""
    return _sketch(draw, "guarded", NUMBER, guard=True)


EASY: tuple[Maker, ...] = (numbers, strings, lists)
EASY_HELDOUT: tuple[Maker, ...] = (guarded,)
