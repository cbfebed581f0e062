"""Seeded levels: carve a room, start from the solved position, pull boxes back, prove with A*.

The room styles are disjoint by structure: ``cave`` never has, and ``two_rooms`` always has, an inner row or
column with exactly one floor cell (a door) and floor on both sides. The second one is the held-out family.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from sdgym.envs.sokoban.core import Level, cells, shift
from sdgym.envs.sokoban.solver import SearchLimitError, Solution, reachable, solve
from sdgym.errors import EnvError

MAX_DRAWS = 100_000
"""Draws after which a spec counts as impossible; the specs of the levels need some tens."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """What a generated level must be.

    Attributes:
        height, width: cells, the wall ring included.
        boxes: least and greatest number of boxes.
        pushes: least and greatest number of pushes of a push-optimal plan.
        wanted: the least number of pushes is drawn anew for every level from this interval, since random
            levels alone would nearly all lie at the lower end of ``pushes``.
        floor: least and greatest share of the inner cells that are floor (cave style).
        moves: greatest number of moves of the reference plan.
        max_nodes: limit of the proof; a level beyond it is thrown away.
    """

    height: int
    width: int
    boxes: tuple[int, int]
    pushes: tuple[int, int]
    wanted: tuple[int, int]
    floor: tuple[float, float]
    moves: int
    max_nodes: int = 5_000


def below(rng: random.Random, n: int) -> int:
    """Return an integer in [0, n): from ``random()``, whose sequence Python guarantees over versions."""
    return int(rng.random() * n)


def between(rng: random.Random, bounds: tuple[int, int]) -> int:
    """Return an integer in the closed interval."""
    return bounds[0] + below(rng, bounds[1] - bounds[0] + 1)


def pick(rng: random.Random, mask: int) -> int:
    """Return a random cell of a mask that is not empty."""
    n = below(rng, mask.bit_count())
    for _ in range(n):
        mask &= mask - 1
    return (mask & -mask).bit_length() - 1


def has_door(floor: int, height: int, width: int) -> bool:
    """Return whether some inner row or column has exactly one floor cell and floor on both of its sides."""
    lines = [((1 << width) - 1 << r * width, (1 << r * width) - 1) for r in range(1, height - 1)]
    column = sum(1 << r * width for r in range(height))
    lines += [(column << c, sum(column << k for k in range(c))) for c in range(1, width - 1)]
    return any((floor & line).bit_count() == 1 and floor & before and floor & ~line & ~before for line, before in lines)


def _inner(spec: Spec) -> int:
    row = (1 << spec.width - 2) - 1
    return sum(row << r * spec.width + 1 for r in range(1, spec.height - 1))


def cave(spec: Spec, rng: random.Random) -> int:
    """Return a connected floor: random cells of the full room become wall, and so does what they cut off."""
    floor = _inner(spec)
    wanted = round(floor.bit_count() * (spec.floor[0] + (spec.floor[1] - spec.floor[0]) * rng.random()))
    while floor.bit_count() > wanted:
        floor &= ~(1 << pick(rng, floor))
    return reachable(floor, pick(rng, floor), spec.width)


def two_rooms(spec: Spec, rng: random.Random) -> int:
    """Return the floor of two rooms joined by one door, with a few pillars."""
    floor = _inner(spec)
    upright = rng.random() < 0.5
    cut = 2 + below(rng, (spec.width if upright else spec.height) - 4)
    line = (
        [r * spec.width + cut for r in range(1, spec.height - 1)] if upright else [cut * spec.width + c for c in range(1, spec.width - 1)]
    )
    door = line[below(rng, len(line))]
    for cell in line:
        if cell != door:
            floor &= ~(1 << cell)
    for _ in range(below(rng, floor.bit_count() // 5 + 1)):
        fewer = floor & ~(1 << pick(rng, floor))
        if fewer >> door & 1 and reachable(fewer, door, spec.width) == fewer and has_door(fewer, spec.height, spec.width):
            floor = fewer
    return floor


def _pull_back(floor: int, boxes: int, player: int, width: int, count: int, rng: random.Random) -> tuple[int, int]:
    """Undo ``count`` random pushes: pull boxes away from where they stand, walking freely in between."""
    last = (-1, 0)  # cell a box was pulled to, and in which direction
    for _ in range(count):
        reach = reachable(floor & ~boxes, player, width)
        choices = [
            (box, delta)
            for delta in (-width, width, -1, 1)
            for box in cells(boxes & shift(reach, -delta) & shift(reach, -2 * delta))
            if (box, -delta) != last  # do not undo the pull just made
        ]
        if not choices:
            break
        box, delta = last if last in choices and rng.random() < 0.5 else choices[below(rng, len(choices))]
        boxes ^= 1 << box | 1 << box + delta
        player, last = box + 2 * delta, (box + delta, delta)
    return boxes, player


Style = Callable[[Spec, random.Random], int]


def candidate(spec: Spec, style: Style, rng: random.Random) -> Level | None:
    """Return a level that is solvable by construction, or None if this draw does not give one."""
    floor = style(spec, rng)
    if has_door(floor, spec.height, spec.width) != (style is two_rooms):
        return None
    count, targets = between(rng, spec.boxes), 0
    if floor.bit_count() < 2 * count + 2:
        return None
    while targets.bit_count() < count:
        targets |= 1 << pick(rng, floor)
    pulls = between(rng, (spec.pushes[0], 2 * spec.pushes[1]))
    boxes, player = _pull_back(floor, targets, pick(rng, floor & ~targets), spec.width, pulls, rng)
    if boxes & targets:
        return None
    player = pick(rng, reachable(floor & ~boxes, player, spec.width))
    walls = ((1 << spec.height * spec.width) - 1) & ~floor
    return Level(spec.height, spec.width, walls, targets, boxes, player)


def prove(level: Level, spec: Spec, wanted: int) -> Solution | None:
    """Return the push-optimal plan if the level meets the spec and needs ``wanted`` pushes or more, else None."""
    try:
        solution = solve(level, fewest_moves=spec.boxes[1] == 1, max_nodes=spec.max_nodes)
    except SearchLimitError:
        return None
    assert solution is not None, "a level made by pulling boxes back is solvable"
    fits = max(spec.pushes[0], wanted) <= solution.pushes <= spec.pushes[1] and len(solution.moves) <= spec.moves
    return solution if fits else None


def generate(spec: Spec, style: Style, seed: int, accept: Callable[[str], bool] | None = None) -> tuple[Level, Solution]:
    """Return the level of ``seed`` and its plan: a pure function of the arguments.

    Args:
        spec: what is asked for.
        style: :func:`cave` or :func:`two_rooms`.
        seed: names the random stream.
        accept: says of a canonical text whether the level is wanted (which split it belongs to); asked
            before the proof, which is the costly part.

    Raises:
        EnvError: the spec cannot be met (:data:`MAX_DRAWS` draws).
    """
    rng = random.Random(seed)
    wanted = between(rng, spec.wanted)
    for _ in range(MAX_DRAWS):
        level = candidate(spec, style, rng)
        if level is None or (accept is not None and not accept(level.canonical())):
            continue
        solution = prove(level, spec, wanted)
        if solution is not None:
            return level, solution
    raise EnvError(f"no Sokoban level meets {spec} in {MAX_DRAWS} draws: widen the interval of pushes or the board")
