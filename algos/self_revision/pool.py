"""The pool of verified revisions and the stages that draw from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from sdgym.algos.conditioning.revision import Cues, attempt_ids
from sdgym.algos.self_revision.data import Part, Revision
from sdgym.core import LossItem, Trajectory

Stage = Literal["all", "generation", "revision"]


class RevisionPool:
    """Distinct verified revisions in the order of their discovery, drawn in passes.

    Args:
        capacity: how many are kept.
        revision_share: the part of the pool that trains revision where the two losses have stages of their own.
    """

    def __init__(self, capacity: int, revision_share: float) -> None:
        self.capacity, self.revision_share = capacity, revision_share
        self.entries: list[Revision] = []
        self._known: set[tuple[str, bytes, bytes]] = set()
        self._order: list[int] = []

    def add(self, pairs: Sequence[tuple[Trajectory, Trajectory]], cues: Cues, end_ids: Sequence[int]) -> None:
        """Keep every pair whose revision is right, once, while there is room."""
        for first, second in pairs:
            if not (second.usable and cues.is_right(second)) or len(self.entries) >= self.capacity:
                continue
            start, old = second.segments[0], first.segments[0]
            attempt = attempt_ids(first, end_ids)
            phrase = start.ids[old.prompt_length + len(attempt) : start.prompt_length]
            revised = start.ids[start.prompt_length :]
            entry = Revision(first.task.task_id, cues.is_right(first), old.ids[: old.prompt_length], attempt, phrase, revised)
            if entry.key not in self._known:
                self._known.add(entry.key)
                self.entries.append(entry)

    def stage(self, stage: Stage) -> list[Revision]:
        """Return the entries of a stage (algorithms-core §5c).

        ``revision`` takes its share, those with a right attempt first; ``generation`` gets every other one with a wrong
        attempt; ``all`` is the whole pool.
        """
        if stage == "all":
            return list(self.entries)
        ordered = sorted(self.entries, key=lambda entry: not entry.right)
        size = min(len(ordered), max(1, round(self.revision_share * len(ordered))))
        return ordered[:size] if stage == "revision" else [entry for entry in ordered[size:] if not entry.right]

    def restart(self) -> None:
        """Begin a new pass."""
        self._order = []

    def draw(self, stage: Stage, count: int, rng: np.random.Generator) -> list[Revision]:
        """Return the next ``count`` entries of a stage; each pass has its own order and may end with fewer."""
        entries = self.stage(stage)
        if not self._order:
            self._order = [int(i) for i in rng.permutation(len(entries))]
        drawn, self._order = self._order[:count], self._order[count:]
        return [entries[i] for i in drawn]

    def items(self, stage: Stage, count: int, rng: np.random.Generator) -> dict[Part, list[LossItem]]:
        """Return the likelihood items of the next ``count`` entries, for each loss of the stage."""
        drawn = self.draw(stage, count, rng)
        parts: tuple[Part, ...] = ("generation", "revision") if stage == "all" else (stage,)
        return {part: [entry.item(i, part) for i, entry in enumerate(drawn)] for part in parts}

    def state_dict(self) -> dict[str, Any]:
        """Return the pool and the rest of the current pass; ids of all entries in one array."""
        parts = [(e.prompt, e.attempt, e.phrase, e.revised) for e in self.entries]
        return {
            "tasks": [entry.task_id for entry in self.entries],
            "right": [entry.right for entry in self.entries],
            "ids": np.concatenate([np.zeros(0, np.int64), *(ids for four in parts for ids in four)]),
            "lengths": np.array([[len(ids) for ids in four] for four in parts], np.int64).reshape(-1, 4),
            "order": list(self._order),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        pieces = np.split(state["ids"], np.cumsum(state["lengths"].reshape(-1))[:-1]) if len(state["tasks"]) else []
        fours = [pieces[i : i + 4] for i in range(0, len(pieces), 4)]
        self.entries = [Revision(task, right, *four) for task, right, four in zip(state["tasks"], state["right"], fours, strict=True)]
        self._known = {entry.key for entry in self.entries}
        self._order = list(state["order"])
