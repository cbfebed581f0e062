"""Reading run folders: everything a report shows comes from per-item files, nothing from printed summaries."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.errors import ConfigError, DataError, RunFolderError
from sdgym.evaluation import report_from_records
from sdgym.trees import read_yaml

DETAILS = "comparison.json"
"""What a comparison adds to its trials: title, arm of each run folder, failures, skipped parts."""


@dataclasses.dataclass(frozen=True)
class Score:
    """One evaluation, recomputed from its per-item records.

    ``greedy``, ``majority`` (maj@k) and ``passed`` (pass@k) are None where not measured; k is ``samples``, at least 2 for pass@k.
    """

    step: int
    split: str
    success: float
    greedy: float | None
    majority: float | None
    tasks: int
    samples: int
    passed: float | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        arm: the method's name in the report.
        scores: every evaluation, in order of step; ``eval_split`` ones make the curve.
        metrics: the lines of ``metrics.jsonl``.
        items: the per-item records behind ``scores``.
        split: of the table's numbers: ``test`` where it was measured at both ends, else that of the curve.
        world: the environment's name in the report where its id is not enough.
    """

    folder: pathlib.Path
    arm: str
    supervision: str
    config: Mapping[str, Any]
    scores: tuple[Score, ...]
    metrics: tuple[Mapping[str, Any], ...]
    items: tuple[Mapping[str, Any], ...] = ()
    world: str = ""

    @property
    def env(self) -> str:
        """Environment id, or :attr:`world`."""
        return self.world or str(self.config["env"]["id"])

    @property
    def level(self) -> str:
        """Level, ``tiny`` unless chosen."""
        return str(self.config["env"]["kwargs"].get("level", "tiny"))

    @property
    def model(self) -> str:
        """The policy that the run started from."""
        return str(self.config["model"])

    @property
    def seed(self) -> int:
        """Run seed."""
        return int(self.config["seed"])

    @property
    def temperature(self) -> float:
        """Of the sampled evaluation rollouts."""
        return float(self.config["eval"]["temperature"])

    @property
    def eval_split(self) -> str:
        """Where the curve's tasks come from."""
        return str(self.config["eval"]["split"])

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: the test tasks are read there alone; without them its last step or its budget tells."""
        if self.last is None:
            return False
        if self.split == "test" != self.eval_split:
            return True
        budget = (self.config.get("budget") or {}).get("sampled_tokens")
        spent = budget is not None and self.at(self.last.step, "ledger/sampled_tokens") >= budget
        return spent or self.last.step >= int(self.config["steps"])

    @property
    def split(self) -> str:
        """See the class."""
        steps = {s.step for s in self.scores if s.split == "test"}
        return "test" if 0 in steps and max(steps) > 0 else self.eval_split

    @property
    def first(self) -> Score | None:
        """The evaluation at step 0."""
        return next((s for s in self.scores if s.split == self.split and s.step == 0), None)

    @property
    def last(self) -> Score | None:
        """The latest evaluation."""
        return next((s for s in reversed(self.scores) if s.split == self.split and s.step > 0), None)

    @property
    def curve(self) -> tuple[Score, ...]:
        """Evaluations on ``eval_split``."""
        return tuple(s for s in self.scores if s.split == self.eval_split)

    @property
    def tokens(self) -> float:
        """Tokens sampled for training, discarded ones included."""
        return self.at(self.metrics[-1]["step"] if self.metrics else 0, "ledger/sampled_tokens")

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the run."""
        return float(self.metrics[-1].get("seconds") or math.nan) if self.metrics else math.nan

    def items_at(self, step: int) -> list[Mapping[str, Any]]:
        """Return the records of ``split`` at ``step``, in the order of the tasks."""
        return [item for item in self.items if item["split"] == self.split and int(item["step"]) == step]

    def at(self, step: int, name: str) -> float:
        """Return metric ``name`` at the last line up to ``step``; 0 before the first one."""
        found = 0.0
        for line in self.metrics:
            if line["step"] > step:
                break
            if line.get(name) is not None:
                found = float(line[name])
        return found


def find_runs(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the run folders at or below ``folder``, sorted. Raises :class:`RunFolderError` if there are none."""
    if not folder.is_dir():
        raise RunFolderError(f"there is no folder {str(folder)!r}: name a run folder or the folder of a comparison")
    found = sorted(path.parent for path in folder.rglob("config.yaml") if (path.parent / "metrics.jsonl").is_file())
    if not found:
        raise RunFolderError(f"{str(folder)!r} holds no run (a folder with config.yaml and metrics.jsonl)")
    return found


def load_run(folder: pathlib.Path, arm: str | None = None, start: Sequence[Mapping[str, Any]] = ()) -> Run:
    """Read one run folder.

    Args:
        folder: the run folder.
        arm: the method's name; default the algorithm's.
        start: per-item records of the policy before training, measured once for many runs.

    Raises:
        DataError: a file in it is not what it should be.
    """
    config = load_config(folder / "config.yaml")
    algo = str(config["algo"]["name"])
    metrics = tuple(line for line in read_lines(folder / "metrics.jsonl") if "step" in line)
    items = (*start, *read_lines(folder / "eval.jsonl"))
    try:
        scores = scores_of(items)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{str(folder / 'eval.jsonl')!r} holds a line that is no record of an evaluation ({error!r})") from None
    return Run(folder, arm or algo, supervision_of(algo, config["algo"].get("overrides") or {}), config, scores, metrics, items)


def load_config(path: pathlib.Path) -> dict[str, Any]:
    """Read what a report needs of a run's config. Raises :class:`DataError` where it is missing."""
    try:
        config = read_yaml(path)
    except ConfigError as error:
        raise DataError(str(error)) from None
    sections = {"algo": {"name"}, "env": {"id", "kwargs"}, "eval": {"split"}}
    whole = all(isinstance(config.get(name), dict) and keys <= set(config[name]) for name, keys in sections.items())
    if not whole or not {"model", "seed", "steps"} <= set(config) or not isinstance(config["env"]["kwargs"], dict):
        raise DataError(f"{str(path)!r} is not the config of a run")
    return config


def scores_of(records: Sequence[Mapping[str, Any]]) -> tuple[Score, ...]:
    """Recompute every evaluation from per-item records."""
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((int(record["step"]), str(record["split"])), []).append(record)
    scores = []
    for (step, split), members in sorted(groups.items()):
        report = report_from_records(members, split)
        samples = max((item.samples for item in report.items), default=0)
        passed = _known(report.pass_at(samples)) if samples > 1 else None
        scores.append(Score(step, split, report.success, _known(report.greedy), _known(report.majority), len(members), samples, passed))
    return tuple(scores)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def supervision_of(algo: str, overrides: Mapping[str, Any]) -> str:
    """Return what the method may learn from with these settings, or ``?`` where its code is not at hand."""
    from sdgym.algos.base import supervision_class
    from sdgym.algos.presets import build_algorithm
    from sdgym.errors import UserError

    try:
        return supervision_class(build_algorithm(algo, dict(overrides)))
    except UserError:
        return "?"


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read JSON lines; a last line cut short by a kill is left out. Raises :class:`DataError` for any other bad line."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise DataError(f"line {number} of {str(path)!r} is not JSON: {error.msg}") from None
        if not isinstance(record, dict):
            raise DataError(f"line {number} of {str(path)!r} is no JSON object")
        records.append(record)
    return records


def load_details(folder: pathlib.Path) -> dict[str, Any]:
    """Return ``comparison.json`` of a comparison folder, {} for anything else. Raises :class:`DataError` for a damaged one."""
    path = folder / DETAILS
    if not path.is_file():
        return {}
    try:
        details = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        details = None
    if not (isinstance(details, dict) and all(isinstance(details.get(key), dict) for key in ("trials", "starts"))):
        raise DataError(f"{str(path)!r} is not the record of a comparison: run the comparison again with --resume to write it anew")
    return details
