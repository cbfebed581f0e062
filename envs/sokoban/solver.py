"""A* over pushes, push distances, dead squares and deadlocks.

A state is the boxes and the player; edges are pushes. Costs are compared as (pushes, moves), so that with
``fewest_moves`` the plan found has the fewest pushes and among those the fewest moves. Without it the
player is normalised to the region he can reach, which leaves far fewer states and still proves the number
of pushes. The heuristic is the sum over boxes of the push distance to the nearest target on an empty
board, which is admissible and consistent (Junghanns & Schaeffer 2001, the simple lower bound).
"""

from __future__ import annotations

import dataclasses
import functools
import heapq

from sdgym.envs.sokoban.core import Level, cells, shift


@dataclasses.dataclass(frozen=True, slots=True)
class Solution:
    """A push-optimal plan.

    Attributes:
        moves: directions.
        pushes: how many of them push a box: the least possible number.
        nodes: states expanded to find it, a measure of difficulty.
    """

    moves: tuple[int, ...]
    pushes: int
    nodes: int


class SearchLimitError(Exception):
    """The node limit was reached before the question was decided."""


@functools.lru_cache(4096)
def push_distance(walls: int, targets: int, height: int, width: int) -> dict[int, int]:
    """Return for each cell the pushes a lone box needs from there to the nearest target; dead cells are absent.

    Breadth-first search backwards: a box at ``c`` was pushed there from ``c - d`` by a player at ``c - 2d``.
    """
    floor = ((1 << height * width) - 1) & ~walls
    distance = dict.fromkeys(cells(targets), 0)
    frontier = list(distance)
    while frontier:
        reached = []
        for cell in frontier:
            for delta in (-width, width, -1, 1):
                origin = cell - delta
                if origin not in distance and floor >> origin & 1 and floor >> origin - delta & 1:
                    distance[origin] = distance[cell] + 1
                    reached.append(origin)
        frontier = reached
    return distance


def distances(level: Level) -> dict[int, int]:
    """Return :func:`push_distance` of the level's board."""
    return push_distance(level.walls, level.targets, level.height, level.width)


def dead_squares(level: Level) -> int:
    """Return the mask of floor cells from which a box can never reach a target, even on an empty board."""
    alive = distances(level)
    return sum(1 << c for c in cells(level.floor) if c not in alive)


def reachable(free: int, player: int, width: int) -> int:
    """Return the mask of cells the player can walk to within ``free``."""
    reach = 1 << player
    while True:
        grown = (reach | reach << 1 | reach >> 1 | reach << width | reach >> width) & free
        if grown == reach:
            return reach
        reach = grown


def walk(free: int, start: int, goals: int, width: int) -> tuple[int, ...] | None:
    """Return the shortest walk from ``start`` to a cell of ``goals`` within ``free``, or None.

    Among shortest walks the first one in the order Up, Down, Left, Right.
    """
    if goals >> start & 1:
        return ()
    came = {start: (start, -1)}
    frontier = [start]
    while frontier:
        reached = []
        for cell in frontier:
            for move, delta in enumerate((-width, width, -1, 1)):
                ahead = cell + delta
                if ahead in came or not free >> ahead & 1:
                    continue
                came[ahead] = (cell, move)
                if goals >> ahead & 1:
                    return _walk_back(came, ahead)
                reached.append(ahead)
        frontier = reached
    return None


def _walk_back(came: dict[int, tuple[int, int]], cell: int) -> tuple[int, ...]:
    moves = []
    while came[cell][1] >= 0:
        cell, move = came[cell]
        moves.append(move)
    return tuple(reversed(moves))


def _layers(free: int, player: int, width: int) -> list[int]:
    """Return the masks of cells at walking distance 0, 1, 2 … from the player."""
    reach = fresh = 1 << player
    layers = [fresh]
    while True:
        fresh = (fresh << 1 | fresh >> 1 | fresh << width | fresh >> width) & free & ~reach
        if not fresh:
            return layers
        reach |= fresh
        layers.append(fresh)


_Key = tuple[int, int]


def solve(level: Level, *, fewest_moves: bool = True, max_nodes: int = 20_000) -> Solution | None:
    """Return a push-optimal plan, or None if the level is proved unsolvable.

    Raises:
        SearchLimitError: neither was decided within ``max_nodes`` expanded states.
    """
    distance, floor, width, targets = distances(level), level.floor, level.width, level.targets
    if any(c not in distance for c in cells(level.boxes)):
        return None
    alive = sum(1 << c for c in distance)
    start = (level.boxes, level.player)
    heap = [(sum(distance[c] for c in cells(level.boxes)), 0, 0, 0, start)]
    came: dict[_Key, tuple[_Key, int, int]] = {}
    best: dict[_Key, tuple[int, int]] = {start: (0, 0)}
    closed: set[_Key] = set()
    serial = nodes = 0
    while heap:
        bound, moves, _, pushes, state = heapq.heappop(heap)
        boxes, player = state
        if not boxes & ~targets:
            return Solution(_plan(level, came, state), pushes, nodes)
        free = floor & ~boxes
        layers = _layers(free, player, width)
        reach = functools.reduce(int.__or__, layers)
        key = state if fewest_moves else (boxes, reach & -reach)
        if key in closed:
            continue
        closed.add(key)
        nodes += 1
        if nodes > max_nodes:
            raise SearchLimitError(f"no decision within {max_nodes} states")
        for move, delta in enumerate((-width, width, -1, 1)):
            for box in cells(boxes & shift(reach, delta) & shift(alive & free, -delta)):
                stand = 1 << box - delta
                far = next(n for n, layer in enumerate(layers) if layer & stand)
                after = (boxes ^ (1 << box | 1 << box + delta), box)
                cost = (pushes + 1, moves + far + 1)
                if after in best and best[after] <= cost:
                    continue
                best[after] = cost
                came[after] = (state, box - delta, move)
                serial += 1
                heapq.heappush(heap, (bound + 1 - distance[box] + distance[box + delta], cost[1], serial, cost[0], after))
    return None


def _plan(level: Level, came: dict[_Key, tuple[_Key, int, int]], state: _Key) -> tuple[int, ...]:
    parts = []
    while state in came:
        (boxes, player), stand, move = came[state]
        path = walk(level.floor & ~boxes, player, 1 << stand, level.width)
        assert path is not None, "a push was made from a cell that cannot be reached"
        parts.append((*path, move))
        state = (boxes, player)
    return tuple(move for part in reversed(parts) for move in part)


def deadlock(level: Level) -> tuple[str, int] | None:
    """Return ``(reason, cell)`` of a box off target that can never get home, or None if none is seen.

    Two static tests, each a proof: a dead square (``corner`` or ``edge``), and a 2×2 block of walls and
    boxes (``block``). A position without either may still be unsolvable.
    """
    alive, solid = distances(level), level.walls | level.boxes
    up, down, left, right = level.deltas
    for box in cells(level.boxes & ~level.targets):
        if box not in alive:
            vertical = level.walls >> box + up & 1 or level.walls >> box + down & 1
            horizontal = level.walls >> box + left & 1 or level.walls >> box + right & 1
            return ("corner" if vertical and horizontal else "edge"), box
        for vertical in (up, down):
            for horizontal in (left, right):
                if all(solid >> c & 1 for c in (box + vertical, box + horizontal, box + vertical + horizontal)):
                    return "block", box
    return None
