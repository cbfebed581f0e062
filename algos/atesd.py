"""ATESD: OPSD whose teacher is shown a learnt share of the reference; a controller picks the share by the student's later progress.

Paper: arXiv 2605.11458 (abstract; body through notes).
    inner: 1/|y| Σ_t KL(π_T(·|x, first ⌊αm⌋ steps of y*, answer) ‖ π_θ(·|x)),   α ~ Beta(1 + softplus(f_φ(s))), held for H steps
    outer: R = Σ_{i≤L} γ^{i−1}·max(0, ℓ_{i−1} − ℓ_i) + λ_gt·(mean log π_T(y*)),   ℓ = a probe's mean −log π_θ(y*)
           REINFORCE on the standardised R, minus c·max(0, H(Beta) − H_target)²
α = 1 is OPSD, α = 0 an answer-only teacher. In the notes' ablation a fixed α = .5 is as good as three of the four learnt variants.
Status: reconstruction. Unknown: H, L, γ, λ_gt, c, the state, φ's shape and rate.
Deviations: 1. f_φ is linear in six numbers of our choice: 1, the last α, ℓ / ℓ_0, its last change, the batch's success, the step's share of
the horizon. 2. The probe is the references of the first step's tasks, scored every step (charged). 3. Updates of φ are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.exposure import BetaController, PartialReference
from sdgym.algos.opsd import OPSD, OPSDConfig
from sdgym.algos.privileged import told_prompts
from sdgym.algos.sft_reference import reference_view
from sdgym.core import LossTerm, ScoringView, Task


class ATESDConfig(OPSDConfig):
    """OPSD's settings and the controller's (see :class:`sdgym.algos.exposure.BetaController`).

    Attributes:
        exposure: α of ``fixed``, and before the first choice. choose: whether α is fixed, learnt, or uniform at random.
        every: H, rollout steps between choices. probe: most tasks in the probe.
    """

    exposure: float = Field(default=0.5, ge=0.0, le=1.0)
    choose: Literal["learnt", "fixed", "random"] = "learnt"
    every: PositiveInt = 4
    probe: PositiveInt = 16
    rate: PositiveFloat = 0.05
    horizon: PositiveInt = 4
    discount: float = Field(default=0.9, ge=0.0, le=1.0)
    solution_weight: NonNegativeFloat = 0.1
    entropy_limit: float = 0.0
    entropy_weight: NonNegativeFloat = 0.1


class ATESD(OPSD):
    """On-policy self-distillation with a controlled exposure of the teacher."""

    name = "atesd"
    Config = ATESDConfig
    config: ATESDConfig

    def __init__(self, config: ATESDConfig) -> None:
        super().__init__(config)
        c = config
        self.partial = PartialReference(c.exposure, **c.conditioner_arguments())
        self.conditioners = (self.partial,)
        self.controller = BetaController(c.rate, c.horizon, c.discount, c.solution_weight, c.entropy_limit, c.entropy_weight)
        self.probe: list[ScoringView] = []
        self.losses: list[float] = []  # the probe's first and its last

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Settle α for this step, then return OPSD's term."""
        tasks = [batch.rows[group[0]].task for group in batch.groups]
        if self.config.choose == "learnt":
            self._learn(batch, tasks, context)
        elif self.config.choose == "random" and context.step % self.config.every == 0:
            self.partial.exposure = float(context.rng.random())
        context.report("exposure", self.partial.exposure)
        return super().annotate(batch, context)

    def _learn(self, batch: Batch, tasks: list[Task], context: AnnotateContext) -> None:
        self.probe = self.probe or [v for i, t in enumerate(tasks[: self.config.probe]) if (v := reference_view(i, t, context.chat))]
        loss = -_mean_logprob(self.probe, context)
        first, last = self.losses or (loss, loss)
        self.losses = [first, loss]
        context.report("probe", loss)
        self.controller.observe(loss)
        if context.step % self.config.every:
            return
        success = float(np.mean([row.success for row in batch.rows]))
        state = [1.0, self.partial.exposure, loss / first if first else 1.0, last - loss, success, min(1.0, context.step / 100)]
        self.partial.exposure = self.controller.act(state, loss, context.rng)
        told = told_prompts(tasks, self.partial, context)
        references = [(reference_view(i, task, context.chat), prompt) for i, (task, prompt) in enumerate(zip(tasks, told, strict=True))]
        taught = [
            dataclasses.replace(v, prefix_ids=p, weights="teacher", grad=False) for v, p in references if v is not None and p is not None
        ]
        self.controller.value_solution(_mean_logprob(taught, context))

    def state_dict(self) -> dict[str, Any]:
        """Return controller, probe and the exposure in force."""
        probe = [dataclasses.asdict(view) for view in self.probe]
        return {"controller": self.controller.state_dict(), "probe": probe, "losses": list(self.losses), "exposure": self.partial.exposure}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        self.controller.load_state_dict(state["controller"])
        self.probe = [ScoringView(**{**view, "insertions": ()}) for view in state["probe"]]
        self.losses, self.partial.exposure = [float(x) for x in state["losses"]], float(state["exposure"])


def _mean_logprob(views: list[ScoringView], context: AnnotateContext) -> float:
    found = [s.logprobs for s in context.score(views)]
    return float(np.concatenate(found).mean()) if found else 0.0
