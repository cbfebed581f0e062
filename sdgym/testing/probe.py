"""What the conformance checks work with: an environment class with its arguments, and ways to play it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from sdgym.core import Task
from sdgym.seeding import generator
from sdgym.text_env import TextEnv


@dataclasses.dataclass
class Step:
    """What one ``reset`` or ``step`` returned."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def over(self) -> bool:
        """Whether the episode ended."""
        return self.terminated or self.truncated


@dataclasses.dataclass
class Probe:
    """The environment under test: how to make it, and ways to play it."""

    env_id: str
    cls: type[TextEnv]
    kwargs: dict[str, Any]
    count: int

    def make(self, **more: Any) -> TextEnv:
        """Return a fresh instance without wrappers."""
        return self.cls(**{**self.kwargs, **more})

    def tasks(self, split: str = "train") -> list[Task]:
        """Return distinct tasks, the same in every check."""
        return list(self.make().tasks(split, 0, self.count))

    @property
    def has_novice(self) -> bool:
        """Whether the environment can demonstrate (novice and consistent are overridden)."""
        return self.cls.novice is not TextEnv.novice and self.cls.consistent is not TextEnv.consistent

    def attempts(self, env: TextEnv, task: Task) -> Iterator[Sequence[str]]:
        """Yield different attempts: the oracle's, garbage, and some of the novice's."""
        yield env.oracle(task)
        yield ("I do not know.",)
        rng = generator(0, "conformance", task.task_id)
        for _ in range(4 if self.has_novice else 0):
            yield env.novice(task, rng)


def play(env: TextEnv, actions: Sequence[str], repeat: bool = False, **reset: Any) -> list[Step]:
    """Return the steps of one episode, the reset first; ``repeat`` goes on with the last action to the end."""
    observation, info = env.reset(**reset)
    steps = [Step(observation, 0.0, False, False, info)]
    queue = list(actions)
    while queue and not steps[-1].over:
        action = queue.pop(0) if len(queue) > 1 or not repeat else queue[0]
        steps.append(Step(*env.step(action)))
    return steps
