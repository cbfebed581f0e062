r"""The committed corpus of 1,000 model-like answers, and how it was made.

``python -m sdgym.benchmarks.speed.math_corpus`` writes ``math_corpus.jsonl`` again, bit for bit. Every answer
is right or wrong by construction: 125 problems, 8 answers each (a group of rollouts), right answers in
several notations, wrong ones by the usual slips, a few unreadable.
"""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from sdgym.seeding import generator

PATH = pathlib.Path(__file__).with_name("math_corpus.jsonl")
PROBLEMS, ANSWERS = 125, 8
SEED = 20260
GARBAGE = ("\\frac{1}{", "(((", "see above", "x = ?", "\\sqrt{}", "42 \\text{ or maybe } 43", "\\begin{matrix}1", "")
WRAPPERS = (
    "Let us work it out. After simplifying both sides we get the result. The answer is $\\boxed{{{}}}$.",
    "First I rewrite the expression, then I substitute $x = 2$ to check. So the final answer is \\boxed{{{}}}.",
    "<think>Maybe $\\boxed{{0}}$? No, that forgets a term.</think>\n**Answer**: $\\boxed{{{}}}$",
    "Step 1: expand. Step 2: collect terms, e.g. $3 + 4 = 7$. Step 3: conclude.\n\n$$\\boxed{{{}}}$$",
    "\\boxed{{{}}}",
)

Item = tuple[str, str, list[str], list[str]]
"""(gold, type, right answers, wrong answers)."""


class _Numbers:
    """Integer draws from one generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __call__(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def pick(self, options: tuple[int, ...]) -> int:
        return options[int(self.rng.integers(len(options)))]


def surd(n: _Numbers) -> Item:
    """A multiple of a square root."""
    a, b = n(2, 9), n.pick((2, 3, 5, 6, 7, 10, 11, 13))
    right = [
        f"{a}\\sqrt{{{b}}}",
        f"\\sqrt{{{a * a * b}}}",
        f"\\frac{{{a * b}}}{{\\sqrt{{{b}}}}}",
        f"{a}*sqrt({b})",
        f"\\sqrt{b if b < 10 else f'{{{b}}}'}\\cdot {a}",
    ]
    wrong = [f"{a + 1}\\sqrt{{{b}}}", f"{a}\\sqrt{{{b + 1}}}", f"{a * math.sqrt(b):.3f}", f"{a * b}", f"-{a}\\sqrt{{{b}}}"]
    return right[0], "expr", right, wrong


def angle(n: _Numbers) -> Item:
    """A rational multiple of pi."""
    p, q = n(1, 11), n.pick((2, 3, 4, 5, 6, 8, 9, 12))
    g = math.gcd(p, q)
    p, q = p // g, q // g
    gold = f"\\frac{{{p}\\pi}}{{{q}}}" if q > 1 else f"{p}\\pi"
    right = [gold, f"{p}\\pi/{q}", f"\\frac{{{p}}}{{{q}}}\\pi", f"\\frac{{{3 * p}\\pi}}{{{3 * q}}}", f"\\pi \\cdot \\frac{{{p}}}{{{q}}}"]
    wrong = [
        f"\\frac{{{p}\\pi}}{{{q + 1}}}",
        f"\\frac{{{p}}}{{{q}}}",
        f"{p * math.pi / q:.4f}",
        f"\\frac{{{p}\\pi^2}}{{{q}}}",
        f"-{p}\\pi/{q}",
    ]
    return gold, "expr", right, wrong


def mixed_surd(n: _Numbers) -> Item:
    """Integer plus surd."""
    a, b, c = n(1, 12), n(2, 6), n.pick((2, 3, 5, 7))
    right = [f"{a}+{b}\\sqrt{{{c}}}", f"{b}\\sqrt{{{c}}}+{a}", f"{a}+\\sqrt{{{b * b * c}}}", f"\\frac{{{2 * a}+{2 * b}\\sqrt{{{c}}}}}{{2}}"]
    wrong = [f"{a}-{b}\\sqrt{{{c}}}", f"{a + b}\\sqrt{{{c}}}", f"{a}+{b}\\sqrt{{{c + 1}}}", f"{a + b * math.sqrt(c):.2f}"]
    return right[0], "expr", right, wrong


def exponential(n: _Numbers) -> Item:
    """A line times an exponential."""
    a, b, k = n(2, 9), n(1, 9), n(2, 6)
    right = [f"({a}x+{b})e^{{{k}x}}", f"{a}xe^{{{k}x}}+{b}e^{{{k}x}}", f"e^{{{k}x}}({b}+{a}x)", f"e^{{{k}x}} \\cdot ({a}x+{b})"]
    wrong = [f"({a}x-{b})e^{{{k}x}}", f"({a}x+{b})e^{{{k + 1}x}}", f"{a}e^{{{k}x}}", f"({a + b}x)e^{{{k}x}}", f"({a}x+{b})e^{{x}}"]
    return right[0], "expr", right, wrong


def trigonometric(n: _Numbers) -> Item:
    """A double angle."""
    a, k = n(2, 9), n(2, 4)
    right = [f"{a}\\sin(2x)", f"{2 * a}\\sin(x)\\cos(x)", f"{2 * a}\\cos x\\sin x", f"{a} \\cdot \\sin(2x)"]
    wrong = [f"{a}\\sin(x)", f"{a}\\cos(2x)", f"{2 * a}\\sin(x)", f"{a}\\sin({k + 1}x)", f"-{a}\\sin(2x)"]
    return right[0], "expr", right, wrong


def logarithm(n: _Numbers) -> Item:
    """Logarithm of a prime power."""
    b, k = n.pick((2, 3, 5, 7)), n(2, 4)
    right = [f"\\ln({b**k})", f"{k}\\ln({b})", f"{k}\\ln {b}", f"\\ln({b})+\\ln({b ** (k - 1)})"]
    wrong = [f"\\ln({b**k + 1})", f"{k + 1}\\ln({b})", f"\\ln({b})", f"{k * math.log(b):.3f}", f"\\ln({b})^{k}"]
    return right[0], "expr", right, wrong


def rational_function(n: _Numbers) -> Item:
    """A simple pole."""
    a, b = n(1, 9), n(1, 9)
    right = [f"\\frac{{{a}}}{{x+{b}}}", f"{a}/(x+{b})", f"\\frac{{{2 * a}}}{{2x+{2 * b}}}", f"{a}(x+{b})^{{-1}}"]
    wrong = [f"\\frac{{{a}}}{{x-{b}}}", f"\\frac{{{a}}}{{x}}+{b}", f"\\frac{{x+{b}}}{{{a}}}", f"\\frac{{{a + 1}}}{{x+{b}}}"]
    return right[0], "expr", right, wrong


def power(n: _Numbers) -> Item:
    """A shifted exponent."""
    b, k = n(2, 5), n(1, 3)
    right = [f"{b}^{{n+{k}}}", f"{b**k}\\cdot {b}^n", f"{b}^{{{k}+n}}", f"{b}^n \\cdot {b}^{{{k}}}"]
    wrong = [f"{b}^{{n}}", f"{b}^{{n+{k + 1}}}", f"{b * k}^n", f"{b}^n+{b**k}", f"{b + 1}^{{n+{k}}}"]
    return right[0], "expr", right, wrong


def complex_number(n: _Numbers) -> Item:
    """A Gaussian integer."""
    a, b = n(1, 9), n(2, 9)
    right = [f"{a}+{b}i", f"{b}i+{a}", f"{a} + {b}\\cdot i", f"\\frac{{{2 * a}+{2 * b}i}}{{2}}"]
    return right[0], "expr", right, [f"{a}-{b}i", f"{b}+{a}i" if a != b else f"{b + 1}i", f"{a + b}", f"{a + b}i", f"-{a}+{b}i"]


def root_pair(n: _Numbers) -> Item:
    """Both roots of a quadratic, as a set."""
    m, d = n(1, 9), n.pick((2, 3, 5, 7, 11))
    right = [
        f"\\{{{m}-\\sqrt{{{d}}},{m}+\\sqrt{{{d}}}\\}}",
        f"{m}\\pm\\sqrt{{{d}}}",
        f"x={m}+\\sqrt{{{d}}} \\text{{ or }} x={m}-\\sqrt{{{d}}}",
        f"\\left\\{{{m}+\\sqrt{{{d}}}, {m}-\\frac{{\\sqrt{{{4 * d}}}}}{{2}}\\right\\}}",
    ]
    wrong = [f"\\{{{m}+\\sqrt{{{d}}}\\}}", f"-{m}\\pm\\sqrt{{{d}}}", f"\\{{{m - 1}-\\sqrt{{{d}}},{m}+\\sqrt{{{d}}}\\}}", f"{m}\\pm {d}"]
    return right[0], "set", right, wrong


def interval(n: _Numbers) -> Item:
    """A half-open interval with one irrational end."""
    d, b = n.pick((2, 3, 5, 7)), n(4, 20)
    right = [
        f"[\\sqrt{{{d}}},{b})",
        f"\\left[\\sqrt{{{d}}}, {b}\\right)",
        f"[{d}^{{1/2}},{b})",
        f"\\frac{{\\sqrt{{{4 * d}}}}}{{2}} \\le x < {b}",
    ]
    wrong = [f"(\\sqrt{{{d}}},{b})", f"[{d}^{{1/3}},{b})", f"[\\sqrt{{{d + 1}}},{b})", f"[\\sqrt{{{d}}},{b}]", f"[\\frac{{{d}}}{{2}},{b})"]
    return right[0], "interval", right, wrong


def line(n: _Numbers) -> Item:
    """A straight line."""
    m, b = n(2, 9), n(1, 12)
    right = [f"y={m}x+{b}", f"y={b}+{m}x", f"{m}x+{b}", f"y-{m}x={b}", f"y = {m}(x+1)+{b - m}" if b != m else f"y={m}(x+1)"]
    return right[0], "expr", right, [f"y={m}x-{b}", f"y={m + 1}x+{b}", f"y={b}x+{m}" if b != m else f"y={b}x", f"x={m}y+{b}"]


def integer(n: _Numbers) -> Item:
    """A plain integer."""
    a = n(10, 5000)
    return str(a), "int", [str(a), f"{a:,}", f"x={a}", f"{a}.0", f" {a} "], [str(a + 1), str(a - 10), f"-{a}", f"{a}0", f"{a - 1}+1"]


def fraction(n: _Numbers) -> Item:
    """A plain fraction."""
    value = Fraction(n(1, 20), n(3, 17))
    p, q = value.numerator, value.denominator
    right = [f"\\frac{{{p}}}{{{q}}}", f"{p}/{q}", f"\\dfrac{{{2 * p}}}{{{2 * q}}}"]
    return (
        right[0],
        "rational",
        right,
        [f"{p + 1}/{q}", f"{p}/{q + 1}", f"{p / q:.3f}" if q not in (1, 2, 4, 5, 8, 10, 16) else f"{p}/{q + 2}", f"-{p}/{q}"],
    )


def quadratic(n: _Numbers) -> Item:
    """A quadratic, expanded or factored."""
    a, b = n(1, 9), n(1, 9)
    right = [f"x^2+{a + b}x+{a * b}", f"(x+{a})(x+{b})", f"{a * b}+{a + b}x+x^2", f"x^{{2}} + {a + b}x + {a * b}"]
    return right[0], "expr", right, [f"x^2+{a * b + 1}x+{a + b}", f"x^2+{a * b}", f"(x-{a})(x-{b})", f"x^2+{a + b}x-{a * b}"]


SLOW: tuple[Callable[[_Numbers], Item], ...] = (
    surd, angle, mixed_surd, exponential, trigonometric, logarithm, rational_function, power, complex_number, root_pair, interval, line,
)  # fmt: skip
FAST: tuple[Callable[[_Numbers], Item], ...] = (integer, fraction, quadratic)


def records() -> Iterator[dict[str, object]]:
    """Yield the corpus: ``gold``, ``type``, ``answer`` (raw box content), ``response`` (whole text), ``right``."""
    for problem in range(PROBLEMS):
        rng = generator(SEED, "math_corpus", problem)
        numbers = _Numbers(rng)
        makers = FAST if problem % 8 == 0 else SLOW
        gold, kind, right, wrong = makers[numbers(0, len(makers) - 1)](numbers)
        for _ in range(ANSWERS):
            draw = numbers(0, 99)
            pool = list(GARBAGE) if draw < 3 else right[1:] if draw < 42 else right[:1] if draw < 47 else wrong
            answer = pool[numbers(0, len(pool) - 1)]
            response = WRAPPERS[numbers(0, len(WRAPPERS) - 1)].format(answer)
            yield {"gold": gold, "type": kind, "answer": answer, "response": response, "right": 3 <= draw < 47}


def main() -> None:
    """Write the corpus."""
    PATH.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records()), encoding="utf-8")


if __name__ == "__main__":
    main()
