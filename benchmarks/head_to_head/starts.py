"""What every method starts from: each policy, untrained, on the test tasks, measured once per environment."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from sdgym.benchmarks.head_to_head.machine import Machine, last_words
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
class _Ended:
    world: World
    policy: str
    folder: pathlib.Path
    code: int


def measure_starts(suite: Suite, folder: pathlib.Path, machine: Machine, console: Console) -> Starts:
    """Evaluate each start on the test tasks of every environment, as the trials will at their end (same tasks, same luck).

    Raises:
        ConfigError: no environment can be run from every policy.
    """
    asked = {folder / "starts" / suite.place(world, policy): (world, policy) for world in suite.envs for policy in suite.policies}
    ended = []
    for place, code in machine.run({place: _prepare(suite, *asked[place], place) for place in asked}):
        ended.append(_Ended(*asked[place], place, code))
        if code == 0:
            told = f"start on {suite.place(*asked[place])}: {_summary(place / 'eval.jsonl')}"
            console.print(told, markup=False, soft_wrap=True)
    return conclude(suite, sorted(ended, key=lambda this: list(asked).index(this.folder)), folder, console)


def conclude(suite: Suite, ended: Sequence[_Ended], folder: pathlib.Path, console: Console) -> Starts:
    """Leave out policies that ran nowhere, then environments that some other policy cannot be run in."""
    good = [this for this in ended if this.code == 0]
    policies = tuple(p for p in suite.policies if any(this.policy == p for this in good)) or suite.policies
    worlds = tuple(w for w in suite.envs if all(any(this.world == w and this.policy == p for this in good) for p in policies))
    found = Starts(suite.model_copy(update={"envs": worlds, "policies": policies}))
    for this in ended:
        if this.code:
            what = this.world.id if this.policy in policies else f"the policy {this.policy!r}"
            told = f"{what} is left out: {last_words(this.folder).removeprefix('sdgym: ')}"
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


def _prepare(suite: Suite, world: World, policy: str, place: pathlib.Path) -> list[str]:
    """Return the arguments of the evaluation, with its settings in ``place``; one that is done already ends at once."""
    tree = suite.trial_settings(suite.arms[0], world, 0, policy)
    settings = {"model": tree["model"], "env": tree["env"], "eval": tree["eval"], "sampling": tree["sampling"], "device": tree["device"]}
    key = content_hash({"settings": settings, "code": code_hash()})
    if not (place / "key").is_file() or (place / "key").read_text(encoding="utf-8") != key:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        replace_file(place / "key", key)  # last: where it is, the settings are
    tasks = int(tree["eval"]["test_tasks"]) or int(tree["eval"]["tasks"])
    chosen = ["--config", str(place / "settings.yaml"), "--episodes", str(tasks), "--split", "test", "--out", str(place)]
    return ["-m", "sdgym", "eval", *chosen, "--resume"]


def _summary(path: pathlib.Path) -> str:
    """Return one line about the records in ``path``."""
    lines = path.read_text(encoding="utf-8").splitlines()
    records: list[Mapping[str, Any]] = [record for line in lines if (record := json.loads(line))["split"] == "test"]
    report = report_from_records(records, "test")
    samples = max(item.samples for item in report.items)
    return f"success {report.success:.3f} at T=1, greedy {report.greedy:.3f}, maj@{samples} {report.majority:.3f}, on {len(records)} test tasks"
