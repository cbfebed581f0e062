"""Tier ``bwrap``: bubblewrap's namespaces around the confined runner.

User, process, network, IPC, mount, host-name and control-group namespaces of its own, no capabilities, a
read-only root that holds an interpreter and nothing else; inside, the system-call filter and the limits of
every tier. Needs the program ``bwrap`` (0.8 or newer) and unprivileged user namespaces.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from typing import ClassVar

from sdgym.verifiers.sandbox import fence, interpreter, seccomp
from sdgym.verifiers.sandbox.base import Started
from sdgym.verifiers.sandbox.process import ProcessChannel

OLDEST = (0, 8)
_CONFINED = (
    "--unshare-all",
    "--unshare-user",
    "--disable-userns",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--uid",
    "65534",
    "--gid",
    "65534",
)
_NEW_PROCESS_LIMIT = (5, 14)
"""From this kernel on RLIMIT_NPROC counts per user namespace."""


class Bwrap:
    """See the module."""

    name: ClassVar[str] = "bwrap"

    def missing(self) -> str:
        """Return what this machine lacks, or nothing."""
        if not seccomp.supported():
            return f"no system-call filter for {platform.machine()}"
        if shutil.which("bwrap") is None:
            return "bubblewrap is not installed (Debian, Ubuntu: apt-get install bubblewrap)"
        if _version() < OLDEST:
            return f"bubblewrap is {'.'.join(map(str, _version()))}, at least {'.'.join(map(str, OLDEST))} is needed"
        if interpreter.find() is None:
            return interpreter.NONE
        return ""

    def start(self) -> Started:
        """Start an empty sandbox."""
        user = interpreter.NOBODY if os.geteuid() == 0 else None
        others = 0 if _kernel() >= _NEW_PROCESS_LIMIT else None
        inner = {"uid": -1, "seccomp": seccomp.assemble(), "others": others}
        return Started(ProcessChannel(_command(), user=user), interpreter.usable().runner, inner)

    def close(self) -> None:
        """Nothing is held."""


@functools.cache
def _version() -> tuple[int, ...]:
    done = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, timeout=30)
    found = re.search(r"(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


@functools.cache
def _command() -> list[str]:
    python = interpreter.usable()
    command = [shutil.which("bwrap") or "bwrap", *_CONFINED]
    for path in (*python.other, python.library):
        command += ["--ro-bind", path, path]
    for name in python.hidden:
        command += ["--tmpfs", f"{python.library}/{name}"]
    for path in fence.DEVICES:
        command += ["--dev-bind", path, path]
    return [*command, "--remount-ro", "/", "--chdir", "/", "--", *python.command]
