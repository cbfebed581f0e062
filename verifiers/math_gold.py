"""What is being asked for: the right answer with its declared type, which decides how strict the grader is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from sdgym.errors import ConfigError, UnknownNameError

GOLD_TYPES = ("int", "rational", "decimal", "percent", "interval", "set", "tuple", "matrix", "expr", "choice", "text")
FORMS = ("", "lowest_terms", "expanded")


@dataclasses.dataclass(frozen=True, slots=True)
class Gold:
    r"""A right answer.

    Attributes:
        text: the answer as one would write it in ``\boxed{}``.
        type: one of :data:`GOLD_TYPES`. ``int`` and ``rational`` accept number literals only (``4^2`` is not
            ``16``; ``int`` also takes words, ``sixteen``); ``decimal`` accepts what lies within ``tolerance``; ``percent`` wants the percent sign or
            the bare number of percents; ``expr`` is algebraic equality.
        tolerance: absolute, for ``decimal`` and ``percent``.
        form: ``lowest_terms`` (fractions) or ``expanded`` (polynomials): a right value in another form is wrong.
        unit: text that may follow the number.

    Raises:
        UnknownNameError, ConfigError: a type or form that does not exist, a tolerance below 0.
    """

    text: str
    type: str = "expr"
    tolerance: float = 0.0
    form: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if self.type not in GOLD_TYPES:
            raise UnknownNameError("answer type", self.type, GOLD_TYPES)
        if self.form not in FORMS:
            raise UnknownNameError("answer form", self.form, [form for form in FORMS if form])
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise ConfigError(f"an answer's tolerance is a finite number of at least 0, got {self.tolerance!r}")

    @classmethod
    def of(cls, answer: str, meta: Mapping[str, Any]) -> Gold:
        """Build the gold of a task from its answer and its ``meta`` (``answer_type``, ``tolerance``, ``form``, ``unit``)."""
        return cls(
            answer,
            str(meta.get("answer_type", "expr")),
            float(meta.get("tolerance", 0.0)),
            str(meta.get("form", "")),
            str(meta.get("unit", "")),
        )
