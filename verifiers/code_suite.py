"""Tests of a programming task, and what a program did on them: the comparison that stays outside the sandbox."""

from __future__ import annotations

import dataclasses
from typing import Any

from sdgym.core import content_hash
from sdgym.verifiers.sandbox.values import same, same_output


@dataclasses.dataclass(frozen=True)
class CallTest:
    """``entry(*args)`` must return ``expected``; ``entry`` is a function, or ``Class.method``."""

    entry: str
    args: tuple[Any, ...]
    expected: Any


@dataclasses.dataclass(frozen=True)
class StdioTest:
    """A script that reads ``stdin`` must print ``expected``."""

    stdin: str
    expected: str


@dataclasses.dataclass(frozen=True)
class AssertTest:
    """A test's own code with assertions about the functions ``names``; it runs in a sandbox of its own.

    ``entry`` names a function of ``code`` that takes the first of ``names`` ("check"); empty if the code is the test.
    """

    code: str
    names: tuple[str, ...]
    entry: str = ""


Test = CallTest | StdioTest | AssertTest


@dataclasses.dataclass(frozen=True)
class Suite:
    """The tests of one task: ``public`` ones may be spoken of in feedback, of ``hidden`` ones only counts are told."""

    public: tuple[Test, ...]
    hidden: tuple[Test, ...]

    @property
    def tests(self) -> tuple[Test, ...]:
        """All tests, public ones first."""
        return self.public + self.hidden

    @property
    def key(self) -> str:
        """A digest of inputs, equal for suites that put the same questions."""
        return content_hash([_question(test) for test in self.tests])


def _question(test: Test) -> list[Any]:
    if isinstance(test, CallTest):
        return ["call", test.entry, repr(test.args)]
    return ["run", test.stdin] if isinstance(test, StdioTest) else ["check", test.code, test.names, test.entry]


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """What a program did on one test, whatever was expected of it.

    Attributes:
        status: of :data:`sdgym.verifiers.sandbox.base.Status`, or ``skipped`` (after a test that ran into a limit).
        value: what was returned, or printed.
        error, said, line: of an exception or a compile error.
    """

    status: str
    value: Any = None
    error: str = ""
    said: str = ""
    line: int = 0


def passes(test: Test, seen: Behaviour) -> bool:
    """Return whether ``seen`` is what ``test`` asks for."""
    if seen.status != "ok":
        return False
    if isinstance(test, CallTest):
        return same(test.expected, seen.value)
    return True if isinstance(test, AssertTest) else same_output(test.expected, str(seen.value))
