"""Axis S: a teacher's evidence Δ about sampled tokens scales an advantage, or is one. NumPy, float64.

Both forms need one float per token and context, so they are computed once per batch, before its first optimizer step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sdgym.algos.losses.base import MAX_LOG_RATIO

Direction = Literal["both", "up", "down"]


def modulate(advantage: np.ndarray, delta: np.ndarray, strength: float, clip: float) -> np.ndarray:
    """Return Â = A·[(1−λ) + λ·clip(e^{sign(A)·Δ}, 1−ε, 1+ε)]: ``[S]`` (RLSD, arXiv 2604.03128, Alg. 1).

    Whoever won is credited most where the teacher believes in the token more than the student does, whoever lost is blamed most
    where it believes in it less. 1−λε ≤ Â/A ≤ 1+λε: the sign never changes, and a zero stays zero.

    Args:
        advantage: A, after group normalisation.
        delta: Δ. strength: λ. clip: ε.
    """
    return np.asarray(advantage * ((1 - strength) + strength * _odds(advantage, delta).clip(1 - clip, 1 + clip)))


def clipped(advantage: np.ndarray, delta: np.ndarray, clip: float) -> np.ndarray:
    """Return bool ``[S]``: where :func:`modulate` reaches its bound (3–6 % of tokens in RLSD's runs); never where A is 0."""
    return np.asarray((np.abs(_odds(advantage, delta) - 1) >= clip) & (advantage != 0))


def _odds(advantage: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(np.clip(np.sign(advantage) * delta, -MAX_LOG_RATIO, MAX_LOG_RATIO)))


def centred(delta: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return Δ minus its mean over the counted tokens of the sequence: ``[S]`` (user interactions, online form).

    It sums to 0 over the response, so whether the response as a whole was liked is thrown away.
    """
    return delta - (delta[counted].mean() if counted.any() else 0.0)


def margin_shifts(
    means: Sequence[float], right: Sequence[bool], groups: Sequence[Sequence[int]], margin: float, direction: Direction = "both"
) -> np.ndarray:
    """Return what to add to Δ of every token of each sequence, so that successes are believed in more: ``[R]`` (Uni-OPD).

    In a group whose mean Δ over successes exceeds that over failures by less than ``margin`` δ, the missing part is added to the
    successes (``up``), taken from the failures (``down``), or half and half (``both``); other groups, and those without one of
    the two, are left alone.

    Args:
        means: Δ̄ of each sequence.
        right: whether each is a success.
        groups: indices into the two, per task.
    """
    values, success, out = np.asarray(means, np.float64), np.asarray(right, bool), np.zeros(len(means))
    for group in groups:
        members = np.asarray(group, np.int64)
        good, bad = members[success[members]], members[~success[members]]
        if not len(good) or not len(bad):
            continue
        missing = margin - float(values[good].mean() - values[bad].mean())
        if missing > 0:
            up, down = {"both": (0.5, 0.5), "up": (1.0, 0.0), "down": (0.0, 1.0)}[direction]
            out[good] += up * missing
            out[bad] -= down * missing
    return out
