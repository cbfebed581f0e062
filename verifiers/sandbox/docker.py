"""Tier ``docker``: hardened containers of a local engine, started ahead of need, each used for one submission.

A container idles with its runner's bootstrap attached to standard input and output; taking one starts the
next in the background, so that its start (a quarter of a second) is not waited for. No network, read-only
root, no capabilities, no new privileges, memory, process and descriptor limits; inside, Landlock, the
system-call filter and the limits of every tier: a program sees no more of the image than of this machine
elsewhere. Containers carry a label with their owner and are removed with it: at the end of the process, or
by the next process that finds the owner gone.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import inspect
import json
import marshal
import os
import pathlib
import platform
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from sdgym.verifiers.sandbox import fence, interpreter, seccomp
from sdgym.verifiers.sandbox.base import SandboxError, Started

IMAGE_VARIABLE, DEFAULT_IMAGE = "SDGYM_DOCKER_IMAGE", "python:3.11-slim"
LABEL = "sdgym.sandbox.owner"
STDOUT = 1
RULES_FD = 200
"""Where a container keeps its Landlock rule set until its runner restricts itself."""
MEMORY, PROCESSES = "1g", 64
LOOK_SECONDS = 60.0
GONE = (404, 409)
"""What the engine answers about a container that somebody else has removed, or is just removing."""


def image() -> str:
    """Return the image in use: any with a ``python3`` of 3.11 or newer."""
    return os.environ.get(IMAGE_VARIABLE, DEFAULT_IMAGE)


def settings(program: str = interpreter.BOOT) -> dict[str, Any]:
    """Return what every container is created with; ``program`` is what its Python runs."""
    return {
        "command": ["python3", *interpreter.FLAGS, "-c", program],
        "environment": interpreter.ENVIRONMENT,
        "working_dir": "/",
        "stdin_open": True,
        "init": True,
        "network_mode": "none",
        "ipc_mode": "none",
        "read_only": True,
        "user": f"{interpreter.NOBODY}:{interpreter.NOBODY}",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": MEMORY,
        "memswap_limit": MEMORY,
        "pids_limit": PROCESSES,
        "nano_cpus": 1_000_000_000,
        "log_config": {"type": "none"},
        "labels": {LABEL: owner()},
    }


def fenced(python: Mapping[str, Any]) -> str:
    """Return the program of a container: prepare the rule set for ``python`` (see ``interpreter.LOOK``), then wait for a runner."""
    other = [python["executable"], *python["shared"], python["dynamic"]]
    return f"""{inspect.getsource(fence)}
allowed = readable({python["library"]!r}, {list(interpreter.PACKAGES)!r}, {[path for path in other if path]!r})
os.dup2(ruleset(min(version(), {fence.NEWEST}), allowed), {RULES_FD})
for name in set(os.environ) - {set(interpreter.ENVIRONMENT)!r}:
    del os.environ[name]
{interpreter.BOOT}"""


def owner() -> str:
    """Return a name of this process that no later process has: its id and start time."""
    return f"{os.getpid()}-{_started(os.getpid())}"


def _started(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def alive(name: str) -> bool:
    """Return whether the process called ``name`` (see :func:`owner`) is still there."""
    pid, _, started = name.partition("-")
    return pid.isdigit() and bool(started) and _started(int(pid)) == started


class DockerChannel:
    """The attached streams of one container; see :class:`sdgym.verifiers.sandbox.base.Channel`."""

    def __init__(self, container: Any, sock: socket.socket) -> None:
        self._container, self._sock, self._out = container, sock, bytearray()

    def send(self, data: bytes, until: float) -> None:
        """Write all of ``data``."""
        self._sock.settimeout(max(until - time.monotonic(), 1e-3))
        try:
            self._sock.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            raise SandboxError(f"the container is gone: {error}") from error

    def receive(self, size: int, until: float) -> bytes:
        """Return exactly ``size`` bytes of standard output, out of the engine's multiplexed stream."""
        while len(self._out) < size:
            head = self._raw(8, until)
            body = self._raw(int.from_bytes(head[4:], "big"), until)
            if head[0] == STDOUT:
                self._out += body
        data = bytes(self._out[:size])
        del self._out[:size]
        return data

    def _raw(self, size: int, until: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._sock.settimeout(max(until - time.monotonic(), 1e-3))
            try:
                chunk = self._sock.recv(min(size - len(data), 1 << 16))
            except TimeoutError:
                raise
            except OSError as error:
                raise SandboxError(f"the container is gone: {error}") from error
            if not chunk:
                raise SandboxError("the container ended")
            data += chunk
        return bytes(data)

    def close(self) -> None:
        """Kill and remove the container."""
        self._sock.close()
        _remove(self._container)


def _reason(error: BaseException) -> str:
    """Return what lies at the bottom of the client's nested errors."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)[:120]


def _remove(container: Any) -> None:
    import docker

    try:
        container.remove(force=True)
    except (docker.errors.DockerException, OSError) as error:
        if getattr(error, "status_code", None) not in GONE:
            raise SandboxError(f"the Docker engine does not remove a container: {_reason(error)}") from error


class Docker:
    """See the module."""

    name: ClassVar[str] = "docker"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._background: concurrent.futures.ThreadPoolExecutor | None = None
        self._spare: concurrent.futures.Future[DockerChannel] | None = None
        self._client: Any = None
        self._python: Mapping[str, Any] = {}

    def missing(self) -> str:
        """Return what this machine lacks, or nothing."""
        import docker

        if not seccomp.supported():
            return f"no system-call filter for {platform.machine()}"
        try:
            client = docker.from_env(timeout=60)
            client.ping()
        except (docker.errors.DockerException, OSError) as error:
            return f"no Docker engine answers: {_reason(error)}; start one, or set DOCKER_HOST"
        with contextlib.closing(client):
            try:
                client.images.get(image())
            except docker.errors.ImageNotFound:
                return f"the image {image()} is not there (docker pull {image()}, or name one in {IMAGE_VARIABLE})"
            except docker.errors.DockerException as error:
                return f"the Docker engine fails: {error}"
        try:
            python = self._connected()
        except (SandboxError, TimeoutError, docker.errors.DockerException) as error:
            return f"the image {image()} cannot be used: {error or 'its Python does not answer'}"
        return _unfit(python)

    def start(self) -> Started:
        """Hand over the container that waits, and have the next one started."""
        python = self._connected()
        if _unfit(python):
            raise SandboxError(_unfit(python))
        with self._lock:
            assert self._background is not None
            taken = self._spare or self._background.submit(self._create, fenced(python))
            self._spare = self._background.submit(self._create, fenced(python))
        inner = {"uid": -1, "landlock": RULES_FD, "seccomp": seccomp.assemble(), "others": None}
        return Started(taken.result(), bytes.fromhex(python["runner"]), inner)

    def _connected(self) -> Mapping[str, Any]:
        """Connect to the engine, remove what dead owners left, and return what the image's Python is; once."""
        import docker

        with self._lock:
            if self._background is None:
                self._client = docker.from_env(timeout=60)
                self._background = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="containers")
                # Other processes remove theirs meanwhile: one that is gone between listing and looking is no error.
                for container in self._client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True):
                    if not alive(container.labels.get(LABEL, "")):
                        _remove(container)
                atexit.register(self.close)
            if not self._python:
                self._python = self._look()
            return self._python

    def _look(self) -> Mapping[str, Any]:
        """Ask the image's Python what it consists of, in a container of its own."""
        until = time.monotonic() + LOOK_SECONDS
        channel = self._create(interpreter.BOOT)
        try:
            program = f"import io, sys\nsys.stdin = io.StringIO({interpreter.runner_source()!r})\n{interpreter.LOOK}"
            data = marshal.dumps(program, 2)
            channel.send(len(data).to_bytes(4, "big") + data, until)
            line = b""
            while not line.endswith(b"\n"):
                line += channel.receive(1, until)
        finally:
            channel.close()
        said: dict[str, Any] = json.loads(line)
        return said

    def _create(self, program: str) -> DockerChannel:
        import docker

        container = None
        try:
            container = self._client.containers.create(image(), **settings(program))
            attached = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 0, "stream": 1})
            container.start()
        except (docker.errors.DockerException, OSError) as error:
            if container is not None:
                _remove(container)
            raise SandboxError(f"the Docker engine starts no container: {error}") from error
        return DockerChannel(container, getattr(attached, "_sock", attached))

    def close(self) -> None:
        """Remove the container that waits."""
        with self._lock:
            spare, self._spare = self._spare, None
            background, self._background = self._background, None
        if background is None:
            return
        if spare is not None:
            with contextlib.suppress(SandboxError):
                spare.result().close()
        background.shutdown()
        self._client.close()


def _unfit(python: Mapping[str, Any]) -> str:
    """Return why a Python cannot be used in a container, or nothing."""
    if tuple(python["version"]) < (3, 11):
        return f"the image {image()} has Python {'.'.join(map(str, python['version']))}, at least 3.11 is needed"
    if python["landlock"] < 1:
        return "Landlock cannot be used in its containers (kernel 5.13 or newer with lsm=landlock, and an engine whose profile allows it)"
    return ""
