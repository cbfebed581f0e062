"""Python cells: the agent's code runs in the code sandbox, the world stays here, and calls go through a pipe.

The sandboxed process holds the cells and what the APIs returned to them, nothing else: no database, no
password that was not asked for, no other app's tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sdgym.envs.tools.calls import CallSyntaxError, ToolCall, parse_value
from sdgym.errors import InfraError
from sdgym.verifiers.code_source import extract
from sdgym.verifiers.sandbox import choose
from sdgym.verifiers.sandbox.cells import CellResult, Cells

CALLS_PER_CELL = 100
Caller = Callable[[str, dict[str, Any]], dict[str, Any]]
"""Carries out one call and returns its result."""

PRELUDE = """
class ApiError(Exception):
    def __init__(self, code, message):
        super().__init__(f"{code} {message}")
        self.code, self.message = code, message

class _App:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, api):
        if api.startswith("__"):
            raise AttributeError(api)
        def call(**arguments):
            result = ask_outside(f"{self._name}.{api}", arguments)
            if "error" in result:
                raise ApiError(result["error"]["code"], result["error"]["message"])
            return result
        call.__name__ = api
        return call

class _Apis:
    def __getattr__(self, app):
        if app.startswith("__"):
            raise AttributeError(app)
        return _App(app)

apis = _Apis()
"""
"""What a cell finds: ``apis.mail.list(folder="inbox", access_token=…)`` returns a dict or raises ``ApiError`` (``code``, ``message``)."""


class Notebook:
    """The cells of one episode.

    A pickled notebook leaves its process behind and builds its variables anew, by running its cells again
    with the results that their calls had.

    Args:
        sandbox: a tier's name, or ``auto``.
    """

    def __init__(self, sandbox: str) -> None:
        self.sandbox = sandbox
        self._cells: Cells | None = None
        self._past: list[tuple[str, list[dict[str, Any]]]] = []

    def run(self, action: str, caller: Caller) -> tuple[CellResult, int]:
        """Run the cell in ``action``; return what it gave and how many calls were refused.

        Raises:
            CallSyntaxError: there is no cell in it.
            InfraError: no sandbox starts.
        """
        found = extract(action)
        if found.source is None:
            raise CallSyntaxError(found.problem.rstrip(".").lower())
        cells = self._open()
        results: list[dict[str, Any]] = []

        def outside(asked: list[Any]) -> dict[str, Any]:
            result = _carry_out(asked, caller, len(results))
            results.append(result)
            return result

        said = cells.execute(found.source, outside)
        self._past.append((found.source, results))
        if said.lost:
            self.close()
        return said, sum("error" in result for result in results)

    def _open(self) -> Cells:
        if self._cells is None:
            self._cells = Cells(choose(self.sandbox), PRELUDE)
            for source, results in self._past:
                told = iter(results)
                if self._cells.execute(source, lambda _, told=told: next(told, {})).lost:  # type: ignore[misc]
                    raise InfraError("the cells of this episode cannot be run again")
        return self._cells

    def close(self) -> None:
        """End the process; the variables are gone."""
        if self._cells is not None:
            self._cells.close()
        self._cells, self._past = None, []

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_cells": None}


def _carry_out(asked: list[Any], caller: Caller, before: int) -> dict[str, Any]:
    """Carry out a call as a stranger wrote it: what has no JSON form, or is too large or deep, is refused."""
    if before >= CALLS_PER_CELL:
        return _refused(429, f"a cell can make {CALLS_PER_CELL} calls")
    try:
        tool, arguments = asked
        args = parse_value(json.dumps(arguments))
    except (ValueError, TypeError, CallSyntaxError) as error:
        return _refused(400, f"the arguments are not plain data: {error}")
    if not isinstance(tool, str) or not isinstance(args, dict):
        return _refused(400, "a call has a name and named arguments")
    return caller(tool, args)


def _refused(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def cell_text(calls: Sequence[ToolCall]) -> str:
    """Return a cell that makes ``calls``."""
    lines = [f"apis.{call.tool}({', '.join(f'{name}={value!r}' for name, value in call.args.items())})" for call in calls]
    return "\n".join(["```python", *lines, "```"])
