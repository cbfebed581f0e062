"""``sdgym model``: list, fetch and pre-train policies."""

from __future__ import annotations

import pathlib

import typer

app = typer.Typer(help="List, fetch and pre-train policies.", invoke_without_command=True, rich_markup_mode=None)

ASSETS = pathlib.Path(__file__).resolve().parents[1] / "assets"


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """Show the embedded policies and those that can be fetched."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "where", "size", box=None, header_style="bold")
    for folder in sorted(path.parent for path in ASSETS.glob("*/config.json")):
        size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        table.add_row(folder.name, "embedded", f"{size / 1e6:.1f} MB")
    Console().print(table)
