"""A novice of Sokoban: a small set of candidate plans per position, most of them systematic misconceptions.

The candidates are exact data (:func:`plans`), so that the posterior given any information can be computed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from sdgym.envs.sokoban.core import DOWN, LEFT, RIGHT, UP, Level, ring, run, shift, solves
from sdgym.envs.sokoban.solver import SearchLimitError, solve, walk

Plan = tuple[int, ...]
SLIP = 0.05
"""Share of draws in which one move of the right plan is replaced by another, spread evenly."""


@dataclasses.dataclass(frozen=True, slots=True)
class Features:
    """What a novice sees at a glance, and his mistakes depend on.

    Attributes:
        detour: walking straight to the box arrives at the wrong side of it.
        horizontal: the first push goes left or right.
        turns: the pushes of the right plan go along both axes.
        pushes: how many there are.
        upper: the player stands in the upper half.
    """

    detour: bool
    horizontal: bool
    turns: bool
    pushes: int
    upper: bool


def features(level: Level, plan: Plan) -> Features:
    """Return the features of a position, given its right plan."""
    pushes = run(level, plan).pushes
    axes = {p in (LEFT, RIGHT) for p in pushes}
    upper = level.player // level.width < level.height // 2
    return Features(not solves(level, near_side(level, len(pushes))), pushes[0] in (LEFT, RIGHT), len(axes) == 2, len(pushes), upper)


def near_side(level: Level, pushes: int) -> Plan:
    """Walk to the nearest side of a box and push from there, whichever way that is."""
    around = 0
    for delta in level.deltas:
        around |= shift(level.boxes & ~level.targets, delta)
    path = walk(level.floor & ~level.boxes, level.player, around & level.floor & ~level.boxes, level.width)
    if path is None:
        return (UP,)
    end = run(level, path).level
    return (*path, *([next(m for m, d in enumerate(level.deltas) if level.boxes & ~level.targets & 1 << end.player + d)] * pushes))


def through_walls(level: Level) -> Plan | None:
    """Plan as if the walls inside the room were floor."""
    return _right(dataclasses.replace(level, walls=ring(level.height, level.width)))


def other_axis_first(level: Level, plan: Plan) -> Plan | None:
    """Make the same pushes of a lone box, but those of the other axis first, with walks that ignore the walls inside."""
    pushes = run(level, plan).pushes
    first = [p for p in pushes if (p in (LEFT, RIGHT)) != (pushes[0] in (LEFT, RIGHT))]
    order = first + [p for p in pushes if (p in (LEFT, RIGHT)) == (pushes[0] in (LEFT, RIGHT))]
    room = ((1 << level.height * level.width) - 1) & ~ring(level.height, level.width)
    box, player = level.boxes.bit_length() - 1, level.player
    moves: list[int] = []
    for push in order:
        delta = level.deltas[push]
        path = walk(room & ~(1 << box), player, 1 << box - delta, level.width)
        if path is None:
            return None
        moves += [*path, push]
        player, box = box, box + delta
    return tuple(moves)


def mirrored(plan: Plan) -> Plan:
    """Swap Left and Right."""
    return tuple({LEFT: RIGHT, RIGHT: LEFT}.get(m, m) for m in plan)


def _weights(f: Features) -> dict[str, float]:
    """Return the relative weight of each candidate for a position with features ``f``.

    Chosen so that the mode is right on about a third of the generated ``tiny`` levels and the right plan has
    about a third of the mass; every mistake is the mode somewhere, and where follows from the features.
    Where a mistake is the mode it outweighs all that begins like the right plan, so that token by token, too,
    the likeliest choice leads to it (:mod:`sdgym.benchmarks.novices`).
    """
    if not f.detour:
        if f.horizontal and f.upper:
            return {"right": 0.25, "mirrored": 0.6, "short": 0.05, "long": 0.1}
        if f.horizontal or f.upper:
            return {"right": 0.65, "mirrored": 0.06, "short": 0.1, "long": 0.14}
        return {"right": 0.25, "mirrored": 0.06, "short": 0.14, "long": 0.55}
    if not f.turns:
        if f.horizontal:
            return {"right": 0.22, "near": 0.08, "mirrored": 0.6, "long": 0.05, "walls": 0.05}
        if f.upper:
            return {"right": 0.55, "near": 0.15, "long": 0.15, "walls": 0.1}
        return {"right": 0.2, "near": 0.6, "short": 0.07, "long": 0.07, "walls": 0.06}
    if f.horizontal and f.upper:
        return {"right": 0.55, "axis": 0.12, "short": 0.12, "near": 0.1, "walls": 0.1}
    if f.horizontal:
        return {"right": 0.15, "axis": 0.15, "short": 0.5, "near": 0.1, "walls": 0.1}
    if f.upper:
        return {"right": 0.2, "near": 0.6, "axis": 0.08, "short": 0.06, "walls": 0.06}
    return {"right": 0.15, "axis": 0.3, "long": 0.4, "near": 0.1, "walls": 0.1}


@functools.lru_cache(16384)
def plans(level: Level, limit: int, turns: int = 1) -> tuple[tuple[Plan, float], ...]:
    """Return the novice's candidates for one turn from ``level`` with their probabilities, the right plan first.

    Candidates that solve the level are merged into the right one; equal ones into each other; all are cut to
    ``limit`` moves. With several ``turns``, where a push too few or too many is soon mended and every failure
    gives another try, only the mistakes about directions are made, and the more of them. From a position that cannot be solved (or not decided within the search limit) the
    novice pushes on from the near side.
    """
    right = _right(level)
    if right is None:
        return ((near_side(level, 1)[:limit], 1.0),)
    table = _mistakes(level, right)
    weights = {name: weight for name, weight in _weights(features(level, right)).items() if table[name] is not None}
    if turns > 1:
        weights = {name: weight for name, weight in weights.items() if name not in ("short", "long")}
        weights["right"] /= turns
        weights["mirrored"] = weights.get("mirrored", 0.0) + 0.4
    scale = (1.0 - SLIP) / sum(weights.values())
    mass: dict[Plan, float] = {right[:limit]: 0.0}
    for name, weight in weights.items():
        _add(mass, level, right, table[name] or (), weight * scale, limit)
    for slip in _slips(right):
        _add(mass, level, right, slip, SLIP / (3 * len(right)), limit)
    return tuple(mass.items())


def draw(level: Level, limit: int, turns: int, rng: np.random.Generator) -> Plan:
    """Return one of :func:`plans`, drawn by its probability."""
    options = plans(level, limit, turns)
    mark = rng.random()
    for plan, probability in options:
        mark -= probability
        if mark < 0:
            return plan
    return options[-1][0]


def _right(level: Level) -> Plan | None:
    try:
        solution = solve(level, fewest_moves=level.boxes.bit_count() == 1)
    except SearchLimitError:
        return None
    return None if solution is None or not solution.moves else solution.moves


def _add(mass: dict[Plan, float], level: Level, right: Plan, plan: Plan, probability: float, limit: int) -> None:
    plan = (right if solves(level, plan) else plan)[:limit]
    mass[plan] = mass.get(plan, 0.0) + probability


def _mistakes(level: Level, right: Plan) -> dict[str, Plan | None]:
    pushes = run(level, right).pushes
    last = right[: len(right) - 1] if len(right) > 1 else None
    return {
        "right": right,
        "mirrored": mirrored(right),
        "near": near_side(level, len(pushes)),
        "short": last,
        "long": (*right, pushes[-1]),
        "walls": through_walls(level),
        "axis": other_axis_first(level, right) if level.boxes.bit_count() == 1 else None,
    }


def _slips(right: Plan) -> Iterator[Plan]:
    for index, move in enumerate(right):
        for other in (UP, DOWN, LEFT, RIGHT):
            if other != move:
                yield (*right[:index], other, *right[index + 1 :])
