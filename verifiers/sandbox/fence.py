"""Landlock's rule set for one interpreter, made where it will be used: in this process or inside a container.

Standard library alone, and no import of this project: the text of this file is also sent into containers.
"""

from __future__ import annotations

import ctypes
import os
import struct

CREATE_RULESET, ADD_RULE = 444, 445
NEWEST = 7
"""The newest interface that is known here."""
VERSION_FLAG, PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
DEVICES = {"/dev/null": READ_FILE | WRITE_FILE, "/dev/zero": READ_FILE, "/dev/urandom": READ_FILE, "/dev/random": READ_FILE}


def version() -> int:
    """Return the Landlock interface of this kernel; 0 or less if there is none, or it is forbidden here."""
    return int(ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG))


def rights(abi: int) -> tuple[int, int, int]:
    """Return the file, network and scope rights that interface ``abi`` can take away, as bit masks."""
    files = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)
    return (1 << files) - 1, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0


def readable(library: str, hidden: list[str], other: list[str]) -> dict[str, int]:
    """Return path → rights of all that an interpreter needs: its ``library`` without the ``hidden`` names, and ``other`` paths."""
    paths = [os.path.join(library, name) for name in os.listdir(library) if name not in hidden]
    for path in other:  # a folder of shared libraries may hold the whole standard library: not that part
        inside = os.path.isdir(path) and library.startswith(path.rstrip("/") + "/")
        found = [os.path.join(path, name) for name in os.listdir(path)] if inside else [path]
        paths += [p for p in found if not (library + "/").startswith(p.rstrip("/") + "/")]
    return {library: READ_DIR} | dict.fromkeys(paths, READ_FILE | READ_DIR) | DEVICES


def ruleset(abi: int, allowed: dict[str, int]) -> int:
    """Return the descriptor of a rule set that allows reading ``allowed`` and nothing else. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    files, network, scope = rights(abi)
    attributes = struct.pack("=QQQ", files, network, scope)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    rules = int(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for path, right in allowed.items():
        if not os.path.exists(path):
            continue
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", right if os.path.isdir(path) else right & ~READ_DIR, fd)
        failed = libc.syscall(ADD_RULE, rules, PATH_BENEATH, rule, 0) != 0
        os.close(fd)
        if failed:
            raise OSError(ctypes.get_errno(), "landlock_add_rule", path)
    return rules
