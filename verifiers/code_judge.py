"""Judge programs: run each in a fresh sandbox, compare outside, remember what was seen."""

from __future__ import annotations

import ast
import asyncio
import collections
import concurrent.futures
import functools
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.core import Outcome, Verdict
from sdgym.verifiers.code_feedback import report
from sdgym.verifiers.code_source import extract
from sdgym.verifiers.code_suite import AssertTest, Behaviour, CallTest, StdioTest, Suite, Test
from sdgym.verifiers.sandbox import Limits, Result, Session, Tier, choose, interpreter

REMEMBERED = 50_000
_LAST = ("timeout", "output_limit")
"""A program that ran into one of these is not tried on further tests."""
_UNREPEATABLE = ("timeout", "killed")
"""Depends on the machine's state: judged afresh every time."""
_CONVERSATION = 10
"""All calls that one test's assertions make may together take this many times what one call may."""
_SHORT = 2_000
"""Characters up to which a program is parsed in this process, to spare a sandbox for what is no Python at all."""


class CodeJudge:
    """Judges programs against suites, from any thread or event loop.

    Args:
        sandbox: a tier's name, or ``auto``.
        limits: per test.

    Raises:
        ConfigError: on first use, if nothing here confines programs.
    """

    def __init__(self, sandbox: str = "auto", limits: Limits | None = None) -> None:
        self.sandbox, self.limits = sandbox, limits or Limits()
        self._seen: collections.OrderedDict[tuple[str, str], tuple[Behaviour, ...]] = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def tier(self) -> Tier:
        """The tier in use. Raises ConfigError if there is none."""
        return choose(self.sandbox)

    def behaviours(self, source: str, suite: Suite) -> tuple[Behaviour, ...]:
        """Return what ``source`` does on every test; cached by questions and source. Raises SandboxError."""
        key = (suite.key, source)
        with self._lock:
            if key in self._seen:
                self._seen.move_to_end(key)
                return self._seen[key]
        seen = self._observe(source, suite)
        if not any(b.status in _UNREPEATABLE for b in seen):
            with self._lock:
                self._seen[key] = seen
                while len(self._seen) > REMEMBERED:
                    self._seen.popitem(last=False)
        return seen

    async def grade(self, response: str, suite: Suite) -> Verdict:
        """Judge the program in a model's ``response``. Raises SandboxError if no sandbox starts."""
        found = extract(response)
        if found.source is None:
            return Verdict(Outcome.NO_ANSWER, 0.0, found.problem)
        loop = asyncio.get_running_loop()
        seen = await loop.run_in_executor(workers(), self.behaviours, found.source, suite)
        return report(suite, seen)

    def _observe(self, source: str, suite: Suite) -> tuple[Behaviour, ...]:
        unreadable = _no_python(source)
        if unreadable is not None:
            return (unreadable,) * len(suite.tests)
        seen: list[Behaviour] = []
        with Session(self.tier, source, self.limits) as session:
            for test in suite.tests:
                if seen and seen[-1].status == "compile_error":
                    seen.append(seen[-1])
                elif seen and (seen[-1].status in _LAST or seen[-1].status == "skipped"):
                    seen.append(Behaviour("skipped"))
                else:
                    seen.append(self._run(session, test))
        return tuple(seen)

    def _run(self, session: Session, test: Test) -> Behaviour:
        if isinstance(test, CallTest):
            return _behaviour(session.call(test.entry, test.args))
        if isinstance(test, StdioTest):
            result = session.run(test.stdin)
            if result.status == "no_result" and result.said == "exit code 0":  # os._exit(0): what it printed is what counts
                return Behaviour("ok", result.stdout)
            return _behaviour(result, result.stdout)
        return self._check(session, test)

    def _check(self, session: Session, test: AssertTest) -> Behaviour:
        """Run the assertions in a sandbox of their own: the program answers their calls and never sees them."""
        fatal: list[Behaviour] = []
        cpu, wall = float(_CONVERSATION * self.limits.cpu), _CONVERSATION * self.limits.wall

        def answer(name: str, arguments: Sequence[Any]) -> Mapping[str, Any]:
            nonlocal cpu, wall
            result = session.call(name, arguments) if min(cpu, wall) > 0 and not fatal else Result("timeout")
            cpu, wall = cpu - result.cpu, wall - result.wall
            if result.status == "ok":
                return {"value": result.value}
            if result.status != "exception":
                fatal.append(_behaviour(result))
            return {"error": result.error or "RuntimeError", "said": result.said or result.status}

        with Session(self.tier, "", self.limits) as checker:
            seen = _behaviour(checker.check(test.code, test.names, test.entry, answer))
        return fatal[0] if fatal else seen  # whatever the assertions made of it


def _behaviour(result: Result, value: Any = None) -> Behaviour:
    kept = result.value if value is None else value
    return Behaviour(result.status, kept if result.status == "ok" else None, result.error, result.said, result.line)


def _no_python(source: str) -> Behaviour | None:
    """Return the compile error of a short text that is no Python, as the sandbox's interpreter would report it; None to ask that."""
    python = interpreter.find()
    if len(source) > _SHORT or python is None or python.version[:2] != sys.version_info[:2]:
        return None
    try:
        ast.parse(source, "solution.py")
    except SyntaxError as error:
        return Behaviour("compile_error", None, type(error).__name__, str(error.msg), error.lineno or 0)
    except (ValueError, RecursionError, MemoryError):
        return None
    return None


_pool: concurrent.futures.ThreadPoolExecutor | None = None


def workers() -> concurrent.futures.ThreadPoolExecutor:
    """Return this process's threads that wait for sandboxes, one per core. They never end, as a sandbox ends with the thread that started it."""
    global _pool
    if _pool is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        _pool = concurrent.futures.ThreadPoolExecutor(cores, thread_name_prefix="sandbox")
    return _pool


def _after_fork() -> None:
    """A forked child has none of the parent's threads: it starts its own when it needs them."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def shared_judge(sandbox: str = "auto") -> CodeJudge:
    """Return this process's judge for a tier: its memory of verdicts is shared by all environments."""
    return CodeJudge(sandbox)
