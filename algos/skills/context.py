"""The teacher reads a skill behind the task and then the student's own transcript, turn by turn (Skill-SD §6b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sdgym.algos.base import Batch
from sdgym.algos.conditioning.base import Conditioner, Told
from sdgym.algos.skills.bank import Skill
from sdgym.core import Task

Scope = Literal["task", "family", "world"]


def shelf_of(task: Task, scope: Scope) -> str:
    """Return the shelf of ``task``: its own content, its family at its level, or one for everything."""
    if scope == "task":
        return task.task_id.rsplit("-", 1)[-1]
    if scope == "world":
        return "world"
    return f"{task.meta.get('family', 'all')}/{task.meta.get('level', 'all')}"


class SkillContext(Conditioner):
    """The skill retrieved for the row's group; the same for all its members.

    A row whose skill and transcript do not fit into the context drops out: the history is never cut.

    Attributes:
        chosen: group id → skill, set anew for every batch.
    """

    kind = "skill"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.chosen: Mapping[str, Skill] = {}

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the skill of the group, or None on an empty shelf."""
        skill = self.chosen.get(batch.rows[index].group_id)
        return None if skill is None else Told((("skill", skill.text),), f"skill {skill.skill_id}")
