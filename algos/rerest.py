"""Re-ReST: rejection fine-tuning whose failures are tried again by a reflector that has read what the world said about them.

Paper: arXiv 2406.01495; repository PlusLabNLP/Re-ReST @ ea773e3.
    D = {y ~ π(·|x) : right} ∪ {y' ~ reflector(·|x, y, feedback) : right, where y was not},   L = −mean log π(y|x) over D
Status: code-read for the data policy. Deviations: 1. The reflector is the policy itself; the source trains one on
(failure, feedback, success) triples. 2. One update per batch; the source collects, then trains from the start model. 3. A failure about
which nothing was said is not tried again. 4. The rest is RFT's (duplicates, at most ``max_per_task``, truncated answers dropped).
STaR differs in one thing: what the second attempt reads (the reference there, one's own failure and feedback here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.algos.base import Batch
from sdgym.algos.conditioning import Conditioner, Told
from sdgym.algos.conditioning.frames import attempt_text, feedback_text
from sdgym.algos.conditioning.verdict import gives_feedback
from sdgym.algos.star import Star, StarConfig
from sdgym.errors import ConfigError


class Reflection(Conditioner):
    """One's own failed attempt and what the world said about it; successes, and failures without words, have nothing to read."""

    kind = "reflection"
    needs = "feedback"

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return attempt and feedback of row ``index``, or None."""
        row = batch.rows[index]
        text = "" if row.success else feedback_text(row.feedback)
        return Told((("contrast", attempt_text(row.actions)), ("feedback", text)), f"row {index}") if text else None


class ReReST(Star):
    """Imitate verified answers, a part of them found by reflecting on a failure."""

    name = "rerest"
    Config = StarConfig
    supervision = "feedback"

    def __init__(self, config: StarConfig) -> None:
        super().__init__(config)
        self.conditioners = (Reflection(**config.conditioner_arguments()),)

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a world without words."""
        if not gives_feedback(env):
            raise ConfigError(f"rerest reflects on feedback, and {env.env_id} gives none on a wrong answer: use rft (reward)")
