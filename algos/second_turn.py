"""A second attempt in the same conversation: x1 = x0 ∥ y0 ∥ what was said about it; sampled with :class:`sdgym.algos.base.Draws`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from sdgym.algos.advantages import advantages
from sdgym.algos.asking import ask_policy
from sdgym.algos.base import Batch, CollectContext
from sdgym.algos.conditioning.base import outcome_word
from sdgym.algos.conditioning.frames import feedback_text, phrase, section
from sdgym.algos.conditioning.verdict import critique_request
from sdgym.chat import ChatFormat
from sdgym.core import LossItem, Message, ScoringView, Trajectory

STREAM = "second-turn"
Said = Callable[[Sequence[Trajectory], CollectContext], list[str | None]]


@dataclasses.dataclass(frozen=True)
class SecondTurn:
    """Which row is whose second attempt, and where in its prompt the words lie that led to it.

    Attributes:
        first, second: row indices.
        words: the tokens of what was said, ``[start, stop)`` in the second row's prompt.
    """

    first: int
    second: int
    words: tuple[int, int]

    def words_view(self, batch: Batch) -> ScoringView:
        """Return the view that scores what was said after x0 ∥ y0 and the header of the user's turn."""
        ids, (start, stop) = batch.rows[self.second].segments[0].ids, self.words
        size = stop - start
        view = ScoringView(self.first, ids[:start], ids[start:stop], np.ones(size, bool), np.full(size, -1, np.int64))
        return dataclasses.replace(view, provenance="rewritten", kind="critique")

    def single_turn_view(self, batch: Batch) -> ScoringView:
        """Return y1 behind x0, as if it had been the first answer; its recorded log-probs belong to another prompt."""
        plain, (told,) = batch.rows[self.first].segments[0], batch.rows[self.second].segments
        ids = told.ids[told.prompt_length :]
        places = np.arange(len(ids), dtype=np.int64)
        return ScoringView(self.second, plain.ids[: plain.prompt_length], ids, np.ones(len(ids), bool), places, provenance="reprompted")


def second_turns(batch: Batch, said: Said, context: CollectContext) -> tuple[list[Trajectory], list[SecondTurn]]:
    """Let the policy answer again after ``said``; return the new rows and, for those that can be judged on both turns, the pairs.

    Rows of several turns, without words, or whose conversation fills the context have no second turn.
    """
    chosen = [i for i, row in enumerate(batch.rows) if row.usable and len(row.actions) == 1 and row.action_length]
    asked: list[tuple[int, np.ndarray, tuple[int, int]]] = []
    for i, text in zip(chosen, said([batch.rows[i] for i in chosen], context), strict=True):
        found = conversation(batch.rows[i], text, context.chat) if text else None
        if found is not None and len(found[0]) < context.max_context:
            asked.append((i, *found))
    rows = context.draw.play(STREAM, [batch.rows[i].task for i, _, _ in asked], [prompt for _, prompt, _ in asked])
    start = len(batch.rows)
    pairs = [SecondTurn(i, start + k, words) for k, (i, _, words) in enumerate(asked) if rows[k].usable and rows[k].action_length]
    return rows, pairs


def turn_advantages(batch: Batch, pairs: Sequence[SecondTurn], discount: float, baseline: str) -> tuple[np.ndarray, ...]:
    """Return the advantages of first turns, second turns and distilled second turns (RLTF), ``[K]`` each in the order of ``pairs``."""
    place = {pair.first: k for k, pair in enumerate(pairs)}
    groups = [found for group in batch.groups if (found := [place[i] for i in group if i in place])]
    r0 = np.array([batch.rows[pair.first].reward for pair in pairs], np.float64)
    r1 = np.array([batch.rows[pair.second].reward for pair in pairs], np.float64)
    centred = [advantages(values[:, None], groups, scale="none")[:, 0] for values in (r0 + discount * r1, r1)]
    reference = r0 if baseline == "first_turn" else r1
    distilled = np.zeros(len(pairs))
    for group in groups:
        distilled[group] = r1[group] - reference[group].mean()
    return centred[0], centred[1], distilled


def judged_item(view: ScoringView, advantage: float) -> LossItem:
    """Return the item that spreads one advantage over all tokens of ``view``."""
    size = int(view.loss_mask.sum())
    return LossItem(view, np.ones(size, np.float32), advantage=np.full(size, advantage, np.float32))


def conversation(row: Trajectory, text: str, chat: ChatFormat) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Return x1's ids and where ``text`` lies in them; None where the template rewrites what came before."""
    segment = row.segments[0]
    history: list[Message] = [*row.task.messages, {"role": "assistant", "content": row.actions[0]}]
    ended = int(segment.ids[-1]) in chat.end_ids
    mark = next(sign for sign in "?!.,;" if sign not in (text[0], text[-1]))  # differs at both ends: what is shared is the frame
    tails = [chat.continuation_ids(history, [{"role": "user", "content": words}], ended) for words in (text, mark)]
    if tails[0] is None or tails[1] is None:
        return None
    head, foot = _shared(tails[0], tails[1]), _shared(tails[0][::-1], tails[1][::-1])
    start = len(segment.ids) + head
    return np.concatenate([segment.ids, tails[0]]), (start, len(segment.ids) + len(tails[0]) - foot)


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    size = min(len(a), len(b))
    return int(np.argmax(np.append(a[:size] != b[:size], True)))


def environments_words(rows: Sequence[Trajectory], context: CollectContext) -> list[str | None]:
    """Say what the world said about each attempt, a success that it was right; None for a failure without words."""
    said: list[str | None] = []
    for row in rows:
        text = section("outcome", outcome_word(row)) if row.success else feedback_text(row.feedback)
        body = text if row.success or not text else section("feedback", text)
        said.append(f"{body}\n{phrase('closing', 0)}" if body else None)
    return said


def own_critique(rows: Sequence[Trajectory], context: CollectContext) -> list[str | None]:
    """Say what the policy itself wrote about each attempt."""
    notes = ask_policy([critique_request(row) for row in rows], context)
    return [f"{section('critique', note.strip())}\n{phrase('closing', 0)}" if note and note.strip() else None for note in notes]
