"""The key-value cache of a batch of sessions, and attention over it.

A session's context has two parts: a *prefix page*, the prompt, computed once and shared by every session
with the same prompt (a group's members), and its own *slot*, everything after. One decode step multiplies
a group's queries with its page as one small matrix product, so the prompt's keys and values are read from
memory once per group instead of once per member; that read is most of what a step on a CPU costs.

The model's own Hugging Face forward does everything else: it hands queries, keys and values to the
attention function registered here, which finds its plan in the keyword arguments.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sdgym.errors import PolicyError

ATTENTION = "sdgym_slots"
_UNKNOWN = ("softcap", "s_aux", "head_mask")
_ELSE = "(--set generation.engine=vllm may)"


class Plan(Protocol):
    """What one forward pass does with the cache: where keys and values go and what each query sees."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Store ``key`` and ``value`` ``[B, Hkv, T, dh]``; return the attention output ``[B, Hq, T, dh]``."""


class Store:
    """Keys and values of all layers: ``[rows, Hkv, length, dh]`` each; grows, never shrinks.

    Zero-initialised: a masked place takes part in products with weight 0, and 0·NaN would be NaN.
    """

    def __init__(self, layers: int, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = (heads, width)
        self.rows = self.length = 0
        self.keys: list[Tensor] = [torch.zeros(0, heads, 0, width, dtype=dtype, device=device) for _ in range(layers)]
        self.values: list[Tensor] = list(self.keys)

    def ensure(self, rows: int, length: int) -> None:
        """Make room for ``rows`` rows of ``length`` places."""
        if rows <= self.rows and length <= self.length:
            return
        old_rows, old_length, (heads, width) = self.rows, self.length, self._shape
        self.rows = max(old_rows, 1 << (rows - 1).bit_length())
        if length > old_length:
            self.length = -(-max(length, 3 * old_length // 2) // 64) * 64
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                tensors[layer] = _zeros((self.rows, heads, self.length, width), old.dtype, old.device)
                tensors[layer][:old_rows, :, :old_length] = old

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first ``length`` places of some rows onto others (no row is both)."""
        if len(sources):
            for tensor in (*self.keys, *self.values):
                tensor[list(targets), :, :length] = tensor[list(sources), :, :length]


class SlotCache:
    """Pages and slots with their lengths.

    Attributes:
        pages, slots: the two stores.
        page_length: int64 ``[pages]`` tokens on each page.
        page_of: int64 ``[slots]`` page of each slot, -1 for a free slot.
        length: int64 ``[slots]`` tokens in each slot, its page not counted.
    """

    def __init__(self, model: Any, slots: int) -> None:
        config, parameter = model.config.get_text_config(), next(model.parameters())
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, heads, width, parameter.dtype, parameter.device)
        self.device = parameter.device
        self.pages, self.slots = Store(*shape), Store(*shape)
        self.page_length = np.zeros(slots, np.int64)
        self.page_of = np.full(slots, -1, np.int64)
        self.length = np.zeros(slots, np.int64)
        self.bytes_per_token = 2 * config.num_hidden_layers * heads * width * parameter.element_size()

    def clear(self) -> None:
        """Forget every session and every page; the memory stays, since touching new memory is slower than writing to old."""
        self.page_length[:], self.page_of[:], self.length[:] = 0, -1, 0

    def move_slots(self, moves: Mapping[int, int]) -> None:
        """Move sessions from slot to slot."""
        sources, targets = list(moves), list(moves.values())
        self.slots.move(sources, targets, int(self.length[sources].max()))
        self.length[targets], self.length[sources] = self.length[sources], 0
        self.page_of[targets], self.page_of[sources] = self.page_of[sources], -1

    def move_pages(self, moves: Mapping[int, int]) -> None:
        """Move prompts from page to page."""
        sources, targets = list(moves), list(moves.values())
        self.pages.move(sources, targets, int(self.page_length[sources].max()))
        self.page_length[targets] = self.page_length[sources]
        for source, target in moves.items():
            self.page_of[self.page_of == source] = target


def decode_width(occupied: int, slots: int) -> int:
    """Return how many slots a step computes for ``occupied`` ones: a multiple of an eighth of the next power of two, at least 2."""
    unit = max(2, (1 << occupied.bit_length()) // 8)
    return min(slots, -(-occupied // unit) * unit)


def moves(occupied: np.ndarray, width: int) -> dict[int, int]:
    """Map each occupied place at or above ``width`` to a free one below."""
    high = occupied[occupied >= width]
    free = np.setdiff1d(np.arange(width), occupied)[: len(high)]
    return dict(zip(high.tolist(), free.tolist(), strict=True))


class PrefixPlan:
    """Prompts computed from nothing: plain causal attention; keys and values go onto pages."""

    def __init__(self, cache: SlotCache, pages: Sequence[int], width: int) -> None:
        self._store, self._width = cache.pages, width
        cache.pages.ensure(max(pages) + 1, width)
        self._pages = torch.tensor(pages, device=cache.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See :class:`Plan`; rows are prompts padded on the right."""
        self._store.keys[layer][self._pages, :, : self._width] = key
        self._store.values[layer][self._pages, :, : self._width] = value
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1])


class ExtendPlan:
    """Several new tokens for some slots: each sees its page, its slot, and the new tokens before it."""

    def __init__(self, cache: SlotCache, rows: np.ndarray, width: int, dtype: torch.dtype) -> None:
        start = cache.length[rows]
        total, pages = int(start.max()) + width, cache.page_of[rows]
        cache.slots.ensure(len(cache.length), total)
        self._cache, self._total, self._prefix = cache, total, int(cache.page_length[pages].max())
        self._rows, self._pages = torch.from_numpy(rows).to(cache.device), torch.from_numpy(pages).to(cache.device)
        places = start[:, None] + np.arange(width)
        self._places = torch.from_numpy(places).to(cache.device)
        seen_prefix = np.arange(self._prefix) < cache.page_length[pages][:, None, None]
        seen_slot = np.arange(total) <= places[:, :, None]
        seen = np.concatenate([np.broadcast_to(seen_prefix, (len(rows), width, self._prefix)), seen_slot], 2)
        self._mask = _additive(seen[:, None], dtype, cache.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See :class:`Plan`; rows are padded on the right, and what padding writes is overwritten later."""
        whole = []
        for pages, slots, new in zip(self._stores("pages", layer), self._stores("slots", layer), (key, value), strict=True):
            slots[self._rows[:, None], :, self._places] = new.transpose(1, 2)
            whole.append(torch.cat((pages[self._pages, :, : self._prefix], slots[self._rows, :, : self._total]), 2))
        keys, values = whole
        return F.scaled_dot_product_attention(
            query, keys, values, attn_mask=self._mask, scale=scaling, enable_gqa=query.shape[1] != keys.shape[1]
        )

    def _stores(self, name: str, layer: int) -> tuple[Tensor, Tensor]:
        store: Store = getattr(self._cache, name)
        return store.keys[layer], store.values[layer]


class DecodePlan:
    """One new token for each of the first n slots; queries are multiplied with pages group by group.

    Free slots among them are computed too and mean nothing: matrix shapes stay the same while rows come
    and go, and so do the other rows' bits.
    """

    def __init__(self, cache: SlotCache, n: int, dtype: torch.dtype) -> None:
        length, pages = cache.length[:n], cache.page_of[:n]
        self._total = -(-(int(length.max()) + 1) // 16) * 16
        cache.slots.ensure(len(cache.length), self._total)
        self._cache, self._n = cache, n
        used = np.flatnonzero(pages >= 0)
        self._groups = int(pages.max()) + 1
        members = np.bincount(pages[used], minlength=self._groups)
        order = used[np.argsort(pages[used], kind="stable")]
        rank = np.arange(len(order)) - np.repeat(np.cumsum(members) - members, members)
        grid, place = np.zeros((self._groups, int(members.max())), np.int64), np.zeros(n, np.int64)
        grid[pages[order], rank] = order
        place[order] = pages[order] * grid.shape[1] + rank
        prefix_length = np.where(pages >= 0, cache.page_length[pages], 0)
        self._prefix = int(prefix_length.max())
        seen = np.concatenate([np.arange(self._prefix) < prefix_length[:, None], np.arange(self._total) <= length[:, None]], 1)
        self._mask = _additive(seen[:, None, None], dtype, cache.device)
        self._rows, self._places = torch.arange(n, device=cache.device), torch.from_numpy(length.copy()).to(cache.device)
        self._grid, self._place = torch.from_numpy(grid).to(cache.device), torch.from_numpy(place).to(cache.device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See :class:`Plan`; T is 1."""
        n, heads, width = self._n, key.shape[1], key.shape[3]
        slots, pages, g, p = self._cache.slots, self._cache.pages, self._groups, self._prefix
        slots.keys[layer][self._rows, :, self._places] = key[:, :, 0]
        slots.values[layer][self._rows, :, self._places] = value[:, :, 0]
        query = query.reshape(n, heads, -1, width) * scaling  # query heads that share a key head become rows
        by_page = torch.matmul(self._to_pages(query), pages.keys[layer][:g, :, :p].transpose(2, 3))
        by_slot = torch.matmul(query, slots.keys[layer][:n, :, : self._total].transpose(2, 3))
        scores = torch.cat((self._to_rows(by_page, query.shape[2]), by_slot), -1).add_(self._mask)
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
        output = torch.matmul(weights[..., p:], slots.values[layer][:n, :, : self._total])
        from_page = torch.matmul(self._to_pages(weights[..., :p]), pages.values[layer][:g, :, :p])
        return (output + self._to_rows(from_page, query.shape[2])).reshape(n, -1, 1, width)

    def _to_pages(self, x: Tensor) -> Tensor:
        """``[n, Hkv, r, d]`` to ``[pages, Hkv, members·r, d]``."""
        return x[self._grid].transpose(1, 2).flatten(2, 3)

    def _to_rows(self, x: Tensor, r: int) -> Tensor:
        """``[pages, Hkv, members·r, d]`` to ``[n, Hkv, r, d]``."""
        rows: Tensor = x.unflatten(2, (-1, r)).transpose(1, 2).flatten(0, 1)
        return rows[self._place]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; in a CPU's memory those that the operating system hands out, which cost nothing before they are touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def _additive(seen: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(torch.from_numpy(~seen).to(device), torch.finfo(dtype).min)


def _slot_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention in the interface of Hugging Face models; ``kwargs["slots"]`` is the plan."""
    if used := [name for name in _UNKNOWN if kwargs.get(name) is not None]:
        raise PolicyError(f"{type(module).__name__} uses {used[0]!r} in attention, which the embedded sampler does not have {_ELSE}")
    if "slots" not in kwargs:
        raise PolicyError(
            f"{type(module).__name__} does not hand on what a forward pass is given, which the embedded sampler needs {_ELSE}"
        )
    if key.shape[-1] != value.shape[-1]:
        raise PolicyError(
            f"{type(module).__name__} has keys and values of different widths, which the embedded sampler does not have {_ELSE}"
        )
    output = kwargs["slots"].attend(module.layer_idx, query, key, value, scaling or query.shape[-1] ** -0.5)
    return output.transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def slot_attention(model: Any) -> Iterator[None]:
    """Let a model's forward use a plan (``model(..., slots=plan)``) inside this context."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _slot_attention)
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = before
