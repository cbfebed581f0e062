"""From characters of an attempt to its sampled tokens."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from sdgym.chat import ChatFormat
from sdgym.core import LossItem, Trajectory

Span = tuple[int, int]
_PIECE = re.compile(r"-?\d+(?:[./]\d+)*|[^\W\d_]+")
_SENTENCE = re.compile(r"[^.;:,\n]*[.;:,\n]?\s*")


def pieces(text: str) -> list[Span]:
    """Return the ``[start, stop)`` of every number and word of ``text``, in order."""
    return [match.span() for match in _PIECE.finditer(text)]


def sentences(text: str) -> list[Span]:
    """Return the ``[start, stop)`` of the clauses of ``text``; together they are all of it."""
    return [match.span() for match in _SENTENCE.finditer(text) if match.end() > match.start()]


def token_spans(ids: np.ndarray, chat: ChatFormat) -> list[Span]:
    """Return for each of the tokens ``[T]`` which characters of ``chat.decode_action(ids)`` it wrote; special tokens wrote none."""
    words = [chat.decode_action([int(i)]) for i in ids]
    if "".join(words) != chat.decode_action(ids):  # a character of several tokens was written by each of them
        ends = [len(chat.decode_action(ids[: k + 1]).rstrip("\ufffd")) for k in range(len(ids))]
    else:
        ends = [int(end) for end in np.cumsum([len(word) for word in words])]
    starts = [0, *ends[:-1]]
    return [(start, max(end, start + bool(word))) for start, end, word in zip(starts, ends, words, strict=True)]


def token_mask(row: Trajectory, marked: Sequence[Sequence[Span]], chat: ChatFormat) -> np.ndarray:
    """Return bool ``[T]``: the sampled tokens that wrote any character of ``marked``, which has one list of spans per turn."""
    ids, turns = row.action_ids(), row.turn_of_token()
    mask = np.zeros(len(ids), bool)
    for turn, spans in enumerate(marked):
        places = np.flatnonzero(turns == turn)
        for place, (start, stop) in zip(places, token_spans(ids[places], chat), strict=True):
            mask[place] = any(start < b and a < stop for a, b in spans)
    return mask


def turned_down(item: LossItem, mask: np.ndarray, kept: float) -> LossItem:
    """Return ``item`` with ``kept`` of its advantage where ``mask [T]`` is set; a coefficient of 0 is no mask, denominators stay."""
    assert item.advantage is not None
    share = np.where(mask[item.view.index_map], kept, 1.0)
    return dataclasses.replace(item, advantage=(item.advantage * share).astype(np.float32))
