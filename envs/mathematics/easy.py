"""Level "easy": two or three steps, the first year of algebra and calculus."""

from __future__ import annotations

import math
from fractions import Fraction

from sdgym.envs.mathematics.problem import Draw, Maker, Problem, boxed, fraction, polynomial, signed
from sdgym.envs.mathematics.tiny import NAMES, THINGS


def order_of_operations(draw: Draw) -> Problem:
    """Sum and product without brackets: a + b * c - d."""
    a, b, c, d = draw.between(10, 99), draw.between(3, 19), draw.between(3, 12), draw.between(5, 60)
    answer = a + b * c - d
    solution = f"First {b} * {c} = {b * c}. Then {a} + {b * c} = {a + b * c}, and {a + b * c} - {d} = {answer}. So {boxed(str(answer))}."
    mistakes = (str((a + b) * c - d), str(a + b * c + d), str(answer + 10))
    text = f"What is {a} + {b} * {c} - {d}?"
    return Problem("arithmetic", "order", (a, b, c, d), text, str(answer), "int", solution, mistakes, b % 3)


def unlike_fractions(draw: Draw) -> Problem:
    """Sum or difference of fractions with different denominators."""
    n, m = draw.distinct(2, 2, 12)
    a, b, operation = draw.between(1, n - 1), draw.between(1, m - 1), draw.pick("+-")
    common = math.lcm(n, m)
    left, right = a * common // n, b * common // m
    top = left + right if operation == "+" else left - right
    value = Fraction(top, common)
    solution = (
        f"The common denominator is {common}: {a}/{n} = {left}/{common} and {b}/{m} = {right}/{common}. "
        f"{left} {operation} {right} = {top}, and {top}/{common} = {fraction(value)} in lowest terms. So {boxed(fraction(value))}."
    )
    naive = Fraction(a + b, n + m) if operation == "+" else Fraction(a - b, n * m)
    mistakes = (fraction(naive), f"{top}/{common}", fraction(Fraction(left - right if operation == "+" else left + right, common)))
    text = f"Compute {a}/{n} {operation} {b}/{m} in lowest terms."
    return Problem(
        "fractions", "unlike", (a, n, operation, b, m), text, fraction(value), "rational", solution, mistakes, n % 3, "lowest_terms"
    )


def two_step_equation(draw: Draw) -> Problem:
    """Solve a x + b = c; the solution is an integer."""
    a, x, b = draw.between(2, 12), draw.nonzero(15), draw.nonzero(30)
    c = a * x + b
    left = polynomial([a, b])
    undo = f"{'Subtract' if b > 0 else 'Add'} {abs(b)}"
    solution = f"{left} = {c}. {undo}: {a}x = {c - b}. Divide by {a}: x = {x}. So {boxed(str(x))}."
    mistakes = (fraction(Fraction(c + b, a)), str(-x), str(c - b))
    return Problem("equations", "two_step", (a, b, c), f"Solve {left} = {c} for x.", str(x), "int", solution, mistakes, a % 3)


def both_sides(draw: Draw) -> Problem:
    """Solve a x + b = c x + d; the solution is an integer."""
    c, a = sorted(draw.distinct(2, 2, 12))
    x, b = draw.nonzero(12), draw.nonzero(20)
    d = (a - c) * x + b
    left, right = polynomial([a, b]), polynomial([c, d])
    solution = f"{left} = {right}. Collect x: {a - c}x = {d}{signed(-b)} = {d - b}. Divide by {a - c}: x = {x}. So {boxed(str(x))}."
    mistakes = (fraction(Fraction(d - b, a + c)), fraction(Fraction(d + b, a - c)), str(-x))
    return Problem(
        "equations", "both_sides", (a, b, c, d), f"Solve {left} = {right} for x.", str(x), "int", solution, mistakes, (a + c) % 3
    )


def product_of_binomials(draw: Draw) -> Problem:
    """Expand (ax+b)(cx+d)."""
    a, c, b, d = draw.between(2, 7), draw.between(1, 7), draw.nonzero(9), draw.nonzero(9)
    answer = polynomial([a * c, a * d + b * c, b * d])
    left, right = polynomial([a, b]), polynomial([c, d])
    solution = f"x^2: {a}*{c} = {a * c}. x: {a}*({d}) + ({b})*{c} = {a * d + b * c}. Constant: ({b})*({d}) = {b * d}. So {boxed(answer)}."
    mistakes = (polynomial([a * c, 0, b * d]), polynomial([a * c, b + d, b * d]), polynomial([a * c, a * d + b * c, -b * d]))
    return Problem(
        "polynomials", "binomials", (a, b, c, d), f"Expand ({left})({right}).", answer, "expr", solution, mistakes, a % 3, "expanded"
    )


def least_multiple(draw: Draw) -> Problem:
    """Least common multiple of two numbers."""
    g = draw.between(2, 9)
    m, n = draw.distinct(2, 2, 12)
    a, b = g * m, g * n
    answer, g = math.lcm(a, b), math.gcd(a, b)
    text = f"What is the least common multiple of {a} and {b}?"
    solution = f"The greatest common divisor of {a} and {b} is {g}. {a} * {b} / {g} = {a * b // g}. So {boxed(str(answer))}."
    return Problem("number_theory", "lcm", (a, b), text, str(answer), "int", solution, (str(a * b), str(g), str(max(a, b))), a % 3)


def divisor_count(draw: Draw) -> Problem:
    """Number of positive divisors of p^a q^b."""
    p, q = sorted(draw.pick([(2, 3), (2, 5), (2, 7), (3, 5), (3, 7), (5, 7), (2, 11), (3, 11)]))
    a, b = draw.between(1, 6), draw.between(1, 3)
    n, answer = p**a * q**b, (a + 1) * (b + 1)
    solution = f"{n} = {p}^{a} * {q}^{b}, so it has ({a}+1)({b}+1) = {answer} divisors. So {boxed(str(answer))}."
    text = f"How many positive divisors does {n} have?"
    return Problem("number_theory", "divisors", (n,), text, str(answer), "int", solution, (str(a * b), str(a + b), str(answer - 1)), a % 3)


def nth_term(draw: Draw) -> Problem:
    """n-th term of an arithmetic sequence."""
    start, step, n = draw.between(-20, 40), draw.nonzero(12), draw.between(10, 60)
    answer = start + (n - 1) * step
    shown = ", ".join(str(start + i * step) for i in range(4))
    solution = (
        f"The step is {step}. Term {n} is {start} + {n - 1}*({step}) = {start} + ({(n - 1) * step}) = {answer}. So {boxed(str(answer))}."
    )
    mistakes = (str(start + n * step), str(n * step), str(start + (n - 2) * step))
    text = f"What is term number {n} of the arithmetic sequence {shown}, ...?"
    return Problem("sequences", "nth_term", (start, step, n), text, str(answer), "int", solution, mistakes, n % 3)


def arithmetic_sum(draw: Draw) -> Problem:
    """Sum of the first n terms of an arithmetic sequence."""
    start, step, n = draw.between(1, 20), draw.between(1, 9), draw.between(8, 30)
    last = start + (n - 1) * step
    answer = n * (start + last) // 2
    solution = f"Term {n} is {start} + {n - 1}*{step} = {last}. The sum is {n}*({start}+{last})/2 = {answer}. So {boxed(str(answer))}."
    mistakes = (str(n * (start + last)), str(n * (start + last + step) // 2), str(last))
    text = f"What is the sum of the first {n} terms of the arithmetic sequence {start}, {start + step}, {start + 2 * step}, ...?"
    return Problem("sequences", "sum", (start, step, n), text, str(answer), "int", solution, mistakes, n % 3)


def polynomial_derivative(draw: Draw) -> Problem:
    """Derivative of a cubic polynomial."""
    c = [draw.nonzero(9), draw.nonzero(9), draw.nonzero(9), draw.nonzero(20)]
    answer = polynomial([3 * c[0], 2 * c[1], c[2]])
    solution = (
        f"Term by term: ({c[0]})*3 = {3 * c[0]}, ({c[1]})*2 = {2 * c[1]}, ({c[2]})*1 = {c[2]}, a constant gives 0. So {boxed(answer)}."
    )
    mistakes = (polynomial([3 * c[0], 2 * c[1], c[2] + c[3]]), polynomial([c[0], c[1], c[2]]), polynomial([3 * c[0], 2 * c[1], c[2], 0]))
    return Problem("calculus", "derivative", tuple(c), f"Differentiate {polynomial(c)}.", answer, "expr", solution, mistakes, c[1] % 3)


def slope(draw: Draw) -> Problem:
    """Slope of a quadratic at a point."""
    a, b, c, x = draw.nonzero(9), draw.nonzero(12), draw.nonzero(20), draw.nonzero(6)
    answer, body = 2 * a * x + b, polynomial([a, b, c])
    solution = f"The derivative is {polynomial([2 * a, b])}. At x = {x}: ({2 * a})*({x}) {signed(b)} = {answer}. So {boxed(str(answer))}."
    mistakes = (str(a * x * x + b * x + c), str(a * x + b), str(2 * a * x))
    text = f"What is the slope of y = {body} at x = {x}?"
    return Problem("calculus", "slope", (a, b, c, x), text, str(answer), "int", solution, mistakes, abs(x) % 3)


def shopping(draw: Draw) -> Problem:
    """Several items, then change."""
    price, count = draw.between(3, 14), draw.between(3, 12)
    extra = draw.between(2, 20)
    cost = price * count + extra
    paid = (cost // 10 + draw.between(1, 5)) * 10
    answer, name, thing = paid - cost, draw.pick(NAMES), draw.pick(THINGS)
    text = f"{name} buys {count} {thing} at {price} dollars each and a bag for {extra} dollars, and pays with {paid} dollars. How much change is due?"
    solution = f"{count} * {price} = {price * count}, plus {extra} is {cost}. {paid} - {cost} = {answer}. So {boxed(str(answer))}."
    mistakes = (str(paid - price * count), str(cost), str(paid - (price + extra) * count))
    return Problem("word_problems", "change", (price, count, extra, paid), text, str(answer), "int", solution, mistakes, count % 3)


def discount(draw: Draw) -> Problem:
    """Price after a percentage discount."""
    rate, price = draw.pick((5, 10, 15, 20, 25, 30, 40, 60)), draw.between(2, 40) * 20
    off = price * rate // 100
    answer, thing = price - off, draw.pick(("coat", "bike", "desk", "phone", "lamp"))
    text = f"A {thing} costs {price} dollars. It is sold at {rate} percent off. What is the new price in dollars?"
    solution = f"{rate} percent of {price} is {off}. {price} - {off} = {answer}. So {boxed(str(answer))}."
    mistakes = (str(off), str(price - rate), str(price + off))
    return Problem("word_problems", "discount", (rate, price), text, str(answer), "int", solution, mistakes, (price // 20) % 3)


def hypotenuse(draw: Draw) -> Problem:
    """Held out: Pythagoras."""
    p, q, r = draw.pick(((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29)))
    k = draw.between(1, 20)
    a, b, c = p * k, q * k, r * k
    text = f"A right triangle has legs {a} and {b}. How long is its hypotenuse?"
    solution = f"{a}^2 + {b}^2 = {a * a + b * b} = {c}^2. So {boxed(str(c))}."
    return Problem("geometry", "hypotenuse", (a, b), text, str(c), "int", solution, (str(a + b), str(c * c), str(b - a)), k % 3)


EASY: tuple[tuple[Maker, int], ...] = (
    (order_of_operations, 4),
    (unlike_fractions, 4),
    (two_step_equation, 2),
    (both_sides, 2),
    (product_of_binomials, 4),
    (least_multiple, 2),
    (divisor_count, 1),
    (nth_term, 2),
    (arithmetic_sum, 2),
    (polynomial_derivative, 2),
    (slope, 2),
    (shopping, 3),
    (discount, 1),
)
EASY_HELDOUT: tuple[tuple[Maker, int], ...] = ((hypotenuse, 1),)
