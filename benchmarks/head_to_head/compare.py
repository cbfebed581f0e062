"""``sdgym compare``: say what it will cost, measure starts and teachers, run the trials, write the report, print the tables."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdgym.benchmarks.head_to_head.details import Record
from sdgym.benchmarks.head_to_head.display import Display
from sdgym.benchmarks.head_to_head.expand import expand
from sdgym.benchmarks.head_to_head.lift import has_teacher, measure_lifts
from sdgym.benchmarks.head_to_head.machine import Machine
from sdgym.benchmarks.head_to_head.pace import core_hours, fit_steps, recorded_hours
from sdgym.benchmarks.head_to_head.runner import Board, Engine, LocalEngine, run_all
from sdgym.benchmarks.head_to_head.starts import Starts, measure_starts
from sdgym.benchmarks.head_to_head.suite import Arm, Suite, World, choose, load_suite, world_name
from sdgym.benchmarks.head_to_head.trials import code_hash, make_plan
from sdgym.benchmarks.head_to_head.trl_settings import missing_features
from sdgym.benchmarks.head_to_head.tuning import tune_arms
from sdgym.config import EnvConfig
from sdgym.core import content_hash
from sdgym.errors import ConfigError, RunFolderError, UnknownNameError
from sdgym.files import FolderLock
from sdgym.trees import merge

if TYPE_CHECKING:
    from rich.console import Console

    from sdgym.report.tables import Block


CLOSING = (
    "Every method starts from the same policy; n counts runs, intervals are 95 % bootstraps over policies, seeds and tasks and need n ≥ 5."
)

OWN = {
    "algo.name": "choose with --algos, or in the suite's arms",
    "env.id": "choose with --envs, or in the suite's envs",
    "model": "choose with --model, or in the suite's policies",
    "seed": "the first one is --seed, how many --seeds",
    "threads": "a trial has one thread; how many run at once is --threads",
}
"""Settings of a run that a comparison decides, and what to say instead."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison leaves behind.

    Attributes:
        folder: all run folders are below it.
        report: the HTML file.
        blocks: the table, one block per environment and policy.
        failed: trials that failed twice, with the reason.
    """

    folder: pathlib.Path
    report: pathlib.Path
    blocks: tuple[Block, ...]
    failed: dict[str, str]


def run_suite(
    suite: str | Suite = "quick",
    *,
    algos: Sequence[str] | None = None,
    envs: Sequence[str] | None = None,
    seeds: int | None = None,
    seed: int = 0,
    out: str | pathlib.Path | None = None,
    resume: bool = False,
    model: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    threads: int | None = None,
    tune: bool = False,
    engine: str = "local",
    address: str | None = None,
    console: Console | None = None,
) -> Comparison:
    """Run a comparison and write its report.

    Args:
        suite: name, YAML file or a :class:`Suite`.
        algos, envs: keep only these arms (name or algorithm) and environments (id or short name); an
            algorithm that the suite lacks joins as an arm of its own.
        seeds: exactly this many seeds per cell, whatever the time; None takes what the budget allows.
        seed: the first seed.
        out: folder; by default one per suite and code under ``runs/compare``, where finished trials are reused.
        resume: allow an ``out`` that is not empty.
        model, env_kwargs, settings: override the suite's (``model`` all of its policies).
        threads: CPU threads of this machine in all: so many trials at once, one thread each; None takes every core.
        tune: give every arm the suite's search on ``val`` first.
        engine: ``local``, or ``ray`` to spread the trials over a cluster whose nodes share ``out``.
        address: of the Ray cluster (``host:6379``, ``ray://host:10001``, ``auto``); None starts one on this machine.
        console: where to draw; default standard output.

    Raises:
        UserError: names, settings or folders that cannot work, or none of the environments can be run.
    """
    console, cores = console or wide_console(), trials_at_once(threads)
    chosen = expand(customise(load_suite(suite) if isinstance(suite, str) else suite, algos, envs, seeds, model, env_kwargs, settings))
    folder = choose_folder(suite if isinstance(suite, str) else "suite", chosen, out, resume)
    with FolderLock(folder, "comparing"), Machine(cores) as machine, choose_engine(engine, address, folder, machine) as place:
        began = time.monotonic()
        chosen, starts, tuning = prepare(chosen, folder, machine, place, console, tune)
        board = Board(make_plan(chosen, seed, folder), place.slots, chosen.time_budget, started=began, launch=place.start)
        record = Record(chosen, folder, board, starts.records, starts.notes, tuning)
        with Display(console) as display:
            for state in run_all(board, display.notice):
                display.update(state)
                record.write_if_new()
        return conclude(record, console)


def choose_engine(engine: str, address: str | None, folder: pathlib.Path, machine: Machine) -> Engine:
    """Return where trials run: the cores of this machine, or a Ray cluster. Raises :class:`UserError` for one that is not there."""
    if engine == "ray":
        from sdgym.benchmarks.head_to_head.ray_engine import RayEngine

        return RayEngine(folder, address)
    if engine != "local":
        raise UnknownNameError("engine", engine, ("local", "ray"))
    if address is not None:
        raise ConfigError("--address is the address of a Ray cluster; it goes with --engine ray")
    return LocalEngine(machine)


def choose_folder(name: str, suite: Suite, out: str | pathlib.Path | None, resume: bool) -> pathlib.Path:
    """Return the comparison's folder, made if missing. Raises :class:`RunFolderError` if it is full and not to be resumed."""
    folder = pathlib.Path(out) if out is not None else default_folder(name, suite)
    if out is not None and folder.is_dir() and any(folder.iterdir()) and not resume:
        raise RunFolderError(
            f"the folder {str(folder)!r} is not empty; add --resume to continue the comparison in it, or take another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def prepare(
    suite: Suite, folder: pathlib.Path, machine: Machine, place: Engine, console: Console, tune: bool
) -> tuple[Suite, Starts, list[dict[str, Any]]]:
    """Say what the comparison costs, measure starts and teachers, tune if asked; return what will run, the starts and the tuning runs."""

    def tell(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    lifts = sum(has_teacher(suite, arm) for arm in suite.arms)
    tell(announcement(suite, place, folder))
    tell(estimate_line(suite, place.slots, tune, lifts))
    starts = measure_starts(suite, folder, machine, console)
    suite, fewer = fit_steps(starts.suite, starts.paces, place.slots)
    if fewer is not None:
        starts.notes.append(fewer)
        tell(fewer)
    if suite.time_budget is None:
        tell(f"at this machine's pace {core_hours(suite, starts.paces, tune, lifts):.1f} core-hours")
    measure_lifts(suite, folder, machine, tell)
    if not tune:
        return suite, starts, []
    suite, tuning = tune_arms(suite, folder, place, tell)
    return suite, starts, tuning


def announcement(suite: Suite, place: Engine, folder: pathlib.Path) -> str:
    """Return the first line of a comparison: what it is made of."""
    parts = [f"{len(suite.arms)} methods", f"{len(suite.envs)} environments"]
    if len(suite.policies) > 1:
        parts.append(f"{len(suite.policies)} policies")
    if suite.time_budget is None:
        parts.append(f"{suite.seeds} seeds")
    return f"{suite.title}: {' × '.join(parts)}, {place.slots} trials at a time{place.where}, in {folder}"


def estimate_line(suite: Suite, slots: int, tune: bool, lifts: int) -> str:
    """Return what the comparison will cost, as far as it can be known before anything has run."""
    hours = recorded_hours(suite, tune, lifts)
    if hours is None:
        return f"core-hours can be estimated once the start has been measured: of {', '.join(suite.policies)} no pace is recorded"
    if suite.time_budget is not None:
        hours = min(hours, suite.time_budget * slots / 3600.0)
    return f"estimated {hours:.1f} core-hours, at the pace of one thread of a busy two-core machine"


def wide_console() -> Console:
    """Return standard output as a console; a file or a pipe has no width of its own and gets 140 columns."""
    from rich.console import Console as RichConsole

    console = RichConsole(highlight=False)
    return console if console.is_terminal else RichConsole(highlight=False, width=140)


def available_cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def trials_at_once(threads: int | None) -> int:
    """Return how many one-threaded trials may run here with ``threads`` in all. Raises :class:`ConfigError` below 1."""
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    return min(available_cores(), threads or available_cores())


def default_folder(name: str, suite: Suite) -> pathlib.Path:
    """Return the folder of this suite under this code, so that a second call finds the first one's trials."""
    stem = pathlib.Path(name).stem
    return pathlib.Path("runs") / "compare" / f"{stem}-{content_hash({'suite': suite.model_dump(mode='json'), 'code': code_hash()})[:10]}"


def customise(
    suite: Suite,
    algos: Sequence[str] | None,
    envs: Sequence[str] | None,
    seeds: int | None,
    model: str | None,
    env_kwargs: Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None,
) -> Suite:
    """Return the suite with the caller's choices put in and every trial's settings checked."""
    from sdgym.algos.presets import build_algorithm

    change: dict[str, Any] = {}
    refuse_own(merge(suite.settings, settings or {}))
    asked = merge({"env": {}}, settings or {})
    env_kwargs = {**EnvConfig.model_validate(asked.pop("env")).kwargs, **(env_kwargs or {})}
    if algos is not None:
        change["arms"] = choose_arms(suite, algos)
    if envs is not None:
        known = {name for world in suite.envs for name in (world.id, world_name(world))}
        added = tuple(World(id=name) for name in envs if name not in known and "/" in name)
        change["envs"] = choose("environment", (*suite.envs, *added), envs, lambda world: (world.id, world_name(world)))
    if env_kwargs:
        change["envs"] = tuple(w.model_copy(update={"kwargs": {**w.kwargs, **env_kwargs}}) for w in change.get("envs", suite.envs))
    if seeds is not None:
        if seeds < 1:
            raise ConfigError(f"--seeds must be at least 1, got {seeds}")
        change |= {"seeds": seeds, "time_budget": None}
    if model is not None:
        change["policies"] = (model,)
    change["settings"] = merge(suite.settings, asked)
    changed = suite.model_copy(update=change)
    for arm in changed.arms:
        tree = changed.trial_settings(arm, changed.envs[0], 0)
        build_algorithm(tree["algo"]["name"], tree["algo"]["overrides"])
        if arm.engine == "trl":
            missing_features(tree)
    return changed


def refuse_own(settings: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` for a setting that a comparison gives to each trial itself."""
    for name, instead in OWN.items():
        section, _, key = name.partition(".")
        value = merge({section: {}}, settings)[section] if key else settings
        if (key or section) in value:
            raise ConfigError(f"a comparison gives every trial its own {name!r}, so it cannot be a setting: {instead}")


def choose_arms(suite: Suite, algos: Sequence[str]) -> tuple[Arm, ...]:
    """Return the suite's arms of these names or algorithms, and a new arm for each algorithm it lacks."""
    from sdgym.algos.presets import algorithm_names

    known = {name for arm in suite.arms for name in (arm.name, arm.algo)}
    extra = [name for name in algos if name not in known]
    for name in extra:
        if ":" not in name and name not in algorithm_names():
            raise UnknownNameError("algorithm", name, [*known, *algorithm_names()])
    kept = choose("algorithm", suite.arms, [name for name in algos if name in known], lambda arm: (arm.name, arm.algo))
    return (*kept, *(Arm(name=name.rpartition(":")[2], algo=name) for name in extra))


def conclude(record: Record, console: Console) -> Comparison:
    """Write ``comparison.json`` and the report, print the tables and the path."""
    from sdgym.benchmarks.head_to_head.tables import findings, results
    from sdgym.report import load_folder, write_report
    from sdgym.report.tables import blocks

    record.write()
    board, folder = record.board, record.folder
    if not board.finished:
        told = record.notes()
        raise ConfigError(f"no trial finished: {told[0] if told else 'nothing was run'}")
    report = write_report(folder)
    runs, _ = load_folder(folder)
    found = tuple(blocks(runs))
    for table in (*results(found), *findings(folder)):
        console.print()
        console.print(table)
    console.print(f"\n{CLOSING}", markup=False)
    console.print(f"report: {report}", markup=False, soft_wrap=True)
    return Comparison(folder, report, found, {trial.name: why for trial, why in board.failed.items()})
