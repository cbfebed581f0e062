"""Coefficients that change with the rollout step: pure functions of the step, so that a resumed run needs no state."""

from __future__ import annotations


def hold_then_fall(step: int, start: float, hold: int, fall: int) -> float:
    """Return ``start`` for ``hold`` steps, then a straight line that reaches 0 after ``fall`` more (TRACE: .5, 10, 30).

    Steps count from 0: the first falling value, at step ``hold``, is still ``start``. ``fall=0`` drops at once.
    """
    if step < hold:
        return start
    return start * max(0.0, 1.0 - (step - hold) / fall) if fall else 0.0


def linear(step: int, start: float, end: float, steps: int) -> float:
    """Return the straight line from ``start`` at step 0 to ``end`` at step ``steps``, and ``end`` from there on."""
    return end if step >= steps else start + (end - start) * step / steps
