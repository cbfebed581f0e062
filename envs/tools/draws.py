"""From a seed to a proved task: a pure function of (level, split, seed)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from sdgym.envs.tools.families import FAMILIES, HELDOUT
from sdgym.envs.tools.families.base import Case, Draw, OracleError
from sdgym.envs.tools.judge import Finding
from sdgym.envs.tools.proof import Proof, UnprovedError, idle, prove
from sdgym.envs.tools.tiny import HELDOUT_SKILL, SKILLS, Screen, tiny_case
from sdgym.envs.tools.world import WORLDS, World, build_world, empty_world
from sdgym.errors import EnvError
from sdgym.seeding import generator

DIFFICULTY = {"easy": 0, "medium": 1, "hard": 2}
VARIANTS = 3
"""Tasks per scenario: seeds 3k, 3k + 1 and 3k + 2 share family and wording and differ in the parameters."""


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """One task as drawn: its case on its world, and the screen at level "tiny"."""

    family: str
    world: World
    case: Case
    screen: Screen | None

    @functools.cached_property
    def idle(self) -> Sequence[Finding]:
        """The findings when nothing is done (see :func:`sdgym.envs.tools.proof.idle`)."""
        return idle(self.world, self.case)

    def canonical(self) -> Any:
        """Return what makes two tasks the same: rows and goal, not wording."""
        goal = self.case.goal
        effects = [(e.op, e.table.name, e.row_id, sorted((k, str(v)) for k, v in e.values.items())) for e in goal.effects]
        plants = sorted((name, number, sorted((k, str(v)) for k, v in row.items())) for name, number, row in self.case.plants)
        return [self.family, plants, effects, str(goal.answer), goal.status]


@functools.lru_cache(4096)
def draw_task(level: str, split: str, seed: int, attempt: int) -> Drawn:
    """Return draw number ``attempt`` of a task, not proved."""
    scenario = seed // VARIANTS
    wording = generator(scenario, "tool-scenario", level, split)
    rng = generator(seed, "tool-task", level, split, attempt)
    if level == "tiny":
        name, world = "heldout" if split == "heldout" else list(SKILLS)[int(wording.integers(len(SKILLS)))], empty_world()
    else:
        family = [name for name in FAMILIES if name != HELDOUT][int(wording.integers(len(FAMILIES) - 1))]
        name, world = HELDOUT if split == "heldout" else family, build_world(int(rng.integers(WORLDS)), split)
    draw = Draw(world, rng, wording)
    try:
        if level == "tiny":
            screen = HELDOUT_SKILL(draw) if split == "heldout" else SKILLS[name](draw)
            return Drawn(name, world, tiny_case(draw, screen), screen)
        return Drawn(name, world, FAMILIES[name][DIFFICULTY[level]](draw), None)
    finally:
        draw.db.close()


def find_task(level: str, split: str, seed: int, belongs: Callable[[Any], bool]) -> tuple[int, Drawn, Proof]:
    """Return the first draw whose content belongs to the split and that can be proved, with its number and proof.

    Raises:
        EnvError: none of 2,000 draws will do, which is a bug of a family.
    """
    problem = ""
    for attempt in range(2_000):
        drawn = draw_task(level, split, seed, attempt)
        if not belongs(drawn.canonical()):
            continue
        try:
            return attempt, drawn, prove(drawn.world, drawn.case)
        except (UnprovedError, OracleError, StopIteration) as error:
            problem = f"{drawn.family}: {error!r}"
    raise EnvError(f"no task of split {split!r} at level {level!r} can be made from the seed {seed} ({problem})")
