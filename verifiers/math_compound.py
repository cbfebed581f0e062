"""Judge tuples, sets, intervals and matrices element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sdgym.core import Verdict
from sdgym.verifiers.math_feedback import wrong_parts
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_quick import Job, conclude, gold_unparsable, left_undone, same, settled, too_large, unparsable, wrong
from sdgym.verifiers.math_structure import Span, as_matrix, as_set, as_spans, as_tuple

MAX_PAIRS = 64
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")

Pair = tuple[str, str]
Table = dict[Pair, bool]


def _decide(gold: Gold, pairs: Sequence[Pair], target: str, text: str, attempt: str, finish: Callable[[Table], Verdict]) -> Verdict | Job:
    """Compare ``pairs`` here where that is exact; leave the rest to a job; then ``finish`` with all answers."""
    known: Table = {}
    open_pairs: list[Pair] = []
    for pair in dict.fromkeys(pairs):
        equal = same(*pair)
        if equal is None:
            open_pairs.append(pair)
        else:
            known[pair] = equal
    if not open_pairs:
        return finish(known)
    if left_undone(text, target):
        return wrong(f"{attempt} is not worked out.")
    if too_large(text) or len(open_pairs) > MAX_PAIRS:
        return unparsable(f"{attempt} is too large to evaluate.")

    def complete(words: Sequence[str]) -> Verdict:
        bad = settled(gold, [word for word in words if word in ("gold", "answer", "too_hard")], attempt)
        equalities = known | {pair: word == "equal" for pair, word in zip(open_pairs, words, strict=True)}
        return bad or finish(equalities)

    return Job(tuple(open_pairs), complete)


def entries(gold: Gold, target: str, text: str, attempt: str) -> Verdict | Job:
    """Judge ``tuple``: order and number of entries matter."""
    right, tried = as_tuple(target), as_tuple(text)
    if right is None:
        return gold_unparsable(gold)
    if tried is None:
        return unparsable(f"{attempt} is not a tuple.")
    if len(right) != len(tried):
        return wrong(wrong_parts(["number of entries"], attempt))
    pairs = list(zip(right, tried, strict=True))

    def finish(table: Table) -> Verdict:
        parts = [f"{_ORDINALS[i] if i < len(_ORDINALS) else 'later'} entry" for i, pair in enumerate(pairs) if not table[pair]]
        return conclude(not parts, parts, attempt)

    return _decide(gold, pairs, target, text, attempt, finish)


def elements(gold: Gold, target: str, text: str, attempt: str) -> Verdict | Job:
    """Judge ``set``: every element must be one of the right ones, and none may be missing."""
    right, tried = as_set(target), as_set(text)
    if right is None:
        return gold_unparsable(gold)
    if tried is None:
        return unparsable(f"{attempt} is not a set.")

    def finish(table: Table) -> Verdict:
        good = [answer for answer in tried if any(table[gold_element, answer] for gold_element in right)]
        missing = any(not any(table[gold_element, answer] for answer in tried) for gold_element in right)
        if len(good) == len(tried) and not missing:
            return conclude(True, [], attempt)
        lack = " and something is missing" if missing and len(right) > len(good) else ""
        return wrong(f"{attempt} is wrong: {len(good)} of its {len(tried)} elements belong to the answer{lack}.")

    return _decide(gold, [(g, a) for g in right for a in tried], target, text, attempt, finish)


def spans(gold: Gold, target: str, text: str, attempt: str) -> Verdict | Job:
    """Judge ``interval``: endpoints and brackets, unions in any order; inequalities in one variable are read too."""
    right, tried = as_spans(target), as_spans(text)
    if right is None:
        return gold_unparsable(gold)
    if tried is None:
        return unparsable(f"{attempt} is not an interval.")
    pairs = [pair for g in right for a in tried for pair in ((g.low, a.low), (g.high, a.high))]

    def equal(g: Span, a: Span, table: Table) -> bool:
        ends = table[g.low, a.low] and table[g.high, a.high]
        return ends and g.open_low == a.open_low and g.open_high == a.open_high

    def finish(table: Table) -> Verdict:
        if len(right) == len(tried) == 1:
            g, a = right[0], tried[0]
            parts = [] if table[g.low, a.low] else ["left endpoint"]
            parts += [] if g.open_low == a.open_low else ["left bracket"]
            parts += [] if table[g.high, a.high] else ["right endpoint"]
            parts += [] if g.open_high == a.open_high else ["right bracket"]
            return conclude(not parts, parts, attempt)
        good = sum(any(equal(g, a, table) for g in right) for a in tried)
        if good == len(tried) == len(right) and all(any(equal(g, a, table) for a in tried) for g in right):
            return conclude(True, [], attempt)
        return wrong(f"{attempt} is wrong: {good} of its {len(tried)} pieces are right.")

    return _decide(gold, pairs, target, text, attempt, finish)


def matrix(gold: Gold, target: str, text: str, attempt: str) -> Verdict | Job:
    """Judge ``matrix``: shape, then entry by entry."""
    right, tried = as_matrix(target), as_matrix(text)
    if right is None:
        return gold_unparsable(gold)
    if tried is None:
        return unparsable(f"{attempt} is not a matrix.")
    if (len(right), len(right[0])) != (len(tried), len(tried[0])):
        return wrong(wrong_parts(["shape"], attempt))
    cells = [(i, j) for i in range(len(right)) for j in range(len(right[0]))]

    def finish(table: Table) -> Verdict:
        parts = [f"entry in row {i + 1}, column {j + 1}" for i, j in cells if not table[right[i][j], tried[i][j]]]
        return conclude(not parts, parts[:4], attempt)

    return _decide(gold, [(right[i][j], tried[i][j]) for i, j in cells], target, text, attempt, finish)
