"""Programs that start warm: one process imports torch and transformers, and every run is a fork of it.

A short trial spends a third of its time on imports (``python -X importtime -m sdgym train …``). A nursery pays them once. It
has a single thread when it forks (numerical libraries are told so by the environment), which is what makes forking safe; it is
a program of its own, so that a user's script is never imported a second time. Orders come on standard input and answers go to
standard output, one JSON object per line; when the orders end, so does the nursery, and its trials save and stop.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import pathlib
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

SINGLE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "PYTHONUNBUFFERED": "1"}
"""Environment of a trial: one thread, and output that is on disk at once."""
POLL = 0.1  # seconds between looks at the trials
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)  # loaded before any fork


def die_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent dies, however it dies, so that it saves and stops."""
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Nursery:
    """The starting side.

    Args:
        preload: modules that every trial would import.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what goes wrong in an import goes wrong again in the trial, whose log tells it
            env={**os.environ, **SINGLE},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._orders: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._rest = b""
        self._codes: dict[int, int] = {}
        self._count = 0

    @property
    def alive(self) -> bool:
        """Whether it still takes orders."""
        return self._process.poll() is None

    def start(self, arguments: Sequence[str], log: pathlib.Path) -> Child:
        """Run ``python ARGUMENTS`` (``-m MODULE …``) as a fork, its output appended to ``log``."""
        self._count += 1
        self.order({"id": self._count, "arguments": list(arguments), "log": str(log)})
        return Child(self, self._count)

    def order(self, order: dict[str, Any]) -> None:
        """Send an order; one that a dead nursery cannot take is lost, as its trials are."""
        with contextlib.suppress(BrokenPipeError):
            self._orders.write(json.dumps(order).encode() + b"\n")
            self._orders.flush()

    def code(self, number: int) -> int | None:
        """Return the exit code of child ``number``, or None while it runs; 1 where the nursery died with it."""
        alive = self.alive  # asked first: the last answers are read below
        while chunk := self._answers.read(65536):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            self._codes.update((answer["id"], answer["code"]) for answer in map(json.loads, lines))
        return self._codes.get(number, None if alive else 1)

    def close(self) -> None:
        """End it; trials under way save and stop."""
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
        self._answers.close()
        self._process.wait()


@dataclasses.dataclass(frozen=True)
class Child:
    """A trial under way, with the face of a :class:`subprocess.Popen`."""

    nursery: Nursery
    number: int

    def poll(self) -> int | None:
        """Return the exit code (minus the signal that ended it), or None while it runs."""
        return self.nursery.code(self.number)

    def terminate(self) -> None:
        """Ask it to save and stop."""
        self.nursery.order({"id": self.number, "signal": signal.SIGTERM})

    def kill(self) -> None:
        """End it."""
        self.nursery.order({"id": self.number, "signal": signal.SIGKILL})

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its exit code. Raises :class:`subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("trial", timeout or 0.0)
            time.sleep(POLL)
        return code


def serve(answers: int) -> list[str] | None:
    """Fork a child per order until the orders end; returns None, and in a child its arguments."""
    children: dict[int, int] = {}  # number by process id
    rest, open_ = b"", True
    while open_ or children:
        if open_ and select.select([0], [], [], POLL)[0]:
            chunk = os.read(0, 65536)
            open_ = bool(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for order in map(json.loads, lines):
                if "signal" in order:
                    _signal(children, order["id"], order["signal"])
                elif pid := os.fork():
                    children[pid] = order["id"]
                else:
                    os.close(answers)
                    become(order["log"])
                    return list(order["arguments"])
            if not open_:
                for number in list(children.values()):
                    _signal(children, number, signal.SIGTERM)
        elif not open_:
            time.sleep(POLL)
        while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
            answer = {"id": children.pop(ended[0]), "code": os.waitstatus_to_exitcode(ended[1])}
            with contextlib.suppress(BrokenPipeError):
                os.write(answers, json.dumps(answer).encode() + b"\n")
    return None


def _signal(children: dict[int, int], number: int, sign: int) -> None:
    """Send a signal to a child that has not been waited for, whose process id is therefore still its own."""
    for pid, known in children.items():
        if known == number:
            os.kill(pid, sign)


def become(log: str) -> None:
    """Make a fork a process like any other: its own session, nothing to read, output in ``log``, SIGTERM with the nursery's end."""
    os.setsid()
    die_with_parent()
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)


def main() -> None:
    """Import what the command line names, then fork as ordered."""
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever an import prints is no answer
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):  # the trial meets it again, and says so in its log
            importlib.import_module(name)
    gc.freeze()  # what was imported stays shared with the forks: no collection touches it
    arguments = serve(answers)
    if arguments is None:
        return
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
