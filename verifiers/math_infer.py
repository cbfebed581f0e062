"""Guess the declared type of a right answer that comes without one (data sets)."""

from __future__ import annotations

import re

from sdgym.verifiers.math_literal import literal
from sdgym.verifiers.math_structure import as_matrix, as_set, as_spans, as_tuple
from sdgym.verifiers.math_text import normalise

_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]{2,}")


def infer_type(answer: str) -> str:
    r"""Return the strictest type of :data:`sdgym.verifiers.math_gold.GOLD_TYPES` that ``answer`` is written as.

    ``(1,2)`` counts as a tuple; a mixed or square bracket, ``\cup`` or ``\infty`` makes an interval; a bare
    list is a set; a decimal is exact (``decimal`` with tolerance 0).
    """
    text = normalise(answer)
    value = literal(text)
    if value is not None:
        return "decimal" if "." in text else "int" if text.lstrip("+-").isdigit() else "rational"
    if text.endswith("%") and literal(text[:-1]) is not None:
        return "percent"
    if re.fullmatch(r"\(?[A-H]\)?", text):
        return "choice"
    if as_matrix(text) is not None:
        return "matrix"
    if text.startswith(("\\{", "\\emptyset", "\\varnothing")) and as_set(text) is not None:
        return "set"
    if as_spans(text) is not None and (text[0] == "[" or text[-1] == "]" or "\\infty" in text or "\\cup" in text or "mathbb" in text):
        return "interval"
    if text.startswith("(") and (as_tuple(text) or [""])[0] != text:
        return "tuple"
    if len(as_set(text) or []) > 1:
        return "set"
    return "text" if _WORDS.fullmatch(answer.strip()) or answer.strip().startswith("\\text") else "expr"
