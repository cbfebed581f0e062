"""``sdgym algos``: list, show, create and diagnose algorithms."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from sdgym.commands.diagnose import diagnose
from sdgym.commands.scaffold import create, identifier

app = typer.Typer(help="List, show, create and diagnose algorithms.", invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """Show every algorithm and preset, what supervision it uses and what its numbers rest on."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sdgym.algos.base import supervision_class
    from sdgym.algos.presets import algorithm_names, build_algorithm, load_preset, preset_names
    from sdgym.errors import UserError
    from sdgym.registry import load_plugins

    load_plugins()
    table = Table("name", "uses", "status", "what it is", box=None, header_style="bold")
    for name in algorithm_names():
        try:
            algorithm = build_algorithm(name)
        except UserError as error:  # a plugin's algorithm that does not load hides no other
            table.add_row(name, "-", "-", escape(str(error)))
            continue
        preset = load_preset(name) if name in preset_names() else None
        title = preset.title if preset else (type(algorithm).__doc__ or "").strip().partition("\n")[0]
        table.add_row(name, supervision_class(algorithm), preset.status if preset else "own", title)
    Console().print(table)
    typer.echo("sdgym algos show NAME tells source, equations, deviations and every setting.")


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="An algorithm or preset.", metavar="NAME")]) -> None:
    """Show where a method comes from, how it deviates, and every setting it runs with."""
    import yaml

    from sdgym.algos.base import supervision_class
    from sdgym.algos.presets import build_algorithm, load_preset, preset_names, value_sources

    algorithm, known = build_algorithm(name), name in preset_names()
    typer.secho(name, bold=True)
    if known:
        preset = load_preset(name)
        typer.echo(f"{preset.title}\npaper: {preset.paper or 'none'} · status: {preset.status} · uses: {supervision_class(algorithm)}")
    for axis, value in _axes(name, algorithm).items():
        typer.echo(f"{axis}: {value}")
    if known and load_preset(name).about:
        typer.echo("\n" + load_preset(name).about.strip())
    typer.echo("\n" + (sys.modules[type(algorithm).__module__].__doc__ or "").strip())
    typer.secho("\nsettings (change one with --set algo.KEY=VALUE), and where each comes from", bold=True)
    sources = value_sources(name) if known else {}
    for line in _settings(algorithm.config.model_dump(mode="json"), sources):
        typer.echo(line)
    if known and load_preset(name).run:
        typer.secho("\nthe source's own run settings, for its own model sizes; used only if you pass them", bold=True)
        typer.echo(yaml.safe_dump(dict(load_preset(name).run), sort_keys=False).rstrip())


def _axes(name: str, algorithm: Any) -> dict[str, str]:
    """Return where a method stands in the family: what its teacher reads and weighs, its loss, its phases, what a world must offer."""
    from sdgym.algos.composition.table import axes

    weights, phases = algorithm.teacher_weights, list(algorithm.phases)
    reads = ", ".join(getattr(c, "kind", "") or type(c).__name__ for c in algorithm.conditioners)
    rate = f" {weights.rate:g}" if weights and weights.kind in ("ema", "trust_region") else ""
    needs = {algorithm.supervision, *(getattr(c, "needs", "") for c in algorithm.conditioners), *_shape(algorithm)} - {"", "none"}
    passes = [phase.name for phase in phases if phase.rollouts and phase.collect is not None]
    return {
        "privileged text": reads or "–",
        "teacher weights": f"{weights.kind}{rate}" if weights else "–",
        **axes(name, algorithm),
        "phases": ", ".join(_phase(p) for p in phases),
        "needs": ", ".join(sorted(needs) or ["nothing but rollouts"])
        + (f"; a pass over its rollouts before the update in {', '.join(passes)}" if passes else ""),
    }


def _phase(phase: Any) -> str:
    said = [f"{phase.steps} steps"] if phase.steps else []
    said += [f"{extra.name} every {extra.every}" for extra in phase.interleaved]
    return f"{phase.name} ({', '.join(said)})" if said else str(phase.name)


def _shape(algorithm: Any) -> set[str]:
    """Return what a method needs of the rollouts' shape: siblings in a group, or episodes of one turn."""
    policy = algorithm if hasattr(algorithm.config, "baseline") else getattr(algorithm, "policy", None)
    terms = algorithm.config.model_dump()
    compared = policy is not None and policy.config.baseline != "none" and terms.get("policy_weight", 1.0) > 0
    compared = compared and terms.get("combine", "") != "replace"
    siblings = any(getattr(c, "siblings", False) and c.needs == "reward" for c in algorithm.conditioners)
    return {*(["two rollouts per task"] if compared or siblings else []), *(["one-turn tasks"] if algorithm.one_turn else [])}


def _settings(tree: Mapping[str, Any], sources: Mapping[str, str], path: str = "") -> Iterator[str]:
    """Yield ``key: value   # source`` for every setting, sections indented."""
    import yaml

    indent = "  " * path.count(".")
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _settings(value, sources, f"{path}{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").rstrip()
            yield f"{f'{indent}{key}: {text}':<40}  # {sources.get(path + key, 'default of sdgym')}"


@app.command("table")
def table(
    into: Annotated[
        pathlib.Path | None, typer.Option("--into", metavar="FILE", help="Replace the table between its marks in a page.")
    ] = None,
) -> None:
    """Print the presets of the self-distillation family as points of one composition, in Markdown."""
    from sdgym.algos.composition.table import markdown, updated
    from sdgym.errors import DataError

    if into is None:
        typer.echo(markdown())
        return
    try:
        text = updated(into.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot put the table into {into}: {error}") from None
    into.write_text(text, encoding="utf-8")


app.command("diagnose")(diagnose)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the new algorithm, for example BestOfGroup.", metavar="NAME")],
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
