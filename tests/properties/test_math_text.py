"""Whatever a model writes: extraction and judging never raise, and garbage scores 0."""

from __future__ import annotations

import random
from fractions import Fraction

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdgym.core import Outcome, Verdict
from sdgym.verifiers.math_answer import judge, judge_response
from sdgym.verifiers.math_feedback import integer_parts
from sdgym.verifiers.math_gold import GOLD_TYPES, Gold
from sdgym.verifiers.math_infer import infer_type
from sdgym.verifiers.math_literal import literal, polynomial
from sdgym.verifiers.math_quick import Job, same
from sdgym.verifiers.math_structure import as_matrix, as_set, as_spans, as_tuple
from sdgym.verifiers.math_text import extract, latex, normalise

FRAGMENTS = st.sampled_from(
    [
        *"0123456789+-*/^(){}[],;.=<>|!%$&x y\\",
        "\\frac", "\\sqrt", "\\boxed{", "\\left(", "\\right)", "\\text{", "\\pi", "\\infty", "\\cup", "\\le", "\\pm", "\\{", "\\}", "\\\\",
        "<think>", "</think>", " or ", " and ", "\\begin{pmatrix}", "\\end{pmatrix}", "\\in", "{,}", "−", "∞", "𝟙", "٣", "\x00", "\u2028",
    ]
)  # fmt: skip
NOISE = st.one_of(st.text(max_size=60), st.lists(FRAGMENTS, max_size=25).map("".join))
GOLDS = {
    "int": "85", "rational": "3/4", "decimal": "2.5", "percent": "50%", "interval": "[1,2)", "set": "\\{1,2\\}", "tuple": "(1,2)",
    "matrix": "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "expr": "x^2+5x+6", "choice": "B", "text": "Monday",
}  # fmt: skip


def test_every_type_is_covered() -> None:
    assert set(GOLDS) == set(GOLD_TYPES)


@settings(max_examples=120, deadline=None)
@given(NOISE, st.sampled_from(GOLD_TYPES))
@example("\\boxed{" * 400, "int")
@example("\\boxed{" + "{" * 300 + "}" * 300 + "}", "expr")
@example("\\boxed{" + "\\text{" * 60 + "}" * 60 + "}", "text")
@example("\\boxed{1/0}", "rational")
@example("\\boxed{\\frac{1}{0}}", "expr")
@example("\\boxed{x^{99}}", "expr")
@example("\\boxed{٣}", "int")
def test_nothing_raises_and_noise_is_not_right(noise: str, kind: str) -> None:
    gold = Gold(GOLDS[kind], kind)
    for response in (noise, f"\\boxed{{{noise}}}"):
        verdict = judge_response(gold, response)
        if isinstance(verdict, Job):
            assert all(isinstance(side, str) for pair in verdict.pairs for side in pair)
        elif verdict.score:
            answer = extract(response).answer
            assert answer is not None
            assert _means_the_same(kind, normalise(answer)), (response, kind)
        else:
            assert verdict.outcome in (Outcome.WRONG, Outcome.UNPARSABLE, Outcome.NO_ANSWER)
            assert verdict.feedback


def _means_the_same(kind: str, text: str) -> bool:
    """An independent reading of the few ways noise could hit the right answer by chance."""
    body = text.removeprefix("x=").removeprefix("y=")
    if kind == "text":
        return body.casefold() == "monday"
    if kind == "choice":
        return body.strip("().:").upper() == "B"
    if kind in ("int", "rational", "decimal", "percent"):
        value = {"int": Fraction(85), "rational": Fraction(3, 4), "decimal": Fraction(5, 2), "percent": Fraction(50)}[kind]
        return literal(body.removesuffix("%")) == value
    return any(char in text for char in "12") or "x" in text


@settings(max_examples=120, deadline=None)
@given(NOISE)
def test_normalising_is_idempotent_and_parsers_never_raise(noise: str) -> None:
    once = normalise(noise)
    assert normalise(once) == once
    for parse in (literal, polynomial, as_tuple, as_set, as_matrix, as_spans, latex, infer_type):
        parse(once)


@settings(max_examples=80, deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_integers_are_judged_exactly_and_parts_are_true(gold: int, tried: int) -> None:
    verdict = judge(Gold(str(gold), "int"), str(tried))
    assert isinstance(verdict, Verdict)
    assert (verdict.score == 1.0) == (gold == tried)
    parts = integer_parts(gold, tried)
    assert bool(parts) == (gold != tried)
    assert ("units digit" in parts) == (abs(gold) % 10 != abs(tried) % 10)
    assert ("number of digits" in parts) == (len(str(abs(gold))) != len(str(abs(tried))))


@settings(max_examples=80, deadline=None)
@given(st.fractions(max_denominator=500), st.fractions(max_denominator=500), st.integers(1, 5))
def test_fractions_are_judged_exactly_however_written(gold: Fraction, tried: Fraction, k: int) -> None:
    forms = [f"{k * tried.numerator}/{k * tried.denominator}", f"\\dfrac{{{k * tried.numerator}}}{{{k * tried.denominator}}}"]
    for form in forms:
        verdict = judge(Gold(str(gold), "rational"), form)
        assert isinstance(verdict, Verdict)
        assert (verdict.score == 1.0) == (gold == tried)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=5), st.lists(st.integers(-9, 9), min_size=1, max_size=5), st.randoms())
def test_polynomial_identity_agrees_with_evaluation(first: list[int], second: list[int], rng: random.Random) -> None:
    """Products and sums in shuffled order equal themselves; different coefficient lists differ (checked by values)."""
    one, two = _write(first, rng), _write(second, rng)
    product = f"({one})({two})"
    assert same(product, f"({two})*({one})") is True
    values = [[sum(c * x**i for i, c in enumerate(cs)) for x in range(6)] for cs in (first, second)]
    assert same(one, two) is (values[0] == values[1])  # degree < 6, so six points decide


def _write(coefficients: list[int], rng: random.Random) -> str:
    terms = [f"{c:+d}x^{i}" if i else f"{c:+d}" for i, c in enumerate(coefficients)]
    rng.shuffle(terms)
    return "".join(terms)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=5, unique=True),
    st.lists(st.integers(-50, 50), min_size=1, max_size=5),
    st.randoms(),
)
def test_sets_ignore_order_and_tuples_do_not(gold: list[int], tried: list[int], rng: random.Random) -> None:
    shuffled = list(gold)
    rng.shuffle(shuffled)
    write = ",".join
    for answer, right in ((shuffled, True), (tried, set(tried) == set(gold))):
        verdict = judge(Gold(f"\\{{{write(map(str, gold))}\\}}", "set"), write(map(str, answer)))
        assert isinstance(verdict, Verdict)
        assert (verdict.score == 1.0) is right
    verdict = judge(Gold(f"({write(map(str, gold))})", "tuple"), f"({write(map(str, shuffled))})")
    assert isinstance(verdict, Verdict)
    assert (verdict.score == 1.0) is (gold == shuffled)
