"""The learner: loss terms in, optimizer steps and metrics out. It knows no algorithm.

Every item of every term is one packed sequence; a packed batch is a micro-batch. Denominators belong to
the whole optimizer batch, so cutting it differently changes nothing but float order (except for
``token_mean_micro``, whose point it is).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sdgym import zero
from sdgym.adapters import plain_weights
from sdgym.core import LearningRate, LossItem, LossTerm, ScoringView, Trajectory, ViewScores
from sdgym.denominators import Denominators
from sdgym.errors import AlignmentError, NumericalError
from sdgym.ledger import Ledger
from sdgym.meters import Meters
from sdgym.objective import LossInputs, aggregate
from sdgym.packing import TOKEN_COST, PackedBatch, pack
from sdgym.parallel import World, gathered, is_sharded, load_training_state, reshard, training_state
from sdgym.policy import recompute_layers
from sdgym.recording import Recorder
from sdgym.scoring import Fused, Scores, ScoringModule
from sdgym.teacher import Teacher

if TYPE_CHECKING:
    from accelerate import Accelerator

PROBE_SEQUENCES = 16
"""Sequences scored again after an update to measure ``train/update_kl``."""


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """AdamW; ``grad_clip`` 0 turns clipping off."""

    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip: float = 1.0


@dataclasses.dataclass
class _Entry:
    """One item of one term on its way through an optimizer step."""

    term: int
    item: LossItem
    ids: np.ndarray
    positions: np.ndarray
    stored: np.ndarray | None = None  # [M, S] reference log-probs, of losses that need no distribution
    current: Tensor | None = None  # [S] log-probs at the last forward pass


class _Step:
    """One optimizer step: its entries and what they are divided by."""

    def __init__(self, terms: Sequence[LossTerm], entries: Sequence[_Entry], share: float, meters: Meters) -> None:
        self.terms, self.entries, self.meters = terms, entries, meters
        self.divisors = Denominators(terms, [(entry.term, entry.item) for entry in entries], share)
        self.used_in: Counter[int] = Counter()


class Learner:
    """Scores views, sums loss terms, steps the optimizer and the teacher.

    Args:
        model: the policy's causal LM.
        teacher: see :class:`sdgym.teacher.Teacher`.
        ledger: charged for every token scored or trained.
        optimizer: see :class:`OptimizerSettings`.
        temperature: the loss temperature, dividing every logit of student, teacher and references.
        micro_tokens: places per forward pass.
        logit_elements: see :class:`sdgym.scoring.ScoringModule`.
        token_cost: see :func:`sdgym.packing.pack`.
        accelerator: places and wraps the module and the optimizer; None runs them as they are.
        world: the processes of the run; micro-batches are shared out among them.
        recompute: keep only the layers' inputs for the backward pass (activation checkpointing).
        longest_answer: L_max of ``token_sum_norm`` for terms without their own; a constant of the run.

    The model stays in evaluation mode: dropout would make trainer and sampler two policies.
    """

    def __init__(
        self,
        model: Any,
        teacher: Teacher,
        ledger: Ledger,
        optimizer: OptimizerSettings | None = None,
        temperature: float = 1.0,
        micro_tokens: int = 8192,
        logit_elements: int = 1 << 24,
        token_cost: int = TOKEN_COST,
        accelerator: Accelerator | None = None,
        world: World | None = None,
        recompute: bool = False,
        longest_answer: int | None = None,
    ) -> None:
        self.teacher, self.ledger, self.settings = teacher, ledger, optimizer or OptimizerSettings()
        self.model, self.micro_tokens, self.token_cost = model, micro_tokens, token_cost
        self.accelerator, self.world, self.temperature = accelerator, world or World(), temperature
        shared = self.world if is_sharded(accelerator) else None
        module = ScoringModule(model, teacher, temperature, micro_tokens, logit_elements, token_cost, shared).eval()
        if recompute and shared is None:  # where weights are sharded, Accelerate wraps the layers
            recompute_layers(model)
        s = self.settings
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer: Any = torch.optim.AdamW(self.parameters, lr=s.lr, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay)
        self.recorder: Recorder | None = None  # listens to updates, for people to read
        self.module: Any = module
        if accelerator is not None:
            self.module, self.optimizer = accelerator.prepare(module, self.optimizer)
            self.parameters = [p for p in model.parameters() if p.requires_grad]  # sharding puts others in their place
        self.updates, self.longest = 0, longest_answer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.parameters[0].device
        return device

    # ---- scoring without gradient ---------------------------------------------------------------

    def score(self, views: Sequence[ScoringView], charge: bool = True) -> list[ViewScores]:
        """Return log-probs and entropies of ``views``, in order, without gradient; charged to the ledger unless it is for an evaluation."""
        found: dict[int, ViewScores] = {}
        for weights in ("policy", "teacher"):
            chosen = [i for i, view in enumerate(views) if view.weights == weights]
            sequences = [views[i].sequence() for i in chosen]
            for batch, own in self.world.share(self._pack(sequences)):
                with torch.no_grad():
                    scores: Scores = self.module(batch, weights)
                if not own:
                    continue
                logprobs, entropy = scores.logprobs.cpu().numpy(), scores.entropy.cpu().numpy()
                for index, start, stop in batch.sequences:
                    found[chosen[index]] = ViewScores(logprobs[start:stop], entropy[start:stop])
                models = len(self.teacher.mixture()) if weights == "teacher" else 1
                if charge:
                    self._charge_scoring(weights, len(logprobs), batch.tokens * models)
        reshard(self.module)
        merged = {index: scores for part in self.world.gather(found) for index, scores in part.items()}
        nothing = ViewScores(np.zeros(0, np.float32), np.zeros(0, np.float32))
        return [merged.get(index, nothing) for index in range(len(views))]

    def _pack(self, sequences: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[PackedBatch]:
        batches = pack([s[0] for s in sequences], [s[1] for s in sequences], self.micro_tokens, self.token_cost)
        return [batch.to(self.device) for batch in batches]

    def _charge_scoring(self, weights: str, scored: int, inputs: int) -> None:
        if weights == "teacher":
            self.ledger.teacher_tokens += scored
        else:
            self.ledger.scored_tokens += scored
        self.ledger.score_inputs += inputs

    # ---- updates --------------------------------------------------------------------------------

    def update(
        self, terms: Sequence[LossTerm], rows: Sequence[Trajectory], parts: Iterable[Sequence[int]], lr: LearningRate | None = None
    ) -> dict[str, float]:
        """Take one optimizer step per part.

        Args:
            terms: the objective of the batch.
            rows: the batch's trajectories, for comparison with the sampler's log-probs; may be empty.
            parts: the rows (``item.view.row``) of each optimizer step, in order; an item outside a part waits.
            lr: learning rate after so many updates; None keeps the last one.

        Returns:
            Metrics, averaged over the optimizer steps.

        Raises:
            AlignmentError: a reference does not score the tokens of its view.
            NumericalError: a loss or gradient is not finite; the weights are those before that step.
        """
        check_alignment(terms)
        meters = Meters(terms, rows, self.temperature)
        entries = self._entries(terms)
        mine: list[_Entry] = []
        for part in parts:
            chosen = set(part)
            mine = [entry for entry in entries if entry.item.view.row in chosen]
            if mine:
                for group in self.optimizer.param_groups:
                    group["lr"] = group["lr"] if lr is None else lr(self.updates)
                self._step(_Step(terms, mine, len(chosen) / len(rows) if rows else 1.0, meters))
                self.teacher.after_update()
        self._measure_drift(mine[:PROBE_SEQUENCES], meters)
        meters.merge(self.world)
        return meters.summary()

    def _entries(self, terms: Sequence[LossTerm]) -> list[_Entry]:
        """Prepare every item; references of losses on sampled tokens are scored here, once per batch."""
        entries: list[_Entry] = []
        for number, term in enumerate(terms):
            mine = [_Entry(number, item, *item.view.sequence()) for item in term.items if item.view.loss_mask.any()]
            if term.loss.needs == "sampled":
                unknown = [entry for entry in mine if entry.item.reference_logprobs is None]
                scored = iter(self.score([view for entry in unknown for view in entry.item.references]))
                for entry in mine:
                    entry.stored = entry.item.reference_logprobs
                for entry in unknown:
                    values = [next(scored).logprobs for _ in entry.item.references]
                    entry.stored = np.stack(values) if values else np.zeros((0, len(entry.positions)), np.float32)
            entries += mine
        return entries

    def _step(self, step: _Step) -> None:
        """One optimizer step."""
        batches = self._pack([(entry.ids, entry.positions) for entry in step.entries])
        step.used_in = Counter(t for batch in batches for t in {step.entries[i].term for i, _, _ in batch.sequences})
        self.optimizer.zero_grad(set_to_none=True)
        shared = self.world.share(batches)
        for number, (batch, own) in enumerate(shared):
            loss = self._micro_batch(step, batch) if own else self._idle(batch)
            if self.world.size == 1 and not torch.isfinite(loss):  # elsewhere all processes see it in the gradient
                raise NumericalError(f"the loss became {float(loss.detach())} at update {self.updates + 1}; lower optimizer.lr")
            self._backward(loss, last=number == len(shared) - 1)
        norm = zero.step(self.module) if zero.is_zero(self.accelerator) else self._clip_gradients()
        if not math.isfinite(norm):
            raise NumericalError(f"the gradient norm became {norm} at update {self.updates + 1}; lower optimizer.lr")
        self.optimizer.step()  # DeepSpeed has made its own: nothing is left to do
        self.updates += 1
        self.ledger.updates += self.world.main
        step.meters.step(norm, float(self.optimizer.param_groups[0]["lr"]))

    def _backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of one micro-batch, exchanged with the last. Wrappers average over processes, the objective sums: the factor."""
        if zero.is_zero(self.accelerator):
            zero.backward(self.module, loss * self.world.size, last)
        elif self.accelerator is None:
            loss.backward()
        else:
            quiet = not last and self.world.size > 1 and not is_sharded(self.accelerator)
            with self.accelerator.no_sync(self.module) if quiet else contextlib.nullcontext():
                self.accelerator.backward(loss * self.world.size if self.world.size > 1 else loss)

    def _idle(self, batch: PackedBatch) -> Tensor:
        """Go through the motions of a micro-batch that another process has: same calls, no loss."""
        scores: Scores = self.module(batch, "policy", ())
        return scores.logprobs.sum() * 0.0

    def _clip_gradients(self) -> float:
        clip = self.settings.grad_clip or math.inf
        if self.accelerator is None:
            return float(torch.nn.utils.clip_grad_norm_(self.parameters, clip))
        return float(gathered(self.accelerator.clip_grad_norm_(self.module.parameters(), clip)))

    def _micro_batch(self, step: _Step, batch: PackedBatch) -> Tensor:
        """Return the micro-batch's share of the objective, with gradient."""
        slices: dict[int, list[tuple[_Entry, int, int]]] = {}
        for i, start, stop in batch.sequences:
            slices.setdefault(step.entries[i].term, []).append((step.entries[i], start, stop))
        index = {t: torch.cat([torch.arange(a, b) for _, a, b in found]).to(self.device) for t, found in slices.items()}
        readers = [t for t in slices if step.terms[t].loss.needs != "sampled"]
        fused = [Fused(step.terms[t].loss, index[t], _columns([entry.item for entry, _, _ in slices[t]])) for t in readers]
        scores: Scores = self.module(batch, "policy", fused)
        self._charge_update(batch, scores, [view for reader in fused for column in reader.references for view in column])
        shares: list[Tensor] = []
        for t, found in slices.items():
            term, place = step.terms[t], readers.index(t) if t in readers else None
            inputs = self._inputs([entry for entry, _, _ in found], index[t], scores, place)
            if self.recorder is not None:
                self.recorder.add(term, [entry.item for entry, _, _ in found], inputs)
            values, metrics = term.loss(inputs)
            value = self._reduce(step, t, values, inputs)
            shares.append(term.coefficient * value)
            for entry, start, stop in found:
                entry.current = scores.logprobs[start:stop].detach()
            step.meters.loss(term, value)
            step.meters.tokens(term, metrics, inputs, scores.entropy[index[t]])
            step.meters.gap([entry.item for entry, _, _ in found], [scores.logprobs[a:b] for _, a, b in found], self.updates)
        total = sum(shares[1:], shares[0])
        return total if total.requires_grad else total + scores.logprobs.sum() * 0.0

    def _reduce(self, step: _Step, number: int, values: Tensor, inputs: LossInputs) -> Tensor:
        """Turn a term's values into its part of the scalar objective."""
        term, denominator = step.terms[number], step.divisors.of(number)
        if term.loss.scope == "sequence":
            counted = torch.zeros_like(values).index_add(0, inputs.item_index, (inputs.weight != 0).to(values.dtype)) > 0
            return values.masked_fill(~counted, 0.0).sum() / max(denominator, 1.0)
        how: dict[str, Any] = {"denominator": denominator, "max_length": term.max_length or self.longest, "count_empty": term.count_empty}
        value = aggregate(values, inputs.weight, inputs.item_index, inputs.num_items, term.aggregation, **how)
        return value / step.used_in[number] if term.aggregation == "token_mean_micro" else value

    def _inputs(self, entries: Sequence[_Entry], index: Tensor, scores: Scores, place: int | None) -> LossInputs:
        """Gather what a loss sees of this micro-batch, in packed order."""
        items = [entry.item for entry in entries]
        lengths = [len(entry.positions) for entry in entries]
        logprobs = scores.logprobs[index]
        if place is None:
            stored = np.concatenate([entry.stored for entry in entries if entry.stored is not None], axis=1)
            references, features = torch.from_numpy(stored).to(self.device), {}
        else:
            references, features = scores.reference_logprobs[place], scores.features[place]
        own = logprobs.detach()
        old, rollout = (self._column([getattr(i, name) for i in items], lengths, np.nan) for name in ("old_logprobs", "rollout_logprobs"))
        return LossInputs(
            token_ids=torch.from_numpy(np.concatenate([item.view.scored_ids() for item in items])).to(self.device),
            item_index=torch.from_numpy(np.repeat(np.arange(len(items)), lengths)).to(self.device),
            num_items=len(items),
            logprobs=logprobs,
            old_logprobs=torch.where(old.isnan(), own, old),
            rollout_logprobs=None if all(i.rollout_logprobs is None for i in items) else torch.where(rollout.isnan(), own, rollout),
            reference_logprobs=references,
            weight=self._column([item.weight for item in items], lengths, 1.0),
            advantage=self._column([item.advantage for item in items], lengths, 0.0),
            label=torch.tensor([item.label for item in items], device=self.device),
            features=features,
        )

    def _column(self, arrays: Sequence[np.ndarray | None], lengths: Sequence[int], default: float) -> Tensor:
        """Concatenate per-token float32 arrays, ``default`` where an item has none: ``[S]``."""
        filled = [np.full(n, default, np.float32) if a is None else a for a, n in zip(arrays, lengths, strict=True)]
        return torch.from_numpy(np.concatenate(filled).astype(np.float32, copy=False)).to(self.device)

    def _charge_update(self, batch: PackedBatch, scores: Scores, references: Sequence[ScoringView]) -> None:
        self.ledger.trained_tokens += len(scores.logprobs)
        self.ledger.train_inputs += batch.tokens
        self._charge_scoring("teacher", sum(int(v.loss_mask.sum()) for v in references if v.weights == "teacher"), scores.reference_inputs)
        self._charge_scoring("policy", sum(int(v.loss_mask.sum()) for v in references if v.weights == "policy"), 0)

    def _measure_drift(self, entries: Sequence[_Entry], meters: Meters) -> None:
        """Score a few sequences again after the last step, to see how far it moved the policy (not charged: it is a gauge)."""
        parts = self.world.gather({i: entry.current.cpu() for i, entry in enumerate(entries) if entry.current is not None})
        before = {i: current for part in parts for i, current in part.items()}
        probed = sorted(before)
        for batch in self._pack([(entries[i].ids, entries[i].positions) for i in probed]):
            with torch.no_grad():
                after: Scores = self.module(batch, "policy")
            meters.drift(torch.cat([before[probed[k]] for k, _, _ in batch.sequences]).to(self.device), after.logprobs)
        reshard(self.module)

    # ---- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimizer and teacher as tensors, and the update counter."""
        weights, moments = training_state(self.model, self.optimizer)
        return {"weights": weights, "optimizer": moments, "teacher": self.teacher.state_dict(), "updates": self.updates}

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the policy's weights whole and with any adapter merged in, for a generation back end that has its own."""
        return ((name, gathered(value)) for name, value in plain_weights(self.model))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`. Raises :class:`CheckpointError` if the model is another one."""
        load_training_state(self.model, self.optimizer, state["weights"], state["optimizer"])
        self.teacher.load_state_dict(state["teacher"])
        self.updates = int(state["updates"])


def check_alignment(terms: Sequence[LossTerm]) -> None:
    """Refuse terms whose references do not score the very tokens of their view, or differ in number.

    Raises:
        AlignmentError: with both lengths, or the first place where the tokens differ.
    """
    for term in terms:
        counts = {len(item.references) for item in term.items}
        if len(counts) > 1:
            raise AlignmentError(f"term {term.name!r}: items have different numbers of references ({sorted(counts)})")
        for item in term.items:
            scored = item.view.scored_ids()
            arrays = {"weight": item.weight, "advantage": item.advantage, "old_logprobs": item.old_logprobs}
            for name, array in arrays.items():
                if array is not None and len(array) != len(scored):
                    raise AlignmentError(
                        f"term {term.name!r}, row {item.view.row}: {name} has {len(array)} values for {len(scored)} tokens"
                    )
            known, expected = item.reference_logprobs, (len(item.references), len(scored))
            if known is not None and known.shape != expected:
                raise AlignmentError(
                    f"term {term.name!r}, row {item.view.row}: reference_logprobs has the shape {known.shape}, not {expected}"
                )
            for view in item.references:
                other = view.scored_ids()
                if len(other) != len(scored):
                    raise AlignmentError(
                        f"term {term.name!r}, row {item.view.row}: the {view.kind} view scores {len(other)} tokens, its view {len(scored)}"
                    )
                if not np.array_equal(other, scored):
                    place = int(np.flatnonzero(other != scored)[0])
                    raise AlignmentError(f"term {term.name!r}, row {item.view.row}: the {view.kind} view scores another token at {place}")


def _columns(items: Sequence[LossItem]) -> list[list[ScoringView]]:
    """Turn R items with M references each into M lists of R views."""
    return [list(column) for column in zip(*(item.references for item in items), strict=True)]
