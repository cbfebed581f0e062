"""A Python in a sandbox that keeps its variables from one cell to the next, with one function of ours behind a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sdgym.verifiers.sandbox.base import Limits, SandboxError, Tier
from sdgym.verifiers.sandbox.session import Session, answered

LIMITS = Limits(cpu=30, wall=86_400.0, output=2**23, questions=5_000)
"""Of a whole notebook; between cells it waits for its user, so the clock means nothing."""
CELL_SECONDS = 20.0
"""How long one cell may take on the clock."""
ASK, NEXT = "ask_outside", "next_cell"
Outside = Callable[[list[Any]], Any]
"""What the function of ours does: positional arguments (plain values) to a plain value. Must not raise."""

_DRIVER = """
import io, sys

def said_of(error, number):
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__} in line {error.lineno}: {error.msg}"
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == f"<cell {number}>":
            line = trace.tb_lineno
        trace = trace.tb_next
    try:
        text = str(error)
    except BaseException:
        text = ""
    return f"{type(error).__name__}{f' in line {line}' if line else ''}: {text[:2000]}"

def drive(space):
    exec(PRELUDE, space)
    said, number = "", 0
    while True:
        cell = next_cell(said)
        number += 1
        printed, failure = io.StringIO(), ""
        sys.stdout = sys.stderr = printed
        try:
            exec(compile(cell, f"<cell {number}>", "exec", dont_inherit=True), space)
        except BaseException as error:
            failure = said_of(error, number)
        text = printed.getvalue()
        said = [text[:LONGEST], failure]

drive({"__name__": "__main__", "ask_outside": ask_outside})
"""
LONGEST = 20_000
"""Characters of what a cell prints that are kept."""


class CellResult(NamedTuple):
    """What a cell gave.

    Attributes:
        printed: its output.
        failure: type, line and message of what it raised, or nothing.
        lost: why the notebook ended under it (its variables are gone), or nothing.
    """

    printed: str
    failure: str = ""
    lost: str = ""


class Cells(Session):
    """A notebook: one process for all cells, confined like any submission.

    The cells are in the sandbox and nothing else is: what the function of ours knows stays outside, and only
    what it returns goes in.

    Args:
        tier: how to confine.
        prelude: code run before the first cell, in the cells' own globals; it finds the function as ``ask_outside``.
        limits: of the whole notebook.

    Raises:
        SandboxError: the sandbox did not start.
    """

    def __init__(self, tier: Tier, prelude: str, limits: Limits = LIMITS) -> None:
        super().__init__(tier, "", limits)
        code = f"PRELUDE = {prelude!r}\nLONGEST = {LONGEST}\n{_DRIVER}"
        self._job = {"kind": "check", "code": code, "names": [ASK, NEXT], "entry": "", "source": ""}

    def execute(self, cell: str, outside: Outside) -> CellResult:
        """Run one cell. After a result with ``lost`` the notebook is closed.

        Raises:
            SandboxError: the sandbox broke before the cell reached it.
        """
        until = time.monotonic() + CELL_SECONDS
        if not self._open:
            raise SandboxError("the notebook has ended")
        if self._fresh:
            self._send(self._job, until)
            self._fresh = False
            self._advance(outside, until)
        self._send({"value": cell.encode("utf-8", "surrogatepass").decode("utf-8", "replace")}, until)
        try:
            said = self._advance(outside, until)
        except (SandboxError, TimeoutError) as error:
            self.close()
            return CellResult("", lost=f"it ran longer than {CELL_SECONDS:g} seconds" if isinstance(error, TimeoutError) else "it crashed")
        if said is None:
            self.close()
            return CellResult("", lost="it ran into a limit of time, memory or output, or ended the process")
        return said

    def _advance(self, outside: Outside, until: float) -> CellResult | None:
        """Answer questions until the notebook asks for a cell; None if it ended instead."""
        while "question" in (frame := self._receive(until)):
            asked: list[CellResult] = []

            def answer(name: str, arguments: Any, asked: list[CellResult] = asked) -> Mapping[str, Any]:
                if name == NEXT:
                    asked.append(_result(arguments[0]))
                    return {}
                return {"value": outside(list(arguments))}

            reply = answered(frame["question"], answer)
            if asked:
                return asked[0]
            self._send(dict(reply), until)
        return None


def _result(said: Any) -> CellResult:
    """Read what the driver says about the last cell; the cells can forge it, so any form is possible."""
    if isinstance(said, list) and len(said) == 2 and all(isinstance(part, str) for part in said):
        return CellResult(said[0][:LONGEST], said[1][:LONGEST])
    return CellResult(str(said)[:LONGEST])
