"""Step times on machines that are not here.

    python -m sdgym.benchmarks.simulate lengths --model tiny --env sdgym/Math-v0 --out lengths.json   # what a policy says
    python -m sdgym.benchmarks.simulate lengths --run RUN --out lengths.json                          # what a run's policy said
    python -m sdgym.benchmarks.simulate measure --tasks 4 8 16 32 --out steps.json                    # steps of this machine
    python -m sdgym.benchmarks.simulate check steps.json                                              # simulated against measured
    python -m sdgym.benchmarks.simulate run gpus-8 --sweep worlds.hosts=1,10,100                      # a scenario

A scenario is a name (of scenarios/) or a YAML file; ``--set`` and ``--sweep`` change it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import yaml

from sdgym.benchmarks.simulate.lengths import Lengths, of_run
from sdgym.benchmarks.simulate.measure import Record, check, draw_lengths, measure_steps
from sdgym.benchmarks.simulate.scenario import Summary, load_scenario, summarise
from sdgym.config import RunConfig, resolve_config
from sdgym.errors import SdgymError, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, print; 2 for a mistake of the user."""
    chosen = parser().parse_args(arguments)
    try:
        return int(chosen.work(chosen) or 0)
    except SdgymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(
        prog="python -m sdgym.benchmarks.simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = top.add_subparsers(required=True, metavar="COMMAND")
    lengths, measured = (
        verbs.add_parser("lengths", help="lengths of rollouts, and the law fitted to them"),
        verbs.add_parser("measure", help="clock steps"),
    )
    for verb, tasks in ((lengths, [16]), (measured, [4, 8, 16, 32])):
        verb.add_argument("--model", default="tiny")
        verb.add_argument("--env", default="sdgym/Math-v0")
        verb.add_argument("--level", default="tiny")
        verb.add_argument("--tasks", type=int, nargs="+", default=tasks)
        verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of a run")
        verb.add_argument("--out", type=pathlib.Path, required=verb is measured)
    lengths.add_argument("--run", type=pathlib.Path, help="take the trajectories of this run instead of playing")
    lengths.add_argument("--file", help="print the law of measured lengths")
    lengths.set_defaults(work=_lengths)
    measured.add_argument("--steps", type=int, default=8)
    measured.set_defaults(work=_measure)
    checked = verbs.add_parser("check", help="measured against simulated, batch sizes left out in turn")
    checked.add_argument("steps", type=pathlib.Path)
    checked.set_defaults(work=_check)
    run = verbs.add_parser("run", help="simulate a scenario")
    run.add_argument("scenario")
    run.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    run.add_argument("--sweep", action="append", default=[], metavar="KEY=A,B,C", help="one line per value (per combination, if several)")
    run.add_argument("--steps", type=int, default=20)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--json", action="store_true")
    run.set_defaults(work=_run)
    return top


def _config(chosen: argparse.Namespace, tasks: int) -> RunConfig:
    return resolve_config(sets=chosen.set, model=chosen.model, env={"id": chosen.env, "level": chosen.level}, tasks_per_step=tasks)


def _lengths(chosen: argparse.Namespace) -> None:
    if chosen.file:
        found = Lengths.load(chosen.file)
    elif chosen.run:
        found = of_run(chosen.run)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = draw_lengths(_config(chosen, chosen.tasks[0]), pathlib.Path(folder))
    if chosen.out:
        found.save(chosen.out)
    law = found.fit()
    turns = sorted(n for group in found.groups for row in group for n in row.turns)
    cut = sum(n >= found.limit for n in turns)
    print(
        f"{found.source}: {len(turns)} turns of {turns[0]} to {turns[-1]} tokens, mean {sum(turns) / len(turns):.1f}, {cut} cut at {found.limit}"
    )
    print(
        f"lognormal: mu {law.mu:.3f}, sigma {law.sigma:.3f}, correlation within a group {law.correlation:.2f}; prompts {law.prompt} tokens"
    )


def _measure(chosen: argparse.Namespace) -> None:
    from sdgym.benchmarks.speed.machine import machine

    steps, limit, config = [], 0, _config(chosen, 1)
    for tasks in chosen.tasks:
        with tempfile.TemporaryDirectory() as folder:
            config = _config(chosen, tasks)
            found, limit = measure_steps(config, pathlib.Path(folder), chosen.steps)
        steps += found
        seconds = [step.rollout + step.update for step in found]
        print(f"{tasks} tasks: {sum(seconds) / len(seconds):.3f} processor seconds per step", flush=True)
    source = f"{config.algo.name} on {config.env.id}, level {chosen.level}, {config.model}"
    Record(source, machine(), limit, config.max_live, steps).save(chosen.out)


def _check(chosen: argparse.Namespace) -> None:
    record = Record.load(chosen.steps)
    print(
        f"{record.source}; {record.machine['cpu']}\n{'tasks':>6}{'rollout':>10}{'simulated':>11}{'update':>9}{'simulated':>11}{'error':>8}"
    )
    for c in check(record):
        print(f"{c.tasks:6}{c.rollout:9.3f}s{c.rollout_simulated:10.3f}s{c.update:8.3f}s{c.update_simulated:10.3f}s{c.error:+8.0%}")


def _run(chosen: argparse.Namespace) -> None:
    sweeps = [
        (key, [yaml.safe_load(value) for value in values.split(",")]) for key, _, values in (text.partition("=") for text in chosen.sweep)
    ]
    found = summarise(chosen.scenario, chosen.set, sweeps, chosen.steps, chosen.seed)
    if chosen.json:
        print(json.dumps([summary.record() for summary in found], indent=1))
        return
    print(load_scenario(chosen.scenario, chosen.set).title)
    print(Summary.head())
    for summary in found:
        print(summary.line())


if __name__ == "__main__":
    from sdgym.api import quiet_threads

    quiet_threads()
    sys.exit(main())
