"""From rows and teacher views to weighted loss items: the axes applied in their order.

A weight that may be 0 without its token leaving the mean (u, ω) is the item's ``advantage``; a token that is not to be looked at
at all (skipped, dropped) has ``weight`` 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.composition import token_weights as u
from sdgym.algos.composition.credit import centred, clipped, margin_shifts, modulate
from sdgym.algos.composition.sample_weights import balanced, pass_kernel, pass_rates, told_by_sibling
from sdgym.algos.composition.settings import CompositionConfig, EvidenceSettings, SampleWeightSettings, TokenWeightSettings
from sdgym.algos.composition.views import Mixture, evidence
from sdgym.algos.conditioning import Conditioner
from sdgym.algos.conditioning.answers import Example
from sdgym.algos.terms import Views
from sdgym.core import LossItem, LossTerm, ScoringView


def attached(item: LossItem, views: Sequence[Views]) -> LossItem:
    """Return the item with the M views of its own segment as references."""
    own = [next(v for v in column[item.view.row] or () if np.array_equal(v.index_map, item.view.index_map)) for column in views]
    return dataclasses.replace(item, references=tuple(own))


def asked(items: Sequence[LossItem], context: AnnotateContext, mixture: Mixture) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return per item what its references, ``[M, S]``, and its references' mixture against the student, Δ ``[S]``, say.

    The student is scored only where it is not known yet, and not at all for a contrast.
    """
    unknown = mixture != "contrast"
    wanted: list[ScoringView] = []
    for item in items:
        wanted += [*item.references, *([dataclasses.replace(item.view, grad=False)] if unknown and item.old_logprobs is None else [])]
    scored, out = iter(context.score(wanted)), []
    for item in items:
        logq = np.stack([next(scored).logprobs for _ in item.references])
        logp = np.zeros(logq.shape[1])
        if unknown:
            logp = next(scored).logprobs if item.old_logprobs is None else item.old_logprobs
        out.append((logq, evidence(logq.astype(np.float64), logp.astype(np.float64), mixture)))
    return out


def modulated(
    term: LossTerm, views: Sequence[Views], rows: Sequence[int], context: AnnotateContext, config: CompositionConfig, strength: float
) -> list[LossTerm]:
    """Return GRPO's term with the advantages of ``rows`` scaled token by token; all other rows are as they were.

    Rows with and without teachers are two terms under one denominator, because items of a term agree in their references.
    """
    told, bound = set(rows), []
    chosen = [attached(item, views) for item in term.items if item.view.row in told]
    for k, (logq, delta) in enumerate(asked(chosen, context, config.mixture)):
        plain = np.asarray(chosen[k].advantage, np.float64)
        scaled = modulate(plain, delta, strength, config.evidence.clip).astype(np.float32)
        chosen[k] = dataclasses.replace(chosen[k], advantage=scaled, reference_logprobs=logq)
        bound.append(clipped(plain, delta, config.evidence.clip))
    if bound:
        context.report("credit_clipped", float(np.concatenate(bound).mean()))
    rest = [item for item in term.items if item.view.row not in told]
    return [dataclasses.replace(term, items=items, normaliser_key=term.name) for items in (rest, chosen) if items]


def as_advantages(items: Sequence[LossItem], batch: Batch, context: AnnotateContext, config: CompositionConfig) -> list[LossItem]:
    """Return items whose advantage is the shaped evidence Δ; u and ω come later."""
    e, out = config.evidence, []
    found = asked(items, context, config.mixture)
    kept = [(item.weight != 0) & ((np.abs(d) < e.drop_above) if e.drop_above else True) for item, (_, d) in zip(items, found, strict=True)]
    deltas = [centred(d, k) if e.centre else d for (_, d), k in zip(found, kept, strict=True)]
    shifts, stay = _by_group(items, batch, deltas, kept, e)
    for i, item in enumerate(items):
        weight = np.where(kept[i] & stay[i], item.weight, 0).astype(np.float32)
        advantage = (deltas[i] + shifts[i]).astype(np.float32)
        out.append(dataclasses.replace(item, weight=weight, advantage=advantage, reference_logprobs=found[i][0]))
    return out


def _by_group(
    items: Sequence[LossItem], batch: Batch, deltas: Sequence[np.ndarray], kept: Sequence[np.ndarray], e: EvidenceSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Return the margin's shift ``[R]`` and which items the balance keeps ``[R]``; an item is a sequence."""
    right = [batch.rows[item.view.row].success for item in items]
    groups = [[k for k, item in enumerate(items) if item.view.row in set(members)] for members in batch.groups]
    stay = balanced(right, groups, e.balance) if e.balance else np.ones(len(items), bool)
    if e.margin is None:
        return np.zeros(len(items)), stay
    means = [float(d[k].mean()) if k.any() else 0.0 for d, k in zip(deltas, kept, strict=True)]
    present = [[k for k in members if stay[k]] for members in groups]
    return margin_shifts(means, right, present, e.margin, e.direction), stay


def weighted(items: Sequence[LossItem], batch: Batch, context: AnnotateContext, config: CompositionConfig) -> list[LossItem]:
    """Return the items with u·ω multiplied into their advantage (1 where they have none) and tokens off the window masked."""
    out = []
    first, last = config.skip_first, config.last_token
    windows = [u.in_window(item.view.index_map, first, last) * item.weight for item in items]
    tokens = u.normalised(_token_weights(items, batch, context, config), [w != 0 for w in windows], config.token_weight.normalise)
    rows = _sample_weights(items, batch, config.sample_weight)
    if config.sample_weight != SampleWeightSettings():
        context.report("sample_weight", float(rows.sum()))
    for item, window, token, row in zip(items, windows, tokens, rows, strict=True):
        start = np.ones(len(window)) if item.advantage is None else item.advantage
        out.append(dataclasses.replace(item, weight=window.astype(np.float32), advantage=(start * token * row).astype(np.float32)))
    return out


def _token_weights(items: Sequence[LossItem], batch: Batch, context: AnnotateContext, config: CompositionConfig) -> list[np.ndarray]:
    c: TokenWeightSettings = config.token_weight
    if c.kind == "position":
        return [u.by_position(item.view.index_map, batch.rows[item.view.row].action_length, c.minimum, c.centre, c.width) for item in items]
    if c.kind in ("teacher_entropy", "entropy_gap"):
        teacher = [scores.entropy.astype(np.float64) for scores in context.score([item.references[0] for item in items])]
        if c.kind == "teacher_entropy":
            return [u.by_teacher_entropy(entropy, c.beta) for entropy in teacher]
        student = context.score([dataclasses.replace(item.view, grad=False) for item in items])
        return [u.by_entropy_gap(own.entropy, other) for own, other in zip(student, teacher, strict=True)]
    ones = [np.ones(len(item.weight)) for item in items]
    return _agreement(items, batch, context, config, ones) if c.kind == "agreement" else ones


def _agreement(
    items: Sequence[LossItem], batch: Batch, context: AnnotateContext, config: CompositionConfig, ones: list[np.ndarray]
) -> list[np.ndarray]:
    """Score every row under ``contexts`` further few-shot contexts; rows without them (a batch of one task) keep weight 1."""
    c = config.token_weight
    few: list[Conditioner] = [Example(shift, **config.conditioner_arguments()) for shift in range(1, c.contexts + 1)]
    views = [conditioner.views(batch, context) for conditioner in few]
    known = [k for k, item in enumerate(items) if all(column[item.view.row] is not None for column in views)]
    references = [attached(items[k], views).references for k in known]
    scored = iter(context.score([view for own in references for view in own]))
    logq = [np.stack([next(scored).logprobs for _ in own]).astype(np.float64) for own in references]
    for k, weight in zip(known, u.by_agreement(logq, c.gamma, c.minimum), strict=True):
        ones[k] = weight
    return ones


def _sample_weights(items: Sequence[LossItem], batch: Batch, c: SampleWeightSettings) -> np.ndarray:
    rates = pass_rates(batch)
    out = pass_kernel(np.array([rates[item.view.row] for item in items]), c.alpha, c.beta)
    if c.siblings_only:
        told = np.array([told_by_sibling([v.source for v in item.references], item.view.row) for item in items], bool)
        out = np.where(told, out, 1.0)
    return np.asarray(out)


def one_term_per_view(term: LossTerm, batch: Batch, by_failure: bool) -> list[LossTerm]:
    """Return M terms under one denominator, one divergence each: Σ_m w_m·D_m / max(Σ_m w_m, 1) (SELFCI, arXiv 2605.20258).

    w_m is 1, or with ``by_failure`` 1 − reward, clipped to [0, 1].
    """
    terms = []
    for m in range(len(term.items[0].references)):
        items = []
        for item in term.items:
            count, reward = len(item.references), batch.rows[item.view.row].reward or 0.0
            w = min(max(1.0 - reward, 0.0), 1.0) if by_failure else 1.0
            share = np.float32(w / max(count * w, 1.0))
            items.append(dataclasses.replace(item, references=(item.references[m],), advantage=np.asarray(item.advantage) * share))
        terms.append(dataclasses.replace(term, name=f"{term.name}-{m + 1}", items=items, normaliser_key=term.name))
    return terms


def one_denominator(policy: Sequence[LossTerm], distil: Sequence[LossTerm]) -> list[LossTerm]:
    """Return GRPO on the rows that are not distilled, the distillation on those that are, and Σmask of both below (SRPO)."""
    taken = {item.view.row for term in distil for item in term.items}
    left = [dataclasses.replace(term, items=[item for item in term.items if item.view.row not in taken]) for term in policy]
    return [dataclasses.replace(term, normaliser_key="all rows") for term in (*left, *distil) if term.items]
