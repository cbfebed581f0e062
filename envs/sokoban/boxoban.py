"""Files of levels in Boxoban's format: a line ``; N`` before each board in XSB symbols (also plain files with blank lines between)."""

from __future__ import annotations

import pathlib
import re

from sdgym.envs.sokoban.core import Level
from sdgym.errors import DataError

SYMBOLS: dict[str, str] = {"xsb": "#-.$*@+", "ragen": "#_OX√PS", "letters": "WFGBCPQ"}
"""Name → what stands for wall, floor, target, box, box on a target, player, player on a target."""
_XSB = SYMBOLS["xsb"]


def load(path: str) -> list[Level]:
    """Return the levels of a file in order. Raises DataError: it cannot be read, or a level is wrong (the message says which)."""
    file = pathlib.Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the file of levels {str(file)!r} cannot be read: {error}") from error
    boards = [board.strip("\n") for board in re.split(r"^;.*$|^[ \t]*$", text, flags=re.MULTILINE) if board.strip()]
    if not boards:
        raise DataError(f"{str(file)!r} holds no levels")
    levels = []
    for number, board in enumerate(boards):
        try:
            levels.append(Level.from_text(board))
        except ValueError as error:
            raise DataError(f"{file.name}, level {number}: {error}") from error
    return levels


def drawn(level: Level, symbols: str) -> str:
    """Return the board in a set of :data:`SYMBOLS`."""
    return level.text().translate(str.maketrans(_XSB, SYMBOLS[symbols]))


def in_symbols(text: str, symbols: str) -> str:
    """Return an instruction whose symbols (XSB, each a word of its own) are those of another set."""
    chosen = dict(zip(_XSB, SYMBOLS[symbols], strict=True))
    return re.sub(r"(?<=\s)[#\-.$*@+](?=[\s,.])", lambda found: chosen[found[0]], text)


def coordinates(level: Level) -> str:
    """Return a line with the places of player, boxes and targets as (row,column) from the top left, from 0."""

    def places(mask: int) -> str:
        return " ".join(f"({c // level.width},{c % level.width})" for c in range(level.height * level.width) if mask >> c & 1)

    return f"player {places(1 << level.player)}; boxes {places(level.boxes)}; targets {places(level.targets)}"
