"""What is said about an attempt at a tiny task: what it was, and which part of it was wrong, never what is right.

Who reads it may not have made the attempt (a teacher is given the feedback alone), so it names the call and the row.
The words depend only on what the attempt did and on what would have been right. So one can ask, of any
other call, whether the same words would have been said had that one been right: that is the posterior of
the novice given the feedback.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sdgym.envs.tools.apps import APPS
from sdgym.envs.tools.calls import CallSyntaxError, parse_calls
from sdgym.envs.tools.database import Change
from sdgym.envs.tools.families.base import Case, start
from sdgym.envs.tools.session import call_api
from sdgym.envs.tools.tiny import SHOWN, TOLD
from sdgym.envs.tools.world import World

CALLS = 4
"""Calls per turn at level "tiny"."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What an action did.

    Attributes:
        refused: why it did nothing at all, or empty.
        changes: what it changed.
        answer: what it answered, or None.
        tools: what it called, in order.
    """

    refused: str
    changes: tuple[Change, ...] = ()
    answer: Any = None
    tools: tuple[str, ...] = ()

    def outcome(self) -> tuple[Any, ...]:
        """Return what makes two attempts the same."""
        return str(self.answer), sorted((c.table.name, c.row_id, str(c.after)) for c in self.changes)


def attempt(world: World, case: Case, action: str) -> Attempt:
    """Carry an action out in a fresh episode."""
    episode = start(world, case)
    try:
        calls = parse_calls(action, CALLS)
    except CallSyntaxError as error:
        return Attempt(f"Not understood: {error}.")
    for call in calls:
        result = call_api(episode, APPS, call.tool, call.args)
        if "error" in result:
            return Attempt(f"Error {result['error']['code']}: {result['error']['message']}.")
    return Attempt("", tuple(episode.db.changes()), episode.answer, tuple(call.tool for call in calls))


def explain(case: Case, tried: Attempt, wanted: Attempt) -> str:
    """Return what would be said about ``tried`` if ``wanted`` were right."""
    if tried.refused:
        return tried.refused
    if tried.outcome() == wanted.outcome():
        return "Right."
    if wanted.answer is not None and tried.answer is not None:
        number = f" {tried.answer}" if isinstance(tried.answer, int) and abs(tried.answer) < 10**6 else ""  # nothing of any length
        return _direction(f"The answer{number} is", tried.answer, wanted.answer) + "."
    if wanted.answer is not None:
        return "An answer was asked for."
    if not tried.changes:
        return "Nothing was changed." if tried.answer is None else "No answer was asked for."
    mine, right = _targets(tried), _targets(wanted)
    if len(mine) != 1:
        return "One row was to be changed, not several."
    act = "Right" if _kinds(tried) == _kinds(wanted) else "Wrong"
    return f"{act} call {', '.join(tried.tools)}, {_row_part(case, mine.pop(), next(iter(right), None))}."


def _targets(done: Attempt) -> set[int]:
    """Return the rows of the screen that were acted on."""
    found = set()
    for change in done.changes:
        if change.table.name in SHOWN:
            found.add(change.row_id)
        elif "product_id" in change.table.kinds:
            found.add((change.after or change.before or {})["product_id"])
    return found


def _kinds(done: Attempt) -> set[tuple[Any, ...]]:
    return {
        (change.table.name, change.before is None, change.after is None, (change.after or {}).get("status"), *sorted(change.columns()))
        for change in done.changes
    }


def _row_part(case: Case, mine: int, right: int | None) -> str:
    if mine == right:
        return f"right row {mine}"
    rows = {number: (name, values) for name, number, values in case.plants if name in SHOWN}
    if mine not in rows or right not in rows:
        return f"wrong row {mine}"
    table, tried = rows[mine]
    wrong = [(column, tried[column], rows[right][1][column]) for column in TOLD.get(table, SHOWN[table])]
    return f"wrong row {mine}: " + ", ".join(_direction(column, have, want) for column, have, want in wrong if have != want)


def _direction(name: str, have: Any, want: Any) -> str:
    if isinstance(have, int) and isinstance(want, int):
        return f"{name} too {'high' if have > want else 'low'}"
    if isinstance(have, str) and isinstance(want, str) and have[:4] == want[:4] == "2026":
        return f"{name} too {'late' if have > want else 'early'}"
    return f"{name} wrong"
