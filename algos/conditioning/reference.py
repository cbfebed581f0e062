"""The teacher reads the task's reference solution (OPSD, SDFT)."""

from __future__ import annotations

from collections.abc import Sequence

from sdgym.algos.base import Batch
from sdgym.algos.conditioning.base import Conditioner, Told


class Reference(Conditioner):
    """``privileged["reference_solution"]``; the same text for every row of a group."""

    kind = "reference"
    needs = "reference"

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the reference solution, or None for a task without one."""
        text = batch.rows[index].task.privileged.get("reference_solution", "")
        return Told((("reference", text),), "reference") if text.strip() else None
