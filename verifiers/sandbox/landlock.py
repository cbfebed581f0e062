"""Tier ``landlock``: Landlock and the system-call filter, no namespaces, no helper program.

Landlock (kernel 5.13 or newer) leaves the judged process the right to read its interpreter and nothing
else in the file system; the filter takes sockets, signals, other processes and file attributes, all that
the oldest Landlock interface (ABI 1) lacks. Newer interfaces are used as far as the kernel has them: file
truncation (3), TCP (4), device control (5), abstract sockets and signals (6).
"""

from __future__ import annotations

import os
import platform
from typing import ClassVar

from sdgym.verifiers.sandbox import fence, interpreter, seccomp
from sdgym.verifiers.sandbox.base import SandboxError, Started
from sdgym.verifiers.sandbox.process import ProcessChannel


def kernel_abi() -> int:
    """Return the Landlock interface version of this kernel, 0 if there is none."""
    if not seccomp.supported() or platform.system() != "Linux":
        return 0
    return max(0, fence.version())


class Landlock:
    """See the module.

    Args:
        abi: use at most this interface version (to test what an older kernel would do).
    """

    name: ClassVar[str] = "landlock"

    def __init__(self, abi: int = fence.NEWEST) -> None:
        self._most, self._ruleset = abi, -1

    def missing(self) -> str:
        """Return what this machine lacks, or nothing."""
        if not seccomp.supported():
            return f"no system-call filter for {platform.machine()}"
        if kernel_abi() < 1:
            return f"kernel {platform.release()} has no Landlock (5.13 or newer with lsm=landlock is needed)"
        if interpreter.find() is None:
            return interpreter.NONE
        return ""

    def start(self) -> Started:
        """Start an empty sandbox: the runner restricts itself before it reads a submission."""
        python = interpreter.usable()
        if self._ruleset < 0:
            try:
                allowed = fence.readable(python.library, list(python.hidden), list(python.other))
                self._ruleset = fence.ruleset(min(self._most, kernel_abi()), allowed)
            except OSError as error:
                raise SandboxError(f"no Landlock rule set can be made: {error}") from error
        channel = ProcessChannel(python.command, pass_fds=[self._ruleset])
        others = threads_of(interpreter.confined_uid())
        return Started(channel, python.runner, {"landlock": self._ruleset, "seccomp": seccomp.assemble(), "others": others})

    def close(self) -> None:
        """Close the rule set."""
        if self._ruleset >= 0:
            os.close(self._ruleset)
            self._ruleset = -1


def threads_of(uid: int) -> int | None:
    """Return how many threads ``uid`` has on the whole machine (RLIMIT_NPROC counts them all); None if that cannot be seen."""
    total = 0
    try:
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    if entry.stat().st_uid == uid:
                        total += max(1, os.stat(f"{entry.path}/task").st_nlink - 2)
                except OSError:
                    continue  # it ended meanwhile
    except OSError:
        return None
    return total
