"""What ``sdgym algos diagnose`` left in run folders, for the page: does the teacher point where the reward does?"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.errors import DataError
from sdgym.report.load import Run

FILE = "alignment.json"
GROUPS = ("all", "wrong attempts", "right attempts")
"""Lines of the probe's table that the report shows; ``alignment.html`` beside the file has all."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One class of prefixes and one divergence: the mean cosine with the reward's gradient, and what noise leaves of a perfect one."""

    group: str
    signal: str
    tasks: int
    mean: float
    low: float | None
    high: float | None
    decided: float
    reliability: float


@dataclasses.dataclass(frozen=True)
class Alignment:
    """The probe of one run."""

    arm: str
    facts: str
    lines: Sequence[Line]


def alignments(runs: Sequence[Run]) -> list[Alignment]:
    """Return the probes of those ``runs`` that have one. Raises :class:`DataError` for a file that diagnose did not write."""
    return [_read(run.folder / FILE, run.arm) for run in runs if (run.folder / FILE).is_file()]


def _read(path: pathlib.Path, arm: str) -> Alignment:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        lines = [line for group in found["groups"] if group["name"] in GROUPS for line in _lines(group)]
        facts = " · ".join(f"{key} {value}" for key, value in found["facts"].items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{str(path)!r} is not what sdgym algos diagnose writes ({error}): run it again or remove the file") from None
    return Alignment(arm, facts, lines)


def _lines(group: Mapping[str, Any]) -> list[Line]:
    decided, agreed = _number(group["decided"]), _number(group["reliability"])
    return [
        Line(str(group["name"]), signal.replace("_", " "), int(e["n"]), _number(e["mean"]), e["low"], e["high"], decided, agreed)
        for signal, e in group["aligned"].items()
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
