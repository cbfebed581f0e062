"""Sentences that say which part of a wrong answer is wrong, and never what would be right.

Deterministic: the same (gold, attempt) gives the same words, so "which answers would have earned this
sentence" is a well-defined set. That is what makes feedback informative for a teacher.
"""

from __future__ import annotations

import math
from fractions import Fraction

from sdgym.verifiers.math_literal import Monomial, Polynomial, polynomial, ratio

_PLACES = ("units digit", "tens digit", "hundreds digit", "thousands digit")


def wrong_parts(parts: list[str], attempt: str) -> str:
    """Return ``"75 is wrong in the tens digit."``; without parts just ``"75 is wrong."``."""
    return f"{attempt} is wrong in the {', '.join(parts)}." if parts else f"{attempt} is wrong."


def integer_parts(gold: int, tried: int) -> list[str]:
    """Name what differs between two integers: sign, number of digits, single digits counted from the right."""
    parts = ["sign"] if (gold < 0) != (tried < 0) else []
    right, left = str(abs(gold))[::-1], str(abs(tried))[::-1]
    if len(right) != len(left):
        parts.append("number of digits")
    differs = [i for i, (a, b) in enumerate(zip(right, left, strict=False)) if a != b]
    parts += [_PLACES[i] for i in differs if i < len(_PLACES)]
    return parts + (["leading digits"] if any(i >= len(_PLACES) for i in differs) else [])


def rational_parts(gold: Fraction, tried: tuple[int, int]) -> list[str]:
    """Name what differs between two fractions, after cancelling: sign, numerator, denominator."""
    top, bottom = tried
    value = Fraction(top, bottom)
    parts = ["sign"] if (gold < 0) != (value < 0) else []
    parts += ["numerator"] if abs(gold.numerator) != abs(value.numerator) else []
    return parts + (["denominator"] if gold.denominator != value.denominator else [])


def in_lowest_terms(text: str) -> bool:
    """Whether a fraction literal is written in lowest terms (and an integer not over 1)."""
    written = ratio(text)
    return written is not None and math.gcd(*written) == 1 and not (written[1] == 1 and not text.lstrip("+-").isdigit())


def _name(key: Monomial) -> str:
    """Return ``"x^2 coefficient"``, ``"x coefficient"`` or ``"constant term"``."""
    if not key:
        return "constant term"
    return "".join(v if e == 1 else f"{v}^{e}" for v, e in key) + " coefficient"


def polynomial_parts(gold: Polynomial, tried: Polynomial) -> list[str]:
    """Name what differs between two polynomials.

    Two single powers of one variable: coefficient and exponent. Otherwise the coefficients of the
    attempt's own monomials that differ, highest power first, and whether a term is missing (without
    saying which).
    """
    if len(gold) == len(tried) == 1:
        (key, c), (other, d) = *gold.items(), *tried.items()
        if len(key) <= 1 and len(other) <= 1 and (not key or not other or key[0][0] == other[0][0]):
            return (["coefficient"] if c != d else []) + (["exponent"] if key != other else [])
    order = sorted(tried, key=lambda k: (-sum(e for _, e in k), k))
    parts = [_name(key) for key in order if gold.get(key) != tried[key]][:4]
    return parts + (["number of terms"] if any(key not in tried for key in gold) else [])


def parse_polynomial(text: str) -> Polynomial | None:
    """Return the polynomial that normalised ``text`` writes, dropping a leading ``y=`` or ``f(x)=``."""
    head, _, tail = text.rpartition("=")
    return polynomial(tail) if len(head) <= 5 else None
