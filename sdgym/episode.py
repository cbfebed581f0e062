"""One row while it is played: its growing token record and what the environment has said so far."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sdgym.core import Feedback, Message, Outcome, Segment, StopReason, Task, TurnSpan


class Context:
    """The tokens of one segment while it grows."""

    def __init__(self, prompt: np.ndarray) -> None:
        self.parts, self.masks, self.logprobs = [prompt], [np.zeros(len(prompt), bool)], [np.zeros(len(prompt), np.float32)]
        self.prompt_length = self.length = len(prompt)
        self.spans: list[TurnSpan] = []

    def append(self, ids: np.ndarray, logprobs: np.ndarray | None, turn: int = -1) -> None:
        """Add sampled tokens (with ``logprobs``) or observation tokens (without)."""
        sampled = logprobs is not None
        self.parts.append(ids)
        self.masks.append(np.full(len(ids), sampled))
        self.logprobs.append(logprobs.astype(np.float32) if logprobs is not None else np.zeros(len(ids), np.float32))
        if sampled:
            self.spans.append(TurnSpan(turn, self.length, self.length + len(ids)))
        self.length += len(ids)

    def segment(self) -> Segment:
        """Return the finished segment."""
        ids = np.concatenate(self.parts).astype(np.int64)
        return Segment(ids, np.concatenate(self.masks), np.concatenate(self.logprobs), tuple(self.spans), self.prompt_length)


@dataclasses.dataclass
class Episode:
    """One row while it is played."""

    order: tuple[int, int]
    task: Task
    env: Any
    session: int
    history: list[Message]
    context: Context
    observation: str
    closed: list[Segment] = dataclasses.field(default_factory=list)
    observations: list[str] = dataclasses.field(default_factory=list)
    actions: list[str] = dataclasses.field(default_factory=list)
    rewards: list[float] = dataclasses.field(default_factory=list)
    feedback: list[Feedback] = dataclasses.field(default_factory=list)
    outcome: Outcome = Outcome.NONE
    success: bool = False
    stop: StopReason | None = None
    error: str = ""
    last_stop: str = ""
    truncated_tokens: bool = False

    @property
    def turn(self) -> int:
        """Turns recorded so far."""
        return len(self.actions)

    def fail(self, error: str) -> None:
        """End the episode as a masked row."""
        self.stop, self.error = StopReason.ERRORED, error
