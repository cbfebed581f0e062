"""Level "tiny": one-step problems that a million parameters can learn without scratch work.

Every maker states its systematic mistakes, most tempting first, and how hard the novice finds the problem:
a feature that can be read off the numbers (a carry, the parity of a digit), so that difficulty varies by
task and not by chance.
"""

from __future__ import annotations

import math
from fractions import Fraction

from sdgym.envs.mathematics.problem import Draw, Maker, Problem, boxed, fraction, polynomial, signed

FIRST, SECOND = (20, 40, 99), (12, 20, 99)
"""Bounds on the two numbers of a problem: usual, rare, very rare, since a million parameters learn slowly."""
NAMES = ("Tom", "Ann", "Sam", "Mia", "Ben", "Eva", "Leo", "Zoe")
THINGS = ("apples", "books", "coins", "cards", "pens", "eggs", "shells", "stamps")


def _ease(hard: bool, digit: int) -> int:
    """Return 0 to 2 from a trait of the problem and the last digit of one of its numbers."""
    if hard:
        return 1 if digit % 10 in (1, 4, 7) else 2
    return 1 if digit % 10 in (3, 6, 9) else 0


def sum_steps(a: int, b: int) -> str:
    """Return the column addition of two numbers below 100 in words."""
    units, tens = a % 10 + b % 10, a // 10 + b // 10
    if units < 10:
        return f"{a % 10}+{b % 10}={units}, {a // 10}+{b // 10}={tens}"
    return f"{a % 10}+{b % 10}={units}, carry 1, {a // 10}+{b // 10}+1={tens + 1}"


def difference_steps(a: int, b: int) -> str:
    """Return the column subtraction a - b (a > b, below 200) in words."""
    if a % 10 >= b % 10:
        return f"{a % 10}-{b % 10}={a % 10 - b % 10}, {a // 10}-{b // 10}={a // 10 - b // 10}"
    return f"{a % 10 + 10}-{b % 10}={a % 10 + 10 - b % 10}, borrow 1, {a // 10}-{b // 10}-1={a // 10 - b // 10 - 1}"


def sum_mistakes(a: int, b: int) -> tuple[int, ...]:
    """Carry forgotten or invented, subtracted, counted from the first number."""
    carry = a % 10 + b % 10 >= 10
    return (a + b - 10 if carry else a + b + 10, abs(a - b), a + b - 1)


def difference_mistakes(a: int, b: int) -> tuple[int, ...]:
    """Smaller digit from larger, borrow not paid or paid without need, added."""
    if a % 10 < b % 10:
        swapped = abs(a // 10 - b // 10) * 10 + abs(a % 10 - b % 10)
        return (swapped, a - b + 10, a + b)
    return (a - b - 10 if a - b >= 10 else a - b + 10, a + b, a - b + 1)


def carries(a: int, b: int) -> bool:
    """Whether a + b carries from the units."""
    return a % 10 + b % 10 >= 10


def borrows(a: int, b: int) -> bool:
    """Whether a - b borrows into the units."""
    return a % 10 < b % 10


def operands(draw: Draw) -> tuple[int, int]:
    """Return two different numbers from 2 to 99, mostly small."""
    a = draw.mostly(2, *FIRST)
    while (b := draw.mostly(2, *SECOND)) == a:
        pass
    return a, b


def _texts(values: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def add(draw: Draw) -> Problem:
    """Addition, with and without a carry."""
    a, b = operands(draw)
    text = draw.pick(("What is {} + {}?", "Compute {} + {}.", "Add {} and {}.")).format(a, b)
    solution = f"{a}+{b}: {sum_steps(a, b)}, so {boxed(str(a + b))}"
    return Problem("arithmetic", "add", (a, b), text, str(a + b), "int", solution, _texts(sum_mistakes(a, b)), _ease(carries(a, b), b))


def subtract(draw: Draw) -> Problem:
    """Subtraction with a positive result."""
    b, a = sorted(operands(draw))
    text = draw.pick(("What is {0} - {1}?", "Compute {0} - {1}.", "Subtract {1} from {0}.")).format(a, b)
    solution = f"{a}-{b}: {difference_steps(a, b)}, so {boxed(str(a - b))}"
    mistakes = _texts(difference_mistakes(a, b))
    return Problem("arithmetic", "subtract", (a, b), text, str(a - b), "int", solution, mistakes, _ease(borrows(a, b), b))


def multiply(draw: Draw) -> Problem:
    """A number up to 25 times one digit."""
    a, b = draw.between(3, 25), draw.between(2, 9)
    text = draw.pick(("What is {} * {}?", "Compute {} * {}.")).format(a, b)
    steps = f"{a // 10 * 10}*{b}={a // 10 * 10 * b}, {a % 10}*{b}={a % 10 * b}, " if a > 10 else f"{a}*{b - 1}={a * (b - 1)}, plus {a}, "
    mistakes = _texts((a * (b - 1), a + b, a * b + 10))
    return Problem(
        "arithmetic", "multiply", (a, b), text, str(a * b), "int", f"{a}*{b}: {steps}so {boxed(str(a * b))}", mistakes, _ease(a > 10, a)
    )


_STORIES = (
    # (skill, operation, the keyword misleads, text)
    ("buys", "+", False, "{n} has {a} {t}. {n} buys {b} more. How many {t} does {n} have now?"),
    ("gives", "-", False, "{n} has {a} {t}. {n} gives away {b}. How many {t} are left?"),
    ("more_than", "+", False, "{n} has {a} {t}. {m} has {b} more than {n}. How many {t} does {m} have?"),
    ("fewer_than", "-", False, "{n} has {a} {t}. {m} has {b} fewer than {n}. How many {t} does {m} have?"),
    ("that_is_more", "-", True, "{n} has {a} {t}. That is {b} more than {m} has. How many {t} does {m} have?"),
    ("that_is_fewer", "+", True, "{n} has {a} {t}. That is {b} fewer than {m} has. How many {t} does {m} have?"),
    ("together", "+", False, "{n} has {a} {t} and {m} has {b}. How many {t} do they have together?"),
    ("difference", "-", True, "{n} has {a} {t} and {m} has {b}. How many more {t} does {n} have?"),
)


def story(draw: Draw) -> Problem:
    """One-step addition and subtraction stories; in some the keyword points the wrong way."""
    skill, operation, misleading, template = draw.pick(_STORIES)
    b, a = sorted(operands(draw))
    if operation == "+" and draw.between(0, 1):
        a, b = b, a
    n, m = draw.distinct(2, 0, len(NAMES) - 1)
    text = template.format(n=NAMES[n], m=NAMES[m], a=a, b=b, t=draw.pick(THINGS))
    if operation == "+":
        answer, steps, slips, hard = a + b, sum_steps(a, b), sum_mistakes(a, b), carries(a, b)
        wrong_operation = abs(a - b)
    else:
        answer, steps, slips, hard = a - b, difference_steps(a, b), difference_mistakes(a, b), borrows(a, b)
        wrong_operation = a + b
    mistakes = (wrong_operation, slips[0], slips[-1]) if misleading else (slips[0], wrong_operation, slips[-1])
    solution = f"{a}{operation}{b}: {steps}, so {boxed(str(answer))}"
    return Problem("word_problems", skill, (a, b), text, str(answer), "int", solution, _texts(mistakes), _ease(hard, b))


def linear(draw: Draw) -> Problem:
    """One-step linear equations: x + a = b, x - a = b, a - x = b."""
    skill = draw.pick(("x_plus", "x_minus", "minus_x"))
    ask = draw.pick(("Solve {} for x.", "Find x if {}.", "If {}, what is x?"))
    if skill == "x_minus":
        b, a = operands(draw)
        equation, rule, mistakes, hard = f"x - {a} = {b}", f"x={b}+{a}", (abs(b - a), *sum_mistakes(b, a)[::2]), carries(a, b)
        answer = a + b
    else:
        small, large = sorted(operands(draw))
        answer, hard = large - small, borrows(large, small)
        slip = difference_mistakes(large, small)[0]
        if skill == "x_plus":
            a, b = small, large
            equation, rule, mistakes = f"x + {a} = {b}", f"x={b}-{a}", (a + b, slip, a - b)
        else:
            a, b = large, small
            equation, rule, mistakes = f"{a} - x = {b}", f"x={a}-{b}", (b - a, a + b, slip)
    solution = f"{equation.replace(' ', '')}: {rule}, so {boxed(str(answer))}"
    return Problem("equations", skill, (a, b), ask.format(equation), str(answer), "int", solution, _texts(mistakes), _ease(hard, a))


def sequence(draw: Draw) -> Problem:
    """The next term of an arithmetic sequence, rising or falling."""
    step = draw.nonzero(draw.pick((3, 3, 3, 12)))
    start = draw.mostly(1, 20, 40) if step > 0 else draw.mostly(1 - 4 * step, max(30, 1 - 4 * step), 60)
    terms = [start + i * step for i in range(5)]
    given, answer = ", ".join(map(str, terms[:4])), terms[4]
    text = draw.pick(("What comes next: {}?", "Find the next term: {}.", "Continue the sequence: {}.")).format(given)
    crossed = abs(terms[3] // 10 - answer // 10) == 1
    mistakes = (answer + step, answer + (-10 if step > 0 else 10) if crossed else answer + 10, terms[3])
    solution = f"{given}: step {signed(step)}, {terms[3]}{signed(step)}={answer}, so {boxed(str(answer))}"
    return Problem("sequences", "next_term", (start, step), text, str(answer), "int", solution, _texts(mistakes), _ease(step < 0, terms[3]))


def same_denominator(draw: Draw) -> Problem:
    """Sum or difference of two fractions over one denominator, in lowest terms."""
    n, operation = draw.between(3, 15), draw.pick("+-")
    b, a = sorted(draw.distinct(2, 1, n - 1)) if n > 3 else (1, 2)
    top = a + b if operation == "+" else a - b
    value = Fraction(top, n)
    text = draw.pick(("What is {}/{n} {} {}/{n} in lowest terms?", "Compute {}/{n} {} {}/{n} in lowest terms.")).format(
        a, operation, b, n=n
    )
    unreduced = f"{top}/{n}"
    other = a - b if operation == "+" else a + b
    mistakes = (fraction(Fraction(top, 2 * n)) if operation == "+" else f"{other}/{n}", unreduced, fraction(Fraction(other, n)))
    step = f"{a}{operation}{b}={top}, {top}/{n}" + (f"={fraction(value)}" if fraction(value) != unreduced else "")
    solution = f"{a}/{n}{operation}{b}/{n}: {step}, so {boxed(fraction(value))}"
    ease = _ease(fraction(value) != unreduced, a)
    skill = "add" if operation == "+" else "subtract"
    return Problem("fractions", skill, (a, b, n), text, fraction(value), "rational", solution, mistakes, ease, "lowest_terms")


def remainder(draw: Draw) -> Problem:
    """Remainder of a number up to 60 by one digit."""
    a, b = draw.between(11, 60), draw.between(3, 9)
    q, r = divmod(a, b)
    text = draw.pick(("What is the remainder of {} divided by {}?", "Find the remainder when {} is divided by {}.")).format(a, b)
    mistakes = _texts((q, b - r, r + 1))
    solution = f"{a} divided by {b}: {b}*{q}={b * q}, {a}-{b * q}={r}, so {boxed(str(r))}"
    return Problem("number_theory", "remainder", (a, b), text, str(r), "int", solution, mistakes, _ease(a >= 40, a))


def common_divisor(draw: Draw) -> Problem:
    """Greatest common divisor of two numbers up to 60."""
    g = draw.between(2, 12)
    m, n = draw.distinct(2, 1, max(3, 60 // g))
    a, b = g * m, g * n
    g = math.gcd(a, b)
    text = draw.pick(("What is the greatest common divisor of {} and {}?", "Find the greatest common divisor of {} and {}.")).format(a, b)
    small = next(d for d in (2, 3, 5, 7, 11, g) if g % d == 0)
    mistakes = _texts((min(a, b), small if small != g else 1, abs(a - b)))
    solution = f"{a} and {b}: {a}={g}*{a // g}, {b}={g}*{b // g}, so {boxed(str(g))}"
    return Problem("number_theory", "gcd", (a, b), text, str(g), "int", solution, mistakes, _ease(max(a, b) > 30, a))


def expand(draw: Draw) -> Problem:
    """Expand (x+a)(x+b)."""
    a, b = draw.nonzero(6), draw.nonzero(6)
    factors = f"(x{signed(a)})(x{signed(b)})"
    answer = polynomial([1, a + b, a * b])
    text = draw.pick(("Expand {}.", "Multiply out {}.")).format(factors)
    mistakes = (polynomial([1, 0, a * b]), polynomial([1, a * b, a + b]), polynomial([1, a + b, -a * b]))
    solution = f"{factors}: {a}{signed(b)}={a + b}, {a}*{b}={a * b}, so {boxed(answer)}"
    return Problem("polynomials", "expand", (a, b), text, answer, "expr", solution, mistakes, _ease(a < 0 or b < 0, b), "expanded")


def evaluate(draw: Draw) -> Problem:
    """Value of x^2+ax+b at a small integer."""
    a, b, x = draw.nonzero(5), draw.nonzero(5), draw.between(2, 4)
    answer = x * x + a * x + b
    body = polynomial([1, a, b])
    text = draw.pick(("What is {} at x = {}?", "Evaluate {} at x = {}.")).format(body, x)
    mistakes = _texts((2 * x + a * x + b, x * x + a + b, answer - 2 * b))
    solution = f"{body} at {x}: {x * x}{signed(a * x)}{signed(b)}={answer}, so {boxed(str(answer))}"
    return Problem("polynomials", "evaluate", (a, b, x), text, str(answer), "int", solution, mistakes, _ease(a < 0, b))


def derivative(draw: Draw) -> Problem:
    """Derivative of a x^n, or of a x^n + b x."""
    a, n, b = draw.between(2, 9), draw.between(2, 4), draw.between(0, 9)
    coefficients = [a] + [0] * (n - 1) + [0]
    coefficients[-2] += b
    slope = [c * (n - i) for i, c in enumerate(coefficients[:-1])]
    body, answer = polynomial(coefficients), polynomial(slope)
    kept = [a * n, *([0] * (n - 1)), b]  # exponent of the leading power not lowered
    mistakes = (polynomial(kept), polynomial([a, *slope[1:]]), polynomial([a + n, *slope[1:]]))
    text = draw.pick(("Find the derivative of {}.", "Differentiate {}.", "What is the derivative of {}?")).format(body)
    solution = f"{body}: {a}*{n}={a * n}, {n}-1={n - 1}, so {boxed(answer)}"
    return Problem("calculus", "power_rule", (a, n, b), text, answer, "expr", solution, mistakes, _ease(n > 2, a))


def rectangle(draw: Draw) -> Problem:
    """Held out: perimeter and area of a rectangle."""
    a, b = draw.between(2, 12), draw.between(2, 12)
    skill = draw.pick(("perimeter", "area"))
    around, area = 2 * (a + b), a * b
    answer, other = (around, area) if skill == "perimeter" else (area, around)
    text = f"A rectangle has sides {a} and {b}. What is its {skill}?"
    solution = f"{a} and {b}: " + (f"2*{a}+2*{b}={around}" if skill == "perimeter" else f"{a}*{b}={area}") + f", so {boxed(str(answer))}"
    mistakes = _texts((a + b, other, answer + 10))
    return Problem("geometry", skill, (a, b), text, str(answer), "int", solution, mistakes, _ease(a > 6, b))


TINY: tuple[tuple[Maker, int], ...] = (
    (add, 8),
    (subtract, 7),
    (multiply, 1),
    (story, 40),
    (linear, 22),
    (sequence, 8),
    (same_denominator, 5),
    (remainder, 2),
    (common_divisor, 1),
    (expand, 1),
    (evaluate, 1),
    (derivative, 3),
)
TINY_HELDOUT: tuple[tuple[Maker, int], ...] = ((rectangle, 1),)
