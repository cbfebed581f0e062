"""What every method starts from: the untrained policy on the test tasks, measured once per environment."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from sdgym.benchmarks.head_to_head.pace import Pace
from sdgym.benchmarks.head_to_head.suite import Suite, World, world_name
from sdgym.benchmarks.head_to_head.trials import code_hash
from sdgym.core import content_hash
from sdgym.errors import ConfigError
from sdgym.evaluation import report_from_records

if TYPE_CHECKING:
    from rich.console import Console


OVERHEAD = 8.0
"""Seconds a process needs to import torch and transformers and load the policy, on a slow core."""


@dataclasses.dataclass
class Starts:
    """What :func:`measure_starts` found.

    Attributes:
        suite: without the environments that cannot be run.
        records: per world name its record file, relative to the comparison's folder.
        paces: per world name how fast this machine is.
        notes: one sentence per environment left out.
    """

    suite: Suite
    records: dict[str, str] = dataclasses.field(default_factory=dict)
    paces: dict[str, Pace] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def measure_starts(suite: Suite, folder: pathlib.Path, cores: int, console: Console) -> Starts:
    """Evaluate the start on the test tasks of every environment, as the trials will at their end (same tasks, same luck).

    Raises:
        ConfigError: none can be run.
    """
    waiting = list(suite.envs)
    running: list[tuple[World, pathlib.Path, subprocess.Popen[str]]] = []
    kept, found = [], Starts(suite)
    while waiting or running:
        while waiting and len(running) < cores:
            world = waiting.pop(0)
            place, process = _start(suite, world, folder)
            running.append((world, place, process))
        world, place, process = running.pop(0)
        try:
            _, errors = process.communicate()
        except KeyboardInterrupt:
            for *_, other in [(world, place, process), *running]:
                other.terminate()
            raise
        if process.returncode == 0:
            kept.append(world)
            found.records[world_name(world)] = (place / "eval.jsonl").relative_to(folder).as_posix()
            found.paces[world_name(world)] = _pace(place)
            console.print(f"start on {world_name(world)}: {_summary(place / 'eval.jsonl')}", markup=False, soft_wrap=True)
        else:
            reason = (errors.strip().splitlines() or ["it stopped without a word"])[-1].removeprefix("sdgym: ")
            found.notes.append(f"{world.id} is left out: {reason}")
            console.print(found.notes[-1], markup=False, soft_wrap=True)
    if not kept:
        raise ConfigError(f"no environment of the suite can be run: {found.notes[0]}")
    found.suite = suite.model_copy(update={"envs": tuple(w for w in suite.envs if w in kept)})
    return found


def _pace(place: pathlib.Path) -> Pace:
    """Return the pace that the evaluation in ``place`` recorded."""
    told = json.loads((place / "pace.json").read_text(encoding="utf-8"))
    return Pace(told["rollouts"], told["seconds"], OVERHEAD)


def _start(suite: Suite, world: World, folder: pathlib.Path) -> tuple[pathlib.Path, subprocess.Popen[str]]:
    """Start the evaluation in a process of its own; one that is done already ends at once."""
    tree = suite.trial_settings(suite.arms[0], world, 0)
    settings = {"model": tree["model"], "env": tree["env"], "eval": tree["eval"], "sampling": tree["sampling"], "device": tree["device"]}
    place = folder / "starts" / world_name(world)
    key = content_hash({"settings": settings, "code": code_hash()})
    if not (place / "key").is_file() or (place / "key").read_text(encoding="utf-8") != key:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "key").write_text(key, encoding="utf-8")
        (place / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
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
    return place, process


def _summary(path: pathlib.Path) -> str:
    """Return one line about the records in ``path``."""
    records: list[Mapping[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    report = report_from_records(records, "test")
    samples = max(item.samples for item in report.items)
    return f"success {report.success:.3f} at T=1, greedy {report.greedy:.3f}, maj@{samples} {report.majority:.3f}, on {len(records)} test tasks"
