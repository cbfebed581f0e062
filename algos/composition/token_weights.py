"""Axis u: how much each token's distillation counts, and how the weights are normalised. NumPy, float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Normalise = Literal["none", "batch", "sequence"]
AGREEMENT_CAP, AGREEMENT_QUANTILE = 10.0, 0.95  # unisd_trainer.py: min(d / q95, 10)
NO_SPREAD = 1e-12  # a variance below this is rounding: float32 log-probs are exact to about 1e-7


def by_teacher_entropy(entropy: np.ndarray, beta: float) -> np.ndarray:
    """Return e^{−βH} of the teacher's entropy H in nats over the whole vocabulary: ``[S]`` (SRPO, arXiv 2604.02288 §3).

    Two tokens weigh e^{−β(H₁−H₂)} to each other, whatever the normaliser.
    """
    return np.asarray(np.exp(-beta * entropy))


def by_position(places: np.ndarray, length: int, minimum: float, centre: float, width: float) -> np.ndarray:
    """Return w_min + (1−w_min)·σ((f−τ)/s) with f = (t−½)/T: ``[S]`` (PW-OPSD, arXiv 2605.21606).

    Args:
        places: index of each token among the T sampled ones, from 0.
        length: T.
        minimum, centre, width: w_min, τ, s.
    """
    f = (np.asarray(places, np.float64) + 0.5) / length
    return np.asarray(minimum + (1 - minimum) / (1 + np.exp(-(f - centre) / width)))


def by_entropy_gap(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Return σ(H_S − H_T): tokens where the student is less sure than the teacher count more: ``[S]`` (TSD-KD, arXiv 2603.13260)."""
    return np.asarray(1 / (1 + np.exp(teacher - student)))


def by_agreement(logq: Sequence[np.ndarray], gamma: float, minimum: float) -> list[np.ndarray]:
    """Return max(w_min, 1/(1 + γ·min(d/q95, 10))) per sequence, d the variance of log q over the contexts (UniSD, arXiv 2605.06597).

    q95 is the 95th percentile of d over all tokens of the batch; where it is 0, up to rounding, all contexts agree and every weight is 1.

    Args:
        logq: per sequence ``[k, S]``: what k contexts give to its tokens.
        gamma, minimum: γ, w_min.
    """
    spread = [values.var(0) for values in logq]
    scale = float(np.quantile(np.concatenate(spread), AGREEMENT_QUANTILE)) if spread else 0.0
    return [
        np.maximum(minimum, 1 / (1 + gamma * np.minimum(d / scale if scale > NO_SPREAD else np.zeros_like(d), AGREEMENT_CAP)))
        for d in spread
    ]


def in_window(places: np.ndarray, first: int, last: int | None) -> np.ndarray:
    """Return 1 for sampled tokens ``first ≤ t < last`` (from 0; no upper end if None), else 0: ``[S]``."""
    return ((places >= first) & (places < (np.inf if last is None else last))).astype(np.float64)


def normalised(weights: Sequence[np.ndarray], counted: Sequence[np.ndarray], how: Normalise) -> list[np.ndarray]:
    """Return weights whose mean over counted tokens is 1: over the ``batch`` (SRPO), over each ``sequence`` (UniSD), or as they are.

    With mean one over the batch a token mean is Σwℓ/Σw. Weights of samples must be multiplied in *afterwards*: a constant per
    sequence cancels in a mean over the sequence.
    """
    if how == "none":
        return list(weights)
    if how == "sequence":
        return [w / max(_mean(w[c]), np.finfo(np.float64).tiny) for w, c in zip(weights, counted, strict=True)]
    pooled = [w[c] for w, c in zip(weights, counted, strict=True)]
    mean = _mean(np.concatenate(pooled)) if pooled else 1.0
    return [w / max(mean, np.finfo(np.float64).tiny) for w in weights]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 1.0
