"""Which Python runs the submissions: one that the confined user can read, and what of its files he may see."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from sdgym.verifiers.sandbox.base import SandboxError

NOBODY = 65534
"""The user that sandboxes become when the trainer is root."""
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
"""All that a submission finds in ``os.environ``: the same hash seed every time, and nothing of the trainer's."""
FLAGS = ("-S", "-P", "-s")
NONE = "no Python 3.11 or newer that an ordinary user can read (Debian, Ubuntu: apt-get install python3)"
BOOT = """import os, marshal
def take(n):
    data = b''
    while len(data) < n:
        piece = os.read(0, n - len(data))
        if not piece: os._exit(0)
        data += piece
    return data
exec(marshal.loads(take(int.from_bytes(take(4), 'big'))))"""
"""The command line of every sandbox: the runner itself comes through the pipe."""
PACKAGES = ("site-packages", "dist-packages")
LOOK = """
import sys, os, json, sysconfig, marshal, ctypes, hashlib, decimal, zlib, bz2, lzma, resource, select, _json
source = sys.stdin.read()
maps = {line.split(None, 5)[5].strip() for line in open('/proc/self/maps') if '/' in line}
libraries = sorted({os.path.dirname(p) for p in maps if '.so' in os.path.basename(p)})
landlock = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1) if sys.platform == 'linux' else 0
print(json.dumps({
    'landlock': landlock,
    'executable': os.path.realpath(sys.executable), 'version': list(sys.version_info[:3]),
    'library': sysconfig.get_paths()['stdlib'], 'dynamic': sysconfig.get_config_var('DESTSHARED') or '', 'shared': libraries,
    'runner': marshal.dumps(compile(source, 'runner', 'exec', dont_inherit=True, optimize=2)).hex(),
}), flush=True)
"""
"""Prints what this interpreter consists of, and the runner (given on standard input) compiled by it."""


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """A Python for submissions.

    Attributes:
        executable: its real path.
        version: (major, minor, micro).
        library: the folder of the standard library.
        hidden: names in ``library`` that a submission must not read: installed packages, where this project's
            own sources could lie.
        other: further files and folders it may read: the executable, shared libraries.
        runner: the runner compiled by this interpreter (marshal).
    """

    executable: str
    version: tuple[int, int, int]
    library: str
    hidden: tuple[str, ...]
    other: tuple[str, ...]
    runner: bytes

    @property
    def command(self) -> list[str]:
        """The command line that waits for a runner on standard input."""
        return [self.executable, *FLAGS, "-c", BOOT]


def runner_source() -> str:
    """Return the text of the program that runs inside."""
    return pathlib.Path(__file__).with_name("runner.py").read_text(encoding="utf-8")


def confined_uid() -> int:
    """Return the user id that sandboxes run as: ours, or :data:`NOBODY` for root."""
    return NOBODY if os.geteuid() == 0 else os.geteuid()


@functools.cache
def find() -> Interpreter | None:
    """Return the first interpreter of 3.11 or newer that :func:`confined_uid` can run, ours before the system's; or None."""
    versions = [f"python3.{minor}" for minor in range(sys.version_info[1], 10, -1)]
    named = [path for name in ("python3", *versions) if (path := shutil.which(name, path="/usr/local/bin:/usr/bin:/bin"))]
    for candidate in dict.fromkeys((getattr(sys, "_base_executable", sys.executable), *named)):
        found = _look(candidate)
        if found is not None:
            return found
    return None


def usable() -> Interpreter:
    """Return :func:`find`'s interpreter. Raises SandboxError if there is none."""
    found = find()
    if found is None:
        raise SandboxError(NONE)
    return found


def _look(executable: str) -> Interpreter | None:
    """Ask ``executable``, as the confined user, what it consists of; None if it cannot be used."""
    drop = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(
            [executable, *FLAGS, "-c", LOOK],
            input=runner_source(),
            capture_output=True,
            text=True,
            timeout=60,
            env=ENVIRONMENT,
            cwd="/",
            check=True,
            **drop,  # type: ignore[call-overload]
        )
        said = json.loads(done.stdout)
        if tuple(said["version"]) >= (3, 11):
            return _interpreter(said)
    return None


def _loader(executable: str) -> list[str]:
    """Return the dynamic loader that an ELF program names, as it names it."""
    with open(executable, "rb") as program:
        found = re.search(rb"\0(/[^\0]+/ld[^\0/]*\.so[^\0/]*)\0", program.read(8192))
    return [os.fsdecode(found[1])] if found else []


def _interpreter(said: dict[str, object]) -> Interpreter:
    library = pathlib.Path(str(said["library"]))
    hidden = tuple(name for name in PACKAGES if (library / name).is_dir())
    shared: list[str] = said["shared"]  # type: ignore[assignment]
    other = [str(said["executable"]), *_loader(str(said["executable"])), *shared, str(said["dynamic"])]
    outside = tuple(path for path in dict.fromkeys(other) if os.path.exists(path) and not pathlib.Path(path).is_relative_to(library))
    version: tuple[int, int, int] = tuple(said["version"])  # type: ignore[arg-type,assignment]
    return Interpreter(other[0], version, str(library), hidden, outside, bytes.fromhex(str(said["runner"])))
