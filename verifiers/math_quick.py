"""Decide what can be decided without computer algebra; state exactly what is left to compare otherwise.

Microseconds per answer, exact in both directions. :func:`judge` returns a verdict, or a :class:`Job`: the
pairs of expressions that the worker pool must compare and what each outcome would mean.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from sdgym.core import Outcome, Verdict
from sdgym.verifiers.math_feedback import in_lowest_terms, integer_parts, polynomial_parts, rational_parts, wrong_parts
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_literal import decimal, in_words, is_expanded, literal, polynomial, ratio
from sdgym.verifiers.math_text import normalise, shown

CORRECT = Verdict(Outcome.CORRECT, 1.0, "The answer is right.")
MAX_NESTING = 30

_HEAD = re.compile(r"[a-zA-Z]('*\([a-z]\)|'+|_\{?\d+\}?)?=")
_CHOICE = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_UNEVALUATED = ("\\int", "\\oint", "\\sum", "\\prod", "\\lim", "\\frac{d}{d", "\\det", "\\gcd", "\\max", "\\min")
_TOO_LARGE = re.compile(
    r"\d\)?\}?\^\{?\(?\d+\}?\^"  # a tower of numbers
    r"|\^\{?[({]*[+-]?\d{5,}"
    r"|\d{5,}[)}]*!|!(?:[)}]*!){2}|\)![)}]*!"
    r"|\\binom\{?\d{5,}"
    r"|\d{101,}"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What is left for computer algebra.

    Attributes:
        pairs: (gold, answer) expressions in normalised LaTeX.
        finish: turns one word per pair (:func:`sdgym.verifiers.math_worker.compare`) into a verdict.
    """

    pairs: tuple[tuple[str, str], ...]
    finish: Callable[[Sequence[str]], Verdict]


def wrong(feedback: str) -> Verdict:
    """Return the verdict of a readable answer that is not right."""
    return Verdict(Outcome.WRONG, 0.0, feedback)


def unparsable(feedback: str) -> Verdict:
    """Return the verdict of an answer that cannot be read as what was asked for."""
    return Verdict(Outcome.UNPARSABLE, 0.0, feedback)


def gold_unparsable(gold: Gold) -> Verdict:
    """Return the verdict that masks the row: the data set's own answer cannot be read."""
    return Verdict(Outcome.GOLD_UNPARSABLE, None, f"The data set's answer cannot be read as {gold.type}.")


def same(left: str, right: str) -> bool | None:
    """Compare two normalised expressions exactly; None where only computer algebra can tell."""
    if left == right:
        return True
    if "\\infty" in (left.lstrip("+-"), right.lstrip("+-")) and (literal(left), literal(right)) != (None, None):
        return False
    first, second = literal(left), literal(right)
    if first is not None and second is not None:
        return first == second
    one, two = polynomial(left), polynomial(right)
    return one == two if one is not None and two is not None else None


def too_large(text: str) -> bool:
    """Whether evaluating ``text`` is hopeless on sight: towers, huge factorials, very deep nesting."""
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest > MAX_NESTING or _TOO_LARGE.search(text) is not None


def left_undone(text: str, target: str) -> bool:
    """Whether the answer restates an operation (an integral, a sum …) that the right answer does not contain."""
    return any(mark in text and mark not in target for mark in _UNEVALUATED)


def number(gold: Gold, target: str, text: str, attempt: str) -> Verdict:
    """Judge ``int`` and ``rational``: number literals only; a whole number may be written in words."""
    right, value = literal(target), literal(text)
    if right is None or (gold.type == "int" and right.denominator != 1):
        return gold_unparsable(gold)
    if value is None and gold.type == "int":
        value = in_words(text)
    if value is None:
        constant = polynomial(text)
        if constant is not None and set(constant) <= {()} and constant.get((), Fraction(0)) == right:
            return wrong(f"{attempt} has the right value, but it is not a plain number.")
        return unparsable(f"{attempt} is not a number.")
    if value == right:
        reduced = gold.form != "lowest_terms" or in_lowest_terms(text)
        return CORRECT if reduced else wrong(f"{attempt} has the right value, but it is not in lowest terms.")
    if right.denominator == 1 and value.denominator != 1:
        return wrong(f"{attempt} is wrong: it is not an integer." if gold.type == "int" else wrong_parts(["denominator"], attempt))
    if right.denominator == 1:
        return wrong(wrong_parts(integer_parts(int(right), int(value)), attempt))
    written = ratio(text)
    if written is None:
        return wrong(f"{attempt} is wrong: an exact fraction is expected.")
    return wrong(wrong_parts(rational_parts(right, written), attempt))


def approximate(gold: Gold, target: str, text: str, attempt: str) -> Verdict:
    """Judge ``decimal`` and ``percent``: within the declared tolerance."""
    percent = gold.type == "percent"
    right, value = (decimal(t.removesuffix("%") if percent else t) for t in (target, text))
    if right is None:
        return gold_unparsable(gold)
    if value is None:
        return unparsable(f"{attempt} is not a number.")
    if abs(value - right) <= Fraction(gold.tolerance):
        return CORRECT
    if value and right:
        if value == -right:
            return wrong(wrong_parts(["sign"], attempt))
        if abs(value / right) in (Fraction(1, 100), Fraction(100)):
            return wrong(f"{attempt} is off by a factor of 100" + (" (is it a percentage?)." if percent else "."))
        if abs(value / right) in (Fraction(1, 10), Fraction(10)):
            return wrong(f"{attempt} is off by a factor of 10.")
    whole = int(right) == int(value)
    return wrong(wrong_parts(["decimals" if whole else "integer part"], attempt))


def choice(gold: Gold, target: str, text: str, attempt: str) -> Verdict:
    """Judge ``choice``: one letter, with or without brackets."""
    right, match = _CHOICE.fullmatch(target), _CHOICE.fullmatch(text)
    if right is None:
        return gold_unparsable(gold)
    if match is None:
        return unparsable(f"{attempt} is not one of the choices.")
    return CORRECT if match.group(1).upper() == right.group(1).upper() else wrong(f"{attempt} is wrong.")


def text_equal(gold: Gold, target: str, text: str, attempt: str) -> Verdict:
    """Judge ``text``: equal up to case and spacing; what does not exist may be abbreviated."""
    right, tried = ("doesnotexist" if words.casefold() == "dne" else words.casefold() for words in (target, text))
    return CORRECT if right == tried else wrong(f"{attempt} is wrong.")


def expression(gold: Gold, target: str, text: str, attempt: str) -> Verdict | Job:
    """Judge ``expr``: polynomials here, everything else by computer algebra."""
    right, tried = polynomial(target), polynomial(text)
    if right is not None and tried is not None:
        if right != tried:
            return wrong(wrong_parts(polynomial_parts(right, tried), attempt))
        if gold.form == "expanded" and not is_expanded(text, tried):
            return wrong(f"{attempt} has the right value, but it is not expanded.")
        return CORRECT
    if text == target:
        return CORRECT
    if left_undone(text, target):
        return wrong(f"{attempt} is not worked out.")
    if too_large(text):
        return unparsable(f"{attempt} is too large to evaluate.")
    return Job(((target, text),), lambda words: settled(gold, words, attempt) or conclude(words[0] == "equal", [], attempt))


def settled(gold: Gold, words: Sequence[str], attempt: str) -> Verdict | None:
    """Return the verdict of results that leave no choice: an unreadable side, an answer beyond the machine, rounding."""
    if "gold" in words:
        return gold_unparsable(gold)
    if "answer" in words:
        return unparsable(f"{attempt} cannot be read.")
    if "too_hard" in words:
        return Verdict(Outcome.CRASHED, 0.0, f"{attempt} is too large to evaluate.")
    return wrong(f"{attempt} is rounded; an exact answer is expected.") if "decimal" in words else None


def conclude(right: bool, parts: list[str], attempt: str) -> Verdict:
    """Return the verdict of a comparison that came to an end."""
    return CORRECT if right else wrong(wrong_parts(parts, attempt))


def prepare(gold: Gold, answer: str) -> tuple[str, str, str]:
    """Return (right answer, answer, answer as quoted): normalised, ``x=`` and unit dropped where they carry nothing."""
    text, target = normalise(answer), normalise(gold.text)
    if "=" not in target and gold.type not in ("set", "interval", "text"):
        text = _HEAD.sub("", text, count=1) if _HEAD.match(text) else text
    if gold.unit:
        text = text.removesuffix(normalise(gold.unit)) or text
    return target, text, shown(answer)
