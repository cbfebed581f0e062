"""``sdgym compare`` and ``sdgym report``."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from sdgym.commands import options as o

Folder = Annotated[pathlib.Path, typer.Argument(help="Run folder, or the folder of a comparison.", metavar="DIR")]


def compare(
    suite: Annotated[str, typer.Argument(help="Name of a suite or a YAML file.", metavar="[SUITE]")] = "quick",
    algos: Annotated[str | None, typer.Option("--algos", help="Only these methods, separated by commas.", metavar="A,B")] = None,
    envs: Annotated[str | None, typer.Option("--envs", help="Only these environments, separated by commas.", metavar="X,Y")] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="Exactly this many seeds, whatever the time [as many as the budget allows].")
    ] = None,
    model: o.Model = None,
    device: o.Device = None,
    dtype: o.Dtype = None,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads in all, one per trial [every core].")] = None,
    seed: o.Seed = None,
    level: o.Level = None,
    split: o.Split = None,
    data: o.Data = None,
    set_: o.Set = None,
    config: o.Config = None,
    out: o.Out = None,
    resume: o.Resume = False,
    tune: Annotated[bool, typer.Option("--tune", help="First give every method the same number of trials on val.")] = False,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray to spread trials over a cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Ray cluster [one started on this machine].")
    ] = None,
) -> None:
    """Train several methods on several environments from the same start and report them side by side."""
    from sdgym.api import settings_tree
    from sdgym.benchmarks.head_to_head import run_suite

    names = None if algos is None else [name.strip() for name in algos.split(",") if name.strip()]
    worlds = None if envs is None else [name.strip() for name in envs.split(",") if name.strip()]
    o.allow_local_modules(*(names or ()), *(worlds or ()))
    settings = settings_tree(config=config, sets=set_ or (), device=device, dtype=dtype)
    kwargs = {"level": level, "split": split, "data": None if data is None else str(data.resolve())}
    try:
        done = run_suite(
            suite,
            algos=names,
            envs=worlds,
            seeds=seeds,
            seed=seed or 0,
            out=out,
            resume=resume,
            model=model,
            env_kwargs={k: v for k, v in kwargs.items() if v is not None},
            settings=settings,
            threads=threads,
            tune=tune,
            engine=engine,
            address=address,
        )
    except KeyboardInterrupt:
        typer.echo(
            "interrupted; running trials have saved, and the same command continues them (with --resume where --out is given)", err=True
        )
        raise typer.Exit(130) from None
    if done.failed:
        raise typer.Exit(1)


def report(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON and write no page.")] = False,
) -> None:
    """Recompute every number from the per-item files and write report.html."""
    import json

    from sdgym.report import load_folder, table_rows, write_report

    if as_json:
        typer.echo(json.dumps(table_rows(folder), indent=2))
        return
    from sdgym.benchmarks.head_to_head.compare import wide_console
    from sdgym.benchmarks.head_to_head.tables import findings, results
    from sdgym.report.tables import blocks

    path, console = write_report(folder), wide_console()
    for table in (*results(blocks(load_folder(folder)[0])), *findings(folder)):
        console.print(table)
        console.print()
    typer.echo(f"report: {path}")
