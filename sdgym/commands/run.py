"""``sdgym train`` and ``sdgym eval``."""

from __future__ import annotations

import json
import math
import pathlib
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdgym.commands import options as o
from sdgym.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdgym.config import EnvConfig, RunConfig
    from sdgym.evaluation import EvalReport

RECORDS, QUESTION = "eval.jsonl", "eval.yaml"
READ = ("env", "model", "device", "dtype", "threads", "thinking", "sampling.max_tokens",
        "eval.samples", "eval.temperature", "eval.seed", "eval.retention")  # fmt: skip
"""The settings that an evaluation reads."""


def train(
    algo: Annotated[str | None, typer.Option("--algo", help="Algorithm or preset (see `sdgym algos`) [grpo].")] = None,
    env: Annotated[str | None, typer.Option("--env", help="Environment id (see `sdgym envs`) [sdgym/Math-v0].")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Rollout batches [100].")] = None,
    paper: Annotated[bool, typer.Option("--paper", help="Take optimizer, sampling and batch sizes from the method's source.")] = False,
    model: o.Model = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    threads: o.Threads = None,
    seed: o.Seed = None,
    level: o.Level = None,
    split: o.Split = None,
    data: o.Data = None,
    set_: o.Set = None,
    config: o.Config = None,
    out: o.Out = None,
    resume: o.Resume = False,
) -> None:
    """Train a policy on an environment and leave curves, trajectories and the model in a run folder."""
    from sdgym.api import train as run

    o.allow_local_modules(algo, env)
    result = run(
        algo,
        o.environment(env, level, split, data),
        out=out,
        resume=resume,
        config=config,
        set=set_ or (),
        paper=paper,
        progress=True,
        steps=steps,
        model=model,
        device=device,
        dtype=dtype,
        threads=threads,
        seed=seed,
    )
    if result.signal:
        typer.echo(f"stopped after step {result.steps} and saved; continue with: sdgym train --out {result.folder} --resume", err=True)
        raise typer.Exit(result.exit_code)
    typer.echo(f"run folder {result.folder}; see it with: sdgym report {result.folder}")


def evaluate(
    env: Annotated[str | None, typer.Option("--env", help="Environment id [sdgym/Math-v0].")] = None,
    episodes: Annotated[int, typer.Option("--episodes", help="Tasks.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
    model: o.Model = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    threads: o.Threads = None,
    seed: o.Seed = None,
    level: o.Level = None,
    split: o.Split = None,
    data: o.Data = None,
    set_: o.Set = None,
    config: o.Config = None,
    out: o.Out = None,
    resume: o.Resume = False,
) -> None:
    """Measure a policy on held-out tasks: success at T=1, greedy, majority and pass@k."""
    from sdgym.api import settings_tree
    from sdgym.config import make_config
    from sdgym.errors import ConfigError
    from sdgym.generation.chat_endpoint import endpoint_of, is_endpoint

    if episodes < 1:
        raise ConfigError(f"--episodes must be at least 1, got {episodes}")
    o.allow_local_modules(env)
    check_sets(set_ or ())
    section = o.environment(env, level, None, data)
    tree = settings_tree(env=section, config=config, sets=set_ or (), model=model, device=device, dtype=dtype, threads=threads)
    run = make_config(tree)
    seed = run.eval.seed if seed is None else seed
    asked = question(run, episodes, split or "test", seed)
    if out is not None and resume and (out / RECORDS).is_file():
        check_question(out, asked)
        typer.echo(f"{out / RECORDS} is there already", err=True)
        return
    check_folder(out, resume)
    if is_endpoint(run.model):
        endpoint_of(run.model)  # an address that holds a secret is refused before it is printed
    if not as_json:
        from sdgym.session import pick_device

        where = f"device {pick_device(run.device)}, dtype {run.dtype}, threads {run.threads}"
        typer.echo(f"{where}; {run.model} on {run.env.id}, {episodes} {split or 'test'} tasks")
    report, elsewhere, seconds = measure(run, episodes, split or "test", seed)
    if out is not None:
        import yaml

        out.mkdir(parents=True, exist_ok=True)
        replace_file(out / QUESTION, yaml.safe_dump(asked, sort_keys=False))
        write_records(out, [report, *elsewhere.values()], seconds)
    found = report.metrics() | {f"retention/{label}": other.success for label, other in elsewhere.items()}
    metrics = {name.removeprefix("eval/"): (value if math.isfinite(value) else None) for name, value in found.items()}
    head = {"model": run.model, "env": run.env.id, "split": report.split, "temperature": report.temperature}
    if as_json:
        typer.echo(json.dumps({**head, **metrics}))
        return
    for name, number in metrics.items():
        typer.echo(f"{name:<10} {'not measured' if number is None else format(number, '.4g')}")


def check_sets(sets: Sequence[str]) -> None:
    """Raise :class:`ConfigError` for a ``--set`` that an evaluation would not heed."""
    from sdgym.errors import ConfigError

    for key in (text.partition("=")[0].strip() for text in sets):
        if key and not any(key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.") for name in READ):
            raise ConfigError(f"an evaluation does not read the setting {key!r}; it reads {', '.join(READ)}, and options such as --seed")


def question(run: RunConfig, episodes: int, split: str, seed: int) -> dict[str, Any]:
    """Return everything that the numbers of an evaluation depend on, as plain data."""
    config = run.model_dump(mode="json")
    asked = {name: config[name] for name in ("model", "env", "dtype", "thinking")}
    asked["eval"] = {name: config["eval"][name] for name in ("samples", "temperature", "retention")}
    return {**asked, "max_tokens": run.sampling.max_tokens, "episodes": episodes, "split": split, "seed": seed}


def check_question(folder: pathlib.Path, asked: Mapping[str, Any]) -> None:
    """Raise :class:`RunFolderError` unless the records in ``folder`` answer this question."""
    from sdgym.errors import RunFolderError
    from sdgym.trees import differences, read_yaml

    if not (folder / QUESTION).is_file():
        raise RunFolderError(f"the records in {str(folder)!r} are of no `sdgym eval` (there is no {QUESTION}); take another --out")
    for conflict in differences(read_yaml(folder / QUESTION), asked):
        raise RunFolderError(f"--resume keeps the evaluation in {str(folder)!r}, but {conflict}; take another --out")


def measure(run: RunConfig, episodes: int, split: str, seed: int) -> tuple[EvalReport, dict[str, EvalReport], float]:
    """Evaluate; return the report, those on the worlds of ``eval.retention``, and the seconds the first took without loading the model."""
    from sdgym.api import evaluate as on_tasks
    from sdgym.evaluation import retained
    from sdgym.generation.chat_endpoint import is_endpoint
    from sdgym.policy import Policy
    from sdgym.session import make_env, pick_device

    for world in (run.env, *run.untrained):
        make_env(world.id, **{**world.kwargs, "split": split}).close()  # a wrong name is told before the model is loaded
    policy: Policy | str = run.model
    if not is_endpoint(run.model):
        policy = Policy.load(run.model, pick_device(run.device), run.dtype, run.threads, run.thinking)

    def played(world: EnvConfig, max_tokens: int | None) -> EvalReport:
        how = {"samples": run.eval.samples, "temperature": run.eval.temperature, "max_tokens": max_tokens, "seed": seed}
        return on_tasks(policy, world.id, episodes=episodes, **how, **{**world.kwargs, "split": split})  # type: ignore[arg-type]

    started = time.monotonic()
    report = played(run.env, run.sampling.max_tokens)
    seconds = time.monotonic() - started
    return report, {world.label: retained(played(world, None), world.label) for world in run.untrained}, seconds


def write_records(folder: pathlib.Path, reports: Sequence[EvalReport], seconds: float) -> None:
    """Write per-item records, and how fast those of the first report were made."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = reports[0].rows
    pace = {"rollouts": len(rows), "seconds": round(seconds, 3), "tokens": sum(row.action_length for row in rows)}
    replace_file(folder / "pace.json", json.dumps(pace))
    lines = [line for report in reports for line in report.records(step=0)]
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in line.items()} for line in lines]
    replace_file(folder / RECORDS, "".join(json.dumps(line) + "\n" for line in plain))  # last: its presence says that all is there


def check_folder(out: pathlib.Path | None, resume: bool) -> None:
    """Raise :class:`RunFolderError` for a folder in use."""
    from sdgym.errors import RunFolderError

    if out is None:
        return
    if out.is_file():
        raise RunFolderError(f"{str(out)!r} is a file; --out takes a folder")
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise RunFolderError(f"the folder {str(out)!r} is not empty; add --resume to keep what is there, or take another --out")
