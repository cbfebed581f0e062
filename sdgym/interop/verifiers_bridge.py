"""Any of our worlds as a taskset and environment of ``verifiers`` (read against 0.4, API ``verifiers.v1``).

``Taskset(Config(env_id="sdgym/Math-v0", count=100))`` yields its tasks; ``World`` plays them, our environment being the user of
the conversation. Their command line finds both under the id ``sdgym-verifiers`` (the module ``sdgym_verifiers``). Rewards are the
environment's own; where the world failed the episode is an error, which they repeat or leave out, never a reward of 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sdgym.core import MASKED_OUTCOMES, Outcome
from sdgym.errors import ConfigError, InfraError
from sdgym.evaluation import eval_tasks
from sdgym.session import make_env

try:
    import verifiers.v1 as vf  # noqa: TID251  theirs
except ImportError as error:
    raise ConfigError("this needs the package verifiers 0.4 or newer: pip install verifiers") from error


class Config(vf.TasksetConfig):  # type: ignore[misc]
    """Which environment, and which of its tasks; ``kwargs`` go to the environment (``level`` …)."""

    env_id: str = "sdgym/Math-v0"
    kwargs: dict[str, Any] = {}  # noqa: RUF012  pydantic copies it
    split: str = "test"
    count: int = 100
    seed: int = 0


class Data(vf.TaskData):  # type: ignore[misc]
    """What travels with a task: enough to make the environment and find the task in it."""

    info: dict[str, Any]


class Task(vf.Task[Data, vf.State, vf.TaskConfig]):  # type: ignore[misc]
    """One of our tasks; scoring is the environment's, so there is nothing here."""


class WorldConfig(vf.EnvConfig):  # type: ignore[misc]
    """Who plays: by default their chat loop without tools, on this machine."""

    player: vf.AgentConfig = vf.AgentConfig(harness={"id": "null"}, runtime={"type": "subprocess"})


class World(vf.Env[WorldConfig]):  # type: ignore[misc]
    """Plays one task: the environment answers as the user until the episode ends."""

    async def run(self, task: Any, agents: Any) -> None:
        """Play and record the rewards of all turns, success and feedback on the trace.

        Raises:
            InfraError: the world failed.
        """
        told = task.data.info
        env = make_env(told["env_id"], **told["kwargs"])
        try:
            env.reset(options={"task_id": told["task_id"]})
            total = 0.0
            info: dict[str, Any] = {"success": 0.0, "outcome": "", "feedback": ""}
            async with agents.player.interaction(task) as interaction:
                segment = await interaction.turn()
                while not segment.terminated:
                    _, reward, terminated, truncated, info = await env.unwrapped.astep(segment.last_reply)
                    total += float(reward)
                    if terminated or truncated:
                        break
                    segment = await interaction.turn("\n".join(m["content"] for m in info["messages"]))
            if info["outcome"] and Outcome(info["outcome"]) in MASKED_OUTCOMES:
                raise InfraError(f"{told['env_id']} could not judge {told['task_id']} ({info['outcome']})")
            trace = interaction.trace
            if trace.errors:  # the model did not answer: nobody has earned a 0
                return
            trace.record_reward("environment", total, 1.0)
            trace.info |= {"success": float(info["success"]), "outcome": str(info["outcome"]), "feedback": str(info["feedback"])}
        finally:
            env.close()


class Taskset(vf.Taskset[Task, Config]):  # type: ignore[misc]
    """Tasks of one environment, the same ones for the same configuration."""

    def load(self) -> Iterator[Task]:
        """Yield the tasks."""
        c = self.config
        kwargs = {"split": c.split, **c.kwargs}
        env = make_env(c.env_id, **kwargs)
        for task in eval_tasks(env.unwrapped, c.split, c.seed, c.count):
            *system, user = task.messages
            yield Task(
                Data(
                    id=task.task_id,
                    name=task.task_id,
                    prompt=user["content"],
                    system_prompt=system[0]["content"] if system else None,
                    info={"env_id": c.env_id, "kwargs": kwargs, "task_id": task.task_id},
                ),
                c.task,
            )
        env.close()


__all__ = ["Config", "Data", "Task", "Taskset", "World", "WorldConfig"]
