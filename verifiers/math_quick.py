"""The fast path: verdicts that need no computer algebra, in microseconds, exact in both directions.

``quick`` returns None where it cannot decide; only then is the worker pool asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from sdgym.core import Outcome, Verdict
from sdgym.verifiers.math_feedback import in_lowest_terms, integer_parts, polynomial_parts, rational_parts, wrong_parts
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_literal import is_expanded, literal, polynomial, ratio
from sdgym.verifiers.math_text import MAX_ANSWER, normalise, shown

_HEAD = re.compile(r"[a-zA-Z]('*\([a-z]\)|'+|_\{?\d+\}?)?=")
_CHOICE = re.compile(r"\(?([A-Za-z])\)?[.:]?")

CORRECT = Verdict(Outcome.CORRECT, 1.0, "The answer is right.")


def wrong(feedback: str) -> Verdict:
    """Return the verdict of a readable answer that is not right."""
    return Verdict(Outcome.WRONG, 0.0, feedback)


def unparsable(feedback: str) -> Verdict:
    """Return the verdict of an answer that cannot be read as what was asked for."""
    return Verdict(Outcome.UNPARSABLE, 0.0, feedback)


def gold_unparsable(gold: Gold) -> Verdict:
    """Return the verdict that masks the row: the data set's own answer cannot be read."""
    return Verdict(Outcome.GOLD_UNPARSABLE, None, f"The data set's answer cannot be read as {gold.type}.")


def quick(gold: Gold, answer: str) -> Verdict | None:
    """Judge the raw content of a box, or return None if only computer algebra can. Never raises."""
    if len(answer) > MAX_ANSWER:
        return unparsable(f"The answer is longer than {MAX_ANSWER} characters.")
    text, target = normalise(answer), normalise(gold.text)
    if "=" not in target:
        text = _HEAD.sub("", text, count=1) if _HEAD.match(text) else text
    if gold.unit:
        text = text.removesuffix(normalise(gold.unit)) or text
    return _JUDGES[gold.type](gold, target, text, shown(answer))


def _number(gold: Gold, target: str, text: str, attempt: str) -> Verdict:
    right, value = literal(target), literal(text)
    if right is None or (gold.type == "int" and right.denominator != 1):
        return gold_unparsable(gold)
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


def _decimal(gold: Gold, target: str, text: str, attempt: str) -> Verdict:
    percent = gold.type == "percent"
    right, value = (literal(t.removesuffix("%") if percent else t) for t in (target, text))
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


def _choice(gold: Gold, target: str, text: str, attempt: str) -> Verdict:
    right, match = _CHOICE.fullmatch(target), _CHOICE.fullmatch(text)
    if right is None:
        return gold_unparsable(gold)
    if match is None:
        return unparsable(f"{attempt} is not one of the choices.")
    return CORRECT if match.group(1).upper() == right.group(1).upper() else wrong(f"{attempt} is wrong.")


def _text(gold: Gold, target: str, text: str, attempt: str) -> Verdict:
    return CORRECT if text.casefold() == target.casefold() else wrong(f"{attempt} is wrong.")


def _expression(gold: Gold, target: str, text: str, attempt: str) -> Verdict | None:
    right, tried = polynomial(target), polynomial(text)
    if right is None or tried is None:
        return CORRECT if text == target else None
    if right != tried:
        return wrong(wrong_parts(polynomial_parts(right, tried), attempt))
    if gold.form == "expanded" and not is_expanded(text, tried):
        return wrong(f"{attempt} has the right value, but it is not expanded.")
    return CORRECT


_JUDGES: dict[str, Callable[[Gold, str, str, str], Verdict | None]] = {
    "int": _number,
    "rational": _number,
    "decimal": _decimal,
    "percent": _decimal,
    "choice": _choice,
    "text": _text,
    "expr": _expression,
}
