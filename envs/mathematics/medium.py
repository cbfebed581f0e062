"""Level "medium": several steps, systems, quadratics, modular arithmetic, rates, integrals."""

from __future__ import annotations

from fractions import Fraction

from sdgym.envs.mathematics.problem import Draw, Maker, Problem, boxed, fraction, polynomial, signed
from sdgym.envs.mathematics.tiny import NAMES


def nested(draw: Draw) -> Problem:
    """Nested brackets: a - b*(c - d*(e - f))."""
    a, b, c, d, e, f = (draw.between(2, 15) for _ in range(6))
    inner = e - f
    middle = c - d * inner
    answer = a - b * middle
    solution = f"Innermost: {e} - {f} = {inner}. Next: {c} - {d}*({inner}) = {middle}. Last: {a} - {b}*({middle}) = {answer}. So {boxed(str(answer))}."
    mistakes = (str(a + b * middle), str((a - b) * middle), str(a - b * (c + d * inner)))
    text = f"What is {a} - {b}*({c} - {d}*({e} - {f}))?"
    return Problem("arithmetic", "nested", (a, b, c, d, e, f), text, str(answer), "int", solution, mistakes, c % 3)


def percentage(draw: Draw) -> Problem:
    """Relative change in percent."""
    base, rate, sign = draw.between(2, 40) * 20, draw.between(1, 19) * 5, draw.pick((1, -1))
    new = base + sign * base * rate // 100
    text = f"A price goes from {base} to {new}. By what percentage does it {'rise' if sign > 0 else 'fall'}?"
    solution = f"The change is {abs(new - base)}. {abs(new - base)}/{base} = {fraction(Fraction(rate, 100))}, which is {rate} percent. So {boxed(f'{rate}%')}."
    mistakes = (f"{abs(new - base)}%", fraction(Fraction(rate, 100)), f"{100 - rate}%")
    return Problem("arithmetic", "percent_change", (base, new), text, f"{rate}%", "percent", solution, mistakes, (rate // 5) % 3)


def quotient_of_fractions(draw: Draw) -> Problem:
    """(a/b) / (c/d) + e/f."""
    b, d, f = draw.distinct(3, 2, 11)
    a, c, e = draw.between(1, 9), draw.between(1, 9), draw.between(1, 9)
    first, second, third = Fraction(a, b), Fraction(c, d), Fraction(e, f)
    answer = first / second + third
    solution = (
        f"Dividing is multiplying by the reciprocal: {a}/{b} * {d}/{c} = {fraction(first / second)}. "
        f"Adding {e}/{f} gives {fraction(answer)}. So {boxed(fraction(answer))}."
    )
    mistakes = (fraction(first * second + third), fraction(second / first + third), fraction(first / second - third))
    text = f"Compute ({a}/{b}) / ({c}/{d}) + {e}/{f} in lowest terms."
    return Problem(
        "fractions", "quotient", (a, b, c, d, e, f), text, fraction(answer), "rational", solution, mistakes, b % 3, "lowest_terms"
    )


def system(draw: Draw) -> Problem:
    """Two linear equations in two unknowns."""
    x, y = draw.nonzero(9), draw.nonzero(9)
    a, b, c, d = (draw.nonzero(7) for _ in range(4))
    if a * d == b * c:
        d += 1 if d != -1 else 2
    det, p, q = a * d - b * c, a * x + b * y, c * x + d * y
    first, second = (f"{polynomial([u, 0])}{'' if v < 0 else '+'}{polynomial([v, 0], 'y')} = {w}" for u, v, w in ((a, b, p), (c, d, q)))
    answer = f"({x},{y})"
    solution = (
        f"The determinant is ({a})*({d}) - ({b})*({c}) = {det}. x = (({p})*({d}) - ({b})*({q}))/({det}) = {x}, "
        f"y = (({a})*({q}) - ({p})*({c}))/({det}) = {y}. So {boxed(answer)}."
    )
    mistakes = (f"({y},{x})", f"({-x},{y})", f"({x},{-y})")
    text = f"Solve the system {first} and {second}. Answer with the pair (x,y)."
    return Problem("equations", "system", (a, b, p, c, d, q), text, answer, "tuple", solution, mistakes, abs(a) % 3)


def inequality(draw: Draw) -> Problem:
    """Solve a x + b <= c (or <); the answer is an interval."""
    a, x, b, strict = draw.nonzero(9), draw.nonzero(12), draw.nonzero(20), draw.pick((True, False))
    c = a * x + b
    below = a > 0
    closing = ")" if strict else "]"
    opening = "(" if strict else "["
    low, high = f"(-\\infty,{x}{closing}", f"{opening}{x},\\infty)"
    answer, flipped = (low, high) if below else (high, low)
    sign = "<" if strict else "\\le"
    solution = (
        f"Move the constant: {polynomial([a, 0])} {sign} {c - b}. Dividing by {a} {'keeps' if below else 'turns'} the sign; "
        f"the bound is {x}. So {boxed(answer)}."
    )
    other = answer.replace(closing, "]" if strict else ")") if below else answer.replace(opening, "[" if strict else "(")
    text = f"Solve {polynomial([a, b])} {sign} {c}. Answer with an interval."
    return Problem("equations", "inequality", (a, b, c, strict), text, answer, "interval", solution, (flipped, other), abs(x) % 3)


def quadratic_roots(draw: Draw) -> Problem:
    """Roots of a quadratic with integer roots."""
    r, s = sorted(draw.distinct(2, -10, 10))
    k = draw.between(1, 4)
    body = polynomial([k, -k * (r + s), k * r * s])
    answer = f"\\{{{r},{s}\\}}"
    divided = f"Divide by {k}: {polynomial([1, -(r + s), r * s])} = 0. " if k > 1 else ""
    solution = f"{divided}Two numbers with sum {r + s} and product {r * s} are {r} and {s}. So {boxed(answer)}."
    mistakes = (f"\\{{{-s},{-r}\\}}", f"\\{{{r}\\}}", f"\\{{{s}\\}}")
    text = f"Find all solutions of {body} = 0. Answer with a set."
    return Problem("polynomials", "roots", (r, s, k), text, answer, "set", solution, mistakes, abs(r) % 3)


def polynomial_remainder(draw: Draw) -> Problem:
    """Remainder of a cubic divided by x - c."""
    a, b, c, d, x = draw.nonzero(5), draw.between(-6, 6), draw.nonzero(9), draw.nonzero(12), draw.nonzero(4)
    answer = a * x**3 + b * x**2 + c * x + d
    solution = f"By the remainder theorem put x = {x}: {a * x**3} {signed(b * x * x)} {signed(c * x)} {signed(d)} = {answer}. So {boxed(str(answer))}."
    mistakes = (str(-a * x**3 + b * x**2 - c * x + d), str(d), str(answer - d))
    text = f"What is the remainder when {polynomial([a, b, c, d])} is divided by x{signed(-x)}?"
    return Problem("polynomials", "remainder", (a, b, c, d, x), text, str(answer), "int", solution, mistakes, abs(x) % 3)


def modular_power(draw: Draw) -> Problem:
    """Remainder of a^k modulo m."""
    m, a, k = draw.between(5, 23), draw.between(2, 12), draw.between(6, 40)
    powers, value = [], 1
    for bit in bin(k)[2:]:
        value = value * value * (a if bit == "1" else 1) % m
        powers.append(str(value))
    solution = f"Square and multiply along {bin(k)[2:]} in binary, modulo {m}: {', '.join(powers)}. So {boxed(str(value))}."
    mistakes = (str(a * k % m), str(value * a % m), str(pow(a, k - 1, m)))
    text = f"What is the remainder of {a}^{{{k}}} divided by {m}?"
    return Problem("number_theory", "power", (a, k, m), text, str(value), "int", solution, mistakes, k % 3)


def geometric_term(draw: Draw) -> Problem:
    """n-th term of a geometric sequence."""
    start, ratio, n = draw.nonzero(9), draw.pick((2, 3, 4, 5, -2, -3)), draw.between(4, 8)
    answer = start * ratio ** (n - 1)
    listed = ", ".join(str(start * ratio**i) for i in range(3))
    solution = f"The ratio is {ratio}. Term {n} is {start} * ({ratio})^{n - 1} = {answer}. So {boxed(str(answer))}."
    mistakes = (str(answer * ratio), str(start * ratio * (n - 1)), str(-answer))
    return Problem(
        "sequences",
        "geometric",
        (start, ratio, n),
        f"What is term number {n} of {listed}, ...?",
        str(answer),
        "int",
        solution,
        mistakes,
        n % 3,
    )


def infinite_sum(draw: Draw) -> Problem:
    """Sum of an infinite geometric series."""
    start, q = draw.between(1, 30), draw.between(2, 12)
    p = draw.between(1, q - 1) * draw.pick((1, -1))
    ratio = Fraction(p, q)
    answer = start / (1 - ratio)
    solution = (
        f"The ratio is {fraction(ratio)}. The sum is {start}/(1 - ({fraction(ratio)})) = {fraction(answer)}. So {boxed(fraction(answer))}."
    )
    mistakes = (fraction(start / (1 + ratio)), fraction(start * ratio / (1 - ratio)), fraction(1 / (1 - ratio)))
    text = f"An infinite geometric series has first term {start} and ratio {fraction(ratio)}. What is its sum?"
    return Problem("sequences", "infinite", (start, p, q), text, fraction(answer), "rational", solution, mistakes, q % 3)


def exponential_derivative(draw: Draw) -> Problem:
    """Derivative of (ax+b) e^{kx}."""
    a, b, k = draw.nonzero(9), draw.nonzero(9), draw.between(2, 7)
    slope = polynomial([a * k, a + b * k])
    answer = f"({slope})e^{{{k}x}}"
    solution = f"Product rule: {a}e^{{{k}x}} + {k}({polynomial([a, b])})e^{{{k}x}} = {answer}. So {boxed(answer)}."
    mistakes = (f"{a * k}e^{{{k}x}}", f"({polynomial([a, a + b])})e^{{{k}x}}", f"({slope})e^{{{k - 1}x}}")
    text = f"Differentiate ({polynomial([a, b])})e^{{{k}x}}."
    return Problem("calculus", "product_rule", (a, b, k), text, answer, "expr", solution, mistakes, k % 3)


def definite_integral(draw: Draw) -> Problem:
    """Integral of a quadratic over [0, u]."""
    a, b, c, u = draw.nonzero(6), draw.nonzero(9), draw.nonzero(9), draw.between(1, 6)
    parts = (Fraction(a * u**3, 3), Fraction(b * u**2, 2), Fraction(c * u))
    answer = sum(parts, Fraction(0))
    solution = (
        f"An antiderivative is {a}x^3/3 {signed(b)}x^2/2 {signed(c)}x. At {u}: {' + '.join(f'({fraction(p)})' for p in parts)} = "
        f"{fraction(answer)}, at 0: 0. So {boxed(fraction(answer))}."
    )
    mistakes = (str(a * u * u + b * u + c), str(a * u**3 + b * u**2 + c * u), str(2 * a * u + b))
    text = f"Compute \\int_0^{{{u}}} ({polynomial([a, b, c])}) dx exactly."
    return Problem("calculus", "integral", (a, b, c, u), text, fraction(answer), "rational", solution, mistakes, u % 3)


def working_together(draw: Draw) -> Problem:
    """Joint work rates."""
    p, q = draw.distinct(2, 2, 30)
    together = Fraction(p * q, p + q)
    n, m = draw.distinct(2, 0, len(NAMES) - 1)
    text = f"{NAMES[n]} paints a fence in {p} hours and {NAMES[m]} in {q} hours. How many hours do they need together? Answer exactly."
    solution = (
        f"Per hour they paint 1/{p} + 1/{q} = {fraction(1 / together)}. The time is {fraction(together)}. So {boxed(fraction(together))}."
    )
    mistakes = (fraction(Fraction(p + q, 2)), str(p + q), fraction(1 / together))
    return Problem("word_problems", "work", (p, q), text, fraction(together), "rational", solution, mistakes, p % 3)


def journey(draw: Draw) -> Problem:
    """Average speed of a journey of two legs."""
    v, w, s, t = draw.between(3, 12) * 10, draw.between(3, 12) * 10, draw.between(1, 6), draw.between(1, 6)
    distance = v * s + w * t
    answer = Fraction(distance, s + t)
    text = f"A train runs at {v} km/h for {s} h and then at {w} km/h for {t} h. What is its average speed in km/h? Answer exactly."
    solution = f"{v}*{s} + {w}*{t} = {distance} km in {s + t} h: {distance}/{s + t} = {fraction(answer)}. So {boxed(fraction(answer))}."
    mistakes = (fraction(Fraction(v + w, 2)), str(distance), fraction(Fraction(distance, 2)))
    return Problem("word_problems", "speed", (v, s, w, t), text, fraction(answer), "rational", solution, mistakes, s % 3)


def circle(draw: Draw) -> Problem:
    """Held out: area and circumference of a circle, exactly."""
    r, skill = draw.between(2, 40), draw.pick(("area", "circumference"))
    area, around = f"{r * r}\\pi", f"{2 * r}\\pi"
    answer, other = (area, around) if skill == "area" else (around, area)
    formula = f"\\pi * {r}^2" if skill == "area" else f"2\\pi * {r}"
    text = f"A circle has radius {r}. What is its exact {skill}?"
    return Problem("geometry", skill, (r,), text, answer, "expr", f"{formula} = {answer}. So {boxed(answer)}.", (other, f"{r}\\pi"), r % 3)


MEDIUM: tuple[tuple[Maker, int], ...] = (
    (nested, 3),
    (percentage, 1),
    (quotient_of_fractions, 4),
    (system, 3),
    (inequality, 1),
    (quadratic_roots, 2),
    (polynomial_remainder, 2),
    (modular_power, 4),
    (geometric_term, 1),
    (infinite_sum, 2),
    (exponential_derivative, 1),
    (definite_integral, 3),
    (working_together, 1),
    (journey, 3),
)
MEDIUM_HELDOUT: tuple[tuple[Maker, int], ...] = ((circle, 1),)
