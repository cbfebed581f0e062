"""What every method starts from: each policy, untrained, on the test tasks, measured once per environment."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from sdgym.benchmarks.head_to_head.pace import Pace, mean_pace
from sdgym.benchmarks.head_to_head.suite import Suite, World, world_name
from sdgym.benchmarks.head_to_head.trials import code_hash
from sdgym.core import content_hash
from sdgym.errors import ConfigError
from sdgym.evaluation import report_from_records
from sdgym.files import replace_file

if TYPE_CHECKING:
    from rich.console import Console


OVERHEAD = 3.0
"""Seconds a trial needs beside rollouts and updates: it loads the policy, wakes the graders, saves its model; imports are shared."""


@dataclasses.dataclass
class Starts:
    """What :func:`measure_starts` found.

    Attributes:
        suite: without the environments that cannot be run.
        records: per place its record file, relative to the comparison's folder.
        paces: per world name how fast this machine is (the mean over policies).
        notes: one sentence per environment left out.
    """

    suite: Suite
    records: dict[str, str] = dataclasses.field(default_factory=dict)
    paces: dict[str, Pace] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Running:
    world: World
    policy: str
    folder: pathlib.Path
    process: subprocess.Popen[str]


def measure_starts(suite: Suite, folder: pathlib.Path, cores: int, console: Console) -> Starts:
    """Evaluate each start on the test tasks of every environment, as the trials will at their end (same tasks, same luck).

    Raises:
        ConfigError: no environment can be run from every policy.
    """
    waiting = [(world, policy) for world in suite.envs for policy in suite.policies]
    running: list[_Running] = []
    ended: list[tuple[_Running, str]] = []
    while waiting or running:
        while waiting and len(running) < cores:
            running.append(_start(suite, *waiting.pop(0), folder))
        this = running.pop(0)
        try:
            _, errors = this.process.communicate()
        except KeyboardInterrupt:
            for other in (this, *running):
                other.process.terminate()
            raise
        ended.append((this, errors))
        if this.process.returncode == 0:
            told = f"start on {suite.place(this.world, this.policy)}: {_summary(this.folder / 'eval.jsonl')}"
            console.print(told, markup=False, soft_wrap=True)
    return conclude(suite, ended, folder, console)


def conclude(suite: Suite, ended: Sequence[tuple[_Running, str]], folder: pathlib.Path, console: Console) -> Starts:
    """Leave out policies that ran nowhere, then environments that some other policy cannot be run in."""
    good = [this for this, _ in ended if this.process.returncode == 0]
    policies = tuple(p for p in suite.policies if any(this.policy == p for this in good)) or suite.policies
    worlds = tuple(w for w in suite.envs if all(any(this.world == w and this.policy == p for this in good) for p in policies))
    found = Starts(suite.model_copy(update={"envs": worlds, "policies": policies}))
    for this, errors in ended:
        if this.process.returncode:
            what = this.world.id if this.policy in policies else f"the policy {this.policy!r}"
            told = f"{what} is left out: {(errors.strip().splitlines() or ['it stopped without a word'])[-1].removeprefix('sdgym: ')}"
            if told not in found.notes:
                found.notes.append(told)
                console.print(told, markup=False, soft_wrap=True)
        elif this.world in worlds:
            found.records[found.suite.place(this.world, this.policy)] = (this.folder / "eval.jsonl").relative_to(folder).as_posix()
    if not worlds:
        raise ConfigError(f"no environment of the suite can be run: {found.notes[0]}")
    found.paces = {world_name(w): mean_pace([_pace(this.folder) for this in good if this.world == w]) for w in worlds}
    return found


def _pace(place: pathlib.Path) -> Pace:
    """Return the pace that the evaluation in ``place`` recorded."""
    told = json.loads((place / "pace.json").read_text(encoding="utf-8"))
    return Pace(told["rollouts"], told["seconds"], OVERHEAD, told.get("tokens", 0))


def _start(suite: Suite, world: World, policy: str, folder: pathlib.Path) -> _Running:
    """Start the evaluation in a process of its own; one that is done already ends at once."""
    tree = suite.trial_settings(suite.arms[0], world, 0, policy)
    settings = {"model": tree["model"], "env": tree["env"], "eval": tree["eval"], "sampling": tree["sampling"], "device": tree["device"]}
    place = folder / "starts" / suite.place(world, policy)
    key = content_hash({"settings": settings, "code": code_hash()})
    if not (place / "key").is_file() or (place / "key").read_text(encoding="utf-8") != key:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        replace_file(place / "key", key)  # last: where it is, the settings are
    tasks = int(tree["eval"]["test_tasks"]) or int(tree["eval"]["tasks"])
    arguments = [
        "eval",
        "--config",
        str(place / "settings.yaml"),
        "--episodes",
        str(tasks),
        "--split",
        "test",
        "--out",
        str(place),
        "--resume",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "sdgym", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    return _Running(world, policy, place, process)


def _summary(path: pathlib.Path) -> str:
    """Return one line about the records in ``path``."""
    lines = path.read_text(encoding="utf-8").splitlines()
    records: list[Mapping[str, Any]] = [record for line in lines if (record := json.loads(line))["split"] == "test"]
    report = report_from_records(records, "test")
    samples = max(item.samples for item in report.items)
    return f"success {report.success:.3f} at T=1, greedy {report.greedy:.3f}, maj@{samples} {report.majority:.3f}, on {len(records)} test tasks"
