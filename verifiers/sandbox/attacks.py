"""The self-test of a tier: what a submission must not be able to do, tried for real before the first submission is judged.

Each function below is called in its own test; True means that the attack got through. The longer suite of
the test tree tries many more; this one is what every machine runs, so that a tier that *starts* is not
taken for a tier that *holds*.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from sdgym.verifiers.sandbox.base import Limits, SandboxError, Tier
from sdgym.verifiers.sandbox.interpreter import ENVIRONMENT
from sdgym.verifiers.sandbox.session import Session

LIMITS = Limits(cpu=2, wall=20.0, output=2**18)

SOURCE = """
import os

def works(x):
    return [x, {"y": (x, None)}]

def network(_):
    import socket
    socket.socket().close()
    return True

def read_files(_):
    for path in ("/etc/passwd", "/etc/hostname", "/etc/hosts", "/proc/self/status", "/proc/1/cmdline", "/sys/kernel/ostype"):
        try:
            open(path, "rb").read(1)
        except OSError:
            continue
        return True
    return False

def list_files(_):
    return bool(set(os.listdir("/")) & {"etc", "home", "root", "var"})

def write_files(_):
    for path in ("/tmp/a", "/var/tmp/a", "/dev/shm/a", "/a", "a"):
        try:
            with open(path, "w") as f:
                f.write("x")
        except OSError:
            continue
        return True
    return False

def change_attributes(_):
    os.chmod("/usr", 0o755)
    return True

def new_process(_):
    if os.fork() == 0:
        os._exit(0)
    return True

def new_program(_):
    os.execv("/usr/bin/true", ["true"])

def signal_others(pid):
    os.kill(os.getppid(), 0)
    return True

def signal_trainer(pid):
    os.kill(pid, 0)
    return True

def trainer_environment(pid):
    return bool(open("/proc/%d/environ" % pid, "rb").read(1))

def own_environment(known):
    return not set(os.environ) <= set(known) | {"PWD"}

def runner_memory(_):
    open("/proc/%d/mem" % os.getppid(), "rb")
    return True

def trace(_):
    import ctypes
    return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0

def remote_memory(_):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0) >= 0

def namespaces(_):
    import ctypes
    return ctypes.CDLL(None).unshare(0x10000000) == 0

def raise_limits(_):
    import resource
    for which in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
        try:
            resource.setrlimit(which, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (ValueError, OSError):
            continue
        return True
    return False

def descriptors(_):
    found = []
    for fd in range(4, 256):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(fd)
    return bool(found)

def memory(_):
    return len(bytearray(4 << 30)) > 0

def side_doors(_):
    import ctypes
    libc = ctypes.CDLL(None)
    return any(libc.syscall(number, 0, 0, 0, 0, 0) >= 0 for number in (425, 435, 438, 434))

def output(_):
    return "x" * (1 << 22)
"""

ATTACKS: Mapping[str, Any] = {
    "network": 0,
    "read_files": 0,
    "list_files": 0,
    "write_files": 0,
    "change_attributes": 0,
    "new_process": 0,
    "new_program": 0,
    "signal_others": 0,
    "signal_trainer": "pid",
    "trainer_environment": "pid",
    "own_environment": sorted(ENVIRONMENT),
    "runner_memory": 0,
    "trace": 0,
    "remote_memory": 0,
    "namespaces": 0,
    "raise_limits": 0,
    "descriptors": 0,
    "memory": 0,
    "side_doors": 0,
    "output": 0,
}
"""Name of each attack → its argument (``pid``: the trainer's process id)."""


def breaches(tier: Tier) -> list[str]:
    """Return the attacks that got through ``tier``; also ``works`` if an honest program fails in it.

    Raises:
        SandboxError: it does not start.
    """
    with Session(tier, SOURCE, LIMITS) as session:
        honest = session.call("works", [7])
        failed = [] if (honest.status, honest.value) == ("ok", [7, {"y": (7, None)}]) else [f"works ({honest.status})"]
        for name, argument in ATTACKS.items():
            result = session.call(name, [os.getpid() if argument == "pid" else argument])
            if result.status == "ok" and result.value is not False:
                failed.append(name)
    return failed


def verdict(tier: Tier) -> str:
    """Return why ``tier`` cannot be trusted here, or nothing. Never raises for what a machine lacks."""
    reason = tier.missing()
    if reason:
        return reason
    try:
        failed = breaches(tier)
    except SandboxError as error:
        return str(error)
    return f"does not hold: {', '.join(failed)}" if failed else ""
