"""``sdgym compare --engine ray``: trials as tasks of a Ray cluster.

A task starts the same process that the local engine starts, in the same folder, which all nodes must share (a network file
system; on one machine any folder). When a node dies, Ray gives its tasks to others, and a trial goes on from its last
checkpoint there. Scheduling, retries and the watch over nodes are Ray's; nothing of it is rebuilt here.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import socket
import subprocess
import time
import uuid
from typing import Any

from sdgym.benchmarks.head_to_head.machine import LOG, POLL, stop
from sdgym.benchmarks.head_to_head.runner import Running, start
from sdgym.benchmarks.head_to_head.trials import Trial
from sdgym.errors import ConfigError

RETRIES = 3
"""Nodes that a trial may lose."""
NODES = "nodes.jsonl"
"""Which nodes a trial has been on, one line each."""
TOKEN = "shared.token"


class RayEngine:
    """A Ray cluster; a context manager that leaves a cluster it did not start as it was.

    Args:
        folder: of the comparison, which every node must see under the same path.
        address: of the cluster; None starts one on this machine, asked to listen on loopback (Ray 2.60 does not heed it: SECURITY.md).

    Raises:
        ConfigError: Ray is not installed, or nothing answers at ``address``.
    """

    def __init__(self, folder: pathlib.Path, address: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        try:
            import ray
        except ImportError:
            raise ConfigError("--engine ray needs the package ray: pip install 'sdgym-rl[ray]'") from None
        self._ray: Any = ray
        own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address is None else {"address": address}
        try:
            self._ray.init(**own, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises it bare where a node does not come up in time
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(f"there is no Ray cluster at {address or 'this machine'}: {reason}") from None
        self.slots = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        nodes = len([node for node in self._ray.nodes() if node["Alive"]])
        self.where = f" on a Ray cluster of {nodes} node{'s' if nodes != 1 else ''}"
        self._token = uuid.uuid4().hex
        self._folder = folder.resolve()
        (self._folder / TOKEN).write_text(self._token, encoding="utf-8")
        self._play = ray.remote(num_cpus=1, max_retries=RETRIES, retry_exceptions=False)(play)

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()
        (self._folder / TOKEN).unlink(missing_ok=True)

    def start(self, trial: Trial, attempt: int) -> Running:
        """Hand ``trial`` to the cluster."""
        absolute = Trial(trial.arm, trial.place, trial.seed, trial.settings, trial.folder.resolve(), trial.index, trial.engine)
        task = uuid.uuid4().hex
        reference = self._play.remote(absolute, self._folder, self._token, task)
        return Running(trial, RayTask(self._ray, reference, trial, task), time.monotonic(), attempt, int(trial.settings["steps"]))


class RayTask:
    """A task under way, with the face of a process (:class:`sdgym.benchmarks.head_to_head.runner.Process`)."""

    def __init__(self, ray: Any, reference: Any, trial: Trial, task: str) -> None:
        self._ray, self._reference, self._trial, self._task = ray, reference, trial, task
        self._code: int | None = None

    @property
    def lost(self) -> int:
        """Nodes that died under this task."""
        return max(0, len([line for line in nodes_of(self._trial) if line["task"] == self._task]) - 1)

    def poll(self) -> int | None:
        """Return the exit code, or None while it waits or runs; 1 where Ray gave it up."""
        if self._code is None and self._ray.wait([self._reference], timeout=0)[0]:
            try:
                self._code = int(self._ray.get(self._reference))
            except self._ray.exceptions.RayError as error:
                self._code = 1
                self._trial.folder.mkdir(parents=True, exist_ok=True)
                with (self._trial.folder / LOG).open("a", encoding="utf-8") as log:
                    log.write(" ".join(f"{type(error).__name__}: {error}".split())[-400:] + "\n")
        return self._code

    def terminate(self) -> None:
        """Ask the trial to save and stop."""
        self._ray.cancel(self._reference, force=False)

    def kill(self) -> None:
        """End it."""
        self._ray.cancel(self._reference, force=True)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its exit code."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("ray", timeout or 0.0)
            time.sleep(POLL)
        return code


def play(trial: Trial, root: pathlib.Path, token: str, task: str) -> int:
    """Run on a node: the trial in a process of its own, until it ends or is cancelled; return its exit code.

    Raises:
        RuntimeError: the node does not see the comparison's folder.
    """
    import ray

    marker = root / TOKEN
    if not marker.is_file() or marker.read_text(encoding="utf-8") != token:
        raise RuntimeError(f"node {socket.gethostname()} does not see {root}: --engine ray needs an --out that all nodes share")
    running = start(trial, 1)
    node = ray.get_runtime_context().get_node_id()
    with (trial.folder / NODES).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"task": task, "node": node, "host": socket.gethostname()}) + "\n")
    try:
        while (code := running.process.poll()) is None:
            time.sleep(POLL)
        return code
    finally:
        stop([running.process] if running.process.poll() is None else [])


def nodes_of(trial: Trial) -> list[dict[str, str]]:
    """Return the nodes that ``trial`` has been on, in order; none under the local engine."""
    path = trial.folder / NODES
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
