"""Metrics of one batch of updates, gathered from micro-batches as token-weighted means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sdgym.core import LossItem, LossTerm, Trajectory
from sdgym.objective import LossInputs
from sdgym.parallel import World

NAMES = {
    "clip_frac": "train/clip_frac",
    "divergence": "teacher/divergence",
    "lift": "teacher/lift",
    "captured_mass": "teacher/captured_mass",
    "teacher_captured_mass": "teacher/own_captured_mass",
    "teacher_entropy": "teacher/entropy",
}
"""Metrics of losses that have a place in the run's schema; any other is ``loss/<term>/<name>``."""


LOCAL_SHARE = 0.1
"""The part of a sequence's tokens that ``teacher/localisation`` speaks of."""


def top_share(values: np.ndarray, share: float = LOCAL_SHARE) -> float:
    """Return how much of Σ|values| the heaviest ``share`` of them carries (at least one of them); ``[T]``, not all zero.

    1 where all weight lies on that few tokens, about ``share`` where it is spread evenly.
    """
    heaviest = np.sort(np.abs(values.astype(np.float64)))[::-1]
    return float(heaviest[: math.ceil(share * len(heaviest))].sum() / heaviest.sum())


class Meters:
    """Running sums for :meth:`summary`, of the ``rows`` of a batch and losses at ``temperature``."""

    def __init__(self, terms: Sequence[LossTerm], rows: Sequence[Trajectory] = (), temperature: float = 1.0) -> None:
        self._rows, self._temperature = rows, temperature
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}
        self._losses: dict[str, float] = {}
        self._divergence: list[np.ndarray] = []
        self._steps = 0
        self._teacher(terms)

    def _teacher(self, terms: Sequence[LossTerm]) -> None:
        views = [(item.view.row, view) for term in terms for item in term.items for view in item.references if view.weights == "teacher"]
        if views:
            self.mean("teacher/truncated", sum(view.truncated for _, view in views), len(views))
        self.teacher_rows = len({row for row, _ in views})

    def mean(self, name: str, total: float, count: float) -> None:
        """Add ``total`` over ``count`` observations to a mean."""
        self._sums[name] = self._sums.get(name, 0.0) + total
        self._counts[name] = self._counts.get(name, 0.0) + count

    def loss(self, term: LossTerm, value: Tensor) -> None:
        """Add a micro-batch's share of a term's value (coefficient not included)."""
        self._losses[term.name] = self._losses.get(term.name, 0.0) + float(value.detach())

    def tokens(self, term: LossTerm, metrics: Mapping[str, Tensor], inputs: LossInputs, entropy: Tensor) -> None:
        """Add what a loss reports: per-token tensors over unmasked tokens, scalars per item."""
        mask = inputs.weight != 0
        count = int(mask.sum())
        self.mean("train/entropy", float(entropy[mask].sum()), count)
        for name, value in metrics.items():
            known = NAMES.get(name) if inputs.reference_logprobs.shape[0] or not name.startswith("div") else None
            key = known or f"loss/{term.name}/{name}"
            if value.ndim == 0:
                self.mean(key, float(value) * inputs.num_items, inputs.num_items)
            else:
                self.mean(key, float(value[mask].sum()), count)
            if key == "teacher/divergence" and count:
                self._divergence.append(value[mask].detach().float().cpu().numpy())
            if name == "lift" and known:
                self._locate(value.detach().float().cpu().numpy(), inputs)

    def _locate(self, lift: np.ndarray, inputs: LossInputs) -> None:
        """Add where in each sequence the teacher's log-ratio lies; apart for right (+1) and wrong (−1) rows where a term says so."""
        index, mask, labels = inputs.item_index.cpu().numpy(), (inputs.weight != 0).cpu().numpy(), inputs.label.tolist()
        for number, label in enumerate(labels):
            chosen = lift[(index == number) & mask]
            if not chosen.any():
                continue
            share = top_share(chosen)
            self.mean("teacher/localisation", share, 1)
            if label:
                side = "right" if label > 0 else "wrong"
                self.mean(f"teacher/localisation_{side}", share, 1)
                self.mean(f"teacher/lift_{side}", float(chosen.sum()), len(chosen))
            self.mean("teacher/peak_position", float(np.abs(chosen).argmax()) / max(1, len(chosen) - 1), 1)

    def gap(self, items: Sequence[LossItem], logprobs: Sequence[Tensor], updates: int) -> None:
        """Compare the trainer's log-probs with the sampler's, where both are of the same weights (``updates`` old) and temperature."""
        recorded, own = [], []
        for item, mine in zip(items, logprobs, strict=True):
            row = self._rows[item.view.row] if item.view.row < len(self._rows) else None
            if row is None or row.policy_version != updates or (row.sampling.get("temperature") or 1.0) != self._temperature:
                continue
            if item.view.provenance == "sampled" and item.view.weights == "policy" and (item.view.index_map >= 0).all():
                recorded.append(row.action_logprobs()[item.view.index_map])
                own.append(mine)
        if own:
            gap = np.abs(torch.cat(own).detach().float().cpu().numpy() - np.concatenate(recorded))
            self.mean("train/logprob_gap", float(gap.sum()), gap.size)

    def step(self, grad_norm: float, lr: float) -> None:
        """Count one optimizer step."""
        self._steps += 1
        self.mean("train/grad_norm", grad_norm, 1)
        self.mean("train/lr", lr, 1)

    def drift(self, before: Tensor, after: Tensor) -> None:
        """Record KL(before ‖ after) of an optimizer step on tokens sampled before it: mean of r − 1 − log r."""
        log_ratio = after - before
        self.mean("train/update_kl", float((torch.expm1(log_ratio) - log_ratio).sum()), len(before))

    def merge(self, world: World) -> None:
        """Take in what the other processes saw; all took the same optimizer steps."""
        if world.size == 1:
            return
        self._sums, self._counts, self._losses = (_added(world.gather(own)) for own in (self._sums, self._counts, self._losses))
        self._divergence = [values for part in world.gather(self._divergence) for values in part]

    def summary(self) -> dict[str, float]:
        """Return the means; losses are averaged over optimizer steps."""
        out = {name: self._sums[name] / count for name, count in self._counts.items() if count}
        out |= {f"loss/{name}": value / max(1, self._steps) for name, value in self._losses.items()}
        if self._divergence:
            out["teacher/divergence_p95"] = float(np.quantile(np.concatenate(self._divergence), 0.95))
        if self.teacher_rows and self._rows:
            out["teacher/usable"] = self.teacher_rows / len(self._rows)
        return {**out, "train/updates": float(self._steps)}


def _added(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Add mappings key by key."""
    return {name: sum(part.get(name, 0.0) for part in parts) for names in parts for name in names}
