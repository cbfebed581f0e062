"""Wrappers of text environments: fewer turns, no feedback, feedback that is not about the attempt, a record of episodes.

Each passes through what it does not change (``astep``, ``tasks``, ``oracle`` …), so that a wrapped world trains like any other.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import gymnasium

from sdgym.errors import ConfigError, UnknownNameError
from sdgym.seeding import generator
from sdgym.text_env import TextEnv

Step = tuple[str, float, bool, bool, dict[str, Any]]


class TextWrapper(gymnasium.Wrapper[str, str, str, str]):
    """Base of the wrappers here: change :meth:`seen`, the answer to one action. Wraps any environment built on :class:`TextEnv`."""

    def __init__(self, env: gymnasium.Env[str, str]) -> None:
        if not isinstance(env.unwrapped, TextEnv):
            raise ConfigError(f"{type(self).__name__} wraps environments built on sdgym.TextEnv, not {type(env.unwrapped).__name__}")
        super().__init__(env)

    def seen(self, action: str, answer: Step) -> Step:
        """Return what the policy gets to see of ``answer``; changes no object of it in place."""
        return answer

    async def astep(self, action: str) -> Step:
        """Step without blocking the event loop."""
        return self.seen(action, await self.env.astep(action))  # type: ignore[attr-defined]

    def step(self, action: str) -> Step:
        """Step; works inside a running event loop too."""
        return self.seen(action, self.env.step(action))  # type: ignore[arg-type]


class TurnLimit(TextWrapper):
    """End episodes after at most ``turns`` turns, as truncated. Raises ConfigError below 1."""

    def __init__(self, env: gymnasium.Env[str, str], turns: int) -> None:
        super().__init__(env)
        if turns < 1:
            raise ConfigError(f"a turn limit is at least 1, got {turns}")
        self.max_turns = min(turns, env.unwrapped.max_turns)  # type: ignore[attr-defined]

    def seen(self, action: str, answer: Step) -> Step:
        """Truncate at the limit."""
        observation, reward, terminated, truncated, info = answer
        over = info["turn"] >= self.max_turns and not terminated
        return ("" if over else observation, reward, terminated, truncated or over, {**info, "messages": ()} if over else info)


class NoFeedback(TextWrapper):
    """Say nothing about attempts: neither to teachers nor, where the world shows feedback between turns, to the policy."""

    def seen(self, action: str, answer: Step) -> Step:
        """Empty the feedback, and take it out of the observation."""
        observation, reward, terminated, truncated, info = answer
        said = info["feedback"]
        clean = {**info, "feedback": "", "reveals_answer": 0.0, "feedback_visible": 0.0}
        if said and info["feedback_visible"]:
            observation = observation.replace(said, "").strip()
            clean["messages"] = tuple({**m, "content": m["content"].replace(said, "").strip()} for m in info["messages"])
        return observation, reward, terminated, truncated, clean


Control = Literal["shuffled", "outcome"]
CONTROLS: tuple[Control, ...] = ("shuffled", "outcome")


class FeedbackControl(TextWrapper):
    """Replace feedback, for controls at the level of the world (conditioners have their own, see the algorithms).

    ``outcome`` tells only whether the attempt was right. ``shuffled`` says what was said about an earlier attempt
    at another task, drawn from a stream of its own; until there is one, what ``outcome`` says. What a policy
    itself is shown between turns stays as it is: these controls are about what teachers are told.

    Args:
        env: to be wrapped.
        control: which.
        seed: of the draws.

    Raises:
        UnknownNameError: no such control.
    """

    def __init__(self, env: gymnasium.Env[str, str], control: Control, seed: int = 0) -> None:
        super().__init__(env)
        if control not in CONTROLS:
            raise UnknownNameError("feedback control", control, CONTROLS)
        self.control, self._rng = control, generator(seed, "feedback-control")
        self._said: list[tuple[str, str]] = []

    def seen(self, action: str, answer: Step) -> Step:
        """Swap the feedback."""
        *rest, info = answer
        if not info["feedback"]:
            return answer
        told = f"The attempt is {'right' if info['success'] else 'not right'}."
        if self.control == "shuffled":
            others = [said for task, said in self._said if task != info["task_id"]]
            self._said = [*self._said[-255:], (info["task_id"], info["feedback"])]
            told = others[int(self._rng.integers(len(others)))] if others else told
        return (*rest, {**info, "feedback": told, "reveals_answer": 0.0})  # type: ignore[return-value]


class Recording(TextWrapper):
    """Append every finished episode to a JSON Lines file: task id, actions, rewards, feedback, outcome.

    Args:
        env: to be wrapped.
        path: the file; its folder is made.
        keep: records only episodes whose last info satisfies this.
    """

    def __init__(
        self, env: gymnasium.Env[str, str], path: str | pathlib.Path, keep: Callable[[Mapping[str, Any]], bool] = lambda info: True
    ) -> None:
        super().__init__(env)
        self.path, self.keep = pathlib.Path(path), keep
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._turns: list[dict[str, Any]] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin a record."""
        self._turns = []
        return self.env.reset(seed=seed, options=options)

    def seen(self, action: str, answer: Step) -> Step:
        """Note the turn; write the episode at its end."""
        _, reward, terminated, truncated, info = answer
        self._turns.append({"action": action, "reward": reward, "feedback": info["feedback"], "outcome": info["outcome"]})
        if (terminated or truncated) and self.keep(info):
            record = {"task_id": info["task_id"], "success": info["success"], "turns": self._turns}
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return answer
