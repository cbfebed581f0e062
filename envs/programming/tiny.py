"""Level "tiny": functions of one line that a million parameters can write."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sdgym.envs.programming.pipeline import LIST, NUMBER, PRODUCT, STRING, SUM, VARIABLES, Code, Step, chain, expression, misconceptions
from sdgym.envs.programming.problem import Draw, Maker, Problem, Sketch, suite_of
from sdgym.verifiers.code_suite import CallTest

_WORDINGS = ("Write f({a}) for {t}: {steps}.", "Define f({a}), given {t}: {steps}.", "Code f({a}) on {t}: {steps}.")
TYPES = {"numbers": NUMBER, "strings": STRING, "lists": LIST, "pairs": NUMBER}
MOST_TOKENS = 24
"""Of a program at "tiny", its end included."""
_PIECES = re.compile(r" ?[A-Za-z]+|[^A-Za-z]")  # what a small tokenizer takes for one token at best


def phrase(steps: Sequence[Step]) -> str:
    """Return the steps in words."""
    return ", then ".join(step.words for step in steps)


def inputs(draw: Draw, kind: str) -> object:
    """Return an argument of type ``kind``."""
    if kind == NUMBER:
        return draw.between(2, 20)
    if kind == STRING:
        return draw.word("abcdefg", 5, 7)
    return draw.many(5, 1, 12)


def ease_of(steps: Sequence[Step]) -> int:
    """Return how hard the novice finds the chain: a trait that can be read off the words, whatever the length."""
    share = sum(step.tricky for step in steps) / max(len(steps), 2)
    tricky, trait = round(2 * share), len(phrase(steps)) % 3
    return (0, 0, 1)[trait] if tricky == 0 else (0, 1, 2)[trait] if tricky == 1 else (1, 2, 2)[trait]


def _sketch(draw: Draw, family: str, kinds: Sequence[str], first: Code, opening: str, count: int) -> Sketch:
    """Return the task of a chain of ``count`` steps on ``first``, an expression of the arguments; ``opening`` says it in words."""
    variables = [VARIABLES[kinds[0]]] if len(kinds) == 1 else ["x", "y"]
    header = f"def f({', '.join(variables)}): return "
    steps = chain(draw, TYPES[family], count)
    while not _short(header + expression([step.build for step in steps], first)):
        steps = chain(draw, TYPES[family], count)

    def build() -> Problem:
        right, *wrong = (header + expression(b, first) for b in ([step.build for step in steps], *misconceptions(steps)))
        tests = [CallTest("f", tuple(inputs(draw, kind) for kind in kinds), None) for _ in range(6)]
        suite, mistakes = suite_of(right, [text for text in wrong if _short(text)], tests, public=2, hidden=1)
        given = f"a {kinds[0]} {variables[0]}" if len(kinds) == 1 else "numbers x and y"
        text = draw.pick(_WORDINGS).format(a=", ".join(variables), t=given, steps=opening + phrase(steps))
        return Problem(family, steps[-1].skill, text, right, suite, mistakes, ease_of(steps))

    return Sketch([family, first.text, *((step.skill, step.number) for step in steps)], build)


def _short(program: str) -> bool:
    return len(_PIECES.findall(program)) < MOST_TOKENS


def _length(draw: Draw) -> int:
    return 1 if draw.between(0, 5) == 0 else 2


def numbers(draw: Draw) -> Sketch:
    """Arithmetic on one number."""
    return _sketch(draw, "numbers", [NUMBER], Code("x"), "", _length(draw))


def strings(draw: Draw) -> Sketch:
    """Slices and methods of a string."""
    return _sketch(draw, "strings", [STRING], Code("s"), "", _length(draw))


def lists(draw: Draw) -> Sketch:
    """Slices, orders and sums of a list."""
    return _sketch(draw, "lists", [LIST], Code("v"), "", _length(draw))


_PAIRS = (
    ("add them", Code("x+y", SUM)),
    ("subtract y from x", Code("x-y", SUM)),
    ("multiply them", Code("x*y", PRODUCT)),
    ("take the larger", Code("max(x,y)")),
    ("take the smaller", Code("min(x,y)")),
)


def pairs(draw: Draw) -> Sketch:
    """Held out: arithmetic on two numbers."""
    words, first = draw.pick(_PAIRS)
    return _sketch(draw, "pairs", [NUMBER, NUMBER], first, f"{words}, then ", 1)


TINY: tuple[Maker, ...] = (numbers, strings, lists)
TINY_HELDOUT: tuple[Maker, ...] = (pairs,)
