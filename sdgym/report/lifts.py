"""Teacher lift from its per-item records: student against conditioned teacher, both the untrained policy."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from sdgym.report.load import read_lines
from sdgym.stats import Estimate, estimate


@dataclasses.dataclass(frozen=True)
class Lift:
    """How much more the policy solves when it reads what its teacher would read.

    Attributes:
        arm, place: what it was measured for.
        kind: the conditioner.
        tasks: asked; ``lift.n`` of them were told something.
        student, teacher: success on those, NaN for none.
        lift: teacher − student, paired by task and noise, with its bootstrap interval over tasks.
    """

    arm: str
    place: str
    kind: str
    tasks: int
    student: float
    teacher: float
    lift: Estimate

    @property
    def shown(self) -> bool:
        """Whether the interval lies above 0."""
        return self.lift.low is not None and self.lift.low > 0

    @property
    def verdict(self) -> str:
        """``lift``, ``no lift shown``, or ``nothing to say yet`` of a conditioner that told nothing before training."""
        if not self.lift.n:
            return "nothing to say yet"
        return "lift" if self.shown else "no lift shown"

    def sentence(self) -> str:
        """Return one line for people."""
        where = f"of {self.arm} on {self.place} ({self.kind})"
        if not self.lift.n:
            return f"no teacher lift {where}: its conditioner has nothing to say before training, on any of {self.tasks} tasks"
        word = "teacher lift" if self.shown else "no teacher lift"
        span = "" if self.lift.low is None or self.lift.high is None else f" [{100 * self.lift.low:+.1f}, {100 * self.lift.high:+.1f}]"
        return (
            f"{word} {where}: student {100 * self.student:.1f} %, teacher {100 * self.teacher:.1f} %, "
            f"{100 * self.lift.mean:+.1f} points{span} on {self.lift.n} of {self.tasks} tasks"
        )


def read_lift(path: pathlib.Path, arm: str, place: str) -> list[Lift]:
    """Compute lift from the records in ``path``, one result per conditioner."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for record in read_lines(path):
        kinds.setdefault(record["kind"], []).append(record)
    found = []
    for kind, records in kinds.items():
        told = [r for r in records if r["teacher"] is not None]
        student, teacher = [float(r["student"]) for r in told], [float(r["teacher"]) for r in told]
        means = [sum(values) / len(values) if values else float("nan") for values in (student, teacher)]
        lift = estimate([t - s for s, t in zip(student, teacher, strict=True)])
        found.append(Lift(arm, place, kind, len(records), means[0], means[1], lift))
    return found


def load_lifts(folder: pathlib.Path, details: Mapping[str, Any]) -> list[Lift]:
    """Return every lift that a comparison measured."""
    return [lift for arm, place, path in details.get("lifts", []) for lift in read_lift(folder / path, arm, place)]
