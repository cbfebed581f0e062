"""What each declared answer type accepts and refuses, and what is said about it."""

from __future__ import annotations

import asyncio

import pytest

from sdgym.core import Outcome, Verdict
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.verifiers import math_answer
from sdgym.verifiers.math_answer import MathGrader, judge, judge_response
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_pool import Pool, shared_pool


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    # These answers take milliseconds; ten seconds, so that a busy machine does not turn them into timeouts.
    monkeypatch.setattr(shared_pool(), "deadline", 10.0)
    return shared_pool()


@pytest.fixture
def grader(pool: Pool) -> MathGrader:
    return MathGrader(pool, cache_size=0)


# (gold, type, answer, right): the false positives and false negatives that math-verify 0.9 is known for,
# with the verdict each type wants, and its good behaviour, which must not get lost.
TABLE = [
    (r"\frac{1}{2004!}", "expr", r"\frac{1}{2006!}", False),
    ("2^{-99}", "expr", "2^{-98}", False),
    ("50%", "percent", "50%", True),
    ("50%", "percent", r"50\%", True),
    ("50%", "percent", "50", True),
    ("50%", "percent", "0.5", False),
    ("0.5", "rational", "50%", False),
    ("0.5", "rational", r"\frac12", True),
    ("16", "int", "4^2", False),
    ("16", "int", "16", True),
    ("16", "int", "16.0", True),
    ("16", "int", "+16", True),
    ("-16", "int", "−16", True),
    ("1234", "int", "1,234", True),
    ("5", "int", "x=5", True),
    ("5", "int", r"5\text{ cm}", False),
    ("x=5", "expr", "x=5", True),
    ("x=5", "expr", "5", True),
    ("x=5", "expr", "y=5", False),
    ("y=2x+1", "expr", "3y-6x=3", True),
    ("y=2x+1", "expr", "y=2x-1", False),
    (r"(-\infty,2]", "interval", r"x \le 2", True),
    (r"(-\infty,2]", "interval", r"2 \geq x", True),
    (r"(-\infty,2]", "interval", r"x<2", False),
    (r"(-\infty,2]", "interval", r"(-\infty,2)", False),
    ("[1,2)", "interval", r"1\le x<2", True),
    ("[1,2)", "interval", r"2>x\ge1", True),
    (r"[\sqrt{2},2)", "interval", r"[2^{1/2},2)", True),
    (r"(1,2)\cup(3,\infty)", "interval", r"(3,\infty)\cup(1,2)", True),
    (r"(1,2)\cup(3,\infty)", "interval", r"(1,2)\cup[3,\infty)", False),
    (r"(1,2)\cup(3,\infty)", "interval", r"(1,2)", False),
    (r"\mathbb{R}", "interval", r"(-\infty,\infty)", True),
    ("(1,2)", "tuple", "(1,2)", True),
    ("(1,2)", "tuple", "(2,1)", False),
    ("(1,2)", "tuple", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    ("(1,2)", "tuple", "[1,2]", False),
    ("(1,2)", "tuple", "(1,2,3)", False),
    (r"(\frac{\pi}{3},2)", "tuple", r"(\pi/3,\frac{4}{2})", True),
    (r"\{1,2\}", "set", "2, 1", True),
    (r"\{1,2\}", "set", r"x=1 \text{ or } x=2", True),
    (r"\{1,2\}", "set", r"\{1,2,3\}", False),
    (r"\{1,2\}", "set", r"\{1\}", False),
    (r"\{-3,3\}", "set", r"\pm 3", True),
    (r"\{1-\sqrt2,1+\sqrt2\}", "set", r"1\pm\sqrt{2}", True),
    (r"\{1-\sqrt2,1+\sqrt2\}", "set", r"1\pm\sqrt{3}", False),
    (r"\emptyset", "set", r"\{\}", True),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "matrix", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}", True),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "matrix", "[[1,2],[3,4]]", True),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "matrix", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}", False),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "matrix", r"\begin{pmatrix}1&2&3&4\end{pmatrix}", False),
    (r"\begin{pmatrix}\sqrt4&2\\3&4\end{pmatrix}", "matrix", r"\begin{pmatrix}2&2\\3&4\end{pmatrix}", True),
    ("-1", "expr", r"e^{i\pi}", True),
    (r"e^{i\pi}", "expr", "-1", True),
    ("6.02e23", "decimal", r"6.02 \times 10^{23}", True),
    ("6.02e23", "decimal", r"6.02 \times 10^{22}", False),
    (r"\frac{\pi}{2}", "expr", "pi/2", True),
    (r"\sqrt{2}", "expr", "sqrt(2)", True),
    (r"\frac{\pi}{2}", "expr", "1.5708", False),
    (r"\sqrt{8}", "expr", r"2\sqrt{2}", True),
    (r"\sqrt{8}", "expr", r"2\sqrt{3}", False),
    ("1/3", "rational", "0.333333", False),
    ("1/3", "rational", r"\frac{1}{3}", True),
    ("1/3", "rational", "2/6", True),
    ("3.14", "decimal", "3.14", True),
    ("3.14", "decimal", "3.15", False),
    (r"\cos 2x", "expr", r"2\cos^2 x-1", True),
    (r"\cos 2x", "expr", r"2\cos x", False),
    (r"\cos(2x)", "expr", r"2\cos(x)", False),
    ("cos(2x)", "expr", "2cos(x)", False),
    ("x^2+2x+1", "expr", "(x+1)^2", True),
    ("x^2+2x+1", "expr", "x^2+2x", False),
    (r"\ln 4", "expr", r"2\ln 2", True),
    (r"\frac{x^2}{2}+C", "expr", r"\frac{1}{2}x^2+C", True),
    ("1+2i", "expr", "2i+1", True),
    ("1+2i", "expr", "1-2i", False),
    (r"\frac{1}{2}", "expr", r"\int_0^1 x\,dx", False),
    ("B", "choice", "(b)", True),
    ("B", "choice", "C", False),
    (r"\text{does not exist}", "text", "Does not exist", True),
    (r"\text{does not exist}", "text", "DNE", True),
    ("DNE", "text", r"\text{does not exist}", True),
    ("DNE", "text", "0", False),
    ("does not exist", "text", "exists", False),
    ("5", "int", "five", True),
    ("21", "int", r"\text{twenty-one}", True),
    ("21", "int", "Twenty one", True),
    ("21", "int", "twenty-two", False),
    ("5", "rational", "five", False),
    ("0.5", "decimal", "50%", False),
    ("6.02e23", "decimal", "6.02e23", True),
    (r"6.02 \times 10^{23}", "decimal", "6.02e23", True),
    (r"6.02 \times 10^{23}", "decimal", "6.02e22", False),
    (r"\frac{\pi^4}{15}", "expr", r"\int_0^\infty \frac{x^3}{e^x-1}\,dx", False),
    ("x+1=2x", "expr", "x+3=5x", False),
]


@pytest.mark.parametrize(("gold", "kind", "answer", "right"), TABLE)
def test_verdict_by_declared_type(grader: MathGrader, gold: str, kind: str, answer: str, right: bool) -> None:
    verdict = asyncio.run(grader.grade(Gold(gold, kind), f"\\boxed{{{answer}}}"))
    assert verdict.score == float(right), verdict
    assert (verdict.outcome is Outcome.CORRECT) == right


FEEDBACK = [
    (Gold("85", "int"), "75", "75 is wrong in the tens digit."),
    (Gold("85", "int"), "-58", "-58 is wrong in the sign, units digit, tens digit."),
    (Gold("105", "int"), "95", "95 is wrong in the number of digits, tens digit."),
    (Gold("85", "int"), "8.5", "8.5 is wrong: it is not an integer."),
    (Gold("85", "int"), "80+5", "80+5 has the right value, but it is not a plain number."),
    (Gold("85", "int"), "many", "many is not a number."),
    (Gold("3/4", "rational", form="lowest_terms"), "6/8", "6/8 has the right value, but it is not in lowest terms."),
    (Gold("3/4", "rational"), "3/5", "3/5 is wrong in the denominator."),
    (Gold("3/4", "rational"), "-5/4", "-5/4 is wrong in the sign, numerator."),
    (Gold("1/3", "rational"), "0.33", "0.33 is wrong: an exact fraction is expected."),
    (Gold("x^2+5x+6"), "x^2+6x+6", "x^2+6x+6 is wrong in the x coefficient."),
    (Gold("x^2+5x+6"), "x^2+6", "x^2+6 is wrong in the number of terms."),
    (Gold("x^2+5x+6"), "x^2+4x+5", "x^2+4x+5 is wrong in the x coefficient, constant term."),
    (Gold("12x^3"), "12x^4", "12x^4 is wrong in the exponent."),
    (Gold("12x^3"), "4x^4", "4x^4 is wrong in the coefficient, exponent."),
    (Gold("x^2+5x+6", form="expanded"), "(x+2)(x+3)", "(x+2)(x+3) has the right value, but it is not expanded."),
    (Gold("x^2+2x+1", form="expanded"), "(x+1)^2", "(x+1)^2 has the right value, but it is not expanded."),
    (Gold("85", "int"), "eighty", "eighty is wrong in the units digit."),
    (Gold("25%", "percent"), "0.25", "0.25 is off by a factor of 100 (is it a percentage?)."),
    (Gold("2.5", "decimal"), "-2.5", "-2.5 is wrong in the sign."),
    (Gold("(1,2)", "tuple"), "(1,3)", "(1,3) is wrong in the second entry."),
    (Gold("[1,2)", "interval"), "(1,3)", "(1,3) is wrong in the left bracket, right endpoint."),
    (Gold("1,2", "set"), "1,3", "1,3 is wrong: 1 of its 2 elements belong to the answer and something is missing."),
    (Gold(r"\frac12"), r"\int_0^1 xdx", r"\int_0^1xdx is not worked out."),
    (Gold("7"), "9^{9^{9}}", "9^{9^{9}} is too large to evaluate."),
]


@pytest.mark.parametrize(("gold", "answer", "words"), FEEDBACK)
def test_feedback_names_the_wrong_part(gold: Gold, answer: str, words: str) -> None:
    verdict = judge(gold, answer)
    assert isinstance(verdict, Verdict)
    assert verdict.feedback == words
    assert verdict.score == 0.0


@pytest.mark.parametrize(
    ("response", "words", "outcome"),
    [
        ("the answer is 85", "There is no \\boxed{} answer.", Outcome.NO_ANSWER),
        ("<think> \\boxed{85}", "The reasoning block is not closed.", Outcome.NO_ANSWER),
        ("<think>\\boxed{85}</think> done", "There is no \\boxed{} answer.", Outcome.NO_ANSWER),
        ("\\boxed{85", "The braces of \\boxed{} are not balanced.", Outcome.NO_ANSWER),
        ("\\boxed{}", "The \\boxed{} is empty.", Outcome.NO_ANSWER),
        ("\\boxed{85} or \\boxed{86}", "There are several different \\boxed{} answers.", Outcome.UNPARSABLE),
        ("\\boxed{85} so \\boxed{ 85 }", "The answer is right.", Outcome.CORRECT),
        ("<think>\\boxed{1}</think>\\boxed{85}", "The answer is right.", Outcome.CORRECT),
        ("\\boxed{" + "1" * 600 + "}", "The answer is longer than 512 characters.", Outcome.UNPARSABLE),
    ],
)
def test_one_answer_is_extracted(response: str, words: str, outcome: Outcome) -> None:
    verdict = judge_response(Gold("85", "int"), response)
    assert isinstance(verdict, Verdict)
    assert (verdict.feedback, verdict.outcome) == (words, outcome)


def test_tolerance_belongs_to_decimals() -> None:
    gold = Gold("3.14159", "decimal", tolerance=0.005)
    outcomes = {answer: judge(gold, answer) for answer in ("3.14", "3.146", "3.147")}
    assert {answer: verdict.score for answer, verdict in outcomes.items() if isinstance(verdict, Verdict)} == {
        "3.14": 1.0,
        "3.146": 1.0,
        "3.147": 0.0,
    }


def test_unit_may_follow_only_where_declared() -> None:
    scores = [judge(Gold("5", "int", unit=unit), r"5\text{ cm}") for unit in ("cm", "")]
    assert [verdict.score for verdict in scores if isinstance(verdict, Verdict)] == [1.0, 0.0]


def test_unreadable_gold_masks_the_row(grader: MathGrader) -> None:
    for gold, answer in ((Gold("12a", "int"), "5"), (Gold("((", "expr"), r"\sqrt{2}"), (Gold("1", "matrix"), "1")):
        verdict = asyncio.run(grader.grade(gold, f"\\boxed{{{answer}}}"))
        assert verdict.outcome is Outcome.GOLD_UNPARSABLE
        assert verdict.score is None


def test_wrong_declarations_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'interval'"):
        Gold("1", "intervall")
    with pytest.raises(UnknownNameError):
        Gold("1", form="pretty")
    with pytest.raises(ConfigError, match="tolerance"):
        Gold("1", "decimal", tolerance=float("nan"))


def test_slow_verdicts_are_cached_by_gold_and_normalised_answer(pool: Pool) -> None:
    async def ask(grader: MathGrader) -> list[float | None]:
        answers = (r"\boxed{2\sqrt{2}}", r"\boxed{2 \sqrt{2}}", r"\boxed{2\sqrt2}")
        return [(await grader.grade(Gold(r"\sqrt{8}"), answer)).score for answer in answers]

    kept, fresh = MathGrader(pool), MathGrader(pool, cache_size=0)
    assert asyncio.run(ask(kept)) == asyncio.run(ask(fresh)) == [1.0, 1.0, 1.0]
    assert (kept.counts["slow"], fresh.counts["slow"]) == (2, 3)


def test_frequent_timeouts_are_reported_once(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "deadline", 0.002)
    monkeypatch.setattr(math_answer, "ALARM_AFTER", 5)
    grader = MathGrader(pool, cache_size=0)

    async def ask() -> list[Verdict]:
        return [await grader.grade(Gold(r"\sqrt{2}"), f"\\boxed{{e^{{e^{{e^{{e^{n}}}}}}}}}") for n in range(2, 9)]

    with pytest.warns(RuntimeWarning, match="of 5 answers .* deadline") as caught:
        outcomes = {verdict.outcome for verdict in asyncio.run(ask())}
    assert outcomes == {Outcome.TIMEOUT}
    assert len(caught) == 1
