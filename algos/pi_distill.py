"""π-Distill: the policy plays *with* the privileged text, and both it and its plain self learn from those rollouts, jointly.

Paper: arXiv 2602.04942, §3 and App. E.   o ~ π_T = π(·|c, x),   π_S = π(·|x),   one set of weights
    J_T = E[R] − β·KL(π_T ‖ sg π_S)                       the privileged player stays where the plain one can follow
    J_S = E[(π_S / sg π_T)·R] − β·KL(sg π_T ‖ π_S)        the plain one follows
    J = α·J_T + (1−α)·J_S,   α in {0, ½, 1}, or rising from 0 to ½
Both sides carry gradient, each with the other detached; a frozen reference for the KLs collapses in the source.
Status: paper-read (through notes on §3 and App. E). The OPSD variant of the same paper is the preset ``pi_opsd``.
Deviations: 1. The KLs are exact per position; the source folds the sequence's KL into J_T's reward. 2. Privileged text is the task's
reference in our frame. 3. No penalties on length or hint tokens. 4. Nobody plays the plain prompt in training: ``algo/success`` is the
privileged player's. 5. Rows whose template rewrites history drop out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from sdgym.algos.advantages import advantages, returns, turn_rewards
from sdgym.algos.base import Algorithm, AnnotateContext, Batch, CollectContext, Phase, student_views
from sdgym.algos.conditioning import Reference
from sdgym.algos.losses import DistillLoss, PolicyGradientLoss
from sdgym.algos.opsd import reference_of
from sdgym.algos.privileged import told_prompts
from sdgym.algos.ramps import linear
from sdgym.algos.settings import ContextSettings, UpdateSettings
from sdgym.algos.terms import Views, build_items, make_term, usable_rows
from sdgym.core import LossItem, LossTerm, Trajectory
from sdgym.errors import ConfigError

Side = tuple[str, list[LossItem], Literal["forward_kl", "reverse_kl"], float]


class PiDistillConfig(UpdateSettings, ContextSettings):
    """Settings.

    Attributes:
        alpha, alpha_end, alpha_steps: α at the start and end, and the rollout steps between (0: ``alpha_end`` from the start).
        beta: β. clip_low, clip_high: of both ratios. support: of both KLs. pop: whether groups without any advantage are left out.
    """

    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    alpha_end: float = Field(default=0.5, ge=0.0, le=1.0)
    alpha_steps: NonNegativeInt = 0
    beta: NonNegativeFloat = 0.25
    clip_low: float = Field(default=0.2, ge=0.0, le=1.0)
    clip_high: NonNegativeFloat = 0.2
    support: Literal["full", "student_topk", "teacher_topk"] = "full"
    pop: bool = True


class PiDistill(Algorithm):
    """Privileged rollouts; teacher and student are two prompts of one trained policy."""

    name = "pi_distill"
    Config = PiDistillConfig
    supervision = "reference"
    config: PiDistillConfig

    def __init__(self, config: PiDistillConfig) -> None:
        super().__init__(config)
        self.conditioners, self.samples = (Reference(**config.conditioner_arguments()),), 8

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase whose only rollouts are those with the privileged text."""
        return (self.config.phase(self.annotate, rollouts=False, collect=self.play),)

    def play(self, batch: Batch, context: CollectContext) -> list[Trajectory]:
        """Play the step's tasks under the privileged prompt."""
        tasks = context.draw.tasks()
        told = [(t, p) for t, p in zip(tasks, told_prompts(tasks, self.conditioners[0], context), strict=True) if p is not None]
        rows = context.draw.play("privileged", [task for task, _ in told], [prompt for _, prompt in told], self.samples)
        context.report("success", sum(row.success for row in rows) / max(1, len(rows)))
        return rows

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return policy term and KL of both players."""
        c = self.config
        alpha = linear(context.step, c.alpha, c.alpha_end, c.alpha_steps)
        gained = advantages(returns(turn_rewards(batch.rows), "outcome"), batch.groups, scale="none")
        rows = [i for i in usable_rows(batch) if len(batch.rows[i].segments) == 1]
        if c.pop:
            live = {i for group in batch.groups if gained[list(group)].any() for i in group}
            rows = [i for i in rows if i in live]
        own: Views = [student_views(batch, i) for i in range(len(batch.rows))]
        prompts = [context.chat.prompt_ids(list(row.task.messages)) for row in batch.rows]
        plain: Views = [
            [dataclasses.replace(views[0], prefix_ids=prompt, provenance="reprompted")]
            for views, prompt in zip(own, prompts, strict=True)
            if views
        ]
        teacher = build_items(batch, context, rows, references=[_fixed(plain)], advantage=gained)
        student = build_items(batch, context, rows, views=plain, references=[_fixed(own)], advantage=gained)
        then = context.score([item.view for item in teacher]) if rows else []
        student = [dataclasses.replace(item, old_logprobs=s.logprobs) for item, s in zip(student, then, strict=True)]
        context.report("alpha", alpha)
        terms: list[LossTerm] = []
        sides: tuple[Side, ...] = (("teacher", teacher, "reverse_kl", alpha), ("student", student, "forward_kl", 1 - alpha))
        for name, items, kl, factor in sides:
            bare = [dataclasses.replace(item, references=()) for item in items if factor]
            terms += make_term(f"{name}_policy", PolicyGradientLoss(clip_low=c.clip_low, clip_high=c.clip_high), bare, batch, c, factor)
            pulled = items if factor * c.beta else []
            terms += make_term(f"{name}_kl", DistillLoss(divergence=kl, support=c.support), pulled, batch, c, factor * c.beta)
        return terms

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a world without references and a group of one; learn the run's group size."""
        self.samples = int(settings.get("group_size", self.samples))
        if not reference_of(env):
            raise ConfigError(f"pi_distill plays with a reference solution, which the tasks of {env.env_id} do not have: use grpo (reward)")
        if self.samples < 2:
            raise ConfigError("a group baseline needs group_size of at least 2")


def _fixed(side: Views) -> Views:
    return [[dataclasses.replace(view, grad=False, kind="other_player") for view in views or ()] for views in side]
