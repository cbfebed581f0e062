"""Running trials in parallel, one process and one thread each, within a budget of seconds."""

from __future__ import annotations

import dataclasses
import fcntl
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from sdgym.benchmarks.head_to_head.machine import LOG, PATIENCE, POLL, Machine, Process, last_words, start_cold, stop
from sdgym.benchmarks.head_to_head.trials import Trial


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


def start(trial: Trial, attempt: int, spawn: Callable[[Sequence[str], pathlib.Path], Process] = start_cold) -> Running:
    """Start ``trial`` in a process of its own with one thread; its output goes to ``log.txt``."""
    wait_for_predecessor(trial)
    process = spawn(trial.prepare(), trial.folder / LOG)
    return Running(trial, process, time.monotonic(), attempt, int(trial.settings["steps"]))


class LocalEngine:
    """This machine: one trial per core."""

    where = ""

    def __init__(self, machine: Machine) -> None:
        self.slots = machine.cores
        self._machine = machine

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        """The machine is its owner's."""

    def start(self, trial: Trial, attempt: int) -> Running:
        """See :func:`start`."""
        return start(trial, attempt, self._machine.start)


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
        stop([running.process for running in board.running])


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
            board.retried[trial] = f"exit code {code}: {last_words(trial.folder)}"
            notice(
                f"{trial.arm} on {trial.place}, seed {trial.seed}, failed (exit code {code}) and is tried once more: {last_words(trial.folder)}"
            )
            board.running.append(board.launch(trial, 2))
        else:
            board.failed[trial] = f"exit code {code}: {last_words(trial.folder)}; see {trial.folder / LOG}"
            notice(f"{trial.arm} on {trial.place}, seed {trial.seed}, failed again ({board.failed[trial]})")
