"""A pool of killable comparison workers, usable from any thread and any event loop.

Nothing heavy happens in this process: a thread per worker only waits on a socket. A worker that exceeds
its deadline (counted from dispatch, not from submission) is killed and replaced; the trainer itself is
never forked: a separate zygote process, started with exec, forks the workers.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from sdgym.errors import ConfigError, InfraError

COMMAND = 16
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")

_START_LIMIT = 120.0
"""Seconds a zygote may take to start; two on an idle core."""

Pairs = Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What a worker said.

    Attributes:
        status: ``done``, ``timeout`` (killed at the deadline) or ``crashed`` (died on this job twice).
        results: one word per pair, see :func:`sdgym.verifiers.math_worker.compare`.
        seconds: wall time from dispatch.
    """

    status: str
    results: tuple[str, ...] = ()
    seconds: float = 0.0


class _Zygote:
    """The process that forks workers. All methods are called under the pool's lock."""

    def __init__(self, memory: int, cpu_seconds: int) -> None:
        self.control, theirs = socket.socketpair()
        script = pathlib.Path(__file__).with_name("math_worker.py")
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | {"PYTHONHASHSEED": "0"}
        command = [sys.executable, "-P", str(script), str(theirs.fileno()), str(memory), str(cpu_seconds)]
        with theirs:
            self.process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C at the terminal lets the trainer finish its step
            )
        self.control.settimeout(_START_LIMIT)
        if self._answer() != "ready":
            raise InfraError("the math grader's worker process did not start")

    def _answer(self) -> str:
        data = b""
        try:
            while len(data) < COMMAND and (chunk := self.control.recv(COMMAND - len(data))):
                data += chunk
        except OSError as error:
            raise InfraError(f"the math grader's worker process does not answer: {error}") from error
        if len(data) < COMMAND:
            raise InfraError("the math grader's worker process ended unexpectedly (is math-verify installed?)")
        return data.decode().strip()

    def fork(self) -> tuple[int, socket.socket]:
        """Return the process id and the socket of a new worker."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self.control, [b"F".ljust(COMMAND)], [theirs.fileno()])
                return int(self._answer()), ours
            except OSError as error:
                ours.close()
                raise InfraError(f"the math grader's worker process is gone: {error}") from error

    def kill(self, pid: int) -> None:
        """Kill and reap one worker."""
        try:
            self.control.sendall(f"K{pid}".ljust(COMMAND).encode())
            self._answer()
        except OSError as error:
            raise InfraError(f"the math grader's worker process is gone: {error}") from error

    def close(self) -> None:
        """End the zygote, and with it all workers; leaves no zombie."""
        self.control.close()
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclasses.dataclass
class _Worker:
    zygote: _Zygote
    pid: int
    sock: socket.socket
    calls: int = 0


class _Died(Exception):
    """The worker's socket closed in the middle of a job."""


class Pool:
    """Compare pairs of answers in worker processes.

    Args:
        workers: how many; default min(cores, 4).
        deadline: seconds per job from dispatch, then SIGKILL.
        recycle: jobs after which a worker is replaced (SymPy's caches grow).
        memory: address space of a worker in bytes.
        backlog: jobs that may wait; more raise :class:`InfraError`.

    Raises:
        ConfigError: a value that cannot work.
    """

    def __init__(
        self, workers: int | None = None, deadline: float = 2.0, recycle: int = 2000, memory: int = 2 << 30, backlog: int = 65_536
    ) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = min(cores, 4) if workers is None else workers
        if self.workers < 1 or deadline <= 0 or recycle < 1:
            raise ConfigError(f"a grader pool needs workers >= 1, deadline > 0 and recycle >= 1, got {workers}, {deadline}, {recycle}")
        self.deadline, self.recycle, self.memory = deadline, recycle, memory
        self.killed = 0
        """Workers killed at their deadline so far."""
        self._jobs: queue.Queue[tuple[bytes, concurrent.futures.Future[Reply]] | None] = queue.Queue(backlog)
        self._lock = threading.Lock()
        self._zygote: _Zygote | None = None
        self._closed = False
        self._threads = [threading.Thread(target=self._serve, name=f"math-grader-{i}", daemon=True) for i in range(self.workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, pairs: Pairs) -> concurrent.futures.Future[Reply]:
        """Queue a job of (gold, answer) pairs, judged by one worker within one deadline.

        Raises:
            InfraError: the pool is closed or the backlog is full.
        """
        future: concurrent.futures.Future[Reply] = concurrent.futures.Future()
        if self._closed:
            raise InfraError("the math grader's pool is closed")
        try:
            self._jobs.put_nowait((json.dumps(list(pairs)).encode(), future))
        except queue.Full:
            raise InfraError(f"more than {self._jobs.maxsize} answers wait for the math grader") from None
        return future

    async def compare(self, pairs: Pairs) -> Reply:
        """Judge a job without blocking the running event loop. Raises :class:`InfraError`."""
        return await asyncio.wrap_future(self.submit(pairs))

    def close(self) -> None:
        """Stop the threads, kill all workers, reap the zygote. Idempotent; waiting jobs get :class:`InfraError`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._zygote is not None:
                self._zygote.close()
        while not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job is not None:
                job[1].set_exception(InfraError("the math grader's pool was closed"))
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(5.0)

    def abandon(self) -> None:
        """In a forked child: drop the parent's sockets, so that the zygote sees the parent's end as the end."""
        self._closed = True
        if self._zygote is not None:
            self._zygote.control.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- one thread per worker ----------------------------------------------------------------------

    def _serve(self) -> None:
        worker: _Worker | None = None
        while (job := self._jobs.get()) is not None:
            payload, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                worker, reply = self._judge(worker, payload)
                future.set_result(reply)  # before any clean-up: the deadline is the caller's
                if worker is not None and (reply.status == "timeout" or worker.calls >= self.recycle):
                    self.killed += reply.status == "timeout"
                    spent, worker = worker, None
                    self._discard(spent)
            except InfraError as error:
                worker = None
                if not future.done():
                    future.set_exception(error)
        if worker is not None:
            worker.sock.close()

    def _judge(self, worker: _Worker | None, payload: bytes) -> tuple[_Worker | None, Reply]:
        """Run one job; a worker that dies of it is replaced and the job tried once more."""
        for _ in range(2):
            worker = worker or self._spawn()
            started = time.monotonic()
            try:
                results = self._exchange(worker, payload, started + self.deadline)
            except TimeoutError:
                return worker, Reply("timeout", (), time.monotonic() - started)
            except _Died:
                self._discard(worker)
                worker = None
                continue
            worker.calls += 1
            return worker, Reply("done", results, time.monotonic() - started)
        return None, Reply("crashed")

    def _exchange(self, worker: _Worker, payload: bytes, until: float) -> tuple[str, ...]:
        try:
            worker.sock.settimeout(max(until - time.monotonic(), 1e-3))
            worker.sock.sendall(struct.pack("!I", len(payload)) + payload)
            size = struct.unpack("!I", self._receive(worker.sock, 4, until))[0]
            return tuple(json.loads(self._receive(worker.sock, size, until)))
        except TimeoutError:
            raise
        except OSError as error:
            raise _Died from error

    @staticmethod
    def _receive(sock: socket.socket, size: int, until: float) -> bytes:
        data = b""
        while len(data) < size:
            sock.settimeout(max(until - time.monotonic(), 1e-3))
            chunk = sock.recv(size - len(data))
            if not chunk:
                raise _Died
            data += chunk
        return data

    def _spawn(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise InfraError("the math grader's pool is closed")
            if self._zygote is None or self._zygote.process.poll() is not None:
                if self._zygote is not None:
                    self._zygote.close()
                self._zygote = _Zygote(self.memory, int(self.deadline) + 3)
            pid, sock = self._zygote.fork()
            return _Worker(self._zygote, pid, sock)

    def _discard(self, worker: _Worker) -> None:
        worker.sock.close()
        with self._lock:
            if worker.zygote is self._zygote and not self._closed and worker.zygote.process.poll() is None:
                worker.zygote.kill(worker.pid)


_shared: Pool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> Pool:
    """Return this process's pool, started on first use and closed at exit."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared._closed:
            _shared = Pool()
            atexit.register(_shared.close)
        return _shared


def _after_fork() -> None:
    """A forked child has none of the parent's threads: it starts its own pool when it needs one."""
    global _shared, _shared_lock
    if _shared is not None:
        _shared.abandon()
    _shared, _shared_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
