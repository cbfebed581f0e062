"""Sharpening: the reward-free control arm. How much of a learning curve is mere confidence?

No paper; ARCHITECTURE §6. An RL curve that this arm reaches too shows a policy becoming more like its own mode,
not one that learnt from rewards (compare the start's greedy success).
    L = mean_t KL( sg π_τ ‖ π_θ ),   π_τ(v) ∝ π_θ(v)^{1/τ},   τ = 0.5,   y ~ π_θ
Status: own construction. Choices: 1. Forward KL to a detached target: its logit gradient π_θ − π_τ is bounded and
vanishes only where the policy is uniform or one-hot. 2. The target is that of the *current* weights, so the arm
can go all the way to greedy: the stronger control (a frozen target would stop at temperature 0.5).
3. Same rollouts and token mean as the others; rewards are never read, groups play no part.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Phase
from sdgym.algos.losses import SharpenLoss
from sdgym.algos.settings import UpdateSettings
from sdgym.algos.terms import build_items, make_term, usable_rows
from sdgym.core import LossTerm


class SharpenConfig(UpdateSettings):
    """Settings.

    Attributes:
        temperature: τ of the target, relative to the loss temperature.
    """

    temperature: float = Field(default=0.5, gt=0.0, lt=1.0)


class Sharpen(Algorithm):
    """Self-distillation towards the policy's own colder self: no reward, no feedback, no reference."""

    name = "sharpen"
    Config = SharpenConfig
    supervision = "none"
    config: SharpenConfig

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase, under the configured schedule."""
        return (self.config.phase(self.annotate),)

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the sharpening term on every finished row."""
        items = build_items(batch, context, usable_rows(batch), ratios=False)
        return make_term("sharpen", SharpenLoss(self.config.temperature), items, batch, self.config)
