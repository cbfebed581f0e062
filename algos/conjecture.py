"""Arithmetic problems that a policy makes up: asked for, read back, valued and judged by rules (for SGS on ``sdgym/Math-v0``)."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from sdgym.core import Message, Task, content_hash

INSTRUCTION = "Put the answer in \\boxed{}."
MOST_POINTS = 8
_EXPRESSION = re.compile(r"\(*-?\d[\d+\-*/() ]*")
_NUMBER = re.compile(r"\d+")
_LONGEST, _LARGEST, _MOST_NUMBERS = 40, 10**6, 6


@dataclasses.dataclass(frozen=True)
class Conjecture:
    """A problem that could be read.

    Attributes:
        text: as the policy wrote it. value: its exact answer, an integer.
        points: the guide's, 0 to 8.
    """

    text: str
    value: int
    points: int

    def task(self, seed: Task) -> Task:
        """Return the problem as a task of the world that ``seed`` comes from."""
        user: Message = {"role": "user", "content": f"{self.text} {INSTRUCTION}"}
        meta = {k: v for k, v in seed.meta.items() if k not in ("form", "tolerance", "unit")} | {
            "answer_type": "int",
            "family": "conjecture",
        }
        name = f"{seed.task_id.rsplit('-', 1)[0]}-{content_hash(['conjecture', self.text])[:16]}"
        return Task(name, (*seed.messages[:-1], user), seed.split, seed.seed, {"answer": str(self.value)}, meta)


def request(seed: Task) -> list[Message]:
    """Return the conversation that asks for a problem like ``seed``."""
    asked = seed.messages[-1]["content"].removesuffix(INSTRUCTION).strip()
    return [*seed.messages[:-1], {"role": "user", "content": f"{asked}\nWrite a new arithmetic problem like this one. Only the problem."}]


def read(text: str, seed: Task) -> Conjecture | None:
    """Return the problem in ``text``, or None where there is no expression, no integer value, or no sane size."""
    line = " ".join(text[:200].split())
    found = max((match[0].strip() for match in _EXPRESSION.finditer(line)), key=len, default="")
    while found and (found[-1] in "+-*/(" or found.count("(") != found.count(")")):
        found = found[:-1].rstrip()
    numbers = _NUMBER.findall(found)
    if not 2 <= len(numbers) <= _MOST_NUMBERS or len(found) > _LONGEST:
        return None
    value = evaluate(found)
    if value is None or value.denominator != 1 or abs(value) > _LARGEST:
        return None
    return Conjecture(line, int(value), guide(line, found, seed))


def evaluate(expression: str) -> Fraction | None:
    """Return the exact value of ``+ - * /`` and brackets on integers, None for anything else. Nothing is executed."""
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return _value(tree.body)


def _value(node: ast.expr) -> Fraction | None:
    if isinstance(node, ast.Constant):
        return Fraction(node.value) if isinstance(node.value, int) and abs(node.value) <= _LARGEST else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand)
        return None if inner is None else -inner
    if not isinstance(node, ast.BinOp):
        return None
    left, right = _value(node.left), _value(node.right)
    if left is None or right is None or (isinstance(node.op, ast.Div) and right == 0):
        return None
    if isinstance(node.op, ast.Div):
        return left / right
    if isinstance(node.op, ast.Mult):
        return left * right
    return left + right if isinstance(node.op, ast.Add) else left - right if isinstance(node.op, ast.Sub) else None


def guide(text: str, expression: str, seed: Task) -> int:
    """Return 0 to 8 points: it asks (3), says little else (1), its numbers are new (2), and none of them makes it trivial (2)."""
    numbers = _NUMBER.findall(expression)
    asks = bool(re.match(r"(what is|compute|calculate|find|add|subtract)\b", text, re.IGNORECASE))
    brief = len(text) - len(expression) <= 30
    new = not set(numbers) <= set(_NUMBER.findall(seed.messages[-1]["content"]))
    plain = len(set(numbers)) > 1 and not {"0", "1"} & set(numbers)
    return 3 * asks + brief + 2 * new + 2 * plain


def conjecturer_rewards(rates: Sequence[float], points: Sequence[int], share: float = 0.7) -> np.ndarray:
    """Return (1 − s)·[s > 0 and s among the lowest ``share``]·points/8, then min–max over the batch, ``[K]`` (SGS, Alg. 1).

    A problem nobody solves and one everybody solves both pay 0 before the scaling; so does one that could not be read (s NaN),
    which also leaves the lowest ``share``.
    """
    s = np.asarray(rates, np.float64)
    if np.isnan(s).all():
        return np.zeros(len(s))
    paid = (s > 0) & (s <= np.nanquantile(s, share))
    raw = np.where(paid, (1 - s) * np.asarray(points) / MOST_POINTS, 0.0)
    spread = raw.max() - raw.min()
    return np.asarray((raw - raw.min()) / spread if spread > 0 else np.zeros(len(s)))
