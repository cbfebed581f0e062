"""``sdgym envs``: list, check, play and create environments."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdgym.commands.options import allow_local_modules
from sdgym.commands.scaffold import create, identifier
from sdgym.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from sdgym.text_env import TextEnv

app = typer.Typer(help="List, check, play and create environments.", invoke_without_command=True, rich_markup_mode=None)

EnvId = Annotated[str, typer.Argument(help="Environment id, for example sdgym/Math-v0.", metavar="ID")]


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """Show every registered environment."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from sdgym.envs import ENVIRONMENTS
    from sdgym.registry import load_plugins

    load_plugins()
    table = Table("id", "levels", "turns", "what it is", box=None, header_style="bold")
    for env_id in sorted(ENVIRONMENTS):
        try:
            cls = environment_class(env_id)
        except ConfigError as error:  # a plugin's world that does not load hides no other
            table.add_row(env_id, "-", "-", escape(str(error)))
            continue
        table.add_row(env_id, " ".join(cls.levels), str(cls.max_turns), (cls.__doc__ or "").strip().partition("\n")[0])
    Console().print(table)


def environment_class(env_id: str) -> type[TextEnv]:
    """Return the class behind ``env_id``. Raises UnknownNameError with the nearest id, ConfigError if it cannot be loaded."""
    import importlib

    from sdgym.envs import ENVIRONMENTS
    from sdgym.registry import load_plugins

    load_plugins()
    if env_id not in ENVIRONMENTS:
        raise UnknownNameError("environment", env_id, ENVIRONMENTS)
    module, _, name = ENVIRONMENTS[env_id].partition(":")
    try:
        cls: type[TextEnv] = getattr(importlib.import_module(module), name)
    except Exception as error:  # perhaps a third party's module: whatever it fails with is told under its name
        raise ConfigError(f"the environment {env_id!r} points to {ENVIRONMENTS[env_id]!r}, which cannot be loaded: {error}") from error
    return cls


@app.command("check")
def check(
    env_id: EnvId,
    level: Annotated[str, typer.Option(help="Level to check.")] = "tiny",
) -> None:
    """Run the conformance suite on an environment: the same one the built-in worlds pass."""
    from sdgym.api import make
    from sdgym.testing import check_text_env

    allow_local_modules(env_id)
    make(env_id, level=level).close()  # a wrong id or level is one sentence, not a list of failed checks
    report = check_text_env(env_id, level=level)
    typer.echo(str(report))
    if not report.passed:
        raise typer.Exit(1)


@app.command("play")
def play(
    env_id: EnvId,
    level: Annotated[str, typer.Option(help="Level to play.")] = "tiny",
    split: Annotated[str, typer.Option(help="Split to draw the task from.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the task.")] = 0,
) -> None:
    """Solve one task yourself: type an action, read reward and feedback. An empty line ends an answer."""
    from sdgym.api import make

    allow_local_modules(env_id)
    env = make(env_id, level=level, split=split)
    observation, info = env.reset(seed=seed)
    for message in info["messages"][:-1]:
        typer.secho(f"[{message['role']}] {message['content']}", dim=True)
    typer.echo(observation)
    over, total = False, 0.0
    while not over:
        action = _read_action()
        if action is None:
            typer.echo("given up")
            return
        observation, reward, terminated, truncated, info = env.step(action)
        total, over = total + reward, terminated or truncated
        _show_turn(observation, reward, info)
    typer.echo(f"{'solved' if info['success'] else 'not solved'} in {int(info['turn'])} turn(s), return {total:g}")


def _read_action() -> str | None:
    """Read lines up to an empty one; None at the end of input before anything was typed."""
    lines: list[str] = []
    while True:
        try:
            line = input("> " if not lines else "  ")
        except EOFError:
            return "\n".join(lines) if lines else None
        if not line:
            if lines:
                return "\n".join(lines)
            continue
        lines.append(line)


def _show_turn(observation: str, reward: float, info: dict[str, Any]) -> None:
    typer.secho(f"reward {reward:g} ({info['outcome'] or 'no verdict'})", bold=True)
    if info["feedback"]:
        typer.echo(f"feedback: {info['feedback']}")
    if observation:
        typer.echo(observation)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the new environment, for example WordCount.", metavar="NAME")],
    directory: Annotated[pathlib.Path, typer.Option("--dir", help="Folder to write into.")] = pathlib.Path("."),
) -> None:
    """Write a working environment with its test, to be changed into yours."""
    module, cls = identifier(name)
    files = create("env", directory, {f"{module}.py": "env.py.jinja", f"test_{module}.py": "test_env.py.jinja"}, module=module, cls=cls)
    for path in files:
        typer.echo(f"wrote {path}")
    typer.echo(f"try it: cd {directory} && pytest {files[1].name}")
