"""The run folder (lock, logs), signals, and who is told about progress."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pathlib
import re
import shutil
import signal
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Protocol

from sdgym import zero
from sdgym.errors import CheckpointError, ConfigError, RunFolderError
from sdgym.files import drop_unfinished, is_unfinished, replace_file

LOGS = ("metrics.jsonl", "eval.jsonl")


class RunFolder:
    """Everything a run writes.

    ``config.yaml metrics.jsonl eval.jsonl ledger.json trajectories/ tokens/ checkpoints/ model/`` and a lock that
    the operating system releases when the process dies, however it dies.

    Args:
        path: the folder; made if missing.
        resume: continue what lies there; without it the folder must be empty.

    Raises:
        RunFolderError: another process trains here, or there is something (or nothing) to resume.
    """

    def __init__(self, path: str | pathlib.Path, resume: bool = False) -> None:
        self.path = pathlib.Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{str(self.path)!r} is a file; --out takes a folder")
        content = [p.name for p in self.path.iterdir() if p.name != "run.lock" and not is_unfinished(p)] if self.path.exists() else []
        if resume and "config.yaml" not in content:
            raise RunFolderError(f"{str(self.path)!r} holds no run to resume (no config.yaml); start one without --resume")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / "run.lock", "a")  # noqa: SIM115  held until close()
        except OSError as error:
            raise RunFolderError(f"the run folder {str(self.path)!r} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RunFolderError(f"another process is training in {str(self.path)!r}; wait for it or take another --out") from None
        if content and not resume:
            self.close()
            raise RunFolderError(f"the run folder {str(self.path)!r} is not empty; add --resume to continue it, or take another --out")

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def append(self, log: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Append JSON lines to ``log`` and hand them to the operating system at once."""
        with open(self.path / log, "a", encoding="utf-8") as file:
            file.writelines(json.dumps({k: _plain(v) for k, v in record.items()}) + "\n" for record in records)

    def write_text(self, name: str, text: str) -> None:
        """Replace a small file atomically."""
        replace_file(self.path / name, text)

    def write_json(self, name: str, record: Mapping[str, Any]) -> None:
        """Replace a small JSON file atomically."""
        self.write_text(name, json.dumps({k: _plain(v) for k, v in record.items()}, indent=1) + "\n")

    def sizes(self) -> dict[str, int]:
        """Return the length of each log in bytes, for a checkpoint; the logs are on disk when it returns."""
        sizes = {}
        for name in LOGS:
            path = self.path / name
            if path.exists():
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            sizes[name] = path.stat().st_size if path.exists() else 0
        return sizes

    def rewind(self, step: int, sizes: Mapping[str, int]) -> None:
        """Bring the logs back to a checkpoint: cut them to ``sizes`` and drop later trajectories.

        Raises:
            CheckpointError: a log is shorter than it was.
        """
        for name in LOGS:
            path, size = self.path / name, int(sizes.get(name, 0))
            present = path.stat().st_size if path.exists() else 0
            if present < size:
                raise CheckpointError(
                    f"{path} is shorter than at the checkpoint ({present} < {size} bytes): it was changed after it was written"
                )
            if path.exists():
                os.truncate(path, size)
        for file in (file for kind in ("trajectories", "tokens") for file in (self.path / kind).glob("step_*.parquet")):
            if int(file.stem.removeprefix("step_")) > step:
                file.unlink()
        shutil.rmtree(self.path / "model", ignore_errors=True)
        for folder in (self.path, self.path / "trajectories", self.path / "tokens"):
            drop_unfinished(folder)


class Onlooker(RunFolder):
    """The run folder as the other processes of a run have it: they read checkpoints there and write nothing."""

    def __init__(self, path: str | pathlib.Path) -> None:
        self.path = pathlib.Path(path)

    def close(self) -> None:
        """Hold no lock."""

    def append(self, log: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Write nothing."""

    def write_text(self, name: str, text: str) -> None:
        """Write nothing."""

    def sizes(self) -> dict[str, int]:
        """Return nothing: the writing process knows."""
        return {}

    def rewind(self, step: int, sizes: Mapping[str, int]) -> None:
        """Leave everything as it is."""


def _plain(value: Any) -> Any:
    """Return JSON for a metric: NaN and infinities, which JSON lacks, become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Interrupt:
    """Turns SIGINT and SIGTERM into a flag that the loop reads between steps; a second SIGINT interrupts at once.

    Outside the main thread signals cannot be caught, and the flag stays 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


class Progress(Protocol):
    """Who is told how a run goes; every method may be called from the training thread only."""

    def start(self, name: str, header: str, done: int, total: int) -> None:
        """A run named ``name`` begins at step ``done`` of ``total``; ``header`` is its first line."""

    def advance(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step ``step`` is complete."""

    def message(self, text: str) -> None:
        """Something worth a line."""

    def finish(self) -> None:
        """The run is over, however it ended."""


class Silent:
    """Tells nobody."""

    def start(self, name: str, header: str, done: int, total: int) -> None:
        """Do nothing."""

    def advance(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


class Console:
    """A bar with the time left on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._console = RichConsole(highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
        )
        self._bar = Bar(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task: Any = None

    def start(self, name: str, header: str, done: int, total: int) -> None:
        """Print the header and show the bar."""
        self._console.print(header, markup=False)
        self._bar.start()
        self._task = self._bar.add_task(name, total=total, completed=done, state="")

    def advance(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move the bar; print a line where there was an evaluation."""
        state = f"success {metrics['train/success']:.2f}" if "train/success" in metrics else ""
        self._bar.update(self._task, completed=step, state=state)
        if "eval/success" in metrics:
            parts = [f"{metrics[key]:.3f} {key.split('/', 1)[1]}" for key in ("eval/success", "eval/greedy") if key in metrics]
            self._console.print(f"step {step}: {', '.join(parts)} on {int(metrics.get('eval/n', 0))} tasks", markup=False)

    def message(self, text: str) -> None:
        """Print ``text``."""
        self._console.print(text, markup=False)

    def finish(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def tracker_metrics(line: Mapping[str, Any], trackers: Sequence[str]) -> dict[str, Any]:
    """Return what trackers are told of a line of the metric log: finite numbers.

    MLflow takes neither ``@`` nor brackets in a name, and its file store no name that goes on where another ends: ``a/b@4/c``
    becomes ``a/b_at_4.c``.
    """
    numbers = {key: value for key, value in line.items() if math.isfinite(value)}
    if "mlflow" not in trackers:
        return numbers
    parts = {key: re.sub(r"[^\w. /-]", "_", key.replace("@", "_at_")).split("/") for key in numbers}
    return {"/".join([head, *([".".join(rest)] if rest else [])]): numbers[key] for key, (head, *rest) in parts.items()}


def make_accelerator(device: str, dtype: str, folder: pathlib.Path, trackers: Sequence[str]) -> Any:
    """Return the Accelerator of a run, with its trackers.

    Raises:
        ConfigError: a tracker is unknown or not installed, or DeepSpeed is asked for and cannot be had.
    """
    from accelerate import Accelerator
    from accelerate.tracking import get_available_trackers

    known = [str(t.value if hasattr(t, "value") else t) for t in get_available_trackers()]
    for tracker in trackers:
        if tracker not in known:
            raise ConfigError(f"the tracker {tracker!r} is unknown or not installed; here there are: {', '.join(known) or 'none'}")
    precision = "bf16" if dtype == "bfloat16" else "no"
    _forget_other_run(precision, device)
    place = zero.accelerator_settings(device) if zero.asked() else {"cpu": device == "cpu"}
    return Accelerator(**place, mixed_precision=precision, log_with=list(trackers) or None, project_dir=str(folder))


def _forget_other_run(precision: str, device: str) -> None:
    """Let a second run of a process have its own precision and device: Accelerate keeps the first one's for as long as the process lives."""
    from accelerate.state import AcceleratorState

    if zero.asked() or not AcceleratorState._shared_state:
        return
    state = AcceleratorState()
    alone = state.num_processes == 1
    if state.mixed_precision != precision or (alone and (state.device.type == "cpu") != (device == "cpu")):
        AcceleratorState._reset_state(reset_partial_state=alone)  # several processes keep their process group
