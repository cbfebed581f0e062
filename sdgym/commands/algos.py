"""``sdgym algos``: list, show and create algorithms."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from sdgym.commands.scaffold import create, identifier

app = typer.Typer(help="List, show and create algorithms.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """Show every algorithm with the supervision it uses and its presets."""
    from rich.console import Console
    from rich.table import Table

    from sdgym.algos import algorithms

    table = Table("name", "uses", "what it is", box=None, header_style="bold")
    for name in algorithms.names():
        cls = algorithms.get(name)
        table.add_row(name, cls.supervision, (cls.__doc__ or "").strip().partition("\n")[0])
    Console().print(table)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the new algorithm, for example BestOfN.", metavar="NAME")],
    directory: Annotated[pathlib.Path, typer.Option("--dir", help="Folder to write into.")] = pathlib.Path("."),
) -> None:
    """Write a working algorithm with its test, to be changed into yours."""
    module, cls = identifier(name)
    files = create(
        "algorithm", directory, {f"{module}.py": "algo.py.jinja", f"test_{module}.py": "test_algo.py.jinja"}, module=module, cls=cls
    )
    for path in files:
        typer.echo(f"wrote {path}")
    typer.echo(f"try it: cd {directory} && pytest {files[1].name}")
