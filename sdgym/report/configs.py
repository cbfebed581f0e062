"""What the configurations of the runs have in common and where they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.config import EnvConfig
from sdgym.report.load import Run
from sdgym.trees import differences, merge

OPERATION = ("seed", "device", "threads", "max_live", "eval", "checkpoint", "log")
"""Sections of a config that make no other method: what may differ between seeds of one."""
NOTHING = "default"
"""Shown for a setting that a run leaves alone."""


def first_seeds(runs: Sequence[Run]) -> list[Run]:
    """Return one run per (environment, method)."""
    found: dict[tuple[str, str, str, str], Run] = {}
    for run in runs:
        found.setdefault((run.env, run.level, run.model, run.arm), run)
    return list(found.values())


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with longer names where short ones would make seeds of what are none.

    A world made with other settings (a file of one's own …) bears them, and so does a method that was run with different ones.
    """
    made: dict[str, set[str]] = {}
    for run in runs:
        made.setdefault(run.env, set()).add(_world(run))
    runs = [dataclasses.replace(run, world=_world(run)) if len(made[run.env]) > 1 else run for run in runs]
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.env, run.level, run.model, run.arm), []).append(run)
    names = {run.folder: name for members in groups.values() for run, name in zip(members, _names(members), strict=True)}
    return [dataclasses.replace(run, arm=names[run.folder]) for run in runs]


def _world(run: Run) -> str:
    """Return the id of the run's world with what it is made with beside level and split in brackets."""
    env = run.config["env"]
    return EnvConfig(id=env["id"], kwargs={key: value for key, value in env["kwargs"].items() if key != "level"}).label


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the names of runs of one method in one world."""
    configs = [{**run.config, **dict.fromkeys(OPERATION)} for run in runs]
    keys = sorted({line.split(": ", 1)[0] for config in configs for line in differences(configs[0], config)})
    told = [{key.removeprefix("algo.overrides."): lookup(config, key) for key in keys} for config in configs]
    return [
        f"{run.arm} ({', '.join(f'{k}={show(v) or NOTHING}' for k, v in own.items())})" if own else run.arm
        for run, own in zip(runs, told, strict=True)
    ]


def config_differences(runs: Sequence[Run]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return arm names and, per setting that differs between arms, its values; environments and seeds are left out."""
    arms: dict[str, dict[str, Any]] = {}
    for run in runs:
        arms.setdefault(
            run.arm, {**run.config, "algo": merge({"settings": resolved_settings(run)}, run.config["algo"]), "env": None, "seed": None}
        )
    base = next(iter(arms.values()), {})
    keys = sorted({line.split(": ", 1)[0] for config in arms.values() for line in differences(base, config)})
    return list(arms), [(key, [show(lookup(config, key)) for config in arms.values()]) for key in keys]


def resolved_settings(run: Run) -> dict[str, Any]:
    """Return the algorithm's full settings, {} where its code is not at hand."""
    from sdgym.algos.presets import build_algorithm
    from sdgym.errors import UserError

    try:
        return dict(build_algorithm(run.config["algo"]["name"], run.config["algo"]["overrides"]).config.model_dump(mode="json"))
    except UserError:
        return {}


def lookup(config: Any, key: str) -> Any:
    """Return the value at a dotted key, "" where there is none."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return ""
        config = config[part]
    return config


def show(value: Any) -> str:
    """Return a short text for a table cell."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={v}" for k, v in value.items())
    return "" if value is None else str(value)
