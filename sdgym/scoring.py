"""One module whose forward does all the scoring: student and teacher bodies, heads, and the loop over tokens.

Everything that touches parameters happens inside :meth:`ScoringModule.forward`, so that wrappers which
gather parameters around a forward (DDP, FSDP) see one call. Logits exist only for scored tokens and only a
chunk at a time: [S, V] is never kept when it is large.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sdgym.core import ScoringView, Weights
from sdgym.objective import TokenLoss
from sdgym.packing import TOKEN_COST, PackedBatch, pack
from sdgym.policy import head_logits, hidden_states
from sdgym.teacher import Teacher


@dataclasses.dataclass
class Fused:
    """A loss that reads distributions, and where.

    Attributes:
        loss: its ``token_features`` is called on chunks.
        index: int64 ``[S_f]``, increasing: which of the forward's S tokens it reads.
        references: M lists of views; list m covers exactly the tokens of ``index``, in order.
    """

    loss: TokenLoss
    index: Tensor
    references: Sequence[Sequence[ScoringView]]


@dataclasses.dataclass
class Scores:
    """What a forward says about the S scored tokens of its batch, in order.

    Attributes:
        logprobs: ``[S]``.
        entropy: ``[S]``, detached.
        features: per fused loss the tensors of ``token_features``, ``[S_f]``.
        reference_logprobs: per fused loss ``[M, S_f]``.
        reference_inputs: tokens pushed through reference models, shared prefixes counted once.
    """

    logprobs: Tensor
    entropy: Tensor
    features: list[dict[str, Tensor]]
    reference_logprobs: list[Tensor]
    reference_inputs: int


@dataclasses.dataclass
class _Distribution:
    """The logits of some tokens, unevaluated: a weighted sum of heads on hidden states ``[S, D]``."""

    parts: list[tuple[Any, float, Tensor]]
    temperature: float

    def logits(self, rows: slice | Tensor) -> Tensor:
        """Return float32 ``[C, V]``, divided by the temperature."""
        summands = [_scaled(head_logits(model, hidden[rows]).float(), weight / self.temperature) for model, weight, hidden in self.parts]
        return torch.stack(summands).sum(0) if len(summands) > 1 else summands[0]


class ScoringModule(nn.Module):
    """Scores packed sequences with the student's or the teacher's weights.

    Args:
        student: the trained Hugging Face causal LM.
        teacher: its copy, if it has one, becomes a submodule without gradient.
        temperature: divides every logit.
        micro_tokens: tokens per forward pass of references.
        logit_elements: largest [tokens, V] block of logits kept for the backward pass; above it the head
            runs in chunks that are recomputed.
        token_cost: see :data:`sdgym.packing.TOKEN_COST`.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        temperature: float = 1.0,
        micro_tokens: int = 8192,
        logit_elements: int = 1 << 24,
        token_cost: int = TOKEN_COST,
    ) -> None:
        super().__init__()
        self.student = student
        self.teacher_model = teacher.model
        self._teacher = teacher
        self.temperature, self.micro_tokens, self.logit_elements, self.token_cost = temperature, micro_tokens, logit_elements, token_cost

    def forward(self, batch: PackedBatch, weights: Weights = "policy", fused: Sequence[Fused] = ()) -> Scores:
        """Score ``batch``; for each fused loss also reduce the distributions of its tokens and of its references."""
        models = [(self.student, 1.0)] if weights == "policy" else self._teacher.mixture()
        scored = _Distribution([(model, w, _select(model, batch)) for model, w in models], self.temperature)
        references, inputs = [], 0
        with torch.no_grad():
            for term in fused:
                columns = [self._reference(views) for views in term.references]
                references.append([distribution for distribution, _ in columns])
                inputs += sum(count for _, count in columns)
        chunks = self._head_loop(scored, batch.targets, fused, references)
        return Scores(
            torch.cat([c.logprobs for c in chunks]),
            torch.cat([c.entropy for c in chunks]),
            [_concatenate([c.features[i] for c in chunks]) for i in range(len(fused))],
            [torch.cat([c.reference_logprobs[i] for c in chunks], dim=1) for i in range(len(fused))],
            inputs,
        )

    def _reference(self, views: Sequence[ScoringView]) -> tuple[_Distribution, int]:
        """Run the models behind ``views`` and return the distribution of all their scored tokens, in order."""
        models = [(self.student, 1.0)] if views[0].weights == "policy" else self._teacher.mixture()
        sequences, positions = zip(*(view.sequence() for view in views), strict=True)
        starts = [0]
        for places in positions:
            starts.append(starts[-1] + len(places))
        device = next(self.student.parameters()).device
        batches = [b.to(device) for b in pack(sequences, positions, self.micro_tokens, self.token_cost)]
        where = torch.cat([torch.arange(starts[i], starts[i] + stop - start) for b in batches for i, start, stop in b.sequences]).to(device)
        parts: list[tuple[Any, float, Tensor]] = []
        for model, weight in models:
            found = torch.cat([_select(model, b) for b in batches])
            parts.append((model, weight, torch.empty_like(found).index_copy_(0, where, found)))
        return _Distribution(parts, self.temperature), len(models) * sum(b.tokens for b in batches)

    def _head_loop(
        self, scored: _Distribution, targets: Tensor, fused: Sequence[Fused], references: Sequence[Sequence[_Distribution]]
    ) -> list[Scores]:
        vocabulary = int(self.student.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
        size = max(1, self.logit_elements // vocabulary)
        recompute = len(targets) > size and torch.is_grad_enabled()
        chunks: list[Scores] = []
        for low in range(0, len(targets), size):
            arguments = (scored, targets, fused, references, low, min(low + size, len(targets)))
            chunks.append(checkpoint(_score_chunk, *arguments, use_reentrant=False) if recompute else _score_chunk(*arguments))
        return chunks


def _select(model: Any, batch: PackedBatch) -> Tensor:
    """Return the hidden states ``[S, D]`` that predict the scored tokens of ``batch``."""
    return hidden_states(model, batch.input_ids, batch.attention_mask, batch.position_ids)[batch.rows, batch.columns]


def _score_chunk(
    scored: _Distribution, targets: Tensor, fused: Sequence[Fused], references: Sequence[Sequence[_Distribution]], low: int, high: int
) -> Scores:
    """Score tokens ``[low, high)``.

    What carries no gradient comes last: a recomputation for the backward pass ends where the last gradient begins.
    """
    logits = scored.logits(slice(low, high))
    logprobs = _logprobs(logits, targets[low:high])
    features, seen = [], []
    for term, distributions in zip(fused, references, strict=True):
        first, last = (int(i) for i in torch.searchsorted(term.index, torch.tensor([low, high], device=term.index.device)))
        index = term.index[first:last]
        own, token_ids = logits[index - low] if last - first < high - low else logits, targets[index]
        with torch.no_grad():
            others = [distribution.logits(slice(first, last)) for distribution in distributions]
            stacked = torch.stack(others) if others else logits.new_zeros((0, *own.shape))
        features.append(term.loss.token_features(own, stacked, token_ids))
        seen.append((stacked, token_ids))
    with torch.no_grad():
        reference_logprobs = [_logprobs(stacked, token_ids.expand(stacked.shape[:-1])) for stacked, token_ids in seen]
    return Scores(logprobs, _entropy(logits), features, reference_logprobs, 0)


def _scaled(logits: Tensor, factor: float) -> Tensor:
    """Return ``logits * factor`` without a pass over [C, V], and one more backward, where the factor is 1."""
    return logits if factor == 1.0 else logits * factor


def _logprobs(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Return the log-probs ``[...]`` of ``token_ids [...]`` under ``logits [..., V]``; [..., V] log-probs are never made."""
    return logits.gather(-1, token_ids[..., None])[..., 0] - logits.logsumexp(-1)


@torch.no_grad()
def _entropy(logits: Tensor) -> Tensor:
    """Return the entropies ``[C]`` in nats of ``logits [C, V]``; an impossible token (−inf) adds nothing."""
    finite = logits.clamp(min=torch.finfo(logits.dtype).min)
    mean: Tensor = torch.linalg.vecdot(logits.softmax(-1), finite)
    return logits.logsumexp(-1) - mean


def _concatenate(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
