"""What a task asks for, as data, and the verdict on an episode: from what changed, never from how."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.envs.tools.database import Change, Op
from sdgym.envs.tools.session import Episode
from sdgym.envs.tools.tables import Row, Table


@dataclasses.dataclass(frozen=True)
class Contains:
    """A text that has all of these words in it, in any order and case."""

    words: tuple[str, ...]

    def __init__(self, *words: object) -> None:
        object.__setattr__(self, "words", tuple(str(w) for w in words))

    def matches(self, text: str) -> bool:
        """Return whether every word occurs, not as a part of a longer word or number."""
        return all(re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", text.lower()) for word in self.words)


def same(wanted: Any, found: Any) -> bool:
    """Compare by type: texts without regard to case and outer blanks, lists without regard to order, numbers also as texts."""
    if isinstance(wanted, Contains):
        return isinstance(found, str) and wanted.matches(found)
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    if isinstance(wanted, list | tuple):
        items = re.split(r"\s*,\s*", found.strip()) if isinstance(found, str) else found
        if not isinstance(items, list | tuple) or len(items) != len(wanted):
            return False
        left = list(items)
        for one in wanted:
            hit = next((i for i, other in enumerate(left) if same(one, other)), None)
            if hit is None:
                return False
            del left[hit]
        return True
    if isinstance(wanted, int | float):
        number = _number(found)
        return number is not None and number == wanted
    return isinstance(found, str) and " ".join(wanted.split()).lower() == " ".join(found.split()).lower()


def _number(value: Any) -> float | None:
    if isinstance(value, int | float):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*\$?\s*-?\d{1,15}(\.\d{1,6})?\s*(dollars)?\s*", value):
        return float(re.sub(r"[^\d.-]", "", value))
    return None


@dataclasses.dataclass(frozen=True)
class Effect:
    """One row that must have changed.

    Attributes:
        op, table, row_id: what must have happened to which row (no number for a new one).
        values: what the row must hold afterwards; a new row may hold anything in its other columns, a
            changed one must not differ in them.
        said: the requirement in words that do not give it away.
    """

    op: Op
    table: Table
    row_id: int | None
    values: Mapping[str, Any]
    said: str

    def concerns(self, change: Change) -> bool:
        """Return whether ``change`` is of the same kind and, where a row is named, of the same row."""
        return change.op == self.op and change.table.name == self.table.name and self.row_id in (None, change.row_id)

    def met_by(self, change: Change) -> bool:
        """Return whether ``change`` is what was asked for, and no more."""
        if not self.concerns(change):
            return False
        if self.op == "delete":
            return True
        after: Row = change.after or {}
        exact = self.op == "create" or change.columns() <= set(self.values)
        return exact and all(same(wanted, after[name]) for name, wanted in self.values.items())


def created(table: Table, said: str, **values: Any) -> Effect:
    """Require a new row with these values."""
    return Effect("create", table, None, values, said)


def updated(table: Table, row_id: int, said: str, **values: Any) -> Effect:
    """Require that exactly these columns of a row have changed to these values."""
    return Effect("update", table, row_id, values, said)


def deleted(table: Table, row_id: int, said: str) -> Effect:
    """Require that a row is gone."""
    return Effect("delete", table, row_id, {}, said)


@dataclasses.dataclass(frozen=True)
class Goal:
    """All that a task requires.

    Attributes:
        effects: the rows that must have changed; nothing else may.
        answer: the answer that must be given, or None.
        status: how the task must be reported.
        ends: whether ``complete_task`` must be called ("tiny" tasks without an answer end by themselves).
    """

    effects: tuple[Effect, ...] = ()
    answer: Any = None
    status: str = "success"
    ends: bool = True


@dataclasses.dataclass(frozen=True)
class Finding:
    """One state test and its result.

    Attributes:
        said: the requirement in words.
        passed: whether it holds.
        collateral: whether it forbids a side effect.
        gold: the requirement with its values (gives the answer away).
    """

    said: str
    passed: bool
    collateral: bool = False
    gold: str = ""


def judge(goal: Goal, episode: Episode) -> list[Finding]:
    """Evaluate every state test of ``goal`` on an episode.

    Effects are matched to changes one to one, in order; what is left over is collateral damage, reported per
    app, so that there is one test per app that forbids it.
    """
    changes = episode.db.changes()
    findings = _ending(goal, episode)
    for effect in goal.effects:
        hit = next((i for i, change in enumerate(changes) if effect.met_by(change)), None)
        findings.append(Finding(effect.said, hit is not None, gold=_gold(effect)))
        if hit is not None:
            del changes[hit]
        else:  # an attempt at it that went wrong is one failure, not two
            tried = next((i for i, change in enumerate(changes) if effect.concerns(change) and effect.row_id is not None), None)
            if tried is not None and changes[tried].columns() <= set(effect.values):
                del changes[tried]
    for app in dict.fromkeys(table.app for table in episode.db.tables.values()):
        stray = [change for change in changes if change.table.app == app]
        said = f"Nothing else is changed in {app}." if not stray else f"Something else was changed in {app}: {_stray(stray)}."
        findings.append(Finding(said, not stray, collateral=True))
    return findings


def _ending(goal: Goal, episode: Episode) -> list[Finding]:
    findings = []
    if goal.ends:
        findings.append(Finding("The task is reported with complete_task.", episode.done))
        passed = episode.done and episode.status == goal.status
        findings.append(Finding("It is reported with the right status (done, or not possible).", passed, gold=f"status: {goal.status}"))
    if goal.answer is not None:
        passed = episode.done and same(goal.answer, episode.answer)
        findings.append(Finding("The answer is right.", passed, gold=f"answer: {goal.answer}"))
    return findings


def _stray(changes: Sequence[Change]) -> str:
    words = {"create": "new", "update": "changed", "delete": "deleted"}
    parts = [f"{change.table.noun} {change.row_id} {words[change.op]}" for change in changes[:3]]
    return ", ".join(parts) + (f" and {len(changes) - 3} more" if len(changes) > 3 else "")


def _gold(effect: Effect) -> str:
    values = ", ".join(f"{k} = {' … '.join(v.words) if isinstance(v, Contains) else v}" for k, v in effect.values.items())
    return f"{effect.op} {effect.table.noun}{'' if effect.row_id is None else f' {effect.row_id}'}" + (f": {values}" if values else "")


def succeeded(findings: Sequence[Finding]) -> bool:
    """Return whether every test holds."""
    return all(finding.passed for finding in findings)


def dense(findings: Sequence[Finding], idle: Sequence[Finding]) -> float:
    """Return the share of tests passed among those that fail when nothing is done; 0 with any collateral damage.

    Args:
        findings: of the episode.
        idle: of the untouched world with ``complete_task`` called: what it passes is never paid for.
    """
    if any(f.collateral and not f.passed for f in findings):
        return 0.0
    paid = [f.passed for f, untouched in zip(findings, idle, strict=True) if not untouched.passed]
    return sum(paid) / len(paid)
