"""What a family of programming tasks produces, and how its own programs are run."""

from __future__ import annotations

import copy
import dataclasses
import functools
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sdgym.errors import EnvError
from sdgym.verifiers.code_suite import AssertTest, Behaviour, CallTest, StdioTest, Suite, Test, passes

T = TypeVar("T")
NAME = "solution.py"


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One task before it is put before a student.

    Attributes:
        family, skill: what it exercises.
        text: the task in words.
        source: a reference solution.
        suite: its tests, public ones first.
        mistakes: programs that systematic misconceptions give, most tempting first; each fails the suite.
        ease: 0 the novice is mostly right, 1 often wrong, 2 mostly wrong.
    """

    family: str
    skill: str
    text: str
    source: str
    suite: Suite
    mistakes: tuple[str, ...] = ()
    ease: int = 1


class Sketch(NamedTuple):
    """A task of which only the content is drawn: most draws belong to another split and need no tests.

    Attributes:
        canonical: family, skill and parameters, which decide the split; equal for two phrasings of the same task.
        build: draws the tests and the wording.
    """

    canonical: list[Any]
    build: Callable[[], Problem]


class Draw:
    """Integer and choice draws from one generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def between(self, low: int, high: int) -> int:
        """Return an integer in ``[low, high]``."""
        return int(self._rng.integers(low, high + 1))

    def pick(self, options: Sequence[T]) -> T:
        """Return one of ``options``, uniformly."""
        return options[int(self._rng.integers(len(options)))]

    def many(self, count: int, low: int, high: int) -> list[int]:
        """Return ``count`` integers in ``[low, high]``."""
        return [int(i) for i in self._rng.integers(low, high + 1, count)]

    def word(self, letters: str, low: int, high: int) -> str:
        """Return a word of ``low`` to ``high`` of ``letters``."""
        return "".join(letters[i] for i in self.many(self.between(low, high), 0, len(letters) - 1))


Maker = Callable[[Draw], Sketch]


# ---- programs written by this package: trusted, and run here ------------------------------------------


@functools.lru_cache(4096)
def _compiled(source: str) -> CodeType | SyntaxError:
    try:
        return compile(source, NAME, "exec", dont_inherit=True)
    except SyntaxError as error:
        return error


def behaviour(source: str, test: Test) -> Behaviour:
    """Return what ``source`` does on ``test``, in this process: for programs that this package wrote itself.

    The same finding as a sandbox gives, without one. Such programs end, and scripts among them talk through
    ``input`` and ``print`` only.
    """
    code = _compiled(source)
    if isinstance(code, SyntaxError):
        return Behaviour("compile_error", None, type(code).__name__, str(code.msg), code.lineno or 0)
    try:
        return Behaviour("ok", _call(code, test) if isinstance(test, CallTest) else _script(code, test))
    except Exception as error:  # a mistaken program's own
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == NAME]
        return Behaviour("exception", None, type(error).__name__, str(error), (lines or [0])[-1] or 0)


@functools.lru_cache(4096)
def _module(code: CodeType) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "solution"}
    exec(code, space)
    return space


def _call(code: CodeType, test: CallTest) -> Any:
    space = _module(code)  # our own functions keep nothing between calls
    owner, _, name = test.entry.rpartition(".")
    function = getattr(space[owner](), name) if owner else space[name]
    return function(*copy.deepcopy(test.args))


def _script(code: CodeType, test: Test) -> str:
    assert isinstance(test, StdioTest)
    lines: Iterator[str] = iter(test.stdin.splitlines())
    printed: list[str] = []

    def write(*values: object, sep: str = " ", end: str = "\n") -> None:
        printed.append(sep.join(map(str, values)) + end)

    def read(prompt: str = "") -> str:
        for line in lines:
            return line
        raise EOFError("EOF when reading a line")

    exec(code, {"__name__": "__main__", "input": read, "print": write})
    return "".join(printed)


def behaviours(source: str, suite: Suite) -> tuple[Behaviour, ...]:
    """Return :func:`behaviour` on every test of ``suite``."""
    return tuple(behaviour(source, test) for test in suite.tests)


def expect(source: str, tests: Sequence[Test]) -> list[Test]:
    """Return ``tests`` with what the reference ``source`` does as what is expected. Raises EnvError if it fails on one."""
    answered: list[Test] = []
    for test in tests:
        seen = behaviour(source, test)
        if seen.status != "ok":
            raise EnvError(f"a reference solution fails on its own test: {seen.error} {seen.said} in\n{source}")
        assert not isinstance(test, AssertTest)
        answered.append(dataclasses.replace(test, expected=seen.value))
    return answered


def suite_of(source: str, mistakes: Sequence[str], tests: Sequence[Test], public: int, hidden: int) -> tuple[Suite, tuple[str, ...]]:
    """Return a suite of ``tests`` answered by ``source``, and the ``mistakes`` that fail it, each in its own way.

    Of the drawn tests those that fail most mistakes come first, so that the first public test speaks about
    most of them; those beyond ``public + hidden`` are left out.
    """
    answered = expect(source, tests)
    seen = {text: [behaviour(text, test) for test in answered] for text in dict.fromkeys(mistakes)}
    caught = [sum(not passes(test, found[i]) for found in seen.values()) for i, test in enumerate(answered)]
    order = sorted(range(len(answered)), key=lambda i: -caught[i])[: public + hidden]
    suite = Suite(tuple(answered[i] for i in order[:public]), tuple(answered[i] for i in order[public:]))
    kept: dict[tuple[Behaviour, ...], str] = {}
    for text, found in seen.items():
        ordered = tuple(found[i] for i in order)
        if not all(map(passes, suite.tests, ordered)):
            kept.setdefault(tuple(dataclasses.replace(b, value=repr(b.value)) for b in ordered), text)
    return suite, tuple(kept.values())
