"""Level "medium": classic algorithms in one function, with parameters that change the rules."""

from __future__ import annotations

from sdgym.envs.programming.problem import Draw, Maker
from sdgym.envs.programming.template import Parameters, Template, makers

LETTERS = "abcdefgh"


def _text(draw: Draw, _: Parameters) -> tuple[str]:
    return ("".join(draw.pick("aabbc") * draw.between(1, 4) for _ in range(draw.between(2, 6))),)


def _brackets(draw: Draw, _: Parameters) -> tuple[str]:
    opened, text = "", ""
    for _step in range(draw.between(2, 8)):
        if opened and draw.between(0, 2) == 0:
            text, opened = text + {"(": ")", "[": "]"}[opened[-1]], opened[:-1]
        else:
            kind = draw.pick("([")
            text, opened = text + kind, opened + kind
    closing = "".join({"(": ")", "[": "]"}[kind] for kind in reversed(opened))
    return (text + (closing if draw.between(0, 3) else closing[:-1] + draw.pick(")]")),)


def _intervals(draw: Draw, _: Parameters) -> tuple[list[list[int]]]:
    starts = draw.many(draw.between(2, 6), 0, 60)
    return ([[start, start + draw.between(1, 15)] for start in starts],)


MEDIUM_TEMPLATES = (
    Template(
        "digits",
        "weighted_digits",
        "Write f(n) for a positive integer n: the sum of its decimal digits, where a digit of at least $a counts $b times, and every 0 counts $c.",
        """
def f(n):
    total = 0
    for digit in map(int, str(n)):
        if digit == 0:
            total += $c
        elif digit >= $a:
            total += $b * digit
        else:
            total += digit
    return total
""",
        {"a": (3, 9), "b": (2, 12), "c": (1, 40)},
        lambda draw, _: (int("".join(map(str, [draw.between(1, 9), *draw.many(draw.between(1, 6), 0, 9)]))),),
        (("digit >= $a", "digit > $a"), ("total += $c", "total += 0"), ("total += $b * digit", "total += $b")),
    ),
    Template(
        "text",
        "run_lengths",
        "Write f(s) for a string s: replace each run of at least $a equal letters by the letter, '$c' and the length of the run plus $b; leave shorter runs as they are.",
        """
def f(s):
    out, i = "", 0
    while i < len(s):
        j = i
        while j < len(s) and s[j] == s[i]:
            j += 1
        out += s[i] + "$c" + str(j - i + $b) if j - i >= $a else s[i:j]
        i = j
    return out
""",
        {"a": (2, 5), "b": (0, 60), "c": ":-=*/+#!~^_%"},
        _text,
        (("j - i >= $a", "j - i > $a"), ("j - i + $b", "j - i"), ("else s[i:j]", "else s[i]")),
    ),
    Template(
        "text",
        "shift_letters",
        "Write f(s) for a string s of lower-case letters: shift each letter by $k places in the alphabet, from z on to a again; but put '$c' in place of every letter whose position (from 0) is divisible by $m.",
        """
def f(s):
    out = ""
    for i, letter in enumerate(s):
        if i % $m == 0:
            out += "$c"
        else:
            out += chr((ord(letter) - 97 + $k) % 26 + 97)
    return out
""",
        {"k": (1, 25), "m": (2, 9), "c": ".-_*#+=:;!?@%&~^"},
        lambda draw, _: (draw.word("abcdefghijklmnopqrstuvwxyz", 6, 20),),
        (("i % $m == 0", "(i + 1) % $m == 0"), ("(ord(letter) - 97 + $k) % 26 + 97", "ord(letter) + $k"), ("+ $k", "- $k")),
    ),
    Template(
        "numbers",
        "in_base",
        "Write f(n) for a non-negative integer n: n in base $b, written with the digits 0 to 9, padded on the left with '$c' to at least $w characters. The base is below 10, and 0 is written as 0.",
        """
def f(n):
    digits = ""
    while n > 0 or not digits:
        digits = str(n % $b) + digits
        n //= $b
    return digits.rjust($w, "$c")
""",
        {"b": (2, 9), "w": (2, 16), "c": ".-_*#+=:;!?@%&~^xyz"},
        lambda draw, _: (draw.between(0, 10 ** draw.between(1, 6)),),
        (("digits = str(n % $b) + digits", "digits += str(n % $b)"), ("rjust", "ljust"), ("n > 0 or not digits", "n > 0")),
    ),
    Template(
        "numbers",
        "primes",
        "Write f(a, b): how many primes p with a <= p <= b leave the remainder $r or $q when divided by $m?",
        """
def f(a, b):
    count = 0
    for p in range(max(a, 2), b + 1):
        prime = all(p % d for d in range(2, int(p**0.5) + 1))
        if prime and p % $m in ($r, $q):
            count += 1
    return count
""",
        {"m": (5, 30), "r": (0, 29), "q": (0, 29)},
        lambda draw, _: (low := draw.between(0, 60), low + draw.between(5, 120)),
        (("b + 1):", "b):"), ("max(a, 2)", "a"), ("int(p**0.5) + 1", "int(p**0.5)")),
    ),
    Template(
        "lists",
        "window",
        "Write f(v) for a list v of at least $k integers: the largest sum of $k neighbours, where a number above $c counts as $c and one below -$d as -$d.",
        """
def f(v):
    v = [min(max(x, -$d), $c) for x in v]
    best = sum(v[:$k])
    for i in range(1, len(v) - $k + 1):
        best = max(best, sum(v[i : i + $k]))
    return best
""",
        {"k": (2, 6), "c": (3, 30), "d": (1, 30)},
        lambda draw, values: (draw.many(draw.between(values["k"], 14), -40, 40),),
        (("len(v) - $k + 1", "len(v) - $k"), ("best = sum(v[:$k])", "best = 0"), ("min(max(x, -$d), $c)", "min(x, $c)")),
    ),
    Template(
        "numbers",
        "recurrence",
        "A sequence starts with a(0) = $a and a(1) = $b; then a(i) = ($p * a(i-1) + $q * a(i-2)) modulo $m. Write f(n), which returns a(n).",
        """
def f(n):
    a, b = $a, $b
    for _ in range(n):
        a, b = b, ($p * b + $q * a) % $m
    return a
""",
        {"a": (0, 9), "b": (1, 9), "p": (1, 9), "q": (1, 9), "m": (11, 97)},
        lambda draw, _: (draw.between(0, 40),),
        (("return a", "return b"), ("$p * b + $q * a", "$p * a + $q * b"), ("range(n)", "range(n - 1)")),
    ),
    Template(
        "intervals",
        "merge",
        "Write f(v) for a list v of [start, end] pairs: join intervals that overlap or lie at most $g apart, and return the total length of the joined ones that are longer than $k.",
        """
def f(v):
    joined = []
    for start, end in sorted(v):
        if joined and start - joined[-1][1] <= $g:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return sum(end - start for start, end in joined if end - start > $k)
""",
        {"g": (0, 25), "k": (1, 60)},
        _intervals,
        (("max(joined[-1][1], end)", "end"), ("end - start > $k", "end - start >= $k"), ("in sorted(v)", "in v")),
    ),
)
HELDOUT_TEMPLATES = (
    Template(
        "brackets",
        "weight",
        "Write f(s) for a string s of the characters ( ) [ ]: each open round bracket weighs $a and each open square bracket weighs $b. Return the greatest total weight of brackets that are open at the same time, or -$c if the brackets do not match.",
        """
def f(s):
    open_, weight, most = [], 0, 0
    for c in s:
        if c in "([":
            open_.append(c)
            weight += $a if c == "(" else $b
            most = max(most, weight)
        else:
            if not open_ or open_.pop() != {")": "(", "]": "["}[c]:
                return -$c
            weight -= $a if c == ")" else $b
    return most if not open_ else -$c
""",
        {"a": (1, 30), "b": (1, 30), "c": (1, 9)},
        _brackets,
        (("return most if not open_ else -$c", "return most"), ("most = max(most, weight)", "most = weight"), ("weight -= $a if c == \")\" else $b", "weight -= $a")),
    ),
)  # fmt: skip
MEDIUM: tuple[Maker, ...] = makers(MEDIUM_TEMPLATES)
MEDIUM_HELDOUT: tuple[Maker, ...] = makers(HELDOUT_TEMPLATES)
