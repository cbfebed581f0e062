"""ReVISE's question behind an answer: stop here, or say [refine]? The two continuations, and the confidence they give (arXiv 2502.14565)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdgym.algos.base import AnnotateContext
from sdgym.algos.conditioning.revision import attempt_ids
from sdgym.core import ScoringView, Trajectory

UNASKED = 0.5
"""Confidence in an answer behind which nothing fits any more, or of several turns: no opinion."""


def refine_ids(phrase: str, context: AnnotateContext) -> np.ndarray:
    """Return the tokens of [refine]."""
    return context.chat.encode_text(f"\n\n{phrase}\n\n")


def said(row: Trajectory, context: AnnotateContext) -> np.ndarray:
    """Return the prompt and all that the policy answered, the turn still open."""
    segment = row.segments[0]
    return np.concatenate([segment.ids[: segment.prompt_length], attempt_ids(row, context.chat.end_ids)])


def continuation(row: int, prefix: np.ndarray, tokens: np.ndarray) -> ScoringView:
    """Return the view that scores and trains ``tokens``, which nobody sampled, behind ``prefix``."""
    size = len(tokens)
    return ScoringView(row, prefix, tokens, np.ones(size, bool), np.full(size, -1, np.int64), provenance="rewritten", kind="pair")


def stop_or_refine(index: int, row: Trajectory, phrase: str, context: AnnotateContext) -> tuple[ScoringView, ScoringView] | None:
    """Return the views of ending the turn and of [refine] behind row ``index``; None where the phrase does not fit."""
    prefix, refine = said(row, context), refine_ids(phrase, context)
    if len(prefix) + len(refine) > context.max_context:
        return None
    return continuation(index, prefix, np.array(context.chat.end_ids[:1], np.int64)), continuation(index, prefix, refine)


def confidences(rows: Sequence[Trajectory], phrase: str, context: AnnotateContext) -> np.ndarray:
    """Return π(end) / (π(end) + π([refine])) behind every answer, ``[N]``: how sure the policy is that it may stop."""
    out = np.full(len(rows), UNASKED)
    asked = {i: pair for i, row in enumerate(rows) if len(row.actions) == 1 and (pair := stop_or_refine(i, row, phrase, context))}
    scores = [float(found.logprobs.sum(dtype=np.float64)) for found in context.score([view for pair in asked.values() for view in pair])]
    gaps = np.array(scores).reshape(-1, 2) @ np.array([1.0, -1.0])
    out[list(asked)] = 1 / (1 + np.exp(-np.clip(gaps, -50, 50)))
    return out
