"""``sdgym/TwoTurn-v0``: any single-turn world, answered twice; between the answers a fixed instruction that reveals nothing (SCoRe)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium

from sdgym.core import Task
from sdgym.errors import ConfigError
from sdgym.text_env import Response, TextEnv

AGAIN = "There might be an error in the answer above. Check it, correct it if needed, and give the final answer again."


class TwoTurnEnv(TextEnv):
    """A first answer, a request to look at it again, a second answer; each turn's reward is the inner world's.

    The request is the same for right and wrong answers, so all that can help in the second turn is the policy itself.
    ``success`` is that of the second answer; the inner world's feedback is there for teachers, never shown.

    Args:
        base: id of a single-turn world, whose tasks and judge these are.
        level, split, privileged, render_mode: see :class:`TextEnv`.
        **settings: for the inner world.

    Raises:
        ConfigError: the inner world has several turns, or is not a text world.
    """

    env_id: ClassVar[str] = "sdgym/TwoTurn-v0"
    max_turns: ClassVar[int] = 2
    reward_keys: ClassVar[Sequence[str]] = ("success", "first", "second")

    def __init__(
        self,
        base: str = "sdgym/Math-v0",
        level: str = "tiny",
        split: str = "train",
        privileged: bool = False,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(level, split, privileged, render_mode)
        self.inner = inner_world(base, level=level, split=split, **settings)
        self.system_prompt = self.inner.system_prompt  # type: ignore[misc]  # the inner world's, not the class's
        self.max_action_tokens = self.inner.max_action_tokens  # type: ignore[misc]

    def make_task(self, seed: int, split: str) -> Task:
        """Return the inner world's task."""
        return self.inner.make_task(seed, split)

    def begin(self, task: Task) -> None:
        """Hand the task to the inner world."""
        self.inner.task = task
        self.inner.begin(task)

    async def respond(self, action: str) -> Response:
        """Judge an answer; after the first one ask for another."""
        assert self.task is not None
        self.begin(self.task)
        found = await self.inner.respond(action)
        last = self.turn >= self.max_turns
        return Response(
            observation="" if last else AGAIN,
            reward=found.reward,
            terminated=last,
            outcome=found.outcome,
            feedback=found.feedback,
            feedback_kind=found.feedback_kind,
            reveals_answer=found.reveals_answer,
            success=found.success,
            valid_action=found.valid_action,
            reward_components={"success": float(found.success), ("second" if last else "first"): float(found.reward)},
        )

    def oracle(self, task: Task) -> Sequence[str]:
        """Return the inner world's right answer, twice."""
        (answer,) = self.inner.oracle(task)
        return [answer, answer]


def inner_world(base: str, **settings: Any) -> TextEnv:
    """Make the world inside a wrapper. Raises :class:`ConfigError` where it is no single-turn text world."""
    try:
        world = gymnasium.make(base, **settings).unwrapped
    except gymnasium.error.Error as error:
        raise ConfigError(f"base={base!r} cannot be made: {error}") from error
    if not isinstance(world, TextEnv):
        raise ConfigError(f"base={base!r} is a {type(world).__name__}, not an sdgym.TextEnv")
    if world.max_turns > 1:
        raise ConfigError(f"base={base!r} has {world.max_turns} turns: a wrapper around one answer needs a single-turn world")
    return world
