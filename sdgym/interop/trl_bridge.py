"""Any environment in TRL's GRPOTrainer, in the three ways that TRL 1.16 offers.

====================  =================  ==============================================================
what                  episodes           pass to ``GRPOTrainer``
====================  =================  ==============================================================
reward function       one turn           ``train_dataset=bridge.dataset, reward_funcs=[bridge.reward]``
rollout function      any number         the same with ``rollout_func=bridge.rollout, reward_funcs=[bridge.rollout_reward]``
environment factory   any number         ``environment_factory=bridge.environment, train_dataset=bridge.dataset``
====================  =================  ==============================================================

The rollout function plays with our driver and sampler: sampled tokens are never re-tokenised, observations are masked.
The environment factory makes the whole world one tool, ``act(action)``; it needs a model and a template that TRL knows to
call tools with. Read against TRL 1.16; both of the last two are experimental there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdgym.core import MASKED_OUTCOMES, Outcome, Task, Trajectory
from sdgym.errors import ConfigError, EnvError, PolicyError
from sdgym.evaluation import eval_tasks
from sdgym.session import make_env, turn_limit

if TYPE_CHECKING:
    import datasets

    from sdgym.policy import Policy


class TrlBridge:
    """Tasks of one environment for one of TRL's trainers.

    Args:
        env_id: environment id.
        count: tasks in :attr:`dataset`.
        seed: of the tasks, and root of the noise of :meth:`rollout`.
        split: whose tasks.
        max_live: episodes that :meth:`rollout` keeps in flight.
        **kwargs: go to the environment (``level`` …).
    """

    def __init__(self, env_id: str, count: int, seed: int = 0, split: str = "train", max_live: int = 64, **kwargs: Any) -> None:
        self.env_id, self.seed, self.max_live = env_id, seed, max_live
        self._kwargs = {"split": split, **kwargs}
        self.env = make_env(env_id, **self._kwargs)
        self.tasks: list[Task] = eval_tasks(self.env.unwrapped, split, seed, count)
        self._by_prompt = {_key(task.messages): task for task in self.tasks}
        self._by_id = {task.task_id: task for task in self.tasks}
        self._policy: Policy | None = None

    @property
    def dataset(self) -> datasets.Dataset:
        """The tasks as a Hugging Face data set: ``prompt`` (messages) and ``task_id``."""
        from datasets import Dataset

        prompts = [[{"role": m["role"], "content": m["content"]} for m in task.messages] for task in self.tasks]
        return Dataset.from_dict({"prompt": prompts, "task_id": [task.task_id for task in self.tasks]})

    def reward(self, completions: Sequence[Any], task_id: Sequence[str], **_: Any) -> list[float | None]:
        """Judge single-turn answers; None, which TRL leaves out, where an answer could not be judged.

        Raises:
            ConfigError: the environment plays several turns.
        """
        turns = self.env.unwrapped.max_turns
        if turns > 1:
            raise ConfigError(f"{self.env_id} plays up to {turns} turns, which a reward function cannot: use rollout_func=bridge.rollout")
        rewards: list[float | None] = []
        for completion, name in zip(completions, task_id, strict=True):
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            self.env.reset(options={"task": self._by_id[name]})
            _, reward, _, _, info = self.env.step(text)
            rewards.append(None if Outcome(info["outcome"]) in MASKED_OUTCOMES else float(reward))
        return rewards

    reward.__name__ = "environment"  # TRL names the metric after it

    @staticmethod
    def rollout_reward(completions: Sequence[Any], env_reward: Sequence[float | None], **_: Any) -> list[float | None]:
        """Hand on the rewards that :meth:`rollout` found."""
        return list(env_reward)

    def rollout(self, prompts: Sequence[Sequence[Mapping[str, str]]], trainer: Any) -> dict[str, list[Any]]:
        """Play one episode per prompt with the trainer's weights (a ``rollout_func``).

        Returns:
            ``prompt_ids``, ``completion_ids`` (everything after the prompt), ``logprobs`` (of sampled tokens, 0 elsewhere),
            ``env_mask`` (1 on sampled tokens) and ``env_reward``.

        Raises:
            EnvError: a prompt is not one of :attr:`dataset`.
            PolicyError: the chat template rewrites earlier turns, so an episode is not one sequence.
        """
        from sdgym.generation.base import SamplingParams
        from sdgym.ledger import Ledger
        from sdgym.rollout import Job, RolloutDriver
        from sdgym.session import make_sampler

        tasks = [self._task(prompt) for prompt in prompts]
        policy, arguments = self._wrapped(trainer), trainer.args
        world = self.env.unwrapped
        limit = min(arguments.max_completion_length, turn_limit(self.env, str(getattr(world, "level", ""))))
        sampling = SamplingParams(temperature=arguments.temperature, max_tokens=limit)
        training = policy.model.training
        policy.model.eval()
        try:
            with RolloutDriver(
                lambda: make_env(self.env_id, **self._kwargs),
                policy.chat.with_tools(getattr(world, "tools", None)),
                make_sampler(policy, self.max_live),
                Ledger(),
                self.seed,
                self.max_live,
            ) as driver:
                rows = driver.collect(tasks, 1, sampling, Job("trl", int(trainer.state.global_step)))
        finally:
            policy.model.train(training)
        return pack(rows)

    def environment(self) -> TrlEnvironment:
        """Make one episode's environment (an ``environment_factory``)."""
        return TrlEnvironment(make_env(self.env_id, **self._kwargs), self._by_id)

    def _task(self, prompt: Sequence[Mapping[str, str]]) -> Task:
        try:
            return self._by_prompt[_key(prompt)]
        except KeyError:
            raise EnvError(f"a prompt is not a task of this bridge; train on its own dataset (bridge.dataset of {self.env_id})") from None

    def _wrapped(self, trainer: Any) -> Policy:
        from sdgym.policy import Policy

        model = trainer.accelerator.unwrap_model(trainer.model)
        if self._policy is None or self._policy.model is not model:
            self._policy = Policy(model, trainer.processing_class, "trl")
        return self._policy


class TrlEnvironment:
    """One episode as TRL sees it: its public methods are tools, ``get_reward`` ends it."""

    def __init__(self, env: Any, tasks: Mapping[str, Task]) -> None:
        self._env, self._tasks = env, tasks
        self._reward, self._over, self._masked = 0.0, True, False

    def reset(self, task_id: str | None = None, **_: Any) -> str | None:
        """Start an episode; returns the task's text where the data set has no prompt of its own."""
        options = {} if task_id is None else {"task": self._tasks[task_id]}
        observation, _info = self._env.reset(options=options)
        self._reward, self._over, self._masked = 0.0, False, False
        return None if task_id is not None else str(observation)

    def act(self, action: str) -> str:
        """Act in the world and read what it answers.

        Args:
            action: What to do or to answer, in the format that the task asks for.

        Returns:
            The world's answer, or a note that the episode is over.
        """
        if self._over:
            return "The episode is over."
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._reward += float(reward)
        self._over = terminated or truncated
        self._masked |= Outcome(info["outcome"]) in MASKED_OUTCOMES
        return str(observation) or "The episode is over."

    def get_reward(self) -> float | None:
        """Return the sum of the rewards so far; None where the world failed."""
        return None if self._masked else self._reward


def pack(rows: Sequence[Trajectory]) -> dict[str, list[Any]]:
    """Return finished episodes as a ``rollout_func`` answers. Raises :class:`PolicyError` for one that is several sequences."""
    out: dict[str, list[Any]] = {name: [] for name in ("prompt_ids", "completion_ids", "logprobs", "env_mask", "env_reward")}
    for row in rows:
        if len(row.segments) != 1:
            raise PolicyError("the chat template rewrites earlier turns, and TRL trains one sequence per episode: take another template")
        segment = row.segments[0]
        start = segment.prompt_length
        out["prompt_ids"].append(segment.ids[:start].tolist())
        out["completion_ids"].append(segment.ids[start:].tolist())
        out["logprobs"].append(segment.logprobs[start:].tolist())
        out["env_mask"].append(segment.action_mask[start:].astype(int).tolist())
        out["env_reward"].append(row.reward if row.usable else None)
    return out


def _key(messages: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps([[m["role"], m["content"]] for m in messages], ensure_ascii=False)
