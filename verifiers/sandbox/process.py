"""A sandbox that is a child process of ours, spoken to through its standard input and output."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from sdgym.verifiers.sandbox.base import SandboxError
from sdgym.verifiers.sandbox.interpreter import ENVIRONMENT

PATIENCE = 5.0
"""Seconds a sandbox gets to end by itself when its input ends, before it is killed."""


class ProcessChannel:
    """Starts ``command`` with a clean environment; see :class:`sdgym.verifiers.sandbox.base.Channel`.

    Args:
        command: the program and its arguments.
        pass_fds: descriptors to leave open for it.
        user: become this user (root only).
        group: end the whole process group, not only the process: for tiers that cannot forbid new processes.
    """

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int] = (), user: int | None = None, group: bool = False) -> None:
        drop: dict[str, Any] = {}
        if user is not None and _setpriv():
            command = [_setpriv(), f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", *command]
        elif user is not None:
            drop = {"user": user, "group": user, "extra_groups": []}
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=ENVIRONMENT,
                cwd="/",
                pass_fds=pass_fds,
                start_new_session=True,
                **drop,
            )
        except OSError as error:
            raise SandboxError(f"{command[0]} does not start: {error}") from error
        assert self.process.stdin is not None and self.process.stdout is not None and self.process.stderr is not None
        self._in, self._out, self._err, self._group = self.process.stdin, self.process.stdout, self.process.stderr, group
        for stream in (self._in, self._err):
            os.set_blocking(stream.fileno(), False)

    def send(self, data: bytes, until: float) -> None:
        """Write all of ``data``."""
        poller = select.poll()
        poller.register(self._in.fileno(), select.POLLOUT)
        view = memoryview(data)
        while view:
            if not poller.poll(max(until - time.monotonic(), 0) * 1000):
                raise TimeoutError
            try:
                view = view[os.write(self._in.fileno(), view) :]
            except OSError as error:
                raise self._ended() from error

    def receive(self, size: int, until: float) -> bytes:
        """Return exactly ``size`` bytes."""
        poller = select.poll()
        poller.register(self._out.fileno(), select.POLLIN)
        data = bytearray()
        while len(data) < size:
            if not poller.poll(max(until - time.monotonic(), 0) * 1000):
                raise TimeoutError
            chunk = os.read(self._out.fileno(), min(size - len(data), 1 << 16))
            if not chunk:
                raise self._ended()
            data += chunk
        return bytes(data)

    def _ended(self) -> SandboxError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        said = (self._err.read(2000) or b"").decode("utf-8", "replace").strip()
        return SandboxError(f"it ended with exit code {self.process.returncode}{': ' if said else ''}{said}")

    def close(self) -> None:
        """Let it end by closing its input; kill it if it does not."""
        self._in.close()
        if _ends(self.process, PATIENCE):
            self.process.wait()
        else:
            self.kill()
        if self._group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, 9)  # what a submission without confinement left in its group
        self._out.close()
        self._err.close()

    def kill(self) -> None:
        """End it the hard way and reap it."""
        self.process.kill()
        self.process.wait()


@functools.cache
def _setpriv() -> str:
    """Return util-linux's ``setpriv``, or nothing.

    To become another user in the new process itself, ``Popen`` forks instead of sharing memory until the program
    starts: all of a trainer's page tables are copied, for every submission.
    """
    path = shutil.which("setpriv") or ""
    said = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=30).stdout if path else ""
    return path if {"--reuid", "--regid", "--clear-groups"} <= set(re.findall(r"--[a-z-]+", said)) else ""  # BusyBox's has none of them


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Return whether ``process`` ends within ``seconds``; ``Popen.wait`` would look again after ever longer naps."""
    try:
        fd = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # another system, or an old kernel
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.returncode is not None
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    try:
        return bool(poller.poll(seconds * 1000))
    finally:
        os.close(fd)
