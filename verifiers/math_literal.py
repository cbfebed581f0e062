"""Exact values without computer algebra: rational literals and polynomials over the rationals.

Both are decidable, so equality *and* inequality found here are final. Sizes are bounded before any
arithmetic is done; what is outside the grammar or the bounds is ``None``, never an error.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 60
MAX_DEGREE = 60
MAX_TERMS = 80
MAX_DEPTH = 12

_INTEGER = re.compile(r"[+-]?\d+")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)")
_RATIO = re.compile(
    r"([+-]?)(?:\\frac\{?([+-]?\d+)\}?\{([+-]?\d+)\}|\\frac(\d)(\d)|\(?(\d+)\)?/\(?(\d+)\)?|\((-\d+)\)/(\d+)|(\d+)/\((-\d+)\))"
)

Monomial = tuple[tuple[str, int], ...]
Polynomial = dict[Monomial, Fraction]
"""Maps sorted ``((variable, exponent), …)`` to a non-zero coefficient; the zero polynomial is ``{}``."""


def literal(text: str) -> Fraction | None:
    """Return the exact value of an integer, decimal or fraction literal (normalised text), or None."""
    if not text or len(text) > 2 * MAX_DIGITS or not text.isascii():
        return None
    if _INTEGER.fullmatch(text) or _DECIMAL.fullmatch(text):
        return Fraction(text)
    match = _RATIO.fullmatch(text)
    if match is None:
        return None
    top, bottom = (int(part) for part in match.groups()[1:] if part is not None)
    if bottom == 0:
        return None
    return Fraction(top, bottom) * (-1 if match.group(1) == "-" else 1)


def ratio(text: str) -> tuple[int, int] | None:
    """Return numerator and denominator *as written* (an integer has denominator 1), sign on the numerator."""
    if _INTEGER.fullmatch(text) and len(text) <= MAX_DIGITS:
        return int(text), 1
    match = _RATIO.fullmatch(text) if len(text) <= 2 * MAX_DIGITS and text.isascii() else None
    if match is None:
        return None
    top, bottom = (int(part) for part in match.groups()[1:] if part is not None)
    if bottom == 0:
        return None
    sign = (-1 if match.group(1) == "-" else 1) * (-1 if bottom < 0 else 1)
    return sign * top, abs(bottom)


_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = (
    {word: number for number, word in enumerate(_ONES)}
    | {word: 10 * number for number, word in enumerate(_TENS, start=2)}
    | {f"{ten}{join}{_ONES[one]}": 10 * i + one for i, ten in enumerate(_TENS, start=2) for one in range(1, 10) for join in ("", "-")}
    | {"hundred": 100, "onehundred": 100}
)


def in_words(text: str) -> Fraction | None:
    """Return the value of a whole number from zero to a hundred written in words (normalised: without blanks), or None."""
    value = _WORDS.get(text.lower())
    return None if value is None else Fraction(value)


_SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d+)?)(?:[eE]([+-]?\d{1,3})|\*10\^\{?([+-]?\d{1,3})\}?)")


def decimal(text: str) -> Fraction | None:
    """Return the exact value of a literal, scientific notation (``6.02e23``, ``6.02*10^{23}``) included, or None."""
    match = _SCIENTIFIC.fullmatch(text) if len(text) <= 2 * MAX_DIGITS and text.isascii() else None
    if match is None:
        return literal(text)
    return Fraction(match.group(1)) * Fraction(10) ** int(match.group(2) or match.group(3))


class _Unsupported(Exception):
    """The text is outside the polynomial grammar or its bounds."""


_NOT_A_PRODUCT = re.compile(r"[a-zA-Z]{3}|ln|lg|pi|tg|sh|ch|th|or|[eiE]")
"""Letters that mean a function or a constant rather than a product of variables."""
_TOKEN = re.compile(r"\d+\.\d+|\d+|[a-zA-Z]|\\frac|[-+*/^(){}]")


def polynomial(text: str) -> Polynomial | None:
    r"""Parse a polynomial with rational coefficients (normalised text), or None.

    Grammar: ``+ - * / ^``, implicit products, parentheses, ``\frac{}{}``, one-letter variables; division by
    constants only; exponents are integer literals.
    """
    if not text or len(text) > 300 or not text.isascii():
        return None
    tokens = _TOKEN.findall(text)
    if _NOT_A_PRODUCT.search(text.replace("\\frac", "")):
        return None
    if "".join(tokens) != text or any(len(token) > MAX_DIGITS for token in tokens):
        return None
    try:
        parser = _Parser(tokens)
        value = parser.sum(0)
        return value if parser.at == len(tokens) else None
    except _Unsupported:
        return None


class _Parser:
    """Recursive descent over a token list; ``at`` is the cursor."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise _Unsupported
        self.at += 1
        return token

    def sum(self, depth: int) -> Polynomial:
        if depth > MAX_DEPTH:
            raise _Unsupported
        negative = self.peek() in ("+", "-") and self.take() == "-"
        total = _scale(self.product(depth), Fraction(-1 if negative else 1))
        while self.peek() in ("+", "-"):
            sign = Fraction(1 if self.take() == "+" else -1)
            total = _add(total, _scale(self.product(depth), sign))
        return total

    def product(self, depth: int) -> Polynomial:
        value = self.power(depth)
        while (token := self.peek()) and token not in ("+", "-", ")", "}"):
            if token == "/":
                self.take()
                value = _scale(value, 1 / _constant(self.power(depth)))
            else:
                if token == "*":
                    self.take()
                value = _multiply(value, self.power(depth))
        return value

    def power(self, depth: int) -> Polynomial:
        base = self.atom(depth)
        if self.peek() != "^":
            return base
        self.take()
        braced = self.peek() == "{" and self.take()
        exponent = self.take()
        if braced:
            self.take("}")
        if not exponent.isdigit() or len(exponent) > 2 or int(exponent) > MAX_DEGREE or self.peek() == "^":
            raise _Unsupported
        result: Polynomial = {(): Fraction(1)}
        for _ in range(int(exponent)):
            result = _multiply(result, base)
        return result

    def atom(self, depth: int) -> Polynomial:
        token = self.take()
        if token[0].isdigit():
            return _scale({(): Fraction(1)}, Fraction(token))
        if token.isalpha():
            return {((token, 1),): Fraction(1)}
        if token == "\\frac":
            top = self.group("{", "}", depth)
            return _scale(top, 1 / _constant(self.group("{", "}", depth)))
        if token in ("(", "{"):
            self.at -= 1
            return self.group(token, ")" if token == "(" else "}", depth)
        raise _Unsupported

    def group(self, opening: str, closing: str, depth: int) -> Polynomial:
        self.take(opening)
        value = self.sum(depth + 1)
        self.take(closing)
        return value


def _bounded(value: Polynomial) -> Polynomial:
    """Drop zeros; refuse sizes that no honest answer has."""
    kept = {key: c for key, c in value.items() if c}
    big = 10**MAX_DIGITS
    if len(kept) > MAX_TERMS or any(abs(c.numerator) > big or c.denominator > big for c in kept.values()):
        raise _Unsupported
    if any(sum(e for _, e in key) > MAX_DEGREE for key in kept):
        raise _Unsupported
    return kept


def _scale(value: Polynomial, factor: Fraction) -> Polynomial:
    return _bounded({key: c * factor for key, c in value.items()})


def _add(left: Polynomial, right: Polynomial) -> Polynomial:
    total = dict(left)
    for key, c in right.items():
        total[key] = total.get(key, Fraction(0)) + c
    return _bounded(total)


def _multiply(left: Polynomial, right: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for key, c in left.items():
        for other, d in right.items():
            powers = dict(key)
            for variable, exponent in other:
                powers[variable] = powers.get(variable, 0) + exponent
            merged = tuple(sorted(powers.items()))
            result[merged] = result.get(merged, Fraction(0)) + c * d
    return _bounded(result)


def _constant(value: Polynomial) -> Fraction:
    if list(value) != [()]:
        raise _Unsupported
    return value[()]


def is_expanded(text: str, value: Polynomial) -> bool:
    """Whether normalised ``text`` writes ``value`` as a sum of collected terms, one per monomial."""
    if "(" in text:
        return False
    body = re.sub(r"[{}]", "", text.lstrip("+-"))
    terms = [term for term in re.split(r"[+-]", body) if term]
    return len(terms) == max(1, len(value)) and all(
        len(set(letters)) == len(letters) for letters in (re.findall("[a-zA-Z]", t) for t in terms)
    )
