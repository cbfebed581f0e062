"""The skill bank: skills on shelves, retrieved by an upper confidence bound (algorithms-core §6b)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any


@dataclasses.dataclass
class Skill:
    """One skill and its record.

    Attributes:
        skill_id: number in order of arrival.
        text: what a teacher reads.
        origin: group id of the rollouts it was made from.
        prior: mean reward of that group; stands in for the mean until the first outcome is known.
        uses: retrievals, n(e).
        outcomes, total: how many retrievals have an outcome, and the sum of these.
    """

    skill_id: int
    text: str
    origin: str
    prior: float
    uses: int = 0
    outcomes: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float:
        """The mean outcome of its uses."""
        return self.total / self.outcomes if self.outcomes else self.prior


class SkillBank:
    """Shelves of at most ``capacity`` skills each.

    Args:
        capacity: of a shelf; beyond it the skill with the lowest mean goes, the oldest among equals.
        exploration: c of the bound mean + c·sqrt(ln Σn / n). Whatever was never used comes first, in order of arrival.
    """

    def __init__(self, capacity: int = 8, exploration: float = 1.0) -> None:
        self.capacity, self.exploration = capacity, exploration
        self.shelves: dict[str, list[Skill]] = {}
        self._next_id = 0

    def __len__(self) -> int:
        return sum(len(shelf) for shelf in self.shelves.values())

    def retrieve(self, shelf: str, exclude: Collection[str] = ()) -> Skill | None:
        """Return the skill to use next and count the use, or None where there is none.

        Args:
            shelf: where to look.
            exclude: group ids; a skill made from these rollouts is never returned for them.
        """
        found = [skill for skill in self.shelves.get(shelf, ()) if skill.origin not in exclude]
        if not found:
            return None
        total = sum(skill.uses for skill in found)
        best = min(found, key=lambda skill: (-self._bound(skill, total), skill.skill_id))
        best.uses += 1
        return best

    def _bound(self, skill: Skill, total: int) -> float:
        if not skill.uses:
            return math.inf
        return skill.mean + self.exploration * math.sqrt(math.log(total) / skill.uses)

    @staticmethod
    def record(skill: Skill, outcome: float) -> None:
        """Add the outcome of one use."""
        skill.outcomes += 1
        skill.total += outcome

    def add(self, shelf: str, text: str, origin: str, prior: float) -> None:
        """Put a skill on a shelf; a text that lies there already is not added again."""
        skills = self.shelves.setdefault(shelf, [])
        if any(skill.text == text for skill in skills):
            return
        skills.append(Skill(self._next_id, text, origin, prior))
        self._next_id += 1
        if len(skills) > self.capacity:
            skills.remove(min(skills, key=lambda skill: (skill.mean, skill.skill_id)))

    def state_dict(self) -> dict[str, Any]:
        """Return the shelves as plain data."""
        return {"shelves": {k: [dataclasses.asdict(s) for s in v] for k, v in self.shelves.items()}, "next_id": self._next_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        self.shelves = {k: [Skill(**s) for s in v] for k, v in state["shelves"].items()}
        self._next_id = int(state["next_id"])
