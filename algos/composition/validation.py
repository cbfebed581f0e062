"""What a composition needs of a world and a run, refused before the first rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.algos.composition.settings import CompositionConfig
from sdgym.algos.conditioning import Conditioner
from sdgym.algos.conditioning.verdict import gives_feedback
from sdgym.algos.opsd import reference_of
from sdgym.errors import ConfigError


def check_world(config: CompositionConfig, conditioners: Sequence[Conditioner], env: Any, settings: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` for what cannot work with ``env`` and ``settings`` (see :meth:`sdgym.algos.base.Algorithm.validate`)."""
    world, kinds = str(getattr(env.unwrapped, "env_id", "this world")), ", ".join(config.contexts)
    needs = {conditioner.needs for conditioner in conditioners} | ({"reference"} if config.token_weight.kind == "agreement" else set())
    if "reference" in needs and not reference_of(env):
        raise ConfigError(
            f"the contexts {kinds} read a reference solution or answer, which the tasks of {world} do not have: "
            "use contexts=[peer] (a sibling's success), contexts=[feedback], or grpo"
        )
    if "feedback" in needs and not gives_feedback(env.unwrapped):
        raise ConfigError(f"the contexts {kinds} read feedback, and {world} gives none on a wrong answer: use contexts=[peer] or [outcome]")
    if config.teacher == "external" and not config.teacher_model:
        raise ConfigError(
            "teacher=external needs a model: set algo.teacher_model to a name or folder with the student's tokenizer, such as "
            "runs/NAME/model, or use teacher=frozen"
        )
    if settings.get("group_size", 2) < 2 and (reason := _compares(config, conditioners)):
        raise ConfigError(f"{reason} needs group_size of at least 2: one rollout has no sibling and a pass rate of 0 or 1")
    few = config.token_weight.contexts
    if config.token_weight.kind == "agreement" and settings.get("tasks_per_step", few + 1) <= few:
        raise ConfigError(
            f"token_weight.contexts={few} takes its examples from as many other tasks: use tasks_per_step of at least {few + 1}, or fewer contexts"
        )
    if config.rewrite == "confidence" and int(getattr(env.unwrapped, "max_turns", 1)) > 1:
        raise ConfigError(
            f"rewrite=confidence edits one final answer, and {world} has several turns: use rewrite=none or a single-turn world"
        )


def _compares(config: CompositionConfig, conditioners: Sequence[Conditioner]) -> str:
    """Return what of ``config`` compares the members of a group, or ''."""
    if any(conditioner.siblings for conditioner in conditioners):
        return f"contexts={list(config.contexts)}"
    if config.sample_weight.alpha or config.sample_weight.beta:
        return "sample_weight"
    if config.evidence.margin is not None:
        return "evidence.margin"
    if config.hinge.weight:
        return "hinge"
    return f"rewrite={config.rewrite}" if config.rewrite != "none" else ""
