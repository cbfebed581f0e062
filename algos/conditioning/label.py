"""The teacher reads what kind of part the attempt contains, not where it lies and not what would be right (TRACE)."""

from __future__ import annotations

from collections.abc import Sequence

from sdgym.algos.base import Batch
from sdgym.algos.conditioning.base import Conditioner, Told


class SpanLabel(Conditioner):
    """One coarse label: a success contains key reasoning, a failure erroneous reasoning."""

    kind = "label"

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told:
        """Return the label of row ``index``."""
        return Told((("label", "key" if batch.rows[index].success else "erroneous"),), f"row {index}")
