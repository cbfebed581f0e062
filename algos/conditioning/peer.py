"""The teacher reads a success of the same group, feedback on this row's own attempt, or both (SDPO §4b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.algos.base import Batch
from sdgym.algos.conditioning.base import Conditioner, Told, peers
from sdgym.algos.conditioning.frames import attempt_text, feedback_text
from sdgym.algos.conditioning.verdict import gives_feedback
from sdgym.errors import ConfigError


class Peer(Conditioner):
    """The first successful attempt of the group.

    Args:
        exclude_self: a success is never its own demonstration (SDPO's scripts; the caption of its Table 2
            says otherwise).
        strip_think: remove closed think blocks from the demonstration.
        success_threshold: the reward from which an attempt is a success; None takes the environment's word.
        **settings: see :class:`sdgym.algos.conditioning.base.Conditioner`.
    """

    kind = "peer"
    siblings = True

    def __init__(
        self, exclude_self: bool = True, strip_think: bool = True, success_threshold: float | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.exclude_self, self.strip_think, self.success_threshold = exclude_self, strip_think, success_threshold

    def check(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a group of one."""
        super().check(env, settings)
        if settings.get("group_size", 2) < 2:
            raise ConfigError("the success of a sibling needs group_size of at least 2: or use context=feedback")

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the demonstration, or None if no other row succeeded with anything to show."""
        for found in peers(index, batch, group, exclude_self=self.exclude_self, threshold=self.success_threshold):
            if text := attempt_text(batch.rows[found].actions, self.strip_think):
                return Told((("peer", text),), f"row {found}")
        return None


class FeedbackOnly(Conditioner):
    """What the environment said about this row's own attempt; successes have none."""

    kind = "feedback"
    needs = "feedback"

    def check(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a world that says nothing."""
        super().check(env, settings)
        if not gives_feedback(env.unwrapped):
            raise ConfigError(f"{env.unwrapped.env_id} gives no feedback on a wrong answer: use context=peer, or grpo (reward)")

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the feedback, or None where nothing was said or the attempt succeeded."""
        row = batch.rows[index]
        text = "" if row.success else feedback_text(row.feedback)
        return Told((("feedback", text),), f"row {index}") if text else None


class PeerFeedback(Conditioner):
    """A peer's success and the feedback on one's own failure.

    Args:
        only_without_solution: use feedback only where there is no successful peer (SDPO's scripts).
        exclude_self, strip_think, success_threshold: see :class:`Peer`.
        **settings: see :class:`sdgym.algos.conditioning.base.Conditioner`.
    """

    kind = "peer+feedback"
    siblings = True
    needs = "feedback"

    def __init__(
        self,
        only_without_solution: bool = True,
        exclude_self: bool = True,
        strip_think: bool = True,
        success_threshold: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.only_without_solution = only_without_solution
        self._peer = Peer(exclude_self, strip_think, success_threshold)
        self._feedback = FeedbackOnly()

    def check(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a group of one in a world that says nothing."""
        super().check(env, settings)
        if settings.get("group_size", 2) < 2:
            self._feedback.check(env, settings)

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return one section or two, or None (the gating table of algorithms-core §4c)."""
        peer = self._peer.tell(index, batch, group)
        feedback = self._feedback.tell(index, batch, group)
        if peer is not None and (feedback is None or self.only_without_solution):
            return peer
        if peer is None or feedback is None:
            return feedback
        return Told((*peer.sections, *feedback.sections), f"{peer.source}, {feedback.source}")
