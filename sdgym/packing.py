"""Sequences packed for scoring: shared prefixes are computed once, and no token is padding that need not be.

Sequences are sorted and laid into prefix trees. A tree is one row: each token attends to its ancestors
only and its position is its depth, so every path sees exactly what the sequence alone would have seen and
the log-probs are the same up to float order, with or without gradient. The eight rollouts of a group cost
one prompt; equal rollouts cost nothing. Rows of similar length form a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from sdgym.policy import Policy

TOKEN_COST = 512
"""Attention cells (query × key) that cost as much as one more token: about 4·D at D = 128, measured."""


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """B rows of up to L tokens that hold S scored tokens of several sequences.

    Attributes:
        input_ids: int64 ``[B, L]``, 0 where a row is shorter.
        position_ids: int64 ``[B, L]``, depth in the tree.
        attention_mask: bool ``[B, 1, L, L]``, True where the query (third axis) sees the key; None where
            plain causal attention says the same.
        rows, columns: int64 ``[S]``: the place whose logits predict each scored token.
        targets: int64 ``[S]``: the scored tokens.
        sequences: ``(index, start, stop)`` per sequence: its scored tokens are ``[start, stop)`` of S, in order.
        tokens: places that hold a token (the cost of the batch).
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    sequences: tuple[tuple[int, int, int], ...]
    tokens: int

    def to(self, device: str | torch.device) -> PackedBatch:
        """Return the batch on another device."""
        moved: dict[str, Any] = {
            f.name: v.to(device) for f in dataclasses.fields(self) if isinstance(v := getattr(self, f.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)


class _Tree:
    """One row being filled: tokens, depths, and each token's ancestors through the path of its sequence."""

    def __init__(self) -> None:
        self.tokens: list[np.ndarray] = []
        self.spans: list[tuple[int, int, np.ndarray]] = []  # (first place, depth, path of the ancestors)
        self.members: list[tuple[int, np.ndarray]] = []  # (sequence index, path)
        self.size = 0
        self.path = np.zeros(0, np.int64)

    def add(self, index: int, ids: np.ndarray, shared: int) -> None:
        """Add a sequence whose first ``shared`` tokens lie on the previous sequence's path."""
        fresh = len(ids) - shared
        ancestors = self.path[:shared]
        if fresh:
            self.tokens.append(ids[shared:])
            self.spans.append((self.size, shared, ancestors))
        self.path = np.concatenate([ancestors, self.size + np.arange(fresh)])
        self.members.append((index, self.path))
        self.size += fresh

    @property
    def branching(self) -> bool:
        """Whether a place differs from its depth, so that plain causal attention would be wrong."""
        return any(start != depth for start, depth, _ in self.spans)

    def positions(self) -> np.ndarray:
        return np.concatenate([depth + np.arange(len(t)) for t, (_, depth, _) in zip(self.tokens, self.spans, strict=True)])

    def mask(self) -> np.ndarray:
        """Return bool ``[size, size]``: True where the key is the query itself or one of its ancestors."""
        seen = np.zeros((self.size, self.size), bool)
        for tokens, (start, _, ancestors) in zip(self.tokens, self.spans, strict=True):
            stop = start + len(tokens)
            seen[start:stop, ancestors] = True
            seen[start:stop, start:stop] = np.tri(len(tokens), dtype=bool)
        return seen


def pack(
    sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], max_tokens: int, token_cost: int = TOKEN_COST
) -> list[PackedBatch]:
    """Lay sequences into batches of at most ``max_tokens`` places each (a longer tree gets a batch alone).

    Args:
        sequences: int64 ``[L_i]`` each.
        positions: int64 ``[S_i]`` each: which tokens are scored; every position is at least 1.
        max_tokens: bound on B·L.
        token_cost: see :data:`TOKEN_COST`; 0 switches sharing off.

    Returns:
        Batches that cover every sequence with at least one scored position exactly once.

    Raises:
        ValueError: a position is outside ``[1, L_i)``.
    """
    for ids, places in zip(sequences, positions, strict=True):
        if len(places) and not (int(places.min()) >= 1 and int(places.max()) < len(ids)):
            raise ValueError(f"scored positions must lie in [1, {len(ids)}), got {int(places.min())}..{int(places.max())}")
    trees = sorted(_grow(sequences, positions, max_tokens, token_cost), key=lambda t: (t.branching, t.size))
    batches: list[list[_Tree]] = []
    for tree in trees:
        last = batches[-1] if batches else None
        if last is None or last[0].branching != tree.branching or (len(last) + 1) * tree.size > max_tokens:
            batches.append([tree])
        else:
            last.append(tree)
    return [_assemble(batch, sequences, positions) for batch in batches]


def _grow(sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray], max_tokens: int, token_cost: int) -> list[_Tree]:
    """Sort sequences so that neighbours share most, and let each join the current tree where that is cheaper."""
    last_needed = [int(p.max()) if len(p) else 0 for p in positions]  # the last scored token itself is not input
    order = sorted(
        (i for i in range(len(sequences)) if last_needed[i]), key=lambda i: sequences[i][: last_needed[i]].astype(">i8").tobytes()
    )
    trees: list[_Tree] = []
    previous = np.zeros(0, np.int64)
    for index in order:
        ids = sequences[index][: last_needed[index]]
        shared = _common_prefix(previous, ids)
        if not trees or not _joins(trees[-1].size, shared, len(ids) - shared, max_tokens, token_cost):
            trees.append(_Tree())
            shared = 0
        trees[-1].add(index, ids, shared)
        previous = ids
    return trees


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def _joins(size: int, shared: int, fresh: int, max_tokens: int, token_cost: int) -> bool:
    """Whether joining saves more tokens than the larger square of attention costs."""
    if not (token_cost and shared) or (fresh and size + fresh > max_tokens):
        return False
    extra_cells = (size + fresh) ** 2 - size**2 - (shared + fresh) ** 2
    return shared * token_cost > extra_cells


def _assemble(trees: Sequence[_Tree], sequences: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> PackedBatch:
    batch, length = len(trees), max(tree.size for tree in trees)
    input_ids, position_ids = np.zeros((batch, length), np.int64), np.zeros((batch, length), np.int64)
    mask = None
    if any(tree.branching for tree in trees):
        mask = np.zeros((batch, 1, length, length), bool)
        mask[:, :, np.arange(length), np.arange(length)] = True  # a place without a token sees itself, never nothing
    rows, columns, targets, spans, count = [], [], [], [], 0
    for row, tree in enumerate(trees):
        input_ids[row, : tree.size] = np.concatenate(tree.tokens)
        position_ids[row, : tree.size] = tree.positions()
        if mask is not None:
            mask[row, 0, : tree.size, : tree.size] = tree.mask()
        for index, path in tree.members:
            places = positions[index]
            rows.append(np.full(len(places), row, np.int64))
            columns.append(path[places - 1])
            targets.append(sequences[index][places])
            spans.append((index, count, count + len(places)))
            count += len(places)
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        attention_mask=None if mask is None else torch.from_numpy(mask),
        rows=torch.from_numpy(np.concatenate(rows)),
        columns=torch.from_numpy(np.concatenate(columns)),
        targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        sequences=tuple(spans),
        tokens=sum(tree.size for tree in trees),
    )


def score_sequences(
    policy: Policy,
    sequences: Sequence[tuple[np.ndarray, np.ndarray]],
    temperature: float = 1.0,
    want_entropy: bool = True,
    max_tokens: int = 8192,
    chunk: int = 4096,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Score token sequences without gradient.

    Args:
        policy: whose weights score.
        sequences: ``(ids [L_i], positions [S_i])`` as from :meth:`sdgym.core.ScoringView.sequence`.
        temperature: divides the logits.
        want_entropy: compute entropies too (zeros otherwise).
        max_tokens: places per forward pass.
        chunk: scored tokens per slice of ``[S, V]`` logits.

    Returns:
        ``(logprobs [S_i], entropy [S_i])`` float32 per sequence, in the order given.
    """
    ids, places = [s[0] for s in sequences], [s[1] for s in sequences]
    results = [(np.zeros(len(p), np.float32), np.zeros(len(p), np.float32)) for p in places]
    with torch.no_grad():
        for batch in pack(ids, places, max_tokens, policy.token_cost):
            on_device = batch.to(policy.device)
            hidden = policy.hidden(on_device.input_ids, on_device.attention_mask, on_device.position_ids)
            selected = hidden[on_device.rows, on_device.columns]
            parts = [
                _logprob_entropy(policy.logits(selected[i : i + chunk]), on_device.targets[i : i + chunk], temperature, want_entropy)
                for i in range(0, len(selected), chunk)
            ]
            logprobs, entropy = (torch.cat([p[k] for p in parts]).cpu().numpy() for k in (0, 1))
            for index, start, stop in batch.sequences:
                results[index] = (logprobs[start:stop], entropy[start:stop])
    return results


def _logprob_entropy(
    logits: torch.Tensor, targets: torch.Tensor, temperature: float, want_entropy: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = torch.log_softmax(logits.float() / temperature, dim=-1)
    chosen = scores.gather(1, targets[:, None])[:, 0]
    entropy = -(scores.exp() * scores).nan_to_num(0.0).sum(-1) if want_entropy else torch.zeros_like(chosen)
    return chosen, entropy
