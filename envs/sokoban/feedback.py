"""What the environment says about a list of moves: which move failed and why, never what would be right."""

from __future__ import annotations

import dataclasses

from sdgym.envs.sokoban.core import BOX_AT_BOX, BOX_AT_WALL, HIT_WALL, MOVES, PUSHED, Trace, cells
from sdgym.envs.sokoban.solver import deadlock, distances

_BLOCKED = {
    HIT_WALL: "there is a wall",
    BOX_AT_WALL: "the box there has a wall behind it",
    BOX_AT_BOX: "the box there has another box behind it",
}
_DEAD = {
    "corner": "put a box into a corner, it can never be moved out",
    "edge": "put a box against a wall along which there is no target",
    "block": "wedged a box into a block of walls and boxes",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """Findings on one turn.

    Attributes:
        text: the words.
        failing: index of the move named as the failing one; the number of moves if what is wrong is that
            they end too early; None if nothing is wrong.
    """

    text: str
    failing: int | None


def report(trace: Trace) -> Report:
    """Say what is wrong with ``trace``: the earliest deadlock, else the blocked move, else what is missing."""
    level = trace.level
    on_target = f"{(level.boxes & level.targets).bit_count()} of {level.targets.bit_count()} on target."
    dead = _first_deadlock(trace)
    if dead is not None:
        index, reason = dead
        return Report(f"Move {index + 1} ({_name(trace, index)}) {_DEAD[reason]}. {on_target}", index)
    if trace.blocked is not None:
        index = trace.blocked
        return Report(f"Move {index + 1} ({_name(trace, index)}) is blocked: {_BLOCKED[trace.events[index]]}. {on_target}", index)
    if level.solved:
        return Report("Solved.", None)
    lost = _pushed_off(trace)
    if lost is not None:
        return Report(f"Move {lost + 1} ({_name(trace, lost)}) pushed a box off its target. {on_target}", lost)
    if PUSHED not in trace.events:
        return Report(f"Not solved after {_count(len(trace.events), 'move')}: no box was pushed. {on_target}", len(trace.events))
    missing = sum(distances(level)[c] for c in cells(level.boxes))
    noun = "the box is" if level.boxes.bit_count() == 1 else "the boxes are"
    away = f"{noun} at least {_count(missing, 'push')} away"
    return Report(f"Not solved after {_count(len(trace.events), 'move')}: {away}. {on_target}", len(trace.events))


def _name(trace: Trace, index: int) -> str:
    return MOVES[trace.moves[index]]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('sh') else 's'}"


def _first_deadlock(trace: Trace) -> tuple[int, str] | None:
    """Return the first push after which a deadlock stood, with its reason; the starting position does not count."""
    for index, event in enumerate(trace.events):
        if event == PUSHED:
            found = deadlock(trace.level.at(trace.boxes[index + 1], trace.level.player))
            if found is not None:
                return index, found[0]
    return None


def _pushed_off(trace: Trace) -> int | None:
    """Return the last push that took a box off a target, if the run ended with fewer on target than before it."""
    targets = trace.level.targets
    home = (trace.level.boxes & targets).bit_count()
    for index in range(len(trace.events) - 1, -1, -1):
        before, after = trace.boxes[index] & targets, trace.boxes[index + 1] & targets
        if before & ~after:
            return index if before.bit_count() > home else None
    return None
