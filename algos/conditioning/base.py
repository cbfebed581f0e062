"""What a conditioner is: from one row, its group and the batch to the teacher's view of the same tokens.

A conditioner says *what* the teacher is told (:meth:`Conditioner.tell`). This module does the rest once:
the frame, the slot budget, the controls P0–P3 (ARCHITECTURE §6) and the token-exact view.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.conditioning.frames import filler, section, with_block, with_system
from sdgym.chat import ChatFormat
from sdgym.core import Message, ScoringView, Trajectory
from sdgym.errors import ConfigError, UnknownNameError

Control = Literal["none", "P0", "P1", "P2", "P3"]
CONTROLS = ("none", "P0", "P1", "P2", "P3")
Overflow = Literal["drop", "head", "tail"]
Placement = Literal["user", "system", "response"]


@dataclasses.dataclass(frozen=True)
class Told:
    """What the teacher is told about one row.

    Attributes:
        sections: ``(kind, text)`` pairs, kinds from :data:`sdgym.algos.conditioning.frames.KINDS`.
        source: where it came from, for reports ("reference", "row 12", …).
    """

    sections: tuple[tuple[str, str], ...]
    source: str


class Conditioner:
    """Base of all conditioners.

    Args:
        control: ``none`` is the real text. ``P0``: the same rows, but the teacher reads the student's own
            prompt. ``P1``: filler of the same length in the same frame. ``P2``: the text of another row
            of the same level and outcome with another answer (rows without a partner drop out).
            ``P3``: only whether the attempt succeeded.
        paraphrase: which wording of the frame.
        pool: ``trained`` or ``heldout`` wordings.
        slot_tokens: longest privileged text, in tokens; None means what the context leaves.
        overflow: what happens to a longer text: the row drops out, or the text's ``head`` / ``tail`` is kept, in whole words.
            The frame and the generation marker are never cut.
        thinking: thinking on or off in the teacher's template; None leaves it as the student's. P0 always reads as the student.
        placement: where the framed text stands: in the last ``user`` message, in the ``system`` message (π-Distill), or without
            any frame between the assistant's header and the ``response`` (CEPO).

    Attributes:
        needs: what must be known of a task beyond its reward: ``feedback`` or ``reference``; ``reward`` is nothing more.
        siblings: whether it reads other rows of the group.
        options: arguments of its own.

    Raises:
        UnknownNameError: an unknown control.
    """

    kind: ClassVar[str] = ""
    needs: ClassVar[str] = "reward"
    siblings: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        control: Control = "none",
        paraphrase: int = 0,
        pool: str = "trained",
        slot_tokens: int | None = None,
        overflow: Overflow = "drop",
        thinking: bool | None = None,
        placement: Placement = "user",
    ) -> None:
        if control not in CONTROLS:
            raise UnknownNameError("control", str(control), CONTROLS)
        if overflow not in ("drop", "head", "tail"):
            raise ConfigError(f"overflow must be drop, head or tail, not {overflow!r}")
        self.control, self.paraphrase, self.pool = control, paraphrase, pool
        self.slot_tokens, self.overflow, self.thinking, self.placement = slot_tokens, overflow, thinking, placement

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return what the teacher of row ``index`` is told, or None if there is nothing to say."""
        raise NotImplementedError

    def check(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Raise :class:`ConfigError` where no row would ever be told anything (arguments as :meth:`sdgym.algos.base.Algorithm.validate`)."""
        if self.control == "P2" and settings.get("tasks_per_step", 2) < 2:
            raise ConfigError("control=P2 tells the text of another task: use tasks_per_step of at least 2, or control=P1")

    def views(self, batch: Batch, context: AnnotateContext) -> list[list[ScoringView] | None]:
        """Return the teacher's views, per row one for each segment, or None for an unusable row.

        A view scores exactly the row's sampled tokens; only the prefix differs from the student's.
        """
        told: list[Told | None] = [None] * len(batch.rows)
        for group in batch.groups:
            for i in group:
                if batch.rows[i].usable:
                    told[i] = self.tell(i, batch, group)
        if self.control == "P2":
            told = derange(batch, told, context.rng)
        return [self._views_of(i, batch.rows[i], t, context) if t is not None else None for i, t in enumerate(told)]

    def _sections(self, row: Trajectory, told: Told, context: AnnotateContext) -> list[str]:
        if self.control == "P0":
            return []
        if self.control == "P3":
            return [self._framed("outcome", outcome_word(row))]

        def measure(text: str) -> int:
            return len(context.chat.encode_text(text))

        return [
            self._framed(kind, filler(context.rng, measure(text), measure) if self.control == "P1" else text)
            for kind, text in told.sections
        ]

    def _framed(self, kind: str, text: str) -> str:
        return text if self.placement == "response" else section(kind, text, self.paraphrase, self.pool)

    def _prefix(self, row: Trajectory, number: int, sections: Sequence[str], chat: ChatFormat) -> np.ndarray:
        """Return the ids before segment ``number``, with the sections in their place."""
        before, history = row.task.messages, history_before(row, number)
        if self.placement == "user":
            return chat.prompt_ids(with_block(before, sections, pool=self.pool) + history)
        if self.placement == "system":
            return chat.prompt_ids(with_system(before, sections) + history)
        plain = chat.prompt_ids([*before, *history])
        return np.concatenate([plain, chat.encode_text(" ".join([*sections, ""]))]) if sections else plain

    def _views_of(self, index: int, row: Trajectory, told: Told, context: AnnotateContext) -> list[ScoringView] | None:
        chat = context.chat.thinking(None if self.control == "P0" else self.thinking)
        fitted = self._fit_slot(row, told, chat, context)
        if fitted is None:
            return None
        told, cut = fitted
        sections = self._sections(row, told, context)
        views, start = [], 0
        for number, segment in enumerate(row.segments):
            prefix = self._prefix(row, number, sections, chat)
            tokens = segment.ids[segment.prompt_length :]
            if len(prefix) + len(tokens) > context.max_context:
                return None
            mask = segment.action_mask[segment.prompt_length :]
            count = int(mask.sum())
            views.append(
                ScoringView(
                    row=index,
                    prefix_ids=prefix,
                    token_ids=tokens,
                    loss_mask=mask,
                    index_map=np.arange(start, start + count, dtype=np.int64),
                    weights="teacher",
                    grad=False,
                    kind=self.kind if self.control == "none" else f"{self.kind}/{self.control}",
                    source=told.source,
                    truncated=cut,
                )
            )
            start += count
        return views

    def _fit_slot(self, row: Trajectory, told: Told, chat: ChatFormat, context: AnnotateContext) -> tuple[Told, bool] | None:
        """Cut each text to the slot by words, keeping its head or tail, and say whether any was; None where a longer text drops the row."""
        room = self.slot_tokens
        if room is None and self.overflow != "drop":
            room = self._room(row, told, chat, context.max_context)
        if room is None:
            return told, False
        sections = []
        for kind, text in told.sections:
            longer = len(chat.encode_text(text)) > room
            if longer and self.overflow == "drop":
                return None
            sections.append((kind, self._cut(text, room, chat) if longer else text))
        return dataclasses.replace(told, sections=tuple(sections)), tuple(sections) != told.sections

    def _cut(self, text: str, room: int, chat: ChatFormat) -> str:
        """Return as many words of the head or tail as have at most ``room`` tokens, but at least one."""
        words = text.split(" ")

        def first(count: int) -> str:
            return " ".join(words[-count:] if self.overflow == "tail" else words[:count])

        counts = range(1, len(words) + 1)
        return first(max(1, bisect.bisect_right(counts, room, key=lambda count: len(chat.encode_text(first(count))))))

    def _room(self, row: Trajectory, told: Told, chat: ChatFormat, max_context: int) -> int:
        """Return the tokens that the context leaves to each text beside prompt, frames and the longest segment."""
        frames = [self._framed(kind, "") for kind, _ in told.sections]
        taken = max(len(self._prefix(row, n, frames, chat)) + len(s.ids) - s.prompt_length for n, s in enumerate(row.segments))
        return max(0, max_context - taken) // max(1, len(frames)) - SEAM


SEAM = 2
"""Tokens that a text may take more inside its frame than alone, since words merge differently there."""


def outcome_word(row: Trajectory) -> str:
    """Return the one bit that P3 and the outcome conditioner may say."""
    return "correct" if row.success else "wrong"


def history_before(row: Trajectory, segment_number: int) -> list[Message]:
    """Return the chat between the task and the first turn of a later segment."""
    if segment_number == 0:
        return []
    first = row.segments[segment_number].spans[0].turn
    messages: list[Message] = []
    for turn in range(first):
        messages.append({"role": "assistant", "content": row.actions[turn]})
        messages.append({"role": "user", "content": row.observations[turn + 1]})
    return messages


def derange(batch: Batch, told: Sequence[Told | None], rng: np.random.Generator) -> list[Told | None]:
    """Give each row the text of a row of another task: same level and outcome, never an equal answer (P2).

    Rows of the same group get the text of the same partner where possible, as a real reference would be
    shared. Rows without an eligible partner drop out.
    """
    rows = batch.rows
    order = rng.permutation(len(rows))
    out: list[Told | None] = [None] * len(rows)
    for i, mine in enumerate(told):
        if mine is None:
            continue
        for j in order:
            theirs = told[j]
            if theirs is not None and _partner(rows[i], rows[int(j)]) and len(theirs.sections) == len(mine.sections):
                out[i] = dataclasses.replace(theirs, source=f"mismatched: {theirs.source}")
                break
    return out


def _partner(a: Trajectory, b: Trajectory) -> bool:
    answers = [row.task.privileged.get("answer") for row in (a, b)]
    different = a.task.task_id != b.task.task_id and (answers == [None, None] or answers[0] != answers[1])
    return different and a.task.meta.get("level") == b.task.meta.get("level") and a.success == b.success


def peers(index: int, batch: Batch, group: Sequence[int], *, exclude_self: bool, threshold: float | None = None) -> list[int]:
    """Return the successful rows of the group, in order, without ``index`` itself if asked (SDPO §4c).

    ``threshold``: the reward from which a row is a success; None takes the environment's word.
    """

    def succeeded(row: Trajectory) -> bool:
        return row.success if threshold is None else row.reward is not None and row.reward >= threshold

    return [j for j in group if batch.rows[j].usable and succeeded(batch.rows[j]) and not (exclude_self and j == index)]
