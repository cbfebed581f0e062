"""Who marks the decisive tokens of an attempt: rules, the policy itself, or chance (a control).

An annotator gives a bool mask ``[T]`` per row. On a success it marks what carried it ("key"), on a failure what went
wrong ("error"). Its share of a row is capped by the caller's ``coverage`` (TRACE: a quarter of the length).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sdgym.algos.asking import ask_policy
from sdgym.algos.base import CollectContext
from sdgym.algos.spans.align import Span, pieces, sentences, token_mask
from sdgym.core import Message, Trajectory

Annotator = Callable[[Sequence[Trajectory], float, CollectContext], list[np.ndarray]]
"""``(rows, coverage, context)`` to one mask ``[T]`` per row."""


def cap(mask: np.ndarray, coverage: float, *, last: bool = False) -> np.ndarray:
    """Return ``mask [T]`` with at most ⌈coverage·T⌉ tokens, the first ones, or the ``last``."""
    most, places = math.ceil(coverage * len(mask)), np.flatnonzero(mask)
    out = np.zeros_like(mask)
    out[places[-most:] if last else places[:most]] = True
    return out


def by_rules(rows: Sequence[Trajectory], coverage: float, context: CollectContext) -> list[np.ndarray]:
    """Compare numbers and words with those of the reference and the question; no model is asked.

    A success: what the reference says and the question does not, the last ones first. A failure: what neither says, the
    first ones first. Where there is no such piece, the last piece. Rows without a reference get an empty mask.
    """
    return [_ruled(row, coverage, context) for row in rows]


def _ruled(row: Trajectory, coverage: float, context: CollectContext) -> np.ndarray:
    reference = _words(row.task.privileged.get("reference_solution", "") or row.task.privileged.get("answer", ""))
    asked = _words(row.task.messages[-1]["content"])
    if not reference:
        return np.zeros(row.action_length, bool)
    found = [[(text[a:b].lower(), (a, b)) for a, b in pieces(text)] for text in row.actions]
    known = reference - asked if row.success else reference | asked
    marked: list[list[Span]] = [[span for word, span in said if (word in known) == row.success] for said in found]
    if not any(marked) and any(found):
        turn = max(t for t, said in enumerate(found) if said)
        marked[turn] = [found[turn][-1][1]]
    return cap(token_mask(row, marked, context.chat), coverage, last=row.success)


def _words(text: str) -> set[str]:
    return {text[a:b].lower() for a, b in pieces(text)}


def by_policy(rows: Sequence[Trajectory], coverage: float, context: CollectContext) -> list[np.ndarray]:
    """Ask the policy for the numbers of the parts that matter; an answer without a valid number marks nothing."""
    answers = ask_policy([annotation_request(row) for row in rows], context)
    return [cap(token_mask(row, chosen(row, said or ""), context.chat), coverage) for row, said in zip(rows, answers, strict=True)]


def annotation_request(row: Trajectory) -> list[Message]:
    """Return the conversation that shows the attempt in numbered parts beside the reference."""
    parts = [text[a:b].strip() for text in row.actions for a, b in sentences(text)]
    what = "carry the decisive reasoning" if row.success else "contain an error"
    lines = [
        f"Task: {row.task.messages[-1]['content']}",
        f"Reference: {row.task.privileged.get('reference_solution', '')}",
        *(f"[{number}] {part}" for number, part in enumerate(parts, 1)),
        f"The attempt above was {'right' if row.success else 'wrong'}. Which parts {what}? Answer with their numbers alone.",
    ]
    return [{"role": "user", "content": "\n".join(lines)}]


def chosen(row: Trajectory, answer: str) -> list[list[Span]]:
    """Return per turn the parts whose numbers ``answer`` names; numbers that name no part are ignored."""
    named = {int(number) for number in re.findall(r"\d{1,4}", answer)}
    marked: list[list[Span]] = []
    number = 0
    for text in row.actions:
        spans = sentences(text)
        marked.append([span for k, span in enumerate(spans, number + 1) if k in named])
        number += len(spans)
    return marked


def random_spans(rows: Sequence[Trajectory], coverage: float, context: CollectContext) -> list[np.ndarray]:
    """Mark ⌈coverage·T⌉ tokens of each row by chance: what localisation is worth is measured against this."""
    masks = []
    for row in rows:
        mask = np.zeros(row.action_length, bool)
        mask[context.rng.permutation(len(mask))[: math.ceil(coverage * len(mask))]] = True
        masks.append(mask)
    return masks


ANNOTATORS: Mapping[str, Annotator] = {"rules": by_rules, "self": by_policy, "random": random_spans}
