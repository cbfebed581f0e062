"""``comparison.json``: what a comparison declared before it ran and what became of its trials; no result is in it.

The report recomputes every number from the per-item files that this record points to. It is written whenever a trial
finishes, so a killed comparison leaves a folder that ``sdgym report`` can read.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.algos.presets import load_preset, preset_names
from sdgym.benchmarks.head_to_head.expand import declared_contrasts
from sdgym.benchmarks.head_to_head.lift import lift_files
from sdgym.benchmarks.head_to_head.runner import Board
from sdgym.benchmarks.head_to_head.suite import Suite, world_name
from sdgym.benchmarks.head_to_head.trials import obstacle
from sdgym.benchmarks.head_to_head.trl_settings import missing_features
from sdgym.benchmarks.head_to_head.tuning import settings_text
from sdgym.report.load import DETAILS


class Record:
    """Writes ``comparison.json``.

    Args:
        suite: expanded, as it runs.
        folder: of the comparison.
        board: its trials.
        starts: per place the per-item file of the start.
        remarks: what was left out or cut, one sentence each.
        tuning: one record per tuning run.
    """

    def __init__(
        self,
        suite: Suite,
        folder: pathlib.Path,
        board: Board,
        starts: Mapping[str, str],
        remarks: Sequence[str] = (),
        tuning: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.suite, self.folder, self.board = suite, folder, board
        self.starts, self.remarks, self.tuning = dict(starts), list(remarks), list(tuning)
        self._told: int | None = None

    def write_if_new(self) -> None:
        """Write if a trial has ended since the last time."""
        ended = len(self.board.finished) + len(self.board.failed)
        if ended != self._told:
            self._told = ended
            self.write()

    def write(self) -> None:
        """Write the record, atomically."""
        partial = self.folder / (DETAILS + ".part")
        partial.write_text(json.dumps(self.tree(), indent=2), encoding="utf-8")
        partial.replace(self.folder / DETAILS)

    def notes(self) -> list[str]:
        """Return what a reader must be told, one sentence each."""
        board = self.board
        return [
            *self.remarks,
            *self._left_out(),
            *self._tuned(),
            *(f"{trial.name} failed: {why}" for trial, why in board.failed.items()),
            *(f"{trial.name} was run a second time ({why})" for trial, why in board.retried.items() if trial not in board.failed),
        ]

    def _left_out(self) -> list[str]:
        suite, told = self.suite, []
        for arm in suite.arms:
            if arm.engine == "trl":
                lost = missing_features(suite.trial_settings(arm, suite.envs[0], 0))
                told.append(f"{arm.name} is TRL's own trainer with the settings of {arm.algo}; not carried over: {'; '.join(lost)}")
            reasons = [(world_name(world), obstacle(suite, arm, world)) for world in suite.envs]
            told += [f"{arm.name} is left out on {name}: {why}" for name, why in reasons if why is not None]
        return told

    def _tuned(self) -> list[str]:
        cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for run in self.tuning:
            cells.setdefault((run["arm"], run["world"]), []).append(run)
        return [
            f"{arm} on {world} was tuned with {len(runs)} trials on val, which sampled {sum(run['sampled_tokens'] for run in runs)} tokens; "
            f"it runs with {settings_text(next(run['settings'] for run in runs if run['chosen']))}"
            for (arm, world), runs in cells.items()
        ]

    def tree(self) -> dict[str, Any]:
        """Return the record as plain data."""
        suite = self.suite
        return {
            "title": suite.title,
            "claims": suite.claims,
            "order": [arm.name for arm in suite.arms],
            "trials": {t.run_folder.relative_to(self.folder).as_posix(): [t.arm, t.place] for t in self.board.finished},
            "starts": self.starts,
            "notes": self.notes(),
            "places": {suite.place(w, p): [world_name(w), p] for w in suite.envs for p in suite.policies},
            "budget": None if suite.budget is None else suite.budget.model_dump(),
            "baseline": suite.baseline,
            "contrasts": [list(pair) for pair in declared_contrasts(suite)],
            "controls": {arm.name: arm.control_of for arm in suite.arms if arm.control_of is not None},
            "unranked": [arm.name for arm in suite.arms if arm.control_of is not None or is_reconstruction(arm.algo)],
            "lifts": lift_files(suite, self.folder),
            "tuning": self.tuning,
            "engines": {arm.name: arm.engine for arm in suite.arms if arm.engine != "sdgym"},
            "planned": len(self.board.plan),
        }


def is_reconstruction(algo: str) -> bool:
    """Whether an algorithm's preset says that it is a reconstruction; those stay out of rankings."""
    return algo in preset_names() and load_preset(algo).status == "reconstruction"
