"""The parts of a run, assembled from its config: world, policy, algorithm, sampler, driver, teacher, learner."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from sdgym.adapters import add_lora
from sdgym.algos.base import TeacherWeightsSpec
from sdgym.algos.presets import build_algorithm
from sdgym.chat import ChatFormat
from sdgym.config import EnvConfig, RunConfig
from sdgym.core import Task, Trajectory
from sdgym.errors import ConfigError, DataError, SdgymError, UnknownNameError
from sdgym.generation.base import Sample, Sampler, SamplingParams
from sdgym.generation.replica import ReplicaSampler
from sdgym.learner import Learner, OptimizerSettings
from sdgym.ledger import Ledger
from sdgym.parallel import World, is_sharded, join
from sdgym.policy import Policy
from sdgym.registry import load_plugins
from sdgym.rollout import Job, RolloutDriver
from sdgym.teacher import Teacher
from sdgym.tracking import make_accelerator

DEFAULT_GROUP_SIZE = 8


def make_env(env_id: str, **kwargs: Any) -> Any:
    """``gymnasium.make`` that loads plugins first and answers mistakes in one sentence.

    Raises:
        UnknownNameError: no such environment, with the nearest id.
        ConfigError: it does not take one of ``kwargs``, or its module cannot be imported.
    """
    load_plugins()
    if ":" not in env_id and env_id not in gymnasium.registry:
        known = [name for name in gymnasium.registry if "/" in name and not name.startswith(("phys2d/", "tabular/", "GymV"))]
        raise UnknownNameError("environment", env_id, known)
    try:
        return gymnasium.make(env_id, **kwargs)
    except SdgymError:
        raise
    except TypeError as error:
        raise ConfigError(f"the environment {env_id!r} does not take these settings: {error}") from None
    except (ImportError, gymnasium.error.Error) as error:
        raise ConfigError(
            f"the environment {env_id!r} cannot be loaded: {error}; an id is namespace/Name-v0 or module:namespace/Name-v0"
        ) from None


def pick_device(name: str) -> str:
    """Return ``name``, or for ``auto`` the first GPU if torch sees one, else ``cpu``."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def make_sampler(policy: Policy, slots: int) -> Sampler:
    """Return the built-in generation back end for ``policy`` with ``slots`` rows."""
    from sdgym.generation.torch_sampler import TorchSampler

    return TorchSampler(policy, slots=slots)


def make_teacher(policy: Policy, spec: TeacherWeightsSpec, device: str) -> Teacher:
    """Return the teacher of ``policy``.

    Raises:
        ConfigError: an external teacher without a name, or with another tokenizer than the policy's.
    """
    options = dataclasses.asdict(spec)
    name = options.pop("model")
    if spec.kind != "external":
        return Teacher(policy.model, **options, adapter=policy.adapter)
    if not name:
        raise ConfigError("teacher=external needs a model: set algo.teacher_model to a name or folder, such as runs/NAME/model")
    other = Policy.load(name, device)
    if other.tokenizer.get_vocab() != policy.tokenizer.get_vocab() or other.vocab_size != policy.vocab_size:
        raise ConfigError(
            f"the external teacher {name!r} has another tokenizer than {policy.name!r}, so it cannot score its tokens: "
            "take a model of the same family, such as one trained from it"
        )
    return Teacher(policy.model, **options, model=other.model)


def turn_limit(env: Any, level: str) -> int:
    """Return the tokens per turn that an environment asks for at ``level``."""
    limits = getattr(env.unwrapped, "max_action_tokens", {})
    return int(limits.get(level, max(limits.values(), default=256)))


@dataclasses.dataclass(frozen=True)
class Training:
    """Where a step's rollouts come from: who makes its tasks, of which split, and who plays them how."""

    env: Any
    driver: RolloutDriver
    sampling: SamplingParams
    split: str


class Session:
    """Everything a run consists of.

    Attributes:
        env: the instance that makes tasks (the driver has its own for episodes).
        policy, algorithm, sampler, driver, teacher, learner, ledger, accelerator: the parts.
        sampling: of training rollouts.
        group_size: G.
        split: of training tasks.
    """

    def __init__(self, config: RunConfig, folder: pathlib.Path) -> None:
        self.config = config
        self.folder = folder
        self.algorithm = build_algorithm(config.algo.name, corrected(config))
        kwargs = {"split": "train", **config.env.kwargs}
        self.env = make_env(config.env.id, **kwargs)
        self.split = str(kwargs["split"])
        self.group_size = config.group_size or self.algorithm.group_size or DEFAULT_GROUP_SIZE
        s = config.sampling
        limit = s.max_tokens or turn_limit(self.env, str(getattr(self.env.unwrapped, "level", "")))
        self.sampling = SamplingParams(s.temperature, s.top_p, s.top_k, s.min_p, limit)
        settings = {"group_size": self.group_size, "tasks_per_step": config.tasks_per_step, "sampling": dataclasses.asdict(self.sampling)}
        self.algorithm.check(self.env.unwrapped, {**settings, "steps": config.steps})
        if not hasattr(self.env.unwrapped, "tasks"):
            raise ConfigError(f"the environment {config.env.id!r} has no tasks(): sdgym trains on subclasses of sdgym.TextEnv")
        self.device = pick_device(config.device)
        self.accelerator = make_accelerator(self.device, config.dtype, folder, config.log.trackers)
        self.world = join(self.accelerator, config.update.recompute, config.optimizer.grad_clip)
        if self.world.size > 1 and self.device.startswith("cuda"):
            self.device = str(self.accelerator.device)
        self.policy = Policy.load(config.model, self.device, "float32", config.threads, config.thinking)
        self.policy.chat = self.policy.chat.with_tools(getattr(self.env.unwrapped, "tools", None))
        if config.lora.rank:
            add_lora(self.policy, config.lora, config.seed)
        self._check_prompt(self.env, self.policy.chat, self.split)
        self.ledger = Ledger(parameters=sum(p.numel() for p in self.policy.model.parameters()))
        self.sampler = self._sampler()
        self.driver = self._driver(config.env.id, kwargs, self.policy.chat)
        self.first = self._first({**settings, "steps": config.steps}) if config.curriculum else None
        for world in config.untrained:
            with self.elsewhere(world) as (env, driver):
                self._check_prompt(env, driver.chat, "test")  # what cannot work is told now, not at the end of the run
        self.teacher = make_teacher(self.policy, self.algorithm.teacher_weights or TeacherWeightsSpec(), self.device)
        self.learner = self._learner()

    def training(self, step: int) -> Training:
        """Return where the rollouts of ``step`` come from: the world of ``curriculum`` at first, then the run's own."""
        if self.first is not None and self.config.curriculum is not None and step < self.config.curriculum.steps:
            return self.first
        return Training(self.env, self.driver, self.sampling, self.split)

    def _first(self, settings: Mapping[str, Any]) -> Training:
        """Return the world that the run begins with. Raises :class:`ConfigError` where the algorithm cannot be trained in it."""
        assert self.config.curriculum is not None
        world = self.config.curriculum.env
        kwargs = {"split": "train", **world.kwargs}
        env = make_env(world.id, **kwargs)
        if getattr(env.unwrapped, "tools", None) != getattr(self.env.unwrapped, "tools", None):
            raise ConfigError(
                f"the curriculum's world {world.id!r} has other tools than {self.config.env.id!r}, and a run has one chat format"
            )
        limit = self.config.sampling.max_tokens or turn_limit(env, str(getattr(env.unwrapped, "level", "")))
        sampling = dataclasses.replace(self.sampling, max_tokens=limit)
        self.algorithm.check(env.unwrapped, {**settings, "sampling": dataclasses.asdict(sampling)})
        self._check_prompt(env, self.policy.chat, str(kwargs["split"]))
        return Training(env, self._driver(world.id, kwargs, self.policy.chat), sampling, str(kwargs["split"]))

    @contextlib.contextmanager
    def elsewhere(self, world: EnvConfig) -> Iterator[tuple[Any, RolloutDriver]]:
        """Take the policy as it is to another world: yields an instance that makes ``test`` tasks, and a driver."""
        kwargs = {**world.kwargs, "split": "test"}
        env = make_env(world.id, **kwargs)
        try:
            with self._driver(world.id, kwargs, self.policy.chat.with_tools(getattr(env.unwrapped, "tools", None))) as driver:
                yield env, driver
        finally:
            env.close()

    def _driver(self, env_id: str, kwargs: Mapping[str, Any], chat: ChatFormat) -> RolloutDriver:
        seed, live = self.config.seed, self.config.max_live
        return SharedDriver(self.world, lambda: make_env(env_id, **kwargs), chat, self.sampler, self.ledger, seed, live)

    def _check_prompt(self, env: Any, chat: ChatFormat, split: str) -> None:
        """Refuse at once a model whose context cannot hold a task and an answer."""
        task = next(iter(env.unwrapped.tasks(split, 0, 1)))
        length = len(chat.prompt_ids(list(task.messages)))
        if length >= self.policy.context_limit:
            raise DataError(
                f"a task of {env.spec.id!r} needs {length} prompt tokens and the context of {self.config.model!r} holds "
                f"{self.policy.context_limit}: take a lower level or another model"
            )

    def _learner(self) -> Learner:
        o, u = self.config.optimizer, self.config.update
        temperature = u.temperature or self.sampling.temperature or 1.0
        return Learner(
            self.policy.model,
            self.teacher,
            self.ledger,
            OptimizerSettings(o.lr, o.betas, o.eps, o.weight_decay, o.grad_clip),
            temperature,
            u.micro_tokens or (1024 if self.device == "cpu" else 16384),
            u.logit_elements,
            self.policy.token_cost,
            self.accelerator,
            self.world,
            u.recompute,
            self.sampling.max_tokens * int(self.env.unwrapped.max_turns),
        )

    @property
    def whole_policy(self) -> Policy:
        """The policy with whole weights, which can be saved."""
        return self.sampler.policy if isinstance(self.sampler, ReplicaSampler) else self.policy

    def _sampler(self) -> Sampler:
        """Return the generation back end; where weights are sharded it has whole ones of its own."""
        if self.config.generation.engine == "vllm":
            return self._vllm()
        if not is_sharded(self.accelerator):
            return make_sampler(self.policy, self.config.max_live)
        return ReplicaSampler(self.policy, self.config.max_live, lambda: self.learner.weights())

    def _vllm(self) -> Sampler:
        from sdgym.generation.vllm import VLLMSampler, VLLMServerSampler

        g, slots = self.config.generation, self.config.max_live
        if g.url is not None:
            shared = pathlib.Path(g.folder) if g.folder else self.folder / "weights"
            return VLLMServerSampler(self.policy, lambda: self.learner.weights(), g.url, shared, slots, self.world)
        if self.world.size > 1:
            raise ConfigError("generation.engine=vllm in several processes needs a server: start one and set generation.url")
        return VLLMSampler(self.policy, lambda: self.learner.weights(), slots, g.dtype, g.memory)

    def header(self) -> str:
        """Return the first line of a run: device, dtype, threads, processes."""
        import torch

        size, shared = self.ledger.parameters, f", {self.world.size} processes" if self.world.size > 1 else ""
        return (
            f"device {self.device}, dtype {self.config.dtype}, threads {torch.get_num_threads()}{shared}; "
            f"{self.config.algo.name} on {self.config.env.id}, model {self.config.model} ({size / 1e6:.2f} M parameters), seed {self.config.seed}"
        )

    def close(self) -> None:
        """Close environments and trackers."""
        if self.first is not None:
            self.first.driver.close()
            self.first.env.close()
        self.driver.close()
        self.env.close()
        if hasattr(self.sampler, "close"):
            self.sampler.close()
        self.accelerator.end_training()


def corrected(config: RunConfig) -> dict[str, Any]:
    """Return the algorithm's settings; where sampler and trainer are two implementations, with truncated importance weights.

    Only where the algorithm has them and nobody has said otherwise (``rollout_correction``, algorithms-core §1a).
    """
    chosen = dict(config.algo.overrides)
    if config.generation.engine == "torch" or "rollout_correction" in chosen:
        return chosen
    plain = build_algorithm(config.algo.name, chosen).config
    return {**chosen, "rollout_correction": "token"} if getattr(plain, "rollout_correction", "") == "none" else chosen


class SharedDriver(RolloutDriver):
    """Plays this process's block of the tasks and returns everybody's rows.

    Noise depends on a group's number in the whole batch, so the rows do not depend on how many processes there are
    (but for the last bits of floating point).
    """

    def __init__(self, world: World, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.world = world

    def collect(
        self,
        tasks: Sequence[Task],
        group_size: int,
        sampling: SamplingParams,
        job: Job,
        prompts: Sequence[np.ndarray] | None = None,
    ) -> list[Trajectory]:
        """See :meth:`RolloutDriver.collect`; raises in all processes if it does in one."""
        mine = self.world.block(len(tasks))
        part = None if prompts is None else prompts[mine]
        return self._all(lambda: super(SharedDriver, self).collect(tasks[mine], group_size, sampling, _from(job, mine), part))

    def generate(self, prompts: Sequence[np.ndarray], sampling: SamplingParams, job: Job) -> list[Sample]:
        """See :meth:`RolloutDriver.generate`."""
        mine = self.world.block(len(prompts))
        return self._all(lambda: super(SharedDriver, self).generate(prompts[mine], sampling, _from(job, mine)))

    def _all(self, play: Callable[[], list[Any]]) -> list[Any]:
        if self.world.size == 1:
            return play()
        try:
            rows, error = play(), None
        except SdgymError as failure:
            rows, error = None, failure
        return [row for part in self.world.together(rows, error) for row in part]


def _from(job: Job, part: slice) -> Job:
    return dataclasses.replace(job, first_group=job.first_group + part.start)


class SecondPass:
    """The second sampling pass of one step: what a phase's ``collect`` hook may draw (:class:`sdgym.algos.base.Draws`).

    Args:
        driver: plays and charges.
        sampling: of the rollouts.
        step: rollout step.
        policy_version: recorded on the rows.
        tasks: makes the step's tasks.
    """

    def __init__(
        self, driver: RolloutDriver, sampling: SamplingParams, step: int, policy_version: int, tasks: Callable[[], list[Task]]
    ) -> None:
        self.driver, self.sampling, self.step, self.policy_version = driver, sampling, step, policy_version
        self.tasks = tasks
        self._drawn: Counter[str] = Counter()

    def play(
        self, stream: str, tasks: Sequence[Task], prompts: Sequence[np.ndarray], samples: int = 1, temperature: float | None = None
    ) -> list[Trajectory]:
        """See :meth:`sdgym.algos.base.Draws.play`."""
        sampling = self.sampling if temperature is None else dataclasses.replace(self.sampling, temperature=temperature)
        return self.driver.collect(tasks, samples, sampling, self._job(stream, len(tasks)), prompts)

    def generate(self, stream: str, prompts: Sequence[np.ndarray], max_tokens: int | None = None) -> list[Sample]:
        """See :meth:`sdgym.algos.base.Draws.generate`."""
        sampling = dataclasses.replace(self.sampling, max_tokens=max_tokens or self.sampling.max_tokens)
        return self.driver.generate(prompts, sampling, self._job(stream, len(prompts)))

    def _job(self, stream: str, count: int) -> Job:
        first, self._drawn[stream] = self._drawn[stream], self._drawn[stream] + count
        return Job(f"train-{stream}", self.step, first_group=first, policy_version=self.policy_version)
