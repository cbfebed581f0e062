"""This machine as a place where processes run: one thread each, as many at once as there are cores.

On Linux they are forks of one process that has imported everything (:mod:`sdgym.nursery`), so that starts, teachers and trials
pay for the imports once.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from sdgym.nursery import SINGLE, Nursery, die_with_parent

POLL = 0.2  # seconds between looks at the processes
PATIENCE = 20.0  # seconds a process gets to save after SIGTERM
LOG = "log.txt"
PRELOAD = ("sdgym.trainer", "sdgym.session", "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto")
"""What every process imports."""


class Process(Protocol):
    """What is asked of a process; :class:`subprocess.Popen` and :class:`sdgym.benchmarks.head_to_head.ray_engine.RayTask`."""

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""

    def terminate(self) -> None:
        """Ask it to save and stop."""

    def kill(self) -> None:
        """End it."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its exit code. Raises :class:`subprocess.TimeoutExpired`."""


class Machine:
    """A context manager; leaving it ends the process that the others are forked from.

    Args:
        cores: processes at once.
    """

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self._nursery: Nursery | None = None

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._nursery is not None:
            self._nursery.close()

    def start(self, arguments: Sequence[str], log: pathlib.Path) -> Process:
        """Run ``python ARGUMENTS`` (``-m MODULE …``) with one thread, its output appended to ``log``."""
        if sys.platform != "linux":
            return start_cold(arguments, log)
        if self._nursery is None or not self._nursery.alive:
            self._nursery = Nursery(PRELOAD)
        return self._nursery.start(arguments, log)

    def run(self, jobs: Mapping[pathlib.Path, Sequence[str]]) -> Iterator[tuple[pathlib.Path, int]]:
        """Run all ``jobs`` (folder → arguments); yields folder and exit code as each ends, its output in ``folder/log.txt``.

        When the caller leaves (Ctrl-C, an error), those that run are told to stop.
        """
        waiting, running = list(jobs), dict[pathlib.Path, Process]()
        try:
            while waiting or running:
                while waiting and len(running) < self.cores:
                    folder = waiting.pop(0)
                    running[folder] = self.start(jobs[folder], folder / LOG)
                for folder, process in list(running.items()):
                    code = process.poll()
                    if code is not None:
                        del running[folder]
                        yield folder, code
                time.sleep(POLL)
        finally:
            stop(list(running.values()))


def start_cold(arguments: Sequence[str], log: pathlib.Path) -> Process:
    """Run ``python ARGUMENTS`` in a new interpreter."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **SINGLE},
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def stop(processes: Sequence[Process]) -> None:
    """Ask all to save and stop; kill those that do not within :data:`PATIENCE` seconds."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_words(folder: pathlib.Path) -> str:
    """Return the last line that the process of ``folder`` printed."""
    try:
        lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it printed nothing"
