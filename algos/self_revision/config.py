"""Settings of SD-Zero."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field, PositiveInt

from sdgym.algos.conditioning.revision import Cues
from sdgym.algos.settings import DistillSettings, UpdateSettings


class SDZeroConfig(UpdateSettings, DistillSettings):
    """Settings of :class:`sdgym.algos.sd_zero.SDZero`.

    Attributes:
        training: ``sequential`` stages (generation, then revision) or ``joint`` (both losses on all tuples).
        collect_steps, stage_steps: steps of collecting, and of each training stage.
        revisions, revise_right: continuations per attempt, and whether right attempts are revised too.
        pool_size, pool_batch, revision_share: see :class:`sdgym.algos.self_revision.RevisionPool`; sequences per step.
        rounds, round_steps: distillation phases, and steps of all but the last.
        phrase_right, phrase_wrong, success_threshold: see :class:`sdgym.algos.conditioning.revision.Cues`.
        teacher_tokens, control: see :class:`sdgym.algos.conditioning.revision.SelfRevision`.
    """

    training: Literal["sequential", "joint"] = "sequential"
    collect_steps: PositiveInt = 8
    stage_steps: PositiveInt = 8
    revisions: PositiveInt = 3
    revise_right: bool = False
    pool_size: PositiveInt = 6000
    pool_batch: PositiveInt = 64
    revision_share: float = Field(default=1 / 6, gt=0.0, le=1.0)
    rounds: PositiveInt = 1
    round_steps: PositiveInt | None = None
    phrase_right: str = Cues.right
    phrase_wrong: str = Cues.wrong
    success_threshold: float = 0.5
    teacher_tokens: PositiveInt | None = None
    control: Literal["none", "P0", "P1", "P2", "P3"] = "none"

    @pydantic.model_validator(mode="after")
    def _rounds_have_ends(self) -> SDZeroConfig:
        if self.rounds > 1 and self.round_steps is None:
            raise ValueError(f"rounds={self.rounds} needs round_steps: how many steps each round but the last distils")
        return self

    def cues(self) -> Cues:
        """Return the control phrases."""
        return Cues(self.phrase_right, self.phrase_wrong, self.success_threshold)
