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
from sdgym.objective import ReducingLoss, TokenLoss
from sdgym.packing import TOKEN_COST, PackedBatch, pack
from sdgym.parallel import World
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

    Whoever goes backward through some of it drops the rest first: where the head ran in chunks, each chunk's logits are computed
    again, and what a kept output would need of them stays.

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


torch.utils._pytree.register_dataclass(Scores)  # wrappers that shard weights look for tensors in what forward returns


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
        world: the processes that share the weights piece by piece, where they do: each forward of a model gathers its
            pieces from all, so all must make the same number of them.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        temperature: float = 1.0,
        micro_tokens: int = 8192,
        logit_elements: int = 1 << 24,
        token_cost: int = TOKEN_COST,
        world: World | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.world = world
        self._no_split_modules = getattr(student, "_no_split_modules", None)  # what sharding wraps one by one
        self.teacher_model = teacher.model
        self._teacher = teacher
        self.temperature, self.micro_tokens, self.logit_elements, self.token_cost = temperature, micro_tokens, logit_elements, token_cost

    def tie_weights(self) -> None:
        """Tie head and embedding again (sharding may part them)."""
        for model in (self.student, self.teacher_model):
            if model is not None:
                model.tie_weights()  # type: ignore[operator]

    def forward(self, batch: PackedBatch, weights: Weights = "policy", fused: Sequence[Fused] | None = None) -> Scores:
        """Score ``batch``; for each fused loss also reduce the distributions of its tokens and of its references."""
        scored = _Distribution([(model, w, _select(model, batch)) for model, w in self._models(weights)], self.temperature)
        references, inputs = self._references(batch, fused) if fused is not None else ([], 0)
        fused = fused or ()
        chunks = self._head_loop(scored, batch.targets, fused, references)
        return Scores(
            torch.cat([c.logprobs for c in chunks]),
            torch.cat([c.entropy for c in chunks]),
            [_concatenate([c.features[i] for c in chunks]) for i in range(len(fused))],
            [torch.cat([c.reference_logprobs[i] for c in chunks], dim=1) for i in range(len(fused))],
            inputs,
        )

    def _models(self, weights: str) -> list[tuple[Any, float]]:
        return [(self.student, 1.0)] if weights == "policy" else self._teacher.mixture()

    @torch.no_grad()
    def _references(self, batch: PackedBatch, fused: Sequence[Fused]) -> tuple[list[list[_Distribution]], int]:
        """Return per fused loss the distributions of its M references, and the tokens they took.

        References under the policy's weights come first, then the teacher's, whatever the losses' order, and where
        weights are shared all processes make up to the most passes of each kind.
        """
        kinds = ("policy", "teacher")
        jobs = {(i, m): self._pack(views) for i, term in enumerate(fused) for m, views in enumerate(term.references)}
        passes = [sum(len(packed) for key, packed in jobs.items() if _weights(fused, key) == kind) for kind in kinds]
        most = passes if self.world is None else self.world.most(passes)
        found: dict[tuple[int, int], _Distribution] = {}
        inputs = 0
        for kind, own, needed in zip(kinds, passes, most, strict=True):
            models = self._models(kind)
            for key, packed in jobs.items():
                if _weights(fused, key) == kind:
                    found[key] = self._run(models, packed, fused[key[0]].references[key[1]])
                    inputs += len(models) * sum(b.tokens for b in packed)
            for model, _ in models * (needed - own):
                _select(model, batch)
        return [[found[i, m] for m in range(len(term.references))] for i, term in enumerate(fused)], inputs

    def _pack(self, views: Sequence[ScoringView]) -> list[PackedBatch]:
        sequences, positions = zip(*(view.sequence() for view in views), strict=True)
        device = next(self.student.parameters()).device
        return [batch.to(device) for batch in pack(sequences, positions, self.micro_tokens, self.token_cost)]

    def _run(self, models: list[tuple[Any, float]], batches: list[PackedBatch], views: Sequence[ScoringView]) -> _Distribution:
        """Run the models behind ``views`` and return the distribution of all their scored tokens, in order."""
        starts = [0]
        for view in views:
            starts.append(starts[-1] + int(view.loss_mask.sum()))
        where = torch.cat([torch.arange(starts[i], starts[i] + stop - start) for b in batches for i, start, stop in b.sequences])
        where = where.to(batches[0].targets.device)
        states = [[_select(model, b) for model, _ in models] for b in batches]
        parts: list[tuple[Any, float, Tensor]] = []
        for number, (model, weight) in enumerate(models):
            hidden = torch.cat([found[number] for found in states])
            parts.append((model, weight, torch.empty_like(hidden).index_copy_(0, where, hidden)))
        return _Distribution(parts, self.temperature)

    def _head_loop(
        self, scored: _Distribution, targets: Tensor, fused: Sequence[Fused], references: Sequence[Sequence[_Distribution]]
    ) -> list[Scores]:
        vocabulary = int(self.student.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
        size = max(1, self.logit_elements // vocabulary)
        recompute = len(targets) > size and torch.is_grad_enabled()
        chunks: list[Scores] = []
        for low in range(0, len(targets), size):
            known: dict[int, tuple[dict[str, Tensor], Tensor]] = {}
            arguments = (scored, targets, fused, references, low, min(low + size, len(targets)), known)
            chunks.append(checkpoint(_score_chunk, *arguments, use_reentrant=False) if recompute else _score_chunk(*arguments))
        return chunks


def _weights(fused: Sequence[Fused], key: tuple[int, int]) -> str:
    """Return whose weights score reference m of fused loss i."""
    return fused[key[0]].references[key[1]][0].weights


def _select(model: Any, batch: PackedBatch) -> Tensor:
    """Return the hidden states ``[S, D]`` that predict the scored tokens of ``batch``."""
    return hidden_states(model, batch.input_ids, batch.attention_mask, batch.position_ids)[batch.rows, batch.columns]


def _score_chunk(
    scored: _Distribution,
    targets: Tensor,
    fused: Sequence[Fused],
    references: Sequence[Sequence[_Distribution]],
    low: int,
    high: int,
    known: dict[int, tuple[dict[str, Tensor], Tensor]],
) -> Scores:
    """Score tokens ``[low, high)``; ``known`` keeps what a loss needs of its references for the recomputation.

    What carries no gradient comes last: a recomputation for the backward pass ends where the last gradient begins.
    """
    logits = scored.logits(slice(low, high))
    normaliser = logits.logsumexp(-1)
    logprobs = _logprobs(logits, targets[low:high], normaliser)
    features: list[dict[str, Tensor]] = []
    seen: list[tuple[Tensor, Tensor] | Tensor] = []
    for number, (term, distributions) in enumerate(zip(fused, references, strict=True)):
        first, last = (int(i) for i in torch.searchsorted(term.index, torch.tensor([low, high], device=term.index.device)))
        index = term.index[first:last]
        own, token_ids = logits[index - low] if last - first < high - low else logits, targets[index]
        stacked = None if number in known else _stacked(distributions, slice(first, last), own)
        if stacked is not None and isinstance(term.loss, ReducingLoss):
            with torch.no_grad():
                reduced = term.loss.reduce(own.detach(), stacked)
            if reduced:
                known[number] = reduced, _reference_logprobs(stacked, token_ids)
                stacked = None
        if stacked is None:
            features.append(term.loss.reduced_features(own, known[number][0]))  # type: ignore[attr-defined]
            seen.append(known[number][1])
        else:
            features.append(term.loss.token_features(own, stacked, token_ids))
            seen.append((stacked, token_ids))
    reference_logprobs = [found if isinstance(found, Tensor) else _reference_logprobs(*found) for found in seen]
    return Scores(logprobs, _entropy(logits, normaliser), features, reference_logprobs, 0)


@torch.no_grad()
def _stacked(distributions: Sequence[_Distribution], rows: slice, own: Tensor) -> Tensor:
    """Return the logits ``[M, C, V]`` of the references beside the student's ``own [C, V]``; one reference is not copied."""
    others = [distribution.logits(rows) for distribution in distributions]
    if len(others) == 1:
        return others[0][None]
    return torch.stack(others) if others else own.new_zeros((0, *own.shape))


@torch.no_grad()
def _reference_logprobs(stacked: Tensor, token_ids: Tensor) -> Tensor:
    """Return the log-probs ``[M, C]`` of ``token_ids [C]`` under ``stacked [M, C, V]``."""
    return _logprobs(stacked, token_ids.expand(stacked.shape[:-1]), stacked.logsumexp(-1))


def _scaled(logits: Tensor, factor: float) -> Tensor:
    """Return ``logits * factor`` without a pass over [C, V], and one more backward, where the factor is 1."""
    return logits if factor == 1.0 else logits * factor


def _logprobs(logits: Tensor, token_ids: Tensor, normaliser: Tensor) -> Tensor:
    """Return the log-probs ``[...]`` of ``token_ids [...]`` under ``logits [..., V]``; [..., V] log-probs are never made."""
    return logits.gather(-1, token_ids[..., None])[..., 0] - normaliser


@torch.no_grad()
def _entropy(logits: Tensor, normaliser: Tensor) -> Tensor:
    """Return the entropies ``[C]`` in nats of ``logits [C, V]``; an impossible token (−inf) adds nothing."""
    finite = logits.clamp(min=torch.finfo(logits.dtype).min)
    mean: Tensor = torch.linalg.vecdot(logits.softmax(-1), finite)
    return normaliser - mean


def _concatenate(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
