"""Axis G: what M teacher contexts say about the student's tokens becomes one opinion. NumPy, float64.

``logq [M, S]`` are the log-probs that M contexts give to the sampled tokens, ``logp [S]`` the student's own.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Mixture = Literal["single", "sum", "geometric", "arithmetic", "gated", "contrast"]
GATE_EPSILON = 1e-8  # in both of AVSD's ratios (multiview_distill.py)


def geometric(logq: np.ndarray) -> np.ndarray:
    """Return the mean of the log-probs: the product of experts without its normaliser, which is a baseline: ``[S]``."""
    return np.asarray(logq.mean(0))


def arithmetic(logq: np.ndarray) -> np.ndarray:
    """Return the log of the mean probability: ``[S]``."""
    return np.asarray(np.logaddexp.reduce(logq, axis=0) - np.log(len(logq)))


def gate(logq: np.ndarray, logp: np.ndarray) -> np.ndarray:
    """Return AVSD's gate C·R in [0, 1]: ``[S]`` (arXiv 2605.20643; multiview_distill.py).

    A^m = log q^m − log p, A_G = mean A^m, J = log q_A − log q_G ≥ 0;
    C = |A_G| / mean|A^m| (do the views agree on the sign), R = |A_G| / (|A_G| + J) (is the consensus larger than the dispute).
    """
    each = logq - logp
    consensus = np.abs(each.mean(0))
    dispute = np.maximum(0.0, arithmetic(logq) - geometric(logq))
    return np.asarray(consensus / (np.abs(each).mean(0) + GATE_EPSILON) * consensus / (consensus + dispute + GATE_EPSILON))


def gated(logq: np.ndarray, logp: np.ndarray) -> np.ndarray:
    """Return AVSD's log q* = log q_G + gate·J, between the two means and never across the sign of log q_G − log p: ``[S]``."""
    low = geometric(logq)
    return np.asarray(low + gate(logq, logp) * np.maximum(0.0, arithmetic(logq) - low))


def evidence(logq: np.ndarray, logp: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Return Δ ``[S]``: how much more the teacher believes in each token than the student does.

    ``contrast``: log q⁺ − log q⁻ of two contexts; the student does not appear in it (CEPO). Everything else is
    log q̄ − log p with the mean that ``mixture`` names.
    """
    if mixture == "contrast":
        return np.asarray(logq[0] - logq[1])
    if mixture == "gated":
        return np.asarray(gated(logq, logp) - logp)
    if mixture == "arithmetic":
        return np.asarray(arithmetic(logq) - logp)
    return np.asarray((logq[0] if mixture == "single" else geometric(logq)) - logp)
