"""Tier ``landlock``: Landlock and the system-call filter, no namespaces, no helper program.

Landlock (kernel 5.13 or newer) leaves the judged process the right to read its interpreter and nothing
else in the file system; the filter takes sockets, signals, other processes and file attributes, all that
the oldest Landlock interface (ABI 1) lacks. Newer interfaces are used as far as the kernel has them: file
truncation (3), TCP (4), device control (5), abstract sockets and signals (6).
"""

from __future__ import annotations

import ctypes
import functools
import os
import pathlib
import platform
import struct
from typing import Any, ClassVar

from sdgym.verifiers.sandbox import interpreter, seccomp
from sdgym.verifiers.sandbox.base import SandboxError, Started
from sdgym.verifiers.sandbox.process import ProcessChannel

CREATE_RULESET, ADD_RULE = 444, 445
VERSION_FLAG, PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
NEWEST = 7
_DEVICES = {"/dev/null": READ_FILE | WRITE_FILE, "/dev/zero": READ_FILE, "/dev/urandom": READ_FILE, "/dev/random": READ_FILE}


def kernel_abi() -> int:
    """Return the Landlock interface version of this kernel, 0 if there is none."""
    if not seccomp.supported() or platform.system() != "Linux":
        return 0
    return max(0, int(_libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)))


def rights(abi: int) -> tuple[int, int, int]:
    """Return the file, network and scope rights that interface ``abi`` can take away, as bit masks."""
    files = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)
    return (1 << files) - 1, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0


class Landlock:
    """See the module.

    Args:
        abi: use at most this interface version (to test what an older kernel would do).
    """

    name: ClassVar[str] = "landlock"

    def __init__(self, abi: int = NEWEST) -> None:
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
            self._ruleset = _ruleset(min(self._most, kernel_abi()), python)
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


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _ruleset(abi: int, python: interpreter.Interpreter) -> int:
    """Return the descriptor of a rule set that allows reading ``python`` and nothing else."""
    files, network, scope = rights(abi)
    attributes = struct.pack("=QQQ", files, network, scope)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset: int = _libc().syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise SandboxError(f"landlock_create_ruleset: {os.strerror(ctypes.get_errno())}")
    library = pathlib.Path(python.library)
    readable = [str(path) for path in library.iterdir() if path.name not in python.hidden]
    for path in map(pathlib.Path, python.other):  # a folder of shared libraries may hold the whole standard library: not that part
        inside = path.is_dir() and library.is_relative_to(path)
        readable += [str(p) for p in path.iterdir() if not library.is_relative_to(p)] if inside else [str(path)]
    allowed = {python.library: READ_DIR} | dict.fromkeys(readable, READ_FILE | READ_DIR) | _DEVICES
    for name, right in allowed.items():
        _allow(ruleset, name, right)
    return ruleset


def _allow(ruleset: int, path: str, right: int) -> None:
    if not os.path.exists(path):
        return
    if not pathlib.Path(path).is_dir():
        right &= ~READ_DIR
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if _libc().syscall(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", right, fd), 0) != 0:
            raise SandboxError(f"landlock_add_rule {path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)
