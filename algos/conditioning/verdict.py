"""What VPD's teacher reads: the verdict on this very attempt, a sibling that ended the other way, or the model's own critique."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.algos.base import Batch
from sdgym.algos.conditioning.base import Conditioner, Told, outcome_word, peers
from sdgym.algos.conditioning.frames import attempt_text, feedback_text
from sdgym.core import Message, Trajectory


class Verdict(Conditioner):
    """A success reads that it was right, a failure what the environment said; a failure without words has nothing to read.

    Unlike :class:`sdgym.algos.conditioning.FeedbackOnly` it also speaks to successes, which an E-step needs.
    """

    kind = "verdict"
    needs = "feedback"

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the verdict on row ``index``, or None."""
        row = batch.rows[index]
        if row.success:
            return Told((("outcome", outcome_word(row)),), f"row {index}")
        text = feedback_text(row.feedback)
        return Told((("feedback", text),), f"row {index}") if text else None


class Contrast(Conditioner):
    """The first sibling with anything to show that ended the other way: a failure reads a success, a success a failure; None in a uniform group.

    Args:
        strip_think: remove closed think blocks from the sibling's words.
        **settings: see :class:`sdgym.algos.conditioning.base.Conditioner`.
    """

    kind = "contrast"
    siblings = True

    def __init__(self, strip_think: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.strip_think = strip_think

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the sibling of row ``index``, or None."""
        found = peers(index, batch, group, exclude_self=True)
        kind = "peer"
        if batch.rows[index].success:
            kind, found = "contrast", [j for j in group if batch.rows[j].usable and not batch.rows[j].success]
        for sibling in found:
            if said := attempt_text(batch.rows[sibling].actions, self.strip_think):
                return Told(((kind, said),), f"row {sibling}")
        return None


class Critique(Conditioner):
    """What the model itself wrote about its attempt.

    Attributes:
        notes: (group id, member) → text, set anew for every batch; rows without a note drop out.
    """

    kind = "critique"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.notes: Mapping[tuple[str, int], str] = {}

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the critique of row ``index``, or None."""
        text = self.notes.get((batch.rows[index].group_id, batch.rows[index].member), "").strip()
        return Told((("critique", text),), f"row {index}") if text else None


def critique_request(row: Trajectory) -> list[Message]:
    """Return the conversation that asks for a critique; no verdict is in it beyond what the attempt itself saw."""
    lines = [f"Task: {row.task.messages[-1]['content']}"]
    for number, action in enumerate(row.actions):
        if number:
            lines.append(f"Then: {row.observations[number]}")
        lines.append(f"Attempt: {action}")
    lines.append("Check the attempt: what is right in it, what is wrong, and what should change? Answer in a few sentences.")
    return [{"role": "user", "content": "\n".join(lines)}]


def gives_feedback(env: Any) -> bool:
    """Return whether a text environment says anything about wrong answers; plays a few that are right nowhere.

    What is no text environment is refused elsewhere, with a sentence of its own.
    """
    if not hasattr(env, "tasks"):
        return True
    for answer in ("", "0", "I do not know."):
        env.reset(seed=0)
        if str(env.step(answer)[4].get("feedback", "")).strip():
            return True
    return False
