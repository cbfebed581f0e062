"""``--tune``: every arm gets the same number of trials on ``val``; what they cost is charged and told.

Papers tune their own method and take the baseline's defaults. Here every arm, baseline and controls included, gets as
many settings from the same space, the first of them its own. A tuning run is an ordinary trial with a seed of its own and
without ``test``; the last checkpoint's success on ``val`` decides.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from sdgym.algos.presets import build_algorithm
from sdgym.benchmarks.head_to_head.runner import Board, Engine, run_all
from sdgym.benchmarks.head_to_head.suite import Arm, Suite, world_name
from sdgym.benchmarks.head_to_head.trials import Trial, make_trial, obstacle
from sdgym.errors import ConfigError
from sdgym.report.load import read_lines, scores_of
from sdgym.seeding import generator
from sdgym.trees import merge, nest


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One tuning run.

    Attributes:
        arm, world: whose.
        settings: what it changed; {} is the arm as the suite has it.
        trial: the run.
    """

    arm: str
    world: str
    settings: Mapping[str, Any]
    trial: Trial

    @property
    def success(self) -> float | None:
        """Success on ``val`` at the last checkpoint, from the per-item records; None if it did not finish."""
        split = self.trial.settings["eval"]["split"]
        scores = [s for s in scores_of(read_lines(self.trial.run_folder / "eval.jsonl")) if s.split == split and s.step > 0]
        return scores[-1].success if scores else None

    @property
    def sampled_tokens(self) -> int:
        """What it cost."""
        return int(self.trial.latest("ledger/sampled_tokens") or 0)


def candidates(suite: Suite, arm: Arm) -> list[dict[str, Any]]:
    """Return the settings tried for ``arm``: none changed first, then draws without replacement from the product of the space.

    The draws depend on the space and the suite's tuning seed alone, so arms with the same space try the same settings.

    Raises:
        ConfigError: the space holds fewer combinations than trials.
    """
    space = {**suite.tune.space, **arm.tune}
    grid = [tuple(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    wanted = suite.tune.trials - 1
    if len(grid) < wanted:
        raise ConfigError(f"tuning {arm.name!r} with {suite.tune.trials} trials needs a larger space: it has {len(grid)} combinations")
    order = generator(suite.tune.seed, "tuning", *sorted(space)).permutation(len(grid))[:wanted]
    found: list[dict[str, Any]] = [{}]
    for i in order:
        tree: dict[str, Any] = {}
        for key, value in grid[int(i)]:
            tree = merge(tree, nest(key.split("."), value))
        found.append(tree)
    return found


def plan(suite: Suite, out: pathlib.Path) -> list[Candidate]:
    """Return every tuning run: arms × worlds × trials, from the first policy.

    Raises:
        ConfigError: a setting of the space does not fit an arm.
    """
    found = []
    for world in suite.envs:
        for arm in (arm for arm in suite.arms if obstacle(suite, arm, world) is None):
            for number, settings in enumerate(candidates(suite, arm)):
                changed = arm.model_copy(
                    update={"settings": merge(merge(arm.settings, settings), {"eval": {"test_tasks": 0}, "log": {"trajectories_every": 0}})}
                )
                trial = make_trial(suite, changed, world, suite.policies[0], suite.tune.seed, out)
                algo = trial.settings["algo"]
                build_algorithm(algo["name"], algo["overrides"])
                place = out / "tuning" / world_name(world) / arm.name / f"trial-{number}"
                found.append(Candidate(arm.name, world_name(world), settings, dataclasses.replace(trial, folder=place)))
    return found


def tune_arms(suite: Suite, out: pathlib.Path, place: Engine, notice: Callable[[str], None]) -> tuple[Suite, list[dict[str, Any]]]:
    """Run the search and return the suite with each arm's best settings per world, and a record of every tuning run.

    An arm all of whose runs failed keeps its own settings.
    """
    tried = plan(suite, out)
    board = Board([c.trial for c in tried], place.slots, None, launch=place.start)
    for _ in run_all(board, notice):
        pass
    records, tuned = [], dict(suite.tuned)
    for world in suite.envs:
        for arm in suite.arms:
            mine = [c for c in tried if (c.arm, c.world) == (arm.name, world_name(world))]
            if not mine:
                continue
            scored = [(c, c.success) for c in mine if c.trial in board.finished]
            best = max((s for _, s in scored if s is not None), default=None)
            chosen = next((c for c, s in scored if s is not None and s == best), mine[0])
            tuned[f"{world_name(world)}/{arm.name}"] = dict(chosen.settings)
            told = settings_text(chosen.settings)
            notice(
                f"tuning {arm.name} on {world_name(world)}: {told} ({'no run finished' if best is None else f'val {best:.3f}'}, {len(mine)} trials)"
            )
            records += [_record(c, c is chosen, out) for c in mine]
    return suite.model_copy(update={"tuned": tuned}), records


def _record(candidate: Candidate, chosen: bool, out: pathlib.Path) -> dict[str, Any]:
    return {
        "arm": candidate.arm,
        "world": candidate.world,
        "settings": dict(candidate.settings),
        "run": candidate.trial.run_folder.relative_to(out).as_posix(),
        "success": candidate.success,
        "sampled_tokens": candidate.sampled_tokens,
        "chosen": chosen,
    }


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return what a candidate changed, for people."""
    return ", ".join(f"{key}={value}" for key, value in leaves(settings)) or "its own settings"


def leaves(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Return ``(dotted key, value)`` pairs of a settings tree."""
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        inner = f"{path}.{key}" if path else key
        found += leaves(value, inner) if isinstance(value, Mapping) else [(inner, value)]
    return found
