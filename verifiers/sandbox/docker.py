"""Tier ``docker``: hardened containers of a local engine, started ahead of need, each used for one submission.

A container idles with its runner's bootstrap attached to standard input and output; taking one starts the
next in the background, so that its start (a quarter of a second) is not waited for. No network, read-only
root, no capabilities, no new privileges, memory, process and descriptor limits; inside, the system-call
filter and the limits of every tier. Containers carry a label with their owner and are removed with it: at
the end of the process, or by the next process that finds the owner gone.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import marshal
import os
import pathlib
import platform
import socket
import threading
import time
from typing import Any, ClassVar

from sdgym.verifiers.sandbox import interpreter, seccomp
from sdgym.verifiers.sandbox.base import SandboxError, Started

IMAGE_VARIABLE, DEFAULT_IMAGE = "SDGYM_DOCKER_IMAGE", "python:3.11-slim"
LABEL = "sdgym.sandbox.owner"
STDOUT = 1
MEMORY, PROCESSES = "1g", 64


def image() -> str:
    """Return the image in use: any with a ``python3`` of 3.11 or newer."""
    return os.environ.get(IMAGE_VARIABLE, DEFAULT_IMAGE)


def settings() -> dict[str, Any]:
    """Return what every container is created with."""
    return {
        "command": ["python3", *interpreter.FLAGS, "-c", interpreter.BOOT],
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

    with contextlib.suppress(docker.errors.NotFound):
        container.remove(force=True)


class Docker:
    """See the module."""

    name: ClassVar[str] = "docker"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._background: concurrent.futures.ThreadPoolExecutor | None = None
        self._spare: concurrent.futures.Future[DockerChannel] | None = None
        self._client: Any = None

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
        try:
            client.images.get(image())
        except docker.errors.ImageNotFound:
            return f"the image {image()} is not there (docker pull {image()}, or name one in {IMAGE_VARIABLE})"
        except docker.errors.DockerException as error:
            return f"the Docker engine fails: {error}"
        return ""

    def start(self) -> Started:
        """Hand over the container that waits, and have the next one started."""
        with self._lock:
            if self._background is None:
                self._connect()
            assert self._background is not None
            taken = self._spare or self._background.submit(self._create)
            self._spare = self._background.submit(self._create)
        channel = taken.result()
        runner = marshal.dumps(interpreter.runner_source(), 2)
        return Started(channel, runner, {"uid": -1, "seccomp": seccomp.assemble(), "others": None})

    def _connect(self) -> None:
        import docker

        self._client = docker.from_env(timeout=60)
        self._background = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="containers")
        for container in self._client.containers.list(all=True, filters={"label": LABEL}):
            if not alive(container.labels.get(LABEL, "")):
                _remove(container)
        atexit.register(self.close)

    def _create(self) -> DockerChannel:
        import docker

        container = None
        try:
            container = self._client.containers.create(image(), **settings())
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
