"""Our settings of GRPO and SDPO as arguments of TRL's own trainers, and a list of what TRL cannot be set to.

An arm with ``engine: trl`` names one of our presets; this module translates it value by value, so that both arms have the
same K, divergence, teacher weights, learning rate, clipping and aggregation. Whatever has no counterpart is a sentence in
``missing``, which the report prints beside the arm: a comparison that hides such differences is not one.
Read against TRL 1.16 (``GRPOConfig``, ``experimental.sdpo.SDPOConfig``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from sdgym.algos.conditioning.frames import phrase
from sdgym.algos.grpo import GRPO, GRPOConfig
from sdgym.algos.presets import build_algorithm
from sdgym.algos.sdpo import SDPO, SDPOConfig
from sdgym.config import RunConfig, make_config
from sdgym.errors import ConfigError
from sdgym.session import DEFAULT_GROUP_SIZE

ALWAYS = (
    "episodes of one turn only",
    "a row that could not be graded counts as reward 0 instead of leaving its group",
    "standard deviations of a group plus 1e-4",
    "sampling noise from torch's global generator, not per row, so runs are not paired by luck",
    "a run cannot be resumed inside a batch and starts over",
)
LOSS_TYPES = {"seq_mean_token_mean": "grpo", "token_mean_global": "dapo", "token_sum_norm": "dr_grpo"}
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}
TEACHERS = {"ema": "ema", "live": "live", "frozen": "base"}
MODES = {"student_topk": "topk_logits", "full": "full_logits", "sampled": "sampled_token"}


@dataclasses.dataclass(frozen=True)
class Translation:
    """One arm for TRL.

    Attributes:
        trainer: ``grpo`` or ``sdpo``.
        arguments: of its config class.
        missing: what could not be carried over, one phrase each.
        minibatches, epochs: optimizer steps per rollout batch are their product.
    """

    trainer: str
    arguments: Mapping[str, Any]
    missing: tuple[str, ...]
    minibatches: int
    epochs: int


def translate(config: RunConfig, group_size: int, max_tokens: int, vocabulary: int | None = None) -> Translation:
    """Translate a run's settings.

    Args:
        config: of a run with GRPO or SDPO or one of their presets.
        group_size: G.
        max_tokens: longest answer.
        vocabulary: V, a limit for K; None where it is not known yet.

    Raises:
        ConfigError: TRL has no trainer for this algorithm, or the batch cannot be cut as asked.
    """
    algorithm = build_algorithm(config.algo.name, config.algo.overrides)
    if type(algorithm) is GRPO:
        trainer, (own, missing) = "grpo", _grpo(algorithm.config)
    elif type(algorithm) is SDPO:
        trainer, (own, missing) = "sdpo", _sdpo(algorithm.config, vocabulary)
    else:
        raise ConfigError(f"engine: trl knows grpo and sdpo and their presets, not {config.algo.name!r}")
    settings = algorithm.config
    rows = config.tasks_per_step * group_size
    if rows % settings.minibatches:
        raise ConfigError(f"TRL cuts a batch into equal parts, and {rows} rows do not divide into {settings.minibatches} minibatches")
    shared = _shared(config, group_size, max_tokens) | {
        "per_device_train_batch_size": rows // settings.minibatches,
        "steps_per_generation": settings.minibatches,
        "num_iterations": settings.epochs,
        "max_steps": config.steps * settings.minibatches * settings.epochs,
    }
    if config.update.temperature not in (None, config.sampling.temperature):
        missing = (*missing, "a loss temperature other than the sampling temperature")
    return Translation(trainer, shared | own, (*missing, *ALWAYS), settings.minibatches, settings.epochs)


def _shared(config: RunConfig, group_size: int, max_tokens: int) -> dict[str, Any]:
    o, s = config.optimizer, config.sampling
    return {
        "learning_rate": o.lr,
        "adam_beta1": o.betas[0],
        "adam_beta2": o.betas[1],
        "adam_epsilon": o.eps,
        "weight_decay": o.weight_decay,
        "max_grad_norm": o.grad_clip,
        "warmup_steps": o.warmup,
        "lr_scheduler_type": SCHEDULES[o.schedule],
        "num_generations": group_size,
        "max_completion_length": max_tokens,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "top_k": s.top_k,
        "min_p": s.min_p or None,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "shuffle_dataset": False,
        "seed": config.seed,
        "bf16": config.dtype == "bfloat16",
    }


def _grpo(c: GRPOConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    arguments = {
        "beta": c.kl_beta,
        "epsilon": c.clip_low,
        "epsilon_high": c.clip_high,
        "scale_rewards": c.scale,
        "loss_type": LOSS_TYPES.get(c.aggregation, "grpo"),
        "importance_sampling_level": "sequence" if c.objective == "gspo" else "token",
        "mask_truncated_completions": c.mask_truncated,
        "delta": c.dual_clip,
    }
    absent = {
        f"objective {c.objective}": c.objective not in ("ppo", "gspo"),
        f"aggregation {c.aggregation}": c.aggregation not in LOSS_TYPES,
        f"baseline {c.baseline}": c.baseline != "mean",
        "population standard deviation": c.ddof == 0 and c.scale != "none",
        "rewards credited turn by turn": c.credit == "turn",
        "rollout correction": c.rollout_correction != "none",
        "dynamic sampling": c.dynamic_sampling,
        "overlong penalty": c.overlong_share > 0,
        f"KL estimator {c.kl_estimator}": c.kl_beta > 0 and (c.kl_estimator, c.kl_gradient) != ("k3", "own"),
    }
    return arguments, tuple(name for name, lost in absent.items() if lost)


def _sdpo(c: SDPOConfig, vocabulary: int | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    alpha = {"reverse_kl": 1.0, "forward_kl": 0.0}.get(c.divergence, c.alpha)
    arguments: dict[str, Any] = {
        "distillation_weight": 1.0 - c.policy_weight,
        "distillation_alpha": alpha,
        "distillation_mode": MODES.get(c.support, "topk_logits"),
        "distillation_add_tail": c.residual == "tail",
        "distillation_is_clip": c.importance_cap if c.importance == "capped" else None,
        "teacher_model_kind": TEACHERS.get(c.teacher, "ema"),
        "teacher_update_rate": c.teacher_rate,
        "teacher_sync_steps": c.teacher_every * (c.minibatches * c.epochs if c.teacher_unit == "step" else 1),
        "success_reward_threshold": 1.0 if c.success_threshold is None else c.success_threshold,
        "dont_reprompt_on_self_success": c.exclude_self,
        "remove_thinking_from_demonstration": c.strip_think,
        "include_environment_feedback": False,
        **_frames(),
    }
    if arguments["distillation_mode"] == "topk_logits":
        arguments["distillation_topk"] = c.top_k if vocabulary is None else min(c.top_k, vocabulary)
    if c.policy_weight:
        policy, _ = _grpo(c.policy)
        arguments |= {k: policy[k] for k in ("beta", "epsilon", "epsilon_high", "scale_rewards", "loss_type")}
    absent = {
        "feedback on the student's own attempt: TRL reads privileged text from the data set before rewards exist": "feedback" in c.context,
        f"teacher context {c.context}": c.context == "outcome",
        f"control {c.control}": c.control != "none",
        f"teacher weights {c.teacher}": c.teacher not in TEACHERS,
        f"support {c.support}": c.support not in MODES,
        f"residual {c.residual}": c.residual not in ("tail", "renorm"),
        f"divergence {c.divergence}": c.divergence == "mixed",
        f"importance weights {c.importance}": c.importance == "differentiable",
        "rollout correction": c.rollout_correction != "none",
        "clipping of token or vocabulary losses": bool(c.token_clip or c.pointwise_clip),
        f"aggregation {c.aggregation}": (c.aggregation, c.count_empty) != ("seq_mean_token_mean", True),
        "a slot budget for the teacher's text": c.slot_tokens is not None,
        "tokens left out at the start of an answer": c.skip_first > 0,
        "a policy term with settings of its own beyond clipping, KL and scale": bool(c.policy_weight) and bool(_grpo(c.policy)[1]),
    }
    return arguments, tuple(name for name, lost in absent.items() if lost)


def _frames() -> dict[str, str]:
    """Return TRL's templates with the wording that our conditioners use, so that the policy reads the same frame."""

    def template(kind: str, slot: str) -> str:
        return phrase(kind, 0).replace("{", "{{").replace("}", "}}").replace("{{text}}", slot)

    return {
        "solution_template": "\n" + template("peer", "{successful_previous_attempt}"),
        "reprompt_template": "{prompt}{solution}{feedback}\n" + template("closing", ""),
    }


def missing_features(settings: Mapping[str, Any]) -> list[str]:
    """Return what TRL cannot be set to for the resolved run config ``settings``. Raises :class:`ConfigError`."""
    config = make_config(settings)
    return list(translate(config, config.group_size or DEFAULT_GROUP_SIZE, config.sampling.max_tokens or 1).missing)
