"""Skill-SD: GRPO, and a teacher that has read what earlier attempts at such tasks taught.

Paper: arXiv 2604.10674, Eq. 10 (ℓ), 12 (SDL), 14 (total).
    ℓ = log π_θ(y_t|x,y_<t) − sg log π_θ̄(y_t|x ⊕ S(x),y_<t),   ρ = π_θ/sg π_old with a gradient in π_θ
    L = L_GRPO + λ·(1/N) Σ_i Σ_t m·ρ·(e^{−ℓ} − 1 + ℓ),   whose gradient is that of λ·KL(π_θ‖π_θ̄)
Teacher: θ̄ = θ at the start of every step; reads the task with one retrieved skill, then the student's own turns.
Status: reconstruction from third-party notes (body and code were not available; Eq. 10, 12, 14 are quoted there).
Deviations: 1. Shelves are shared by a family of tasks, since procedural tasks hardly come twice; ``scope: task`` is the
paper's. 2. Skills are written between the rollouts and the update of a step, not asynchronously, so that runs repeat.
3. Shelf size, eviction (lowest mean, then oldest), the confidence bound's c, a skill's value before its first outcome,
the bounds on ρ and ℓ: unknown to us, ours. 4. By default a template over the environment's feedback writes the skills,
not a large model. 5. R is the environment's reward. 6. A group's skill never comes from its own rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from sdgym.algos.asking import ask_policy
from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Phase
from sdgym.algos.grpo import GRPO, GRPOConfig
from sdgym.algos.losses import ImportanceWeightedKL
from sdgym.algos.settings import ContextSettings, TeacherSettings, UpdateSettings
from sdgym.algos.skills import ChatEndpoint, ModelSummariser, SkillBank, SkillContext, SkillCycle, TemplateSummariser, recurs
from sdgym.algos.skills.summary import Summariser
from sdgym.algos.terms import build_items, make_term, usable_rows
from sdgym.core import LossTerm, Trajectory
from sdgym.errors import ConfigError


class SkillSDConfig(UpdateSettings, TeacherSettings, ContextSettings):
    """Settings.

    Attributes:
        skill_weight: λ; 0 is GRPO.
        ratio_cap, log_ratio_clip: see :class:`sdgym.algos.losses.ImportanceWeightedKL`.
        summariser: who writes skills; ``endpoint`` needs the three settings below it.
        summaries_per_group: attempts of a group that are summarised, the best ones; None takes all.
        scope, shelf_size, exploration: see :class:`sdgym.algos.skills.SkillBank`; ``exploration`` is c.
        policy: settings of the GRPO term.
    """

    skill_weight: NonNegativeFloat = 0.001
    ratio_cap: float | None = None
    log_ratio_clip: PositiveFloat = 10.0
    summariser: Literal["template", "policy", "endpoint"] = "template"
    summariser_url: str = Field(default="", description="base address, as http://localhost:8000/v1")
    summariser_model: str = Field(default="", description="the model's name at that address")
    summariser_key_env: str = Field(default="", description="the environment variable that holds the key, if it needs one")
    summaries_per_group: PositiveInt | None = None
    scope: Literal["task", "family", "world"] = "family"
    shelf_size: PositiveInt = 8
    exploration: NonNegativeFloat = 1.0
    policy: GRPOConfig = GRPOConfig()

    def make_summariser(self) -> Summariser:
        """Return the summariser. Raises :class:`ConfigError` for an endpoint without address or model."""
        if self.summariser != "endpoint":
            return TemplateSummariser() if self.summariser == "template" else ModelSummariser(ask_policy)
        if not self.summariser_url or not self.summariser_model:
            raise ConfigError("summariser=endpoint needs summariser_url and summariser_model: set both, or use summariser=template")
        return ModelSummariser(ChatEndpoint(self.summariser_url, self.summariser_model, self.summariser_key_env))


class SkillSD(Algorithm):
    """GRPO with skill-conditioned self-distillation: the teacher has read a skill, the student never does."""

    name = "skill_sd"
    Config = SkillSDConfig
    supervision = "feedback"
    config: SkillSDConfig

    def __init__(self, config: SkillSDConfig) -> None:
        super().__init__(config)
        if config.policy.kl_beta and {config.teacher, config.policy.reference} != {"frozen"}:
            raise ConfigError("GRPO's reference KL would be taken to a moving teacher: use policy.kl_beta=0 or teacher=frozen")
        self.loss, self.policy = ImportanceWeightedKL(config.ratio_cap, config.log_ratio_clip), GRPO(config.policy)
        self.context, self.bank = SkillContext(**config.conditioner_arguments()), SkillBank(config.shelf_size, config.exploration)
        self.cycle = SkillCycle(self.bank, self.context, config.make_summariser(), config.scope, config.summaries_per_group)
        self.conditioners, self.teacher_weights = (self.context,), config.teacher_weights()

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase: choose skills and write new ones, then update."""
        return (self.config.phase(self.annotate, collect=self.cycle if self.config.skill_weight else None),)

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return GRPO's term and the distillation term over the rows whose group has a skill."""
        policy = self.policy.annotate(batch, context)
        if not self.config.skill_weight:
            return policy
        items = build_items(batch, context, usable_rows(batch), references=[self.context.views(batch, context)])
        return policy + make_term("distill", self.loss, items, batch, self.config, self.config.skill_weight)

    def accept_group(self, rows: Sequence[Trajectory]) -> bool:
        """Return what the policy term's dynamic sampling says."""
        return self.policy.accept_group(rows)

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a group of one, and shelves per task where no task comes twice."""
        self.policy.validate(env, settings)
        draws = int(settings.get("steps", 100)) * int(settings.get("tasks_per_step", 32))
        if self.config.scope == "task" and not recurs(env.unwrapped, draws):
            raise ConfigError(
                f"scope=task keeps skills for tasks that come again, and those of {env.unwrapped.env_id} do not: use scope=family"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the bank."""
        return self.bank.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        self.bank.load_state_dict(state)
