"""From what a program did to a verdict in words: which public test fails and how; of hidden tests only counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sdgym.core import Outcome, Verdict
from sdgym.verifiers.code_suite import AssertTest, Behaviour, CallTest, Suite, Test, passes

LIMIT = 240
"""Characters of one value in feedback."""
_WORDS = {
    "ok": "wrong",
    "failed": "wrong",
    "exception": "raised an exception",
    "timeout": "ran out of time",
    "memory": "ran out of memory",
    "output_limit": "wrote too much",
    "killed": "crashed",
    "no_result": "ended without a result",
    "bad_result": "returned something that is no plain value",
    "no_entry": "lacks the function",
    "skipped": "not run",
}
_OUTCOMES = {"timeout": Outcome.TIMEOUT, "memory": Outcome.CRASHED, "output_limit": Outcome.CRASHED, "killed": Outcome.CRASHED}


def shown(value: Any) -> str:
    """Return a value as Python writes it, cut in the middle if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints
        return "a very long value"
    return text if len(text) <= LIMIT else f"{text[: LIMIT // 2]}...{text[-LIMIT // 2 :]}"


def report(suite: Suite, seen: Sequence[Behaviour]) -> Verdict:
    """Return the verdict on a program from its behaviours, one per test of ``suite``."""
    passed = [passes(test, behaviour) for test, behaviour in zip(suite.tests, seen, strict=True)]
    if all(passed):
        return Verdict(Outcome.CORRECT, 1.0, f"All {len(passed)} tests pass.")
    first = seen[0]
    if first.status == "compile_error":
        return Verdict(Outcome.UNPARSABLE, 0.0, f"{first.error} in line {first.line}: {first.said}.")
    if first.status == "no_entry" and isinstance(suite.tests[0], CallTest):
        return Verdict(Outcome.WRONG, 0.0, f"There is no {suite.tests[0].entry}.")
    at = passed.index(False)
    outcome = _OUTCOMES.get(seen[at].status, Outcome.WRONG)
    if at < len(suite.public):
        return Verdict(outcome, 0.0, f"{_public(suite.tests[at], seen[at])} {sum(passed)} of {len(passed)} tests pass.")
    counts = Counter(_kind(b) for b, good in zip(seen[len(suite.public) :], passed[len(suite.public) :], strict=True) if not good)
    told = ", ".join(f"{count} {word}" for word, count in counts.items())
    public = f"The {len(suite.public)} public tests pass. " if suite.public else ""
    return Verdict(outcome, 0.0, f"{public}Hidden tests: {sum(passed) - len(suite.public)} of {len(suite.hidden)} pass, {told}.")


def _kind(seen: Behaviour) -> str:
    return f"raised {seen.error}" if seen.status == "exception" else _WORDS.get(seen.status, seen.status)


def _public(test: Test, seen: Behaviour) -> str:
    if isinstance(test, AssertTest):
        return f"The test {shown(test.code.strip())} fails{_cause(seen)}."
    if isinstance(test, CallTest):
        what = f"{test.entry.rpartition('.')[2]}({', '.join(map(shown, test.args))})"
        got = f"gave {shown(seen.value)}" if seen.status == "ok" else _mishap(seen)
        return f"{what} {got}, not {shown(test.expected)}."
    got = f"printed {shown(str(seen.value).rstrip())}" if seen.status == "ok" else _mishap(seen)
    return f"On input {shown(test.stdin)} it {got}, not {shown(test.expected.rstrip())}."


def _mishap(seen: Behaviour) -> str:
    if seen.status == "exception":
        return f"raised {seen.error}{_where(seen)}{f': {seen.said}' if seen.said else ''}"
    return _WORDS.get(seen.status, seen.status)


def _cause(seen: Behaviour) -> str:
    return (
        f" with {seen.error}{_where(seen)}: {seen.said}"
        if seen.status == "exception"
        else ""
        if seen.status in ("ok", "failed")
        else f": {_mishap(seen)}"
    )


def _where(seen: Behaviour) -> str:
    return f" in line {seen.line}" if seen.line else ""
