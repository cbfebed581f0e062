"""Hours in minutes: everything a run does, over and over in one process, while memory, descriptors, processes and files are watched.

``python -m sdgym.benchmarks.endurance.soak --minutes 30`` trains, evaluates, grades, runs programs in the sandbox, saves, resumes
and writes reports, round after round. After each round it writes one line of ``soak.jsonl``; at the end it compares the last third
of the rounds with the middle third and exits with 1 if anything grew. The first third is warm-up: caches fill, pools start.
The result is ``soak.json``. Interrupted, it starts again: only a process that has lived that long can show that nothing grew.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import psutil

from sdgym.benchmarks.endurance.record import Record, arguments
from sdgym.errors import SdgymError

FEWEST = 6
"""Rounds below which nothing can be said."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the process holds after a round.

    Attributes:
        seconds: since the start.
        memory: resident bytes of the process and its children.
        descriptors: open files and sockets of the process.
        processes: children, zombies included.
        threads: of the process.
        files: entries in the temporary folder that are ours.
    """

    seconds: float
    memory: int
    descriptors: int
    processes: int
    threads: int
    files: int


TOLERANCE = {"memory": 24_000_000, "descriptors": 2, "processes": 1, "threads": 1, "files": 0}
"""What the last third may have more than the middle one; memory also 3 %."""


def measure(began: float) -> Sample:
    """Look at this process."""
    gc.collect()
    me = psutil.Process()
    children = me.children(recursive=True)
    memory = me.memory_info().rss
    for child in children:
        try:
            memory += child.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    ours = [path for path in pathlib.Path(tempfile.gettempdir()).iterdir() if path.name.startswith("sdgym")]
    return Sample(time.monotonic() - began, memory, me.num_fds(), len(children), me.num_threads(), len(ours))


def verdict(samples: Sequence[Sample]) -> list[str]:
    """Return what grew, one sentence each; nothing if all is flat. Medians of thirds, so that one round's peak is no leak."""
    if len(samples) < FEWEST:
        return [f"only {len(samples)} rounds: at least {FEWEST} are needed, let it run longer"]
    third = len(samples) // 3
    told = []
    for name, slack in TOLERANCE.items():
        middle, last = (statistics.median(getattr(s, name) for s in part) for part in (samples[third : 2 * third], samples[-third:]))
        allowed = slack + (0.03 * middle if name == "memory" else 0)
        if last - middle > allowed:
            told.append(f"{name} grew from {middle:.0f} to {last:.0f} between the middle and the last third of {len(samples)} rounds")
    return told


def round_of_work(number: int, folder: pathlib.Path) -> None:
    """Train, resume, evaluate and report in ``folder``, which is emptied first; every world answers a few actions."""
    import sdgym
    from sdgym.report import write_report

    shutil.rmtree(folder, ignore_errors=True)
    settings: dict[str, Any] = {"tasks_per_step": 4, "group_size": 4, "max_live": 16, "seed": number, "checkpoint": {"every": 1}}
    evaluation = {"every": 0, "tasks": 4, "samples": 1, "test_tasks": 0}
    for algo, env in (("sdpo", "sdgym/Math-v0"), ("grpo", "sdgym/Sokoban-v0")):
        out = folder / algo
        sdgym.train(algo, {"id": env, "level": "tiny"}, out=out, steps=2, eval=evaluation, **settings)
        sdgym.train(out=out, resume=True)
        write_report(out)
    for name in ("Math", "Sokoban", "ToolWorld", "Code"):
        world = sdgym.make(f"sdgym/{name}-v0", level="tiny")
        try:
            for seed in range(3):
                world.reset(seed=seed)
                for action in (*world.unwrapped.oracle(world.unwrapped.task)[:1], "\\boxed{\\frac{x^2-1}{x-1}}", "no idea"):
                    if world.step(action)[2] or world.step("again")[3]:
                        world.reset(seed=seed)
        except SdgymError as error:  # this machine has no sandbox for Code, or the episode was over
            print(f"round {number}, {name}: {error}", file=sys.stderr)
        finally:
            world.close()


def soak(minutes: float, out: pathlib.Path) -> list[Sample]:
    """Work for ``minutes``, write ``soak.jsonl`` into ``out`` and return what was measured."""
    out.mkdir(parents=True, exist_ok=True)
    began, samples = time.monotonic(), list[Sample]()
    with (out / "soak.jsonl").open("w", encoding="utf-8") as log, tempfile.TemporaryDirectory(prefix="soak-") as folder:
        while time.monotonic() - began < 60 * minutes:
            round_of_work(len(samples), pathlib.Path(folder) / "runs")
            samples.append(measure(began))
            log.write(json.dumps(dataclasses.asdict(samples[-1])) + "\n")
            log.flush()
    return samples


def main() -> int:
    """Parse the arguments, soak, and say what grew."""
    chosen = arguments(__doc__, "minutes", float, 30.0, "how long (default 30)")
    record = Record(chosen.out / "soak.json", {"minutes": chosen.minutes})
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:  # what other processes leave in the common one is theirs
        os.environ["TMPDIR"], tempfile.tempdir = temporary, None
        samples = soak(chosen.minutes, chosen.out)
    grew = verdict(samples)
    third = max(1, len(samples) // 3)
    middle, last = samples[third : 2 * third] or samples, samples[-third:]
    for name in TOLERANCE:
        values = [statistics.median(getattr(s, name) for s in part) for part in (middle, last)]
        record.add(name, {"good": not any(line.startswith(f"{name} ") for line in grew), "middle": values[0], "last": values[1]})
    record.add("rounds", {"good": len(samples) >= FEWEST, "count": len(samples)})
    print("\n".join(grew) or "flat: memory, descriptors, processes, threads and temporary files")
    return record.close(minutes=chosen.minutes, rounds=len(samples))


if __name__ == "__main__":
    from sdgym.api import quiet_threads

    quiet_threads()
    sys.exit(main())
