"""What a term's sum is divided by, over a whole optimizer batch (algorithms-core §0.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdgym.core import LossItem, LossTerm


class Denominators:
    """The divisor of every term of one optimizer step.

    Token means divide by the number of unmasked tokens, sequence means by the number of sequences with an
    unmasked token (of all rows where the term counts empty ones), ``token_sum_norm`` by rows (the caller
    multiplies by L_max). Terms with the same ``normaliser_key`` share one divisor: the union of their tokens
    or sequences, so that rows routed to different terms are each counted once, and so is a row that two
    terms both train.

    Args:
        terms: all terms.
        entries: ``(term index, item)`` of this optimizer step.
        share: the part of the batch's rows that this step holds, for terms that state ``rows``.
    """

    def __init__(self, terms: Sequence[LossTerm], entries: Sequence[tuple[int, LossItem]], share: float = 1.0) -> None:
        self._divisor: list[float] = []
        for number, term in enumerate(terms):
            key = term.normaliser_key
            sharing = [t for t, other in enumerate(terms) if t == number or (key is not None and other.normaliser_key == key)]
            items = [(t, item) for t, item in entries if t in sharing]
            self._divisor.append(_divisor(term, items, share))

    def of(self, term: int) -> float:
        """Return the divisor of a term; 0 where nothing counts."""
        return self._divisor[term]


def _divisor(term: LossTerm, items: Sequence[tuple[int, LossItem]], share: float) -> float:
    if term.loss.scope == "token" and term.aggregation in ("token_mean_global", "token_mean_micro"):
        return float(_count_tokens(items, shared=term.normaliser_key is not None))
    if term.aggregation == "token_sum_norm" or term.count_empty:
        return float(len(_sequences(items, empty=True))) if term.rows is None else term.rows * share
    return float(len(_sequences(items, empty=False)))


def _count_tokens(items: Sequence[tuple[int, LossItem]], shared: bool) -> int:
    if not shared:
        return int(sum(np.count_nonzero(item.weight) for _, item in items))
    seen: set[tuple[int, int]] = set()
    unmapped = 0
    for _, item in items:
        places = item.view.index_map[item.weight != 0]
        seen.update((item.view.row, int(place)) for place in places if place >= 0)
        unmapped += int((places < 0).sum())
    return len(seen) + unmapped


def _sequences(items: Sequence[tuple[int, LossItem]], empty: bool) -> set[tuple[int, ...]]:
    """Return one key per sequence: within a term every item is one; across terms equal tokens of a row are."""
    keys: set[tuple[int, ...]] = set()
    single_term = len({t for t, _ in items}) == 1
    for number, (_, item) in enumerate(items):
        if empty or np.any(item.weight != 0):
            first = int(item.view.index_map[0]) if len(item.view.index_map) else -1
            keys.add((number,) if single_term or first < 0 else (-1, item.view.row, first))
    return keys
