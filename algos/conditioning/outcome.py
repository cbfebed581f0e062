"""The teacher reads one bit: whether this row's attempt succeeded."""

from __future__ import annotations

from collections.abc import Sequence

from sdgym.algos.base import Batch
from sdgym.algos.conditioning.base import Conditioner, Told, outcome_word


class OutcomeOnly(Conditioner):
    """Correct or wrong, nothing else: the least a verifier can say, and every conditioner's control P3."""

    kind = "outcome"

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told:
        """Return the outcome bit of row ``index``."""
        return Told((("outcome", outcome_word(batch.rows[index])),), f"row {index}")
