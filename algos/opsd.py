"""OPSD: on-policy self-distillation from a teacher that has read the reference solution.

Paper: arXiv 2601.18734, v1 Eq. 6–8 (v3 changes divergence and recipe).
    L = E_{(x,y*)} E_{y~π_θ(·|x)} [ 1/|y| Σ_t D( π_T(·|x,y*,y_<t) ‖ π_θ(·|x,y_<t) ) ]
v1: D = Jensen–Shannon, α = 0.5. v3: forward KL, each vocabulary entry capped at τ = 0.05 before the sum.
Teacher: the initial weights, frozen; the full vocabulary; no gradient through teacher or sampling; no reward.
Status: v1 code-read (repository @ 590ec26 and paper); v3 recipe read in a derivative (PW-OPSD @ 35303e0), paper body not.
Deviations: 1. The frame of the teacher's prompt is ours (several wordings), not the paper's text. 2. The repositories take a token mean
per micro-batch; here the whole batch is one mean, so that sharding changes nothing. 3. A reference that does not fit the context drops
the row; it never cuts the frame. 4. Rows that errored are left out. 5. ``reason_first``, off in the source's scripts, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Phase
from sdgym.algos.conditioning import Reference
from sdgym.algos.settings import ContextSettings, DistillSettings, TeacherSettings, UpdateSettings
from sdgym.algos.terms import build_items, make_term, skip_first, usable_rows
from sdgym.core import LossTerm
from sdgym.errors import ConfigError

LOOKED_AT = 16
"""Tasks that are looked at before a world is said to have no reference solutions; own data may have them in part."""


class OPSDConfig(UpdateSettings, TeacherSettings, ContextSettings, DistillSettings):
    """Settings; the presets say which paper version each value is from."""


class OPSD(Algorithm):
    """On-policy self-distillation: the teacher is the initial policy, told the reference solution."""

    name = "opsd"
    Config = OPSDConfig
    supervision = "reference"
    config: OPSDConfig

    def __init__(self, config: OPSDConfig) -> None:
        super().__init__(config)
        self.loss = config.distill_loss()
        self.conditioners = (Reference(**config.conditioner_arguments()),)
        self.teacher_weights = config.teacher_weights()

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase, under the configured schedule."""
        return (self.config.phase(self.annotate),)

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the distillation term over every row whose task has a reference solution."""
        views = self.conditioners[0].views(batch, context)
        weight = skip_first(batch.rows, self.config.skip_first)
        items = build_items(batch, context, usable_rows(batch), references=[views], weight=weight)
        return make_term("distill", self.loss, items, batch, self.config)

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse an environment without reference solutions."""
        if not reference_of(env):
            name = getattr(env.unwrapped, "env_id", "this world")
            raise ConfigError(
                f"{self.name} needs a reference solution, which the tasks of {name} do not have: use sdpo (feedback) or grpo (reward)"
            )


def reference_of(env: Any) -> str:
    """Return the reference solution of the first task that has one among a few of the world's, "" if none has."""
    world = env.unwrapped
    seeds = range(LOOKED_AT) if hasattr(world, "make_task") else ()
    found = (str(world.make_task(seed, world.split).privileged.get("reference_solution", "")).strip() for seed in seeds)
    return next(filter(None, found), "")
