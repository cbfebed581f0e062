"""The typed configuration tree of a run: defaults, YAML files, ``key=value`` overrides, resolved dump.

Every key is checked: an unknown one is refused with the nearest match, a wrong value with one sentence.
Two sections are open, because what they hold is checked by its owner: whatever stands beside ``algo.name``
is an override of the algorithm's preset, and whatever stands beside ``env.id`` goes to the environment.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pydantic
import yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from sdgym.errors import ConfigError, suggest
from sdgym.trees import merge, nest, parse_set, read_yaml


class Section(pydantic.BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class AlgoConfig(Section):
    """Which algorithm, and what differs from its preset."""

    name: str = "grpo"
    overrides: dict[str, Any] = Field(default_factory=dict)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        return _gather(value, "name", "overrides")


class EnvConfig(Section):
    """Which environment, and the keyword arguments it is made with (``level``, ``data`` …)."""

    id: str = "sdgym/Math-v0"
    kwargs: dict[str, Any] = Field(default_factory=dict)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:
        return _gather(value, "id", "kwargs")

    @property
    def label(self) -> str:
        """The id and, in brackets, what makes it another world than that of the id alone: names it in metrics and records."""
        told = [f"{key}={value}" for key, value in sorted(self.kwargs.items()) if key != "split" and (key, value) != ("level", "tiny")]
        return f"{self.id}[{','.join(told)}]" if told else self.id


def _gather(value: Any, main: str, rest: str) -> Any:
    """Turn ``"name"`` into a mapping and move the keys beside ``main`` into ``rest``."""
    if isinstance(value, str):
        return {main: value}
    if not isinstance(value, Mapping):
        return value
    own = {k: v for k, v in value.items() if k in (main, rest)}
    beside = {k: v for k, v in value.items() if k not in (main, rest)}
    return {**own, rest: {**(own.get(rest) or {}), **beside}}


class SamplingConfig(Section):
    """How tokens are drawn during training (see :class:`sdgym.generation.base.SamplingParams`).

    Attributes:
        max_tokens: limit per turn; None takes the environment's own limit for its level.
    """

    temperature: float = Field(default=1.0, ge=0.0, le=10.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: NonNegativeInt = 0
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    max_tokens: PositiveInt | None = None


class OptimizerConfig(Section):
    """AdamW and its schedule. The defaults suit the embedded policies (~1 M parameters).

    Attributes:
        warmup: optimizer updates of linear warm-up.
        schedule: factor on ``lr`` after the warm-up, over the run's steps: ``constant``, ``linear`` to 0
            or half a ``cosine`` to 0.
        grad_clip: largest global gradient norm; 0 turns clipping off.
    """

    lr: float = Field(default=5e-4, gt=0.0)
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: NonNegativeFloat = 0.0
    warmup: NonNegativeInt = 5
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    grad_clip: NonNegativeFloat = 1.0


class LoraConfig(Section):
    """A trained adapter in place of trained weights (PEFT).

    Attributes:
        rank: r; 0 trains all weights.
        alpha: the adapter is scaled by alpha / rank; None means 1.
        targets: names of the modules that get one, as ``[q_proj, v_proj]``; None means every linear one but the head.
    """

    rank: NonNegativeInt = 0
    alpha: PositiveInt | None = None
    targets: tuple[str, ...] | None = None


class GenerationConfig(Section):
    """Who samples.

    Attributes:
        engine: ``torch``: the embedded sampler, the only one that promises equal bits. ``vllm``: vLLM (docs/scale.md).
        url: of a vLLM server, as ``http://127.0.0.1:8000``; None runs the engine in this process.
        dtype: of the engine's weights, in this process.
        memory: of the engine in this process: share of the GPU's memory, or gigabytes of cache on a CPU.
        folder: where weights are put for a server, on storage that it shares; None takes ``weights/`` in the run folder.
    """

    engine: Literal["torch", "vllm"] = "torch"
    url: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    memory: float = Field(default=0.4, gt=0.0)
    folder: str | None = None

    @pydantic.model_validator(mode="after")
    def _heeded(self) -> GenerationConfig:
        changed = [name for name in ("url", "dtype", "memory", "folder") if getattr(self, name) != type(self).model_fields[name].default]
        if self.engine == "torch" and changed:
            raise ValueError(f"{changed[0]} says nothing to engine=torch; leave it out, or take engine=vllm")
        if self.url is not None and (own := [name for name in changed if name in ("dtype", "memory")]):
            raise ValueError(f"{own[0]} is of an engine in this process; give it to the server at {self.url} instead")
        return self


class UpdateConfig(Section):
    """How a batch is pushed through the model; none of it changes the objective.

    Attributes:
        micro_tokens: tokens per forward pass (shared prefixes count once); None takes what was fastest
            where we measured: 1024 on a CPU (the activations stay in its cache), else 16384.
        logit_elements: largest [tokens, vocabulary] block of logits kept for the backward pass; above it
            the head runs in chunks that are recomputed.
        recompute: keep only the layers' inputs for the backward pass and compute the rest again (activation checkpointing).
        temperature: divides every logit in a loss; None takes the sampling temperature.
    """

    micro_tokens: PositiveInt | None = None
    logit_elements: PositiveInt = 1 << 24
    recompute: bool = False
    temperature: float | None = Field(default=None, gt=0.0)


class EvalConfig(Section):
    """Evaluation on ``val`` during the run and at its end, on ``test`` at the end.

    Attributes:
        every: steps between evaluations; 0 leaves only step 0 and the end.
        tasks: tasks of ``val`` (the same at every evaluation and for every run with this ``seed``).
        samples: rollouts per task at ``temperature``, beside one greedy rollout.
        test_tasks: tasks of ``test`` at the end; 0 skips it.
        seed: of tasks and sampling noise, separate from the run's seed so that runs are paired.
        retention: worlds that are not trained in (ids, or mappings of ``id`` and what they are made with): at the end as many
            ``test`` tasks of each are played with the world's own limit of tokens. The run's own world is left out, so that all
            runs of a comparison can name the same ones; ``test_tasks=0`` skips them too.
    """

    every: NonNegativeInt = 25
    tasks: PositiveInt = 128
    samples: PositiveInt = 4
    split: Literal["val", "test", "heldout", "train"] = "val"
    temperature: float = Field(default=1.0, gt=0.0)
    test_tasks: NonNegativeInt = 128
    seed: NonNegativeInt = 0
    retention: tuple[EnvConfig, ...] = ()

    @pydantic.field_validator("retention")
    @classmethod
    def _distinct(cls, worlds: tuple[EnvConfig, ...]) -> tuple[EnvConfig, ...]:
        names = [world.label for world in worlds]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names a world twice: {', '.join(twice)}")
        return worlds

    @pydantic.model_validator(mode="after")
    def _test_once(self) -> EvalConfig:
        if self.split == "test" and self.test_tasks:
            raise ValueError(
                "split=test would read the test tasks during training too; take val, or set eval.test_tasks=0 to do so knowingly"
            )
        return self


class CheckpointConfig(Section):
    """When checkpoints are written.

    Attributes:
        every: steps between checkpoints; 0 leaves only the one at the end or on a signal.
        keep: how many are kept.
    """

    every: NonNegativeInt = 25
    keep: PositiveInt = 2


class LogConfig(Section):
    """What the run folder holds besides metrics.

    Attributes:
        trajectories_every: steps between saved rollout batches; 0 saves none.
        trackers: experiment trackers by their name in Accelerate ("tensorboard", "wandb" …).
    """

    trajectories_every: NonNegativeInt = 1
    trackers: tuple[str, ...] = ()


class BudgetConfig(Section):
    """What a run may spend, so that methods are compared at equal cost.

    Attributes:
        sampled_tokens: the run ends with the first step that brings the ledger here, second passes and discarded
            groups included; a phase that samples nothing is still played to its end. None: ``steps`` decides.
    """

    sampled_tokens: PositiveInt | None = None


class CurriculumConfig(Section):
    """Another world to begin with (MR-RLVR's first stage): charged like the rest, never evaluated on.

    Attributes:
        env: the world of the first ``steps`` rollout batches, with its own limit of tokens.
        steps: how many.
    """

    env: EnvConfig
    steps: PositiveInt


class RunConfig(Section):
    """Everything that decides a run.

    Attributes:
        curriculum: a world to begin with, or None.
        model: ``tiny`` or another embedded policy, a Hugging Face id, or a path.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``bfloat16`` computes in bf16 with float32 weights.
        threads: CPU threads of this run.
        steps: rollout batches, at most where there is a ``budget``.
        tasks_per_step, group_size: P and G. ``group_size`` None takes the algorithm's own, else 8.
        max_resamples: further batches of tasks drawn per step while an algorithm rejects groups.
        thinking: thinking on or off in the student's chat template, where it has such a switch; None leaves the
            template's own default. A teacher's side is the algorithm's ``teacher_thinking``.
        scheduler: ``deterministic`` is the only one that promises equal bits.
        max_live: episodes in flight at once (slots of the sampler); as many again may wait for their last verdict, so that up to
            twice as many environments are kept alive.
    """

    algo: AlgoConfig = AlgoConfig()
    env: EnvConfig = EnvConfig()
    curriculum: CurriculumConfig | None = None
    model: str = "tiny"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: PositiveInt = 1
    seed: NonNegativeInt = 0
    steps: PositiveInt = 100
    budget: BudgetConfig = BudgetConfig()
    tasks_per_step: PositiveInt = 32
    group_size: PositiveInt | None = None
    max_resamples: NonNegativeInt = 3
    thinking: bool | None = None
    scheduler: Literal["deterministic"] = "deterministic"
    max_live: PositiveInt = 256
    sampling: SamplingConfig = SamplingConfig()
    generation: GenerationConfig = GenerationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    lora: LoraConfig = LoraConfig()
    update: UpdateConfig = UpdateConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()

    @pydantic.model_validator(mode="after")
    def _arrives(self) -> RunConfig:
        if self.curriculum is not None and self.curriculum.steps >= self.steps:
            raise ValueError(
                f"curriculum.steps={self.curriculum.steps} leaves none of steps={self.steps} for the run's own world; take fewer, or more steps"
            )
        return self

    @property
    def untrained(self) -> tuple[EnvConfig, ...]:
        """The worlds of ``eval.retention`` but the run's own."""
        return tuple(world for world in self.eval.retention if world.label != self.env.label)


def make_config(settings: Mapping[str, Any] | None = None) -> RunConfig:
    """Check plain data and return the config. Raises :class:`ConfigError` with one sentence."""
    try:
        return RunConfig.model_validate(dict(settings or {}))
    except pydantic.ValidationError as error:
        raise ConfigError(explain(error, RunConfig)) from None


def resolve_config(files: Sequence[str | pathlib.Path] = (), sets: Sequence[str] = (), **flags: Any) -> RunConfig:
    """Merge YAML files, then ``flags`` that are not None, then ``key=value`` strings; later ones win.

    Args:
        files: YAML files, each a mapping.
        sets: dotted overrides such as ``optimizer.lr=1e-3``; the value is parsed as YAML.
        **flags: dotted keys are written with ``__``: ``env__id="sdgym/Math-v0"``.
    """
    tree: dict[str, Any] = {}
    for file in files:
        tree = merge(tree, read_yaml(file))
    for key, value in flags.items():
        if value is not None:
            tree = merge(tree, nest(key.split("__"), value))
    for text in sets:
        tree = merge(tree, parse_set(text))
    return make_config(tree)


def dump_config(config: RunConfig) -> str:
    """Return the resolved config as YAML; :func:`make_config` of it gives an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def explain(error: pydantic.ValidationError, root: type[pydantic.BaseModel]) -> str:
    """Return one sentence for the first problem of a validation error, with the nearest key for an unknown one."""
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        return f"there is no setting {key!r}{suggest(location[-1], _fields_at(root, location[:-1]))}"
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ").lstrip()
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):  # a section whose settings do not go together
        return f"{key}: {reason}" if key else reason
    return f"the setting {key!r} {reason}, got {first['input']!r}" if key else reason


def _fields_at(model: Any, path: Sequence[str]) -> Iterable[str]:
    for part in path:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        model = field.annotation if field is not None else None
    return list(model.model_fields) if hasattr(model, "model_fields") else []
