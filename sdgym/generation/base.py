"""What a generation back end is: requests in, samples out, one decode step per tick.

The rollout driver owns the order of requests; a back end owns slots and caches. Virtual time is the
number of calls of :meth:`Sampler.tick`, so a deterministic back end gives the same bits whatever the
wall clock does.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn.

    Attributes:
        temperature: 0 means greedy (log-probs are then recorded at temperature 1).
        top_p, top_k, min_p: truncation, off at 1.0, 0 and 0.0; applied after the log-prob is recorded.
        max_tokens: limit per turn.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 24


@dataclasses.dataclass(frozen=True)
class Request:
    """One turn to be generated.

    Attributes:
        request_id: chosen by the caller, unique among pending requests; admission is in submit order.
        session: rows of one episode share a session: a later request of the same session continues
            the cached prefix, so only new tokens are prefilled.
        new_ids: int64 tokens to append to the session's context (the whole prompt for a new session).
        noise_key: uint64 key of the row's counter-based noise for this turn (token index = counter).
        sampling: see :class:`SamplingParams`.
        keep: keep the session's cache after this turn (more turns may follow).
    """

    request_id: int
    session: int
    new_ids: np.ndarray
    noise_key: int
    sampling: SamplingParams
    keep: bool = False


@dataclasses.dataclass(frozen=True)
class Sample:
    """A finished turn.

    Attributes:
        ids: int64 ``[T]``, sampled tokens, end-of-turn included if it was sampled.
        logprobs: float32 ``[T]`` at the sampling temperature, before truncation.
        stop: ``eos``, ``length`` (max_tokens) or ``context`` (the model's context is full).
    """

    request_id: int
    ids: np.ndarray
    logprobs: np.ndarray
    stop: Literal["eos", "length", "context"]


class Sampler(Protocol):
    """A generation back end."""

    context_limit: int

    def submit(self, request: Request) -> None:
        """Queue a request; nothing is computed yet."""

    def tick(self) -> list[Sample]:
        """Admit what fits, decode one token for every live row, return the rows that finished, in submit order."""

    def release(self, session: int) -> None:
        """Forget a session's cache."""

    @property
    def pending(self) -> int:
        """Requests submitted and not yet returned."""

    def sync_weights(self) -> None:
        """Take over the policy's current weights (drops every session)."""
