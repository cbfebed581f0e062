"""``sdgym watch``: live curves in the terminal."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

Folder = Annotated[pathlib.Path, typer.Argument(help="Run folder, or the folder of a comparison.", metavar="DIR")]


LEAVE = ("q", "Q", "\x03")


def watch(
    folder: Folder,
    once: Annotated[bool, typer.Option("--once", help="Draw once and exit.")] = False,
    every: Annotated[float, typer.Option("--every", help="Seconds between looks.", min=0.1)] = 2.0,
) -> None:
    """Show the learning curves of a run or a comparison while it runs; q or Ctrl-C leaves."""
    from rich.console import Console
    from rich.live import Live

    from sdgym.report.terminal import screen

    console = Console()
    if once or not folder.is_dir():
        console.print(screen(folder, console.width))
        return
    with (
        keys() as pressed,
        Live(console=console, screen=console.is_terminal, auto_refresh=False) as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            live.update(look(folder, console), refresh=True)
            if pressed(every) in LEAVE:
                break
    console.print(look(folder, console))


def look(folder: pathlib.Path, console: Any) -> Any:
    """Return what there is to see now; a comparison that still measures its start has no run yet."""
    from sdgym.errors import RunFolderError
    from sdgym.report.terminal import screen

    try:
        return screen(folder, console.width, console.height)
    except RunFolderError as error:
        return f"{error}; waiting for one"


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str | None]]:
    """Give a function that waits some seconds for a key and returns it; without a terminal as stdin it only waits.

    Ctrl-C is a key here, not a signal: an interrupt that arrives while Python runs a callback would be lost.
    """
    if not sys.stdin.isatty():
        yield time.sleep
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], seconds)
        return os.read(terminal, 1).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(terminal)
        mode = termios.tcgetattr(terminal)
        mode[3] &= ~termios.ISIG
        termios.tcsetattr(terminal, termios.TCSADRAIN, mode)
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
