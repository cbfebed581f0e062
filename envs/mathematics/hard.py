"""Level "hard": competition-style combinations, surds, matrices, congruences, optimisation."""

from __future__ import annotations

import math
from fractions import Fraction

from sdgym.envs.mathematics.problem import Draw, Maker, Problem, boxed, fraction, polynomial, signed


def power_sum(draw: Draw) -> Problem:
    """Sum of consecutive squares."""
    a = draw.between(2, 40)
    b = a + draw.between(10, 60)

    def below(n: int) -> int:
        return n * (n + 1) * (2 * n + 1) // 6

    answer = below(b) - below(a - 1)
    solution = (
        f"1^2+...+n^2 = n(n+1)(2n+1)/6. For n = {b}: {below(b)}. For n = {a - 1}: {below(a - 1)}. "
        f"The difference is {answer}. So {boxed(str(answer))}."
    )
    mistakes = (str(below(b) - below(a)), str(below(b)), str((b * (b + 1) // 2 - a * (a - 1) // 2) ** 2))
    return Problem(
        "arithmetic", "squares", (a, b), f"Compute {a}^2 + {a + 1}^2 + ... + {b}^2.", str(answer), "int", solution, mistakes, a % 3
    )


def telescope(draw: Draw) -> Problem:
    """Sum of 1/(k(k+d)) telescoping."""
    d, a, n = draw.between(1, 4), draw.between(1, 9), draw.between(5, 30)
    ends = [a + i * d for i in range(n + 1)]
    answer = Fraction(1, d) * (Fraction(1, ends[0]) - Fraction(1, ends[-1]))
    text = f"Compute the sum of 1/(k(k+{d})) over k = {ends[0]}, {ends[1]}, {ends[2]}, ..., {ends[-2]} in lowest terms."
    solution = (
        f"1/(k(k+{d})) = (1/k - 1/(k+{d}))/{d}, and the steps are {d}, so everything cancels but the ends: "
        f"(1/{ends[0]} - 1/{ends[-1]})/{d} = {fraction(answer)}. So {boxed(fraction(answer))}."
    )
    mistakes = (
        fraction(Fraction(1, ends[0]) - Fraction(1, ends[-1])) if d > 1 else fraction(Fraction(1, ends[0])),
        fraction(Fraction(1, d) * (Fraction(1, ends[0]) - Fraction(1, ends[-2]))),
        fraction(answer * 2),
    )
    return Problem("fractions", "telescope", (d, a, n), text, fraction(answer), "rational", solution, mistakes, n % 3, "lowest_terms")


def continued_fraction(draw: Draw) -> Problem:
    """Value of a finite continued fraction."""
    terms = [draw.between(1, 9) for _ in range(4)] + [draw.between(2, 9)]
    values = [Fraction(terms[-1])]
    for term in reversed(terms[:-1]):
        values.append(term + 1 / values[-1])
    answer = values[-1]
    listed = f"{terms[0]} + 1/({terms[1]} + 1/({terms[2]} + 1/({terms[3]} + 1/{terms[4]})))"
    solution = f"From the inside: {', '.join(fraction(v) for v in values)}. So {boxed(fraction(answer))}."
    mistakes = (fraction(1 / answer), fraction(values[-2]), fraction(answer + 1))
    text = f"Write {listed} as one fraction in lowest terms."
    return Problem(
        "fractions", "continued", tuple(terms), text, fraction(answer), "rational", solution, mistakes, terms[0] % 3, "lowest_terms"
    )


def three_unknowns(draw: Draw) -> Problem:
    """Three equations: two pair sums with coefficients and a total."""
    x, y, z = (draw.nonzero(9) for _ in range(3))
    a, b = draw.between(2, 6), draw.between(2, 6)
    p, q, r = a * x + y, b * y - z, x + y + z
    answer = f"({x},{y},{z})"
    text = f"Solve {a}x + y = {p}, {b}y - z = {q}, x + y + z = {r}. Answer with (x,y,z)."
    k = 1 - a * (1 + b)
    solution = (
        f"y = {p} - {a}x and z = {b}y - ({q}). In the third: x + (1+{b})({p} - {a}x) - ({q}) = {r}, "
        f"so {k}x = {r + q - (1 + b) * p}, x = {x}. Then y = {y} and z = {z}. So {boxed(answer)}."
    )
    mistakes = (f"({x},{y},{-z})", f"({z},{y},{x})", f"({-x},{y},{z})")
    return Problem("equations", "three", (a, b, p, q, r), text, answer, "tuple", solution, mistakes, a % 3)


def surd_roots(draw: Draw) -> Problem:
    """Quadratic with irrational roots m ± k√d."""
    m, k, d = draw.nonzero(9), draw.between(1, 5), draw.pick((2, 3, 5, 6, 7, 10, 11, 13))
    b, c = -2 * m, m * m - k * k * d
    root = f"\\sqrt{{{d}}}" if k == 1 else f"{k}\\sqrt{{{d}}}"
    answer = f"\\{{{m}-{root},{m}+{root}\\}}"
    body = polynomial([1, b, c])
    solution = f"(x{signed(-m)})^2 = {m * m} - ({c}) = {k * k * d}, so x = {m} \\pm \\sqrt{{{k * k * d}}}, that is {m} \\pm {root}. So {boxed(answer)}."
    flipped = f"\\{{{-m}-{root},{-m}+{root}\\}}"
    mistakes = (flipped, f"\\{{{m}-{k * k * d},{m}+{k * k * d}\\}}", f"\\{{{m}+{root}\\}}")
    text = f"Find all real solutions of {body} = 0 exactly. Answer with a set."
    return Problem("equations", "surds", (m, k, d), text, answer, "set", solution, mistakes, abs(m) % 3)


def inverse_matrix(draw: Draw) -> Problem:
    """Inverse of a 2x2 integer matrix of determinant 1."""
    p, q, r = draw.nonzero(5), draw.nonzero(5), draw.between(-3, 3)
    a, b, c, d = 1 + p * q, p + r * (1 + p * q), q, 1 + q * r  # (1 p; 0 1)(1 0; q 1)(1 r; 0 1)

    def write(w: int, x: int, y: int, z: int) -> str:
        return f"\\begin{{pmatrix}}{w}&{x}\\\\{y}&{z}\\end{{pmatrix}}"

    answer = write(d, -b, -c, a)
    solution = f"The determinant is ({a})*({d}) - ({b})*({c}) = 1. Swap the diagonal, negate the rest: {boxed(answer)}."
    mistakes = (write(d, b, c, a), write(a, -b, -c, d), write(-d, b, c, -a))
    text = f"What is the inverse of the matrix {write(a, b, c, d)}?"
    return Problem("equations", "inverse_matrix", (a, b, c, d), text, answer, "matrix", solution, mistakes, abs(p) % 3)


def quadratic_inequality(draw: Draw) -> Problem:
    """Sign of (x-r)(x-s); the answer is an interval or a union of two."""
    r, s = sorted(draw.distinct(2, -12, 12))
    outside, strict = draw.pick((True, False)), draw.pick((True, False))
    op, cl = ("(", ")") if strict else ("[", "]")
    inner = f"{op}{r},{s}{cl}"
    outer = f"(-\\infty,{r}{cl}\\cup{op}{s},\\infty)"
    answer, other = (outer, inner) if outside else (inner, outer)
    sign = (">" if outside else "<") if strict else ("\\ge" if outside else "\\le")
    wrong_signs = f"{op}{-s},{-r}{cl}" if not outside else f"(-\\infty,{-s}{cl}\\cup{op}{-r},\\infty)"
    solution = f"The roots are {r} and {s}; the parabola opens upwards, so it is {'positive outside' if outside else 'negative between'} them. So {boxed(answer)}."
    text = f"Solve {polynomial([1, -(r + s), r * s])} {sign} 0. Answer with intervals."
    return Problem(
        "polynomials", "inequality", (r, s, outside, strict), text, answer, "interval", solution, (other, wrong_signs), abs(s) % 3
    )


def vieta(draw: Draw) -> Problem:
    """Sum of squares, or of reciprocals, of the roots of a cubic."""
    a, b, c, d = draw.between(1, 5), draw.nonzero(12), draw.nonzero(12), draw.nonzero(12)
    skill = draw.pick(("squares", "reciprocals"))
    s, p, t = Fraction(-b, a), Fraction(c, a), Fraction(-d, a)
    answer = s * s - 2 * p if skill == "squares" else p / t
    rule = "s^2 - 2p" if skill == "squares" else "p/t"
    solution = (
        f"By Vieta the sum of the roots is s = {fraction(s)}, of their pairwise products p = {fraction(p)}, their product t = {fraction(t)}. "
        f"{rule} = {fraction(answer)}. So {boxed(fraction(answer))}."
    )
    mistakes = (
        (fraction(s * s + 2 * p), fraction(s * s), fraction(-answer))
        if skill == "squares"
        else (fraction(-answer), fraction(t / p), fraction(s / t))
    )
    text = f"What is the sum of the {skill} of the three complex roots of {polynomial([a, b, c, d])}, exactly?"
    return Problem("polynomials", f"vieta_{skill}", (a, b, c, d), text, fraction(answer), "rational", solution, mistakes, a % 3)


def congruences(draw: Draw) -> Problem:
    """Smallest non-negative solution of two congruences."""
    m, n = draw.pick([(m, n) for m in range(5, 30) for n in range(m + 1, 31) if math.gcd(m, n) == 1])
    x = draw.between(0, m * n - 1)
    a, b = x % m, x % n
    step = next(k for k in range(n) if (a + k * m) % n == b)
    solution = f"x = {a} + {m}k. Modulo {n} this is {b} first for k = {step}: x = {a} + {m}*{step} = {x}. So {boxed(str(x))}."
    mistakes = (str(a + m * (step + 1)), str(x + m * n), str((a * b) % (m * n)))
    text = f"Find the smallest non-negative x with remainder {a} modulo {m} and remainder {b} modulo {n}."
    return Problem("number_theory", "congruences", (a, m, b, n), text, str(x), "int", solution, mistakes, m % 3)


def totient(draw: Draw) -> Problem:
    """Euler's totient."""
    primes = (2, 3, 5, 7, 11, 13)
    chosen = sorted({draw.pick(primes), draw.pick(primes), draw.pick(primes)})
    powers = [(p, draw.between(1, 3 if p < 5 else 2)) for p in chosen]
    n = math.prod(p**e for p, e in powers)
    answer = math.prod(p ** (e - 1) * (p - 1) for p, e in powers)
    listed = " * ".join(f"{p}^{e}" for p, e in powers)
    steps = " * ".join(f"{p ** (e - 1) * (p - 1)}" for p, e in powers)
    text = f"How many integers from 1 to {n} have no common factor with {n} greater than 1?"
    solution = f"{n} = {listed}. Euler's totient is {steps} = {answer}. So {boxed(str(answer))}."
    mistakes = (str(math.prod(p - 1 for p, _ in powers)), str(n - len(powers)), str(n - answer))
    return Problem("number_theory", "totient", (n,), text, str(answer), "int", solution, mistakes, n % 3)


def recurrence(draw: Draw) -> Problem:
    """A second-order recurrence."""
    p, q, a, b, n = draw.between(1, 4), draw.nonzero(3), draw.between(0, 5), draw.between(1, 5), draw.between(6, 10)
    terms = [a, b]
    while len(terms) <= n:
        terms.append(p * terms[-1] + q * terms[-2])
    rule = f"a_n = {p}a_{{n-1}} {signed(q)}a_{{n-2}}"
    text = f"Let a_0 = {a}, a_1 = {b} and {rule}. What is a_{{{n}}}?"
    solution = f"The terms are {', '.join(map(str, terms))}. So {boxed(str(terms[n]))}."
    mistakes = (str(terms[n - 1]), str(p * terms[n] + q * terms[n - 1]), str(p * terms[n - 1] - q * terms[n - 2]))
    return Problem("sequences", "recurrence", (p, q, a, b, n), text, str(terms[n]), "int", solution, mistakes, n % 3)


def tangent(draw: Draw) -> Problem:
    """Tangent line to a cubic."""
    a, b, c, x = draw.nonzero(4), draw.nonzero(6), draw.nonzero(9), draw.nonzero(3)
    y, m = a * x**3 + b * x + c, 3 * a * x * x + b
    answer = f"y={polynomial([m, y - m * x])}"
    solution = (
        f"At x = {x} the value is {y} and the slope 3*({a})*({x})^2 {signed(b)} = {m}. y = {y} + ({m})(x{signed(-x)}). So {boxed(answer)}."
    )
    mistakes = (f"y={polynomial([m, y])}", f"y={polynomial([m, y + m * x])}", f"y={polynomial([a * x * x + b, y - m * x])}")
    text = f"Find the tangent line of y = {polynomial([a, 0, b, c])} at x = {x}. Answer in the form y = mx + n."
    return Problem("calculus", "tangent", (a, b, c, x), text, answer, "expr", solution, mistakes, abs(x) % 3)


def trigonometric_integral(draw: Draw) -> Problem:
    """Integral of a sin(kx) + b x over [0, pi/(2k)] or [0, pi/k]."""
    k, a, b, half = draw.between(1, 6), draw.between(1, 12), draw.between(1, 12), draw.pick((True, False))
    n = 2 * k if half else k
    trig, square = Fraction(a if half else 2 * a, k), Fraction(b, 2 * n * n)

    def write(t: Fraction, s: Fraction) -> str:
        pi = f"\\frac{{{s.numerator}\\pi^2}}{{{s.denominator}}}" if s.denominator > 1 else f"{s.numerator}\\pi^2"
        return f"{fraction(t)}+{pi}"

    answer = write(trig, square)
    top = f"\\pi/{n}" if n > 1 else "\\pi"
    solution = f"-{a}\\cos({k}x)/{k} + {b}x^2/2 from 0 to {top}: the first part gives {fraction(trig)}, the second {fraction(square)}\\pi^2. So {boxed(answer)}."
    mistakes = (write(trig * k, square) if k > 1 else write(trig + 1, square), write(trig, square * 2), write(trig * 2, square))
    text = f"Compute \\int_0^{{{top}}} ({a}\\sin({k}x) + {b}x) dx exactly."
    return Problem("calculus", "trigonometric", (k, a, b, half), text, answer, "expr", solution, mistakes, k % 3)


def compound_interest(draw: Draw) -> Problem:
    """Savings after several years, to the cent."""
    start, rate, years = draw.between(2, 60) * 50, draw.between(1, 9), draw.between(2, 5)
    exact = start * (1 + Fraction(rate, 100)) ** years
    answer = f"{math.floor(exact * 100 + Fraction(1, 2)) / 100:.2f}"
    text = f"{start} dollars earn {rate} percent interest a year, compounded yearly. How many dollars are there after {years} years, to the cent?"
    solution = f"Each year multiplies by 1.0{rate}: {start} * 1.0{rate}^{years} = {answer} to the cent. So {boxed(answer)}."
    mistakes = (
        f"{start * (1 + rate * years / 100):.2f}",
        f"{float(start * (1 + Fraction(rate, 100)) ** (years - 1)):.2f}",
        f"{float(exact - start):.2f}",
    )
    return Problem("word_problems", "interest", (start, rate, years), text, answer, "decimal", solution, mistakes, rate % 3, "", 0.005)


def meeting(draw: Draw) -> Problem:
    """Two trains towards each other, one starting later."""
    v, w, late = draw.between(4, 12) * 10, draw.between(4, 12) * 10, draw.between(1, 3)
    apart = draw.between(3, 30) * 20 + v * late
    hours = Fraction(apart - v * late, v + w)
    answer = v * (late + hours)
    text = (
        f"Two stations are {apart} km apart. A train leaves the first at {v} km/h; {late} h later another leaves the second towards it "
        f"at {w} km/h. How many km from the first station do they meet? Answer exactly."
    )
    solution = (
        f"The first train has {v * late} km when the other starts; {apart - v * late} km remain. They close {v + w} km/h, which takes "
        f"{fraction(hours)} hours. {v * late} + {v}*{fraction(hours)} = {fraction(answer)}. So {boxed(fraction(answer))}."
    )
    mistakes = (fraction(v * hours), fraction(Fraction(apart * v, v + w)), fraction(apart - answer))
    return Problem("word_problems", "meeting", (v, w, late, apart), text, fraction(answer), "rational", solution, mistakes, late % 3)


def heron(draw: Draw) -> Problem:
    """Held out: area of a triangle from its sides, exactly."""
    a, b = draw.between(4, 20), draw.between(4, 20)
    c = draw.between(abs(a - b) + 1, a + b - 1)
    square = (a + b + c) * (-a + b + c) * (a - b + c) * (a + b - c)
    answer = f"\\frac{{\\sqrt{{{square}}}}}{{4}}"
    text = f"A triangle has sides {a}, {b} and {c}. What is its exact area?"
    solution = (
        f"Heron: 16 times the square of the area is ({a + b + c})({b + c - a})({a + c - b})({a + b - c}) = {square}. So {boxed(answer)}."
    )
    mistakes = (f"\\sqrt{{{square}}}", f"\\frac{{\\sqrt{{{square}}}}}{{2}}")
    return Problem("geometry", "heron", (a, b, c), text, answer, "expr", solution, mistakes, c % 3)


HARD: tuple[tuple[Maker, int], ...] = (
    (power_sum, 4),
    (telescope, 2),
    (continued_fraction, 2),
    (three_unknowns, 2),
    (surd_roots, 2),
    (inverse_matrix, 1),
    (quadratic_inequality, 2),
    (vieta, 2),
    (congruences, 3),
    (totient, 1),
    (recurrence, 4),
    (tangent, 2),
    (trigonometric_integral, 2),
    (compound_interest, 2),
    (meeting, 2),
)
HARD_HELDOUT: tuple[tuple[Maker, int], ...] = ((heron, 1),)
