"""The teacher reads the first steps of the reference, and always the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sdgym.algos.base import Batch
from sdgym.algos.conditioning.base import Conditioner, Told
from sdgym.algos.spans import sentences


class PartialReference(Conditioner):
    """The first ⌊αm⌋ of the m steps of ``privileged["reference_solution"]``, then the answer.

    Attributes:
        exposure: α; 1 is the whole reference (:class:`sdgym.algos.conditioning.Reference`), 0 the answer alone.
    """

    kind = "partial"
    needs = "reference"

    def __init__(self, exposure: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.exposure = exposure

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the part of the reference that α shows, or None for a task without one."""
        privileged = batch.rows[index].task.privileged
        text = shown(privileged.get("reference_solution", ""), privileged.get("answer", ""), self.exposure)
        return Told((("reference", text),), f"reference at {self.exposure:.2f}") if text.strip() else None


def shown(solution: str, answer: str, exposure: float) -> str:
    """Return the first ⌊exposure·m⌋ clauses of ``solution`` followed by ``answer``; the whole solution from exposure 1 on."""
    parts = [solution[a:b] for a, b in sentences(solution)]
    count = math.floor(exposure * len(parts))
    if count >= len(parts):
        return solution
    return " ".join(filter(None, ["".join(parts[:count]).strip(), answer and f"The answer is {answer}."]))
