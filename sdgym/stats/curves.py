"""Learning curves as numbers: area under the curve and the budget that a threshold takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def area_under_curve(x: Sequence[float], y: Sequence[float], limit: float | None = None) -> float:
    """Return the mean height of the piecewise linear curve (x, y) between its first x and ``limit``.

    The trapezoidal area divided by the width, so that it has the unit of y and curves over the same budget
    compare whatever the unit of x is. Curves are never extrapolated.

    Args:
        x: increasing (tokens, episodes, FLOPs), at least two.
        y: values there.
        limit: where to stop, at most the last x; default the last x.

    Raises:
        ValueError: fewer than two points, x not increasing, or a limit outside the curve.
    """
    from scipy.integrate import trapezoid

    xs, ys = _curve(x, y)
    end = float(xs[-1]) if limit is None else float(limit)
    if xs.size < 2 or not xs[0] < end <= xs[-1]:
        raise ValueError(
            f"the area needs two points and a limit in ({xs[0] if xs.size else 'nothing'}, {xs[-1] if xs.size else 'nothing'}]"
        )
    inside = xs < end
    xs, ys = np.append(xs[inside], end), np.append(ys[inside], np.interp(end, xs, ys))
    return float(trapezoid(ys, xs) / (end - xs[0]))


def budget_to_threshold(x: Sequence[float], y: Sequence[float], threshold: float) -> float:
    """Return the smallest x at which the piecewise linear curve reaches ``threshold``; infinity if it never does.

    Infinity means "not within the budget" (censored): summarise several runs by their median and the number
    that got there, never by a mean.

    Raises:
        ValueError: no points, or x not increasing.
    """
    xs, ys = _curve(x, y)
    if not xs.size:
        raise ValueError("a curve needs at least one point")
    reached = np.flatnonzero(ys >= threshold)
    if not reached.size:
        return math.inf
    i = int(reached[0])
    if i == 0:
        return float(xs[0])
    return float(xs[i - 1] + (threshold - ys[i - 1]) / (ys[i] - ys[i - 1]) * (xs[i] - xs[i - 1]))


def _curve(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if xs.shape != ys.shape or xs.ndim != 1 or (np.diff(xs) <= 0).any() or np.isnan(ys).any():
        raise ValueError("a curve needs as many y as x, x strictly increasing, and no NaN")
    return xs, ys
