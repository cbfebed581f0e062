"""``sdgym train`` and ``sdgym eval``."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Annotated

import typer

from sdgym.commands import options as o


def train(
    algo: Annotated[str | None, typer.Option("--algo", help="Algorithm or preset (see `sdgym algos`) [grpo].")] = None,
    env: Annotated[str | None, typer.Option("--env", help="Environment id (see `sdgym envs`) [sdgym/Math-v0].")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Rollout batches [100].")] = None,
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
    from sdgym.api import evaluate as measure
    from sdgym.api import settings_tree
    from sdgym.config import make_config
    from sdgym.errors import ConfigError
    from sdgym.policy import Policy
    from sdgym.session import make_env, pick_device

    o.allow_local_modules(env)
    tree = settings_tree(
        env=o.environment(env, level, None, data), config=config, sets=set_ or (), model=model, device=device, dtype=dtype, threads=threads
    )
    run = make_config(tree)
    records = prepare_folder(out, resume)
    if records is not None and records.exists():
        typer.echo(f"{records} is there already", err=True)
        return
    if episodes < 1:
        raise ConfigError(f"--episodes must be at least 1, got {episodes}")
    make_env(run.env.id, **{**run.env.kwargs, "split": split or "test"}).close()  # a wrong name is told before the model is loaded
    policy = Policy.load(run.model, pick_device(run.device), "float32", run.threads)
    started = time.monotonic()
    report = measure(
        policy,
        run.env.id,
        episodes=episodes,
        samples=run.eval.samples,
        split=split or "test",
        temperature=run.eval.temperature,
        max_tokens=run.sampling.max_tokens,
        seed=run.eval.seed if seed is None else seed,
        **{k: v for k, v in run.env.kwargs.items() if k != "split"},
    )
    seconds = time.monotonic() - started
    if records is not None:
        rollouts = len(report.rows)
        (records.parent / "pace.json").write_text(json.dumps({"rollouts": rollouts, "seconds": round(seconds, 3)}), encoding="utf-8")
        records.write_text("".join(json.dumps(line) + "\n" for line in report.records(step=0)).replace("NaN", "null"), encoding="utf-8")
    metrics = {name.removeprefix("eval/"): value for name, value in report.metrics().items()}
    head = {"model": run.model, "env": run.env.id, "split": report.split, "temperature": report.temperature}
    if as_json:
        typer.echo(json.dumps({**head, **{k: (v if v == v else None) for k, v in metrics.items()}}))
        return
    typer.echo(
        f"device {run.device}, dtype {run.dtype}, threads {run.threads}; {run.model} on {run.env.id}, {episodes} {report.split} tasks"
    )
    for name, value in metrics.items():
        typer.echo(f"{name:<10} {value:.4g}")


def prepare_folder(out: pathlib.Path | None, resume: bool) -> pathlib.Path | None:
    """Return where per-item records go. Raises :class:`RunFolderError` for a folder in use."""
    from sdgym.errors import RunFolderError

    if out is None:
        return None
    if out.is_file():
        raise RunFolderError(f"{str(out)!r} is a file; --out takes a folder")
    if out.is_dir() and any(out.iterdir()) and not resume:
        raise RunFolderError(f"the folder {str(out)!r} is not empty; add --resume to keep what is there, or take another --out")
    out.mkdir(parents=True, exist_ok=True)
    return out / "eval.jsonl"
