"""The embedded generation back end: continuous batching over a slot cache, with the policy's own model.

One tick gives every live row one token. Rows whose request arrived since the last tick are prefilled
(prompts once per distinct prompt), the others decode together; finished rows leave and queued ones take
their slots. Nothing depends on the clock, and a row's noise is a function of its key and token index, so
what a row samples depends on its neighbours only through the last bits of floating point.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from sdgym.errors import NumericalError, PolicyError
from sdgym.generation.base import Request, Sample, SamplingParams
from sdgym.generation.slots import DecodePlan, ExtendPlan, Plan, PrefixPlan, SlotCache, decode_width, moves, slot_attention
from sdgym.generation.truncation import RowSampling, check_params, sample_tokens
from sdgym.packing import score_sequences
from sdgym.policy import Policy
from sdgym.seeding import counter_uniform

_T = TypeVar("_T")
_PLANNED_TOKENS = 512
"""Length of a session for which memory is planned; longer ones make the cache grow."""


@dataclasses.dataclass
class _Prompt:
    """A distinct prompt: its page once computed, and how many sessions or queued requests want it."""

    ids: np.ndarray
    users: int = 0
    page: int = -1
    last_hidden: Tensor | None = None


@dataclasses.dataclass
class _Session:
    """One episode's cached context."""

    prompt: _Prompt
    slot: int = -1
    last_token: int | None = None  # sampled, not yet in the cache
    request: Request | None = None


@dataclasses.dataclass
class _Row:
    """A live request in a slot."""

    order: int
    request: Request
    session: _Session
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)


class TorchSampler:
    """Samples from a policy on its own device; see :class:`sdgym.generation.base.Sampler`.

    Args:
        policy: whose model generates; weights are read in place.
        slots: sessions that may hold a cache at the same time; further requests wait. Fewer are used where
            that many sessions of 512 tokens would not fit ``cache_bytes``.
        prefill_tokens: places (rows × length) of one prefill pass.
        end_ids: tokens that end a turn; None means the chat format's.
        cache_bytes: memory planned for the cache.

    Attributes:
        context_limit: tokens a session can hold.
        decoded, prefilled: places computed so far, dummies and padding included (telemetry).

    Raises:
        PolicyError: the model's attention is not one the slot cache can do.
    """

    _queue: deque[tuple[int, Request]]
    _rows: list[_Row]

    def __init__(
        self,
        policy: Policy,
        slots: int = 256,
        prefill_tokens: int = 8192,
        end_ids: Sequence[int] | None = None,
        cache_bytes: int = 2 << 30,
    ) -> None:
        if slots < 1:
            raise PolicyError(f"a sampler needs at least one slot, got slots={slots}")
        self.policy, self.prefill_tokens = policy, prefill_tokens
        window = getattr(policy.model.config.get_text_config(), "sliding_window", None)
        self.context_limit = min(policy.context_limit, int(window)) if window else policy.context_limit
        self._end_ids = frozenset(policy.chat.end_ids if end_ids is None else end_ids)
        per_session = SlotCache(policy.model, 0).bytes_per_token * min(self.context_limit, _PLANNED_TOKENS)
        self.slots = min(slots, max(1, cache_bytes // per_session))
        self._dtype = next(policy.model.parameters()).dtype
        self.decoded = self.prefilled = 0
        self._cache = SlotCache(policy.model, self.slots)
        self._clear()
        self._check_against_forward()

    def _check_against_forward(self) -> None:
        """Generate two short turns and compare their log-probs with a plain forward pass of the same tokens."""
        prompt = self.policy.vocab_size // np.array([2, 3, 4])
        sampling, pieces, recorded = SamplingParams(max_tokens=2), [prompt], []
        for turn in range(2):
            self.submit(Request(turn, 0, pieces[-1] if turn == 0 else prompt, turn, sampling, keep=True))
            samples: list[Sample] = []
            while not samples:
                samples = self.tick()
            pieces += [samples[0].ids] if turn else [samples[0].ids, prompt]
            recorded.append(samples[0].logprobs)
        ids = np.concatenate(pieces)
        first = 3 + np.arange(len(pieces[1]))
        places = np.concatenate([first, 6 + len(pieces[1]) + np.arange(len(pieces[3]))])
        (expected, _), *_ = score_sequences(self.policy, [(ids, places)], want_entropy=False)
        error = float(np.abs(np.concatenate(recorded) - expected).max())
        if not error <= (1e-3 if self._dtype == torch.float32 else 0.2):
            raise PolicyError(
                f"{type(self.policy.model).__name__}: cached generation differs from a plain forward by {error:.3g} in log-prob"
            )
        self._clear()

    # ---- the protocol ---------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Requests submitted and not yet returned."""
        return len(self._queue) + len(self._rows)

    def submit(self, request: Request) -> None:
        """Queue a request; nothing is computed yet.

        Raises:
            ConfigError: a sampling parameter is out of range.
            PolicyError: the session already has a pending request, or a new session has no tokens.
        """
        check_params(request.sampling)
        session = self._sessions.get(request.session)
        if session is None:
            if not len(request.new_ids):
                raise PolicyError(f"request {request.request_id}: a new session needs at least one prompt token")
            ids = np.asarray(request.new_ids, np.int64)
            prompt = self._prompts.setdefault(ids.tobytes(), _Prompt(ids))
            prompt.users += 1
            session = self._sessions[request.session] = _Session(prompt)
        elif session.request is not None:
            raise PolicyError(
                f"request {request.request_id}: session {request.session} still has request {session.request.request_id} pending"
            )
        session.request = request
        self._queue.append((self._submitted, request))
        self._submitted += 1

    def release(self, session: int) -> None:
        """Forget a session's cache and its pending request, if any; unknown sessions are ignored."""
        found = self._sessions.pop(session, None)
        if found is None:
            return
        if found.request is not None:
            self._queue = deque(item for item in self._queue if item[1].session != session)
            self._rows = [row for row in self._rows if row.session is not found]
        if found.slot >= 0:
            self._cache.page_of[found.slot], self._cache.length[found.slot] = -1, 0
        found.prompt.users -= 1
        if not found.prompt.users:
            del self._prompts[found.prompt.ids.tobytes()]

    def sync_weights(self) -> None:
        """Drop every session: the policy's weights have changed.

        Raises:
            PolicyError: requests are pending; their tokens would come from two policies.
        """
        if self.pending:
            raise PolicyError(f"cannot change weights while {self.pending} requests are pending")
        self._clear()

    @torch.inference_mode()
    def tick(self) -> list[Sample]:
        """Admit what fits, decode one token for every live row, return the rows that finished, in submit order.

        Raises:
            NumericalError: the weights are damaged; every session and every pending request is forgotten.
        """
        decoding = list(self._rows)
        full = self._admit()
        fresh = self._rows[len(decoding) :]
        logits = []
        with slot_attention(self.policy.model):
            if fresh:
                logits.append(self._prefill(fresh))
            if decoding:
                logits.append(self._decode(decoding))
        if logits:
            self._sample([*fresh, *decoding], torch.cat(logits))
        return self._finish(full)

    # ---- admission ------------------------------------------------------------------------------

    def _clear(self) -> None:
        self._cache.clear()
        self._sessions: dict[int, _Session] = {}
        self._prompts: dict[bytes, _Prompt] = {}
        self._queue = deque()
        self._rows = []
        self._submitted = 0
        self._width = 0  # slots that take part in a decode step

    def _admit(self) -> list[tuple[int, Sample]]:
        """Give queued requests a slot, in order; return those whose context is already full."""
        free = deque(np.flatnonzero(self._cache.page_of < 0).tolist())
        waiting: deque[tuple[int, Request]] = deque()
        full: list[tuple[int, Sample]] = []
        pages, longest = self._free_pages(), 0
        while self._queue:
            order, request = self._queue.popleft()
            session = self._sessions[request.session]
            if self._context(session) + len(request.new_ids) >= self.context_limit:
                full.append((order, Sample(request.request_id, np.zeros(0, np.int64), np.zeros(0, np.float32), "context")))
                self._close(session, request)
                continue
            if session.slot < 0:
                page = session.prompt.page if session.prompt.page >= 0 else next(pages, -1)  # a prompt that others wait for keeps its own
                if not free or page < 0:
                    waiting.append((order, request))
                    continue
                session.slot, session.prompt.page = free.popleft(), page
                self._cache.page_of[session.slot] = session.prompt.page
            self._rows.append(_Row(order, request, session))
            fresh = 0 if session.last_token is None else 1 + len(request.new_ids)  # a first prompt goes onto a page
            wanted = int(self._cache.length[session.slot]) + fresh + request.sampling.max_tokens
            longest = max(longest, min(wanted, _PLANNED_TOKENS))
        self._cache.slots.ensure(self.slots, longest)
        self._queue = waiting
        return full

    def _context(self, session: _Session) -> int:
        """Tokens of a session so far, the last sampled one included."""
        if session.slot < 0:
            return 0
        return len(session.prompt.ids) + int(self._cache.length[session.slot]) + (session.last_token is not None)

    def _free_pages(self) -> Iterator[int]:
        used = {prompt.page for prompt in self._prompts.values()}
        return (page for page in range(self.slots) if page not in used)

    def _close(self, session: _Session, request: Request) -> None:
        session.request = None
        if not request.keep:
            self.release(request.session)

    # ---- forward passes -------------------------------------------------------------------------

    def _forward(self, ids: np.ndarray, positions: np.ndarray, plan: Plan) -> Tensor:
        """Return hidden states ``[B, T, D]``."""
        device = self._cache.device
        output = self.policy.model.base_model(
            input_ids=torch.from_numpy(ids).to(device),
            position_ids=torch.from_numpy(np.minimum(positions, self.context_limit - 1)).to(device),  # padding may run over
            attention_mask=torch.zeros((1, 1, 1, 1), dtype=self._dtype, device=device),  # ready-made; the plan has the real one
            use_cache=False,
            slots=plan,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _prefill(self, rows: Sequence[_Row]) -> Tensor:
        """Compute what the rows' requests add to their contexts; return logits ``[n, V]`` for their next tokens."""
        hidden: list[Tensor | None] = [None] * len(rows)
        prompts = {row.session.prompt.page: row.session.prompt for row in rows if row.session.prompt.last_hidden is None}
        for batch in self._batches(list(prompts.values()), lambda prompt: len(prompt.ids)):
            width = max(len(prompt.ids) for prompt in batch)
            states = self._forward(
                *_padded([p.ids for p in batch], [0] * len(batch)), PrefixPlan(self._cache, [p.page for p in batch], width)
            )
            for prompt, state in zip(batch, states, strict=True):
                prompt.last_hidden = state[len(prompt.ids) - 1].clone()
                self._cache.page_length[prompt.page] = len(prompt.ids)
        extending = []
        for index, row in enumerate(rows):
            if row.session.last_token is None and not self._cache.length[row.session.slot]:
                hidden[index] = row.session.prompt.last_hidden
            else:
                extending.append(index)
        news = {i: np.concatenate([[rows[i].session.last_token], rows[i].request.new_ids]).astype(np.int64) for i in extending}
        for group in self._batches(extending, lambda i: len(news[i])):
            slots = np.array([rows[i].session.slot for i in group])
            starts = [len(rows[i].session.prompt.ids) + int(self._cache.length[slot]) for i, slot in zip(group, slots, strict=True)]
            ids, positions = _padded([news[i] for i in group], starts)
            states = self._forward(ids, positions, ExtendPlan(self._cache, slots, ids.shape[1], self._dtype))
            for i, slot, state in zip(group, slots, states, strict=True):
                hidden[i] = state[len(news[i]) - 1]
                self._cache.length[slot] += len(news[i])
        return self.policy.logits(torch.stack([state for state in hidden if state is not None]))

    def _batches(self, items: Sequence[_T], length: Callable[[_T], int]) -> Iterator[list[_T]]:
        """Cut items, sorted by length, into batches of at most ``prefill_tokens`` places."""
        batch: list[_T] = []
        for item in sorted(items, key=length):
            if batch and (len(batch) + 1) * length(item) > self.prefill_tokens:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch
        self.prefilled += sum(length(item) for item in items)

    def _decode(self, rows: Sequence[_Row]) -> Tensor:
        """One step for all slots up to the width; return logits ``[n, V]`` of the rows that are decoding."""
        self._compact()
        ids, positions = np.zeros((self._width, 1), np.int64), np.zeros((self._width, 1), np.int64)
        slots = np.array([row.session.slot for row in rows])
        ids[slots, 0] = [row.ids[-1] for row in rows]
        occupied = self._cache.page_of[: self._width]
        positions[:, 0] = self._cache.length[: self._width] + np.where(occupied >= 0, self._cache.page_length[occupied], 0)
        hidden = self._forward(ids, positions, DecodePlan(self._cache, self._width, self._dtype))
        self._cache.length[slots] += 1
        self.decoded += self._width
        return self.policy.logits(hidden[torch.from_numpy(slots).to(hidden.device), 0])

    def _compact(self) -> None:
        """Choose how many slots a step computes, and move rows (and pages) down where that makes it fewer.

        Widths are few (:func:`sdgym.generation.slots.decode_width`), so that shapes are; only what lies above the new width moves.
        """
        cache = self._cache
        occupied = np.flatnonzero(cache.page_of >= 0)
        self._width = decode_width(len(occupied), self.slots)
        if moved := moves(occupied, self._width):
            cache.move_slots(moved)
            for session in self._sessions.values():
                session.slot = moved.get(session.slot, session.slot)
        pages = np.array(sorted(prompt.page for prompt in self._prompts.values() if prompt.page >= 0))
        if 2 * len(pages) <= pages[-1] and (moved := moves(pages, len(pages))):
            cache.move_pages(moved)
            for prompt in self._prompts.values():
                prompt.page = moved.get(prompt.page, prompt.page)

    # ---- sampling -------------------------------------------------------------------------------

    def _sample(self, rows: Sequence[_Row], logits: Tensor) -> None:
        keys = np.array([row.request.noise_key for row in rows], np.uint64)
        counters = np.array([len(row.ids) for row in rows])
        sampling = RowSampling.of([row.request.sampling for row in rows])
        try:
            ids, logprobs = sample_tokens(logits, counter_uniform(keys, counters), sampling)
        except NumericalError:
            self._clear()
            self._cache = SlotCache(self.policy.model, self.slots)  # a masked NaN would spoil what comes after it: 0·NaN is NaN
            raise
        for row, token, logprob in zip(rows, ids.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            row.session.last_token = token

    def _finish(self, finished: list[tuple[int, Sample]]) -> list[Sample]:
        live = []
        for row in self._rows:
            stop = self._stop(row)
            if stop is None:
                live.append(row)
                continue
            sample = Sample(row.request.request_id, np.array(row.ids, np.int64), np.array(row.logprobs, np.float32), stop)
            finished.append((row.order, sample))
            self._close(row.session, row.request)
        self._rows = live
        return [sample for _, sample in sorted(finished, key=lambda item: item[0])]

    def _stop(self, row: _Row) -> Literal["eos", "length", "context"] | None:
        if row.ids[-1] in self._end_ids:
            return "eos"
        if len(row.ids) >= row.request.sampling.max_tokens:
            return "length"
        return "context" if self._context(row.session) >= self.context_limit else None


def _padded(sequences: Sequence[np.ndarray], starts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and positions ``[n, T]``, padded on the right."""
    width = max(len(ids) for ids in sequences)
    ids = np.zeros((len(sequences), width), np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
    return ids, np.asarray(starts, np.int64)[:, None] + np.arange(width)
