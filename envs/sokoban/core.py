"""Levels, states and the rules of the game: pure functions on integers, no randomness, no text for models.

Cells are numbered row by row (``cell = row * width + column``) and a set of cells is a bit mask. The outer
ring is always wall, so a neighbour never wraps round an edge. Directions are indices into :data:`MOVES`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

MOVES = ("Up", "Down", "Left", "Right")
UP, DOWN, LEFT, RIGHT = range(4)
MOVED, PUSHED, HIT_WALL, BOX_AT_WALL, BOX_AT_BOX = range(5)
"""Events of one step; the last three mean that nothing moved."""

FLOOR = "-"
_SYMBOL = {(False, False): FLOOR, (False, True): ".", (True, False): "$", (True, True): "*"}
_SYMBOLS = frozenset("# -_.$*@+")


def step(walls: int, boxes: int, player: int, delta: int) -> tuple[int, int, int]:
    """Move the player by ``delta`` cells, pushing at most one box.

    Returns:
        ``(boxes, player, event)`` after the move; unchanged if the move is blocked.
    """
    ahead = player + delta
    if not (walls | boxes) >> ahead & 1:
        return boxes, ahead, MOVED
    if walls >> ahead & 1:
        return boxes, player, HIT_WALL
    beyond = ahead + delta
    if walls >> beyond & 1:
        return boxes, player, BOX_AT_WALL
    if boxes >> beyond & 1:
        return boxes, player, BOX_AT_BOX
    return boxes ^ (1 << ahead | 1 << beyond), ahead, PUSHED


def cells(mask: int) -> Iterator[int]:
    """Yield the cells of a bit mask in ascending order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def shift(mask: int, delta: int) -> int:
    """Return the mask with every cell moved by ``delta``."""
    return mask << delta if delta >= 0 else mask >> -delta


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """A board with a position on it.

    Attributes:
        height, width: cells, the wall ring included.
        walls, targets, boxes: bit masks.
        player: cell.
    """

    height: int
    width: int
    walls: int
    targets: int
    boxes: int
    player: int

    @property
    def deltas(self) -> tuple[int, int, int, int]:
        """Cell offsets of Up, Down, Left, Right."""
        return -self.width, self.width, -1, 1

    @property
    def floor(self) -> int:
        """Mask of all cells that are not wall."""
        return ((1 << self.height * self.width) - 1) & ~self.walls

    @property
    def solved(self) -> bool:
        """Whether every box is on a target."""
        return not self.boxes & ~self.targets

    def at(self, boxes: int, player: int) -> Level:
        """Return the same board with another position."""
        return Level(self.height, self.width, self.walls, self.targets, boxes, player)

    def text(self) -> str:
        """Return the board in XSB symbols (``# - . $ * @ +``), one row per line."""
        flat = self.flat()
        return "\n".join(flat[row * self.width : (row + 1) * self.width] for row in range(self.height))

    def flat(self) -> str:
        """Return the board's symbols without line breaks."""
        symbols = [
            "#" if self.walls >> c & 1 else _SYMBOL[bool(self.boxes >> c & 1), bool(self.targets >> c & 1)]
            for c in range(self.height * self.width)
        ]
        symbols[self.player] = "+" if self.targets >> self.player & 1 else "@"
        return "".join(symbols)

    @classmethod
    def from_text(cls, text: str) -> Level:
        """Read XSB symbols (floor may be a space, ``-`` or ``_``; short rows are filled with wall).

        Raises:
            ValueError: an unknown symbol, no single player, boxes ≠ targets, or an open edge.
        """
        rows = [row for row in text.split("\n") if row.strip()]
        width, height = max(map(len, rows), default=0), len(rows)
        flat = "".join(row.ljust(width, "#") for row in rows)
        if unknown := set(flat) - _SYMBOLS:
            raise ValueError(f"unknown symbol {min(unknown)!r} in a Sokoban level; known: # . $ * @ + and - _ or space for floor")
        walls, targets, boxes, players = (sum(1 << i for i, s in enumerate(flat) if s in kind) for kind in ("#", ".*+", "$*", "@+"))
        if players.bit_count() != 1 or boxes.bit_count() != targets.bit_count() or not boxes:
            raise ValueError("a Sokoban level has one player and as many targets as boxes, at least one")
        if ring(height, width) & ~walls:
            raise ValueError("the outer ring of a Sokoban level must be wall (#)")
        return cls(height, width, walls, targets, boxes, players.bit_length() - 1)

    def canonical(self) -> str:
        """Return the smallest text among the eight symmetries: equal for levels that are the same puzzle."""
        flat = self.flat()
        return min(f"{height}x{width}:{''.join(get(flat))}" for height, width, get in _symmetries(self.height, self.width))


@functools.cache
def ring(height: int, width: int) -> int:
    """Return the mask of the outer ring."""
    return sum(1 << r * width + c for r in range(height) for c in range(width) if r in (0, height - 1) or c in (0, width - 1))


@functools.cache
def _symmetries(height: int, width: int) -> tuple[tuple[int, int, operator.itemgetter[Any]], ...]:
    grid = [[r * width + c for c in range(width)] for r in range(height)]
    found = []
    for _ in range(4):
        grid = [list(row) for row in zip(*grid[::-1], strict=True)]
        for image in (grid, [row[::-1] for row in grid]):
            found.append((len(image), len(image[0]), operator.itemgetter(*(c for row in image for c in row))))
    return tuple(found)


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """What became of a list of moves.

    Attributes:
        level: the position reached.
        moves: the moves asked for.
        events: one event per move tried; the last one is a blocked event if the run stopped there.
        boxes: the box mask before each move tried, and the last one after it.
    """

    level: Level
    moves: tuple[int, ...]
    events: tuple[int, ...]
    boxes: tuple[int, ...]

    @property
    def blocked(self) -> int | None:
        """Index of the move that was blocked, or None."""
        return len(self.events) - 1 if self.events and self.events[-1] >= HIT_WALL else None

    @property
    def pushes(self) -> tuple[int, ...]:
        """Directions of the pushes made, in order."""
        return tuple(m for m, e in zip(self.moves, self.events, strict=False) if e == PUSHED)


def run(level: Level, moves: Sequence[int], stop_when_solved: bool = False) -> Trace:
    """Execute ``moves`` until one is blocked (or, if asked, until all boxes are on targets)."""
    walls, boxes, player, deltas, targets = level.walls, level.boxes, level.player, level.deltas, level.targets
    events, history = [], [boxes]
    for move in moves:
        boxes, player, event = step(walls, boxes, player, deltas[move])
        events.append(event)
        history.append(boxes)
        if event >= HIT_WALL or (stop_when_solved and not boxes & ~targets):
            break
    return Trace(level.at(boxes, player), tuple(moves), tuple(events), tuple(history))


def solves(level: Level, moves: Sequence[int]) -> bool:
    """Return whether ``moves`` is a valid plan: no move is blocked and every box ends on a target."""
    trace = run(level, moves)
    return trace.blocked is None and trace.level.solved


def plan_text(moves: Sequence[int]) -> str:
    """Return moves as words separated by spaces."""
    return " ".join(MOVES[m] for m in moves)
