"""Steps on numbers, strings and lists that compose: the small tasks of levels "tiny" and "easy".

A task is a chain of steps, each a phrase and a piece of code. A misconception belongs to a step (the wrong
end of a list, the quotient for the remainder) or to the chain (steps in the wrong order, one forgotten).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from sdgym.envs.programming.problem import Draw

NUMBER, STRING, LIST = "number", "string", "list"
VARIABLES = {NUMBER: "x", STRING: "s", LIST: "v"}
SUM, PRODUCT, ATOM = 1, 2, 3
"""How tightly an expression binds."""


@dataclasses.dataclass(frozen=True, slots=True)
class Code:
    """An expression and how tightly it binds."""

    text: str
    binds: int = ATOM

    def within(self, binds: int) -> str:
        """Return the text, in parentheses if it must bind as tightly as ``binds`` and does not."""
        return self.text if self.binds >= binds else f"({self.text})"


Build = Callable[[Code], Code]


Row = tuple[str, int | str, str, Build, tuple[Build, ...], bool]
"""Skill, parameter, words, code, misconceptions, tricky: a step before its types are added."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One step of a chain.

    Attributes:
        skill, number: what it is and its parameter, for the canonical content.
        takes, gives: types.
        words: the phrase.
        build: its code around that of the steps before.
        mistaken: the codes of its misconceptions, most tempting first.
        tricky: whether novices often get it wrong.
    """

    skill: str
    number: int | str
    takes: str
    gives: str
    words: str
    build: Build
    mistaken: tuple[Build, ...]
    tricky: bool = False


def _sum(template: str) -> Build:
    return lambda e: Code(template.format(e.within(SUM)), SUM)


def _product(template: str) -> Build:
    return lambda e: Code(template.format(e.within(PRODUCT)), PRODUCT)


def _after_sign(template: str) -> Build:
    """Code whose operand stands behind a minus sign."""
    return lambda e: Code(template.format(e.within(PRODUCT)), SUM)


def _tight(template: str) -> Build:
    return lambda e: Code(template.format(e.within(ATOM)))


def _free(template: str) -> Build:
    """Code whose operand stands in brackets of its own."""
    return lambda e: Code(template.format(e.text))


def on_number(draw: Draw) -> Step:
    """Return a step from number to number."""
    n, kind = draw.between(2, 12), draw.between(0, 8)
    small = 2 + n % 4
    steps: tuple[Row, ...] = (
        ("add", n, f"add {n}", _sum(f"{{}}+{n}"), (_sum(f"{{}}-{n}"), _product(f"{{}}*{n}")), False),
        ("subtract", n, f"subtract {n}", _sum(f"{{}}-{n}"), (_after_sign(f"{n}-{{}}"), _sum(f"{{}}+{n}")), False),
        ("from", n, f"subtract from {n}", _after_sign(f"{n}-{{}}"), (_sum(f"{{}}-{n}"), _sum(f"{{}}+{n}")), True),
        ("times", small, f"multiply by {small}", _product(f"{{}}*{small}"), (_sum(f"{{}}+{small}"), _tight(f"{{}}**{small}")), False),
        ("square", 2, "square", _tight("{}**2"), (_product("{}*2"), _sum("{}+2")), True),
        ("remainder", n, f"take the remainder by {n}", _product(f"{{}}%{n}"), (_product(f"{{}}//{n}"), _product(f"{{}}/{n}")), True),
        ("quotient", small, f"divide by {small} rounding down", _product(f"{{}}//{small}"), (_product(f"{{}}/{small}"), _product(f"{{}}%{small}")), True),
        ("least", n, f"raise to at least {n}", _free(f"max({{}},{n})"), (_free(f"min({{}},{n})"), _sum(f"{{}}+{n}")), True),
        ("most", n, f"cut to at most {n}", _free(f"min({{}},{n})"), (_free(f"max({{}},{n})"), _sum(f"{{}}-{n}")), True),
    )  # fmt: skip
    skill, number, words, build, mistaken, tricky = steps[kind]
    return Step(skill, number, NUMBER, NUMBER, words, build, mistaken, tricky)


def _ends(draw: Draw, kind: int, what: str, most: int) -> Row:
    n = draw.between(1, most)
    some = f"{n} {what}s" if n > 1 else what
    head, tail, init, rest = _tight(f"{{}}[:{n}]"), _tight(f"{{}}[-{n}:]"), _tight(f"{{}}[:-{n}]"), _tight(f"{{}}[{n}:]")
    return (
        ("first", n, f"take the first {some}", head, (rest, tail), False),
        ("last", n, f"take the last {some}", tail, (init, head), True),
        ("drop_first", n, f"drop the first {some}", rest, (head, init), False),
        ("drop_last", n, f"drop the last {some}", init, (tail, rest), True),
    )[kind]


def on_string(draw: Draw) -> Step:
    """Return a step from a string to a string, or (one in six) to a number."""
    kind, n, a, b = draw.between(0, 11), draw.between(2, 4), draw.pick("abcd"), draw.pick("efgh")
    gives = NUMBER if kind >= 10 else STRING
    chosen: Row
    if kind < 4:
        chosen = _ends(draw, kind, "letter", 3)
    else:
        chosen = (
            ("reverse", 0, "reverse", _tight("{}[::-1]"), (_tight("{}[-1]"), _tight("{}[:-1]")), False),
            ("repeat", n, f"repeat {n} times", _product(f"{{}}*{n}"), (_product(f"{{}}*{n - 1}"), _product(f"{{}}*{n + 1}")), False),
            ("append", a, f"append {a}", _sum(f"{{}}+'{a}'"), (_after_sign(f"'{a}'+{{}}"),), False),
            ("prepend", a, f"put {a} in front", _after_sign(f"'{a}'+{{}}"), (_sum(f"{{}}+'{a}'"),), True),
            ("upper", 0, "make upper case", _tight("{}.upper()"), (_tight("{}.title()"), _tight("{}.lower()")), False),
            ("replace", a + b, f"replace {a} by {b}", _tight(f"{{}}.replace('{a}','{b}')"), (_tight(f"{{}}.replace('{b}','{a}')"),), True),
            ("count", a, f"count the {a}", _tight(f"{{}}.count('{a}')"), (_tight(f"{{}}.find('{a}')"), _free("len({})")), True),
            ("length", 0, "take the length", _free("len({})"), (_sum("len({})-1"),), False),
        )[kind - 4]
    skill, number, words, build, mistaken, tricky = chosen
    return Step(skill, number, STRING, gives, words, build, mistaken, tricky)


def on_list(draw: Draw) -> Step:
    """Return a step from a list to a list, or (one in three) to a number."""
    kind, n = draw.between(0, 14), draw.between(2, 9)
    gives = NUMBER if kind >= 10 else LIST
    chosen: Row
    if kind < 4:
        chosen = _ends(draw, kind, "item", 2)
    else:
        small = n % 3
        chosen = (
            ("reverse", 0, "reverse", _tight("{}[::-1]"), (_tight("{}[-1:]"), _free("sorted({})")), False),
            ("sort", 0, "sort", _free("sorted({})"), (_tight("{}[::-1]"), _free("sorted({})[::-1]")), False),
            ("descending", 0, "sort from the largest", _free("sorted({})[::-1]"), (_free("sorted({})"), _tight("{}[::-1]")), True),
            ("add_each", n, f"add {n} to each", _free(f"[x+{n} for x in {{}}]"), (_sum(f"{{}}+[{n}]"), _free(f"[x*{n} for x in {{}}]")), False),
            ("keep_above", n, f"keep those above {n}", _free(f"[x for x in {{}} if x>{n}]"), (_free(f"[x for x in {{}} if x>={n}]"), _free(f"[x for x in {{}} if x<{n}]")), True),
            ("multiply_each", n, f"multiply each by {n}", _free(f"[x*{n} for x in {{}}]"), (_product(f"{{}}*{n}"), _free(f"[x+{n} for x in {{}}]")), True),
            ("sum", 0, "take the sum", _free("sum({})"), (_free("len({})"), _free("max({})")), False),
            ("largest", 0, "take the largest", _free("max({})"), (_tight("{}[-1]"), _free("min({})")), False),
            ("smallest", 0, "take the smallest", _free("min({})"), (_tight("{}[0]"), _free("max({})")), False),
            ("count", n, f"count the {n}", _tight(f"{{}}.count({n})"), (_free("len({})"),), True),
            ("item", small, f"take item {small}", _tight(f"{{}}[{small}]"), (_tight(f"{{}}[{small + 1}]"), _tight(f"{{}}[{small - 1}]")), True),
        )[kind - 4]  # fmt: skip
    skill, number, words, build, mistaken, tricky = chosen
    return Step(skill, number, LIST, gives, words, build, mistaken, tricky)


DRAWS = {NUMBER: on_number, STRING: on_string, LIST: on_list}
_NEEDS_ITEMS = ("largest", "smallest", "item")
_SHORTENS = {"first": 3, "last": 3, "drop_first": 1, "drop_last": 1, "keep_above": 9}


def chain(draw: Draw, start: str, length: int) -> list[Step]:
    """Return ``length`` steps that fit together: no step twice in a row, one comprehension, no item of a list that may be empty."""
    while True:
        steps: list[Step] = []
        for _ in range(length):
            steps.append(DRAWS[steps[-1].gives if steps else start](draw))
        if _sensible(steps):
            return steps


def _sensible(steps: Sequence[Step]) -> bool:
    if any(one.skill == two.skill and one.takes == two.takes for one, two in itertools.pairwise(steps)):
        return False
    if sum(step.skill in ("add_each", "keep_above", "multiply_each") for step in steps) > 1:
        return False
    gone = 0
    for step in steps:
        if step.takes == LIST and step.skill in _NEEDS_ITEMS and gone > 1:
            return False
        gone += _SHORTENS.get(step.skill, 0) if step.takes == LIST else 0
    return True


def expression(builds: Sequence[Build], first: Code) -> str:
    """Return the expression of a chain around ``first``."""
    code = first
    for build in builds:
        code = build(code)
    return code.text


def misconceptions(steps: Sequence[Step]) -> list[list[Build]]:
    """Return mistaken chains, most tempting first: which comes first depends on the parameters, so it differs by task."""
    right = [step.build for step in steps]
    local = [[*right[:i], wrong, *right[i + 1 :]] for i, step in reversed(list(enumerate(steps))) for wrong in step.mistaken]
    whole: list[list[Build]] = []
    if len(steps) > 1:
        if steps[-1].gives == steps[-1].takes == steps[0].gives == steps[0].takes:
            whole.append(right[::-1])
        whole.append(right[:-1])
        if steps[0].takes == steps[0].gives:
            whole.append(right[1:])
    trait = sum(len(step.words) for step in steps) % 3
    return [*whole[:1], *local, *whole[1:]] if trait == 0 and whole else [*local[:1], *whole, *local[1:]]
