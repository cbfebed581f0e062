"""What a problem family produces, and the few helpers they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    r"""One problem before it is put into words for a student.

    Attributes:
        family, skill: what it exercises.
        key: the numbers that define it; with family and skill the canonical content (wording excluded).
        text: the question.
        answer, answer_type, form, tolerance: see :class:`sdgym.verifiers.math_gold.Gold`.
        solution: a short worked solution that ends in ``\boxed{answer}``.
        mistakes: answers that systematic misconceptions of this skill give, most tempting first.
        ease: 0 the novice is mostly right, 1 often wrong, 2 mostly wrong.
    """

    family: str
    skill: str
    key: tuple[Any, ...]
    text: str
    answer: str
    answer_type: str
    solution: str
    mistakes: tuple[str, ...] = ()
    ease: int = 1
    form: str = ""
    tolerance: float = 0.0

    @property
    def canonical(self) -> list[Any]:
        """The content that decides the split; equal for two phrasings of the same problem."""
        return [self.family, self.skill, *self.key]


class Draw:
    """Integer and choice draws from one generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def between(self, low: int, high: int) -> int:
        """Return an integer in ``[low, high]``."""
        return int(self._rng.integers(low, high + 1))

    def nonzero(self, bound: int) -> int:
        """Return a non-zero integer in ``[-bound, bound]``."""
        value = self.between(1, 2 * bound)
        return value if value <= bound else bound - value

    def mostly(self, low: int, *bounds: int) -> int:
        """Return an integer from ``low`` to the first bound in nine cases of ten, else to the next one, and so on."""
        for bound in bounds[:-1]:
            if self.between(0, 9) < 9:
                return self.between(low, bound)
        return self.between(low, bounds[-1])

    def pick(self, options: Sequence[T]) -> T:
        """Return one of ``options``, uniformly."""
        return options[int(self._rng.integers(len(options)))]

    def weighted(self, options: Sequence[tuple[T, int]]) -> T:
        """Return one of ``options`` with probability proportional to its integer weight."""
        at = int(self._rng.integers(sum(weight for _, weight in options)))
        for value, weight in options:
            at -= weight
            if at < 0:
                return value
        raise AssertionError("weights are positive")

    def distinct(self, count: int, low: int, high: int) -> list[int]:
        """Return ``count`` different integers of ``[low, high]``, in random order."""
        return [low + int(i) for i in self._rng.choice(high - low + 1, count, replace=False)]


Maker = Callable[[Draw], Problem]


def boxed(answer: str) -> str:
    r"""Return ``\boxed{answer}``."""
    return f"\\boxed{{{answer}}}"


def signed(value: int) -> str:
    """Return ``+3`` or ``-3``."""
    return f"+{value}" if value >= 0 else str(value)


def fraction(value: Fraction) -> str:
    """Return ``3/4`` or ``2``."""
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


def polynomial(coefficients: Sequence[int], variable: str = "x") -> str:
    """Write a polynomial, highest power first: ``[1, -5, 6]`` gives ``x^2-5x+6``."""
    degree = len(coefficients) - 1
    terms: list[str] = []
    for i, c in enumerate(coefficients):
        power = degree - i
        if c == 0:
            continue
        unknown = "" if power == 0 else variable if power == 1 else f"{variable}^{power}"
        size = "" if abs(c) == 1 and power else str(abs(c))
        sign = "-" if c < 0 else "+" if terms else ""
        terms.append(f"{sign}{size}{unknown}")
    return "".join(terms) or "0"
