"""Running trials in parallel, one process and one thread each, within a budget of seconds."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from sdgym.benchmarks.head_to_head.trials import Trial
from sdgym.nursery import SINGLE, Nursery, die_with_parent

POLL = 0.2  # seconds between looks at the processes
PRELOAD = ("sdgym.trainer", "sdgym.session", "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto")
"""What every trial imports."""
PATIENCE = 20.0  # seconds a trial gets to save after SIGTERM


class Process(Protocol):
    """What is asked of a trial under way; :class:`subprocess.Popen` and :class:`sdgym.benchmarks.head_to_head.ray_engine.RayTask`."""

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""

    def terminate(self) -> None:
        """Ask it to save and stop."""

    def kill(self) -> None:
        """End it."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its exit code. Raises :class:`subprocess.TimeoutExpired`."""


class Engine(Protocol):
    """Where trials run; a context manager."""

    slots: int
    where: str

    def start(self, trial: Trial, attempt: int) -> Running:
        """Start a trial."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *_: object) -> None: ...


@dataclasses.dataclass
class Running:
    """A trial in a process of its own."""

    trial: Trial
    process: Process
    started: float
    attempt: int
    steps: int

    @property
    def step(self) -> int:
        """Finished steps, from the trial's metrics."""
        return int(self.trial.latest("step") or 0)


@dataclasses.dataclass
class Board:
    """Everything that the display and the scheduler know.

    Attributes:
        plan: all trials, those that must run first at the front.
        cores: trials at once.
        budget: seconds for the whole, or None.
        finished: seconds per finished trial; ``reused`` of them were there before.
        retried: why, per trial that failed once.
        failed: why, per trial that failed twice.
        launch: starts a trial.
    """

    plan: Sequence[Trial]
    cores: int
    budget: float | None
    finished: dict[Trial, float] = dataclasses.field(default_factory=dict)
    reused: set[Trial] = dataclasses.field(default_factory=set)
    retried: dict[Trial, str] = dataclasses.field(default_factory=dict)
    failed: dict[Trial, str] = dataclasses.field(default_factory=dict)
    running: list[Running] = dataclasses.field(default_factory=list)
    started: float = dataclasses.field(default_factory=time.monotonic)
    launch: Callable[[Trial, int], Running] = lambda trial, attempt: start(trial, attempt)

    @property
    def spent(self) -> float:
        """Seconds of budget used: the wall clock, and what earlier runs put into the trials reused now."""
        return time.monotonic() - self.started + sum(self.finished[t] for t in self.reused) / self.cores

    def expected(self, trial: Trial) -> float:
        """Seconds ``trial`` will take: its cell's mean, else that of all finished ones, else of the running ones' pace."""
        same = [s for t, s in self.finished.items() if t.cell == trial.cell] or list(self.finished.values())
        if same:
            return sum(same) / len(same)
        paces = [(time.monotonic() - r.started) * r.steps / r.step for r in self.running if r.step > 0]
        return sum(paces) / len(paces) if paces else 0.0

    def next_trial(self) -> Trial | None:
        """Return the next trial that has to run or still fits into the budget."""
        busy = {r.trial for r in self.running}
        for trial in self.plan:
            if trial in self.finished or trial in self.failed or trial in busy:
                continue
            if trial.index == 0 or self.budget is None or self.spent + self.expected(trial) <= self.budget:
                return trial
        return None

    def seconds_left(self) -> float:
        """Estimate the seconds until the last trial that will run has ended."""
        now, work = time.monotonic(), 0.0
        for r in self.running:
            work += max(0.0, self.expected(r.trial) - (now - r.started))
        busy = {r.trial for r in self.running}
        room = None if self.budget is None else max(0.0, self.budget - self.spent) * self.cores
        for trial in self.plan:
            if trial in self.finished or trial in self.failed or trial in busy:
                continue
            cost = self.expected(trial)
            if trial.index == 0 or room is None or work + cost <= room:
                work += cost
        return work / self.cores


def start(trial: Trial, attempt: int, spawn: Callable[[Sequence[str], pathlib.Path], Process] | None = None) -> Running:
    """Start ``trial`` in a process of its own with one thread; its output goes to ``log.txt``."""
    wait_for_predecessor(trial)
    process = (spawn or start_cold)(trial.prepare(), trial.folder / "log.txt")
    return Running(trial, process, time.monotonic(), attempt, int(trial.settings["steps"]))


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


class LocalEngine:
    """This machine: one process and one thread per trial, as many at once as there are cores.

    On Linux trials are forks of one process that has imported everything (:mod:`sdgym.nursery`).
    """

    where = ""

    def __init__(self, cores: int) -> None:
        self.slots = cores
        self._nursery: Nursery | None = None

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._nursery is not None:
            self._nursery.close()

    def start(self, trial: Trial, attempt: int) -> Running:
        """See :func:`start`."""
        return start(trial, attempt, self._spawn if sys.platform == "linux" else start_cold)

    def _spawn(self, arguments: Sequence[str], log: pathlib.Path) -> Process:
        if self._nursery is None or not self._nursery.alive:
            self._nursery = Nursery(PRELOAD)
        return self._nursery.start(arguments, log)


def wait_for_predecessor(trial: Trial) -> None:
    """Wait until a process that an earlier, killed comparison left in the trial's folder has saved and gone."""
    lock = trial.run_folder / "run.lock"
    if not lock.is_file():
        return
    deadline = time.monotonic() + PATIENCE
    with lock.open("a") as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                time.sleep(POLL)


def last_words(trial: Trial) -> str:
    """Return the last line that the trial printed."""
    try:
        lines = (trial.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it printed nothing"


def run_all(board: Board, notice: Callable[[str], None]) -> Iterator[Board]:
    """Run the plan of ``board``; yields it a few times a second, so that the caller can draw it.

    A trial that fails is reported through ``notice`` and tried once more, from its last checkpoint. When the
    caller leaves (Ctrl-C, an error), every running trial is told to save and stop.
    """
    for trial in board.plan:
        seconds = trial.seconds_if_done()
        if seconds is not None:
            board.finished[trial] = seconds
            board.reused.add(trial)
    try:
        while True:
            _collect(board, notice)
            while len(board.running) < board.cores and (following := board.next_trial()) is not None:
                board.running.append(board.launch(following, 1))
            yield board
            if not board.running:
                return
            time.sleep(POLL)
    finally:
        stop(board.running)


def _collect(board: Board, notice: Callable[[str], None]) -> None:
    """Move ended processes to ``finished`` or ``failed``, or start them a second time."""
    for running in list(board.running):
        code = running.process.poll()
        if code is None:
            continue
        board.running.remove(running)
        trial, seconds = running.trial, time.monotonic() - running.started
        if code == 0:
            if lost := getattr(running.process, "lost", 0):
                board.retried[trial] = f"{lost} node{'s' if lost > 1 else ''} died under it; it went on from its last checkpoint"
            trial.finish(seconds)
            board.finished[trial] = seconds
        elif running.attempt == 1:
            board.retried[trial] = f"exit code {code}: {last_words(trial)}"
            notice(
                f"{trial.arm} on {trial.place}, seed {trial.seed}, failed (exit code {code}) and is tried once more: {last_words(trial)}"
            )
            board.running.append(board.launch(trial, 2))
        else:
            board.failed[trial] = f"exit code {code}: {last_words(trial)}; see {trial.folder / 'log.txt'}"
            notice(f"{trial.arm} on {trial.place}, seed {trial.seed}, failed again ({board.failed[trial]})")


def stop(running: Sequence[Running]) -> None:
    """Ask every running trial to save and stop; kill those that do not within :data:`PATIENCE` seconds."""
    for r in running:
        r.process.terminate()
    deadline = time.monotonic() + PATIENCE
    for r in running:
        try:
            r.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            r.process.kill()
            r.process.wait()
