"""From a forced token to a judged episode: the turn is finished, the turns before it are replayed, those after it are played."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sdgym.core import MASKED_OUTCOMES, Message, Outcome, Task, Trajectory
from sdgym.errors import EnvError
from sdgym.generation.base import SamplingParams
from sdgym.policy import Policy
from sdgym.rollout import Job, RolloutDriver

REPLAY = "replay"
"""Key of a task's ``meta``: actions to be played again before the episode begins."""


@dataclasses.dataclass
class Prefix:
    """A place to branch from.

    Attributes:
        row: the attempt. turn: in which of its turns the place is.
        place: index of the next token among the row's sampled tokens.
        before: the tokens before this turn. said: those of this turn before the place.
        candidates: tokens to force. student, teacher: both sides' logits there ``[V]``.
    """

    row: Trajectory
    turn: int
    place: int
    before: np.ndarray
    said: np.ndarray
    candidates: np.ndarray
    student: torch.Tensor
    teacher: torch.Tensor


class Replayed:
    """An environment whose episodes begin after the actions that a task carries; every other task passes through unchanged."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode and play its first actions again; ``messages`` then holds the conversation up to there."""
        task: Task | None = (options or {}).get("task")
        actions = () if task is None else task.meta.get(REPLAY, ())
        if task is None or not actions:
            return self.env.reset(seed=seed, options=options)  # type: ignore[no-any-return]
        plain = dataclasses.replace(task, meta={key: value for key, value in task.meta.items() if key != REPLAY})
        observation, info, messages, over = replay(self.env, plain, actions)
        if over:
            raise EnvError(f"{task.task_id} ended earlier when its actions were played again: the world is not a function of them")
        return observation, {**info, "messages": messages}


def replay(env: Any, task: Task, actions: Sequence[str]) -> tuple[str, dict[str, Any], list[Message], bool]:
    """Play ``actions`` from the start; return the last observation and info, the conversation so far, and whether the episode is over."""
    observation, info = env.reset(options={"task": task})
    messages: list[Message] = [*info["messages"]]
    over = False
    for action in actions:
        observation, _, terminated, truncated, info = env.step(action)
        messages += [Message(role="assistant", content=action), *info["messages"]]
        over = terminated or truncated
        if over:
            break
    return observation, info, messages, over


@dataclasses.dataclass(frozen=True)
class _After:
    """What a finished turn leads to: a success (1, 0, NaN where grading failed), or None and the conversation that goes on."""

    success: float | None
    observation: str
    messages: Sequence[Message]
    actions: tuple[str, ...]


class Branches:
    """Forces candidates, finishes the episodes M times and judges them.

    Args:
        policy: finishes what it is made to begin.
        env: judges turns; what it says must be a function of the task and the actions.
        driver: generates with the policy's weights; in a world of several turns its environments are :class:`Replayed`.
        sampling: of every turn.
        count: M.
    """

    def __init__(self, policy: Policy, env: Any, driver: RolloutDriver, sampling: SamplingParams, count: int) -> None:
        self.policy, self.env, self.driver, self.sampling, self.count = policy, env, driver, sampling, count
        self._known: dict[tuple[str, tuple[str, ...]], _After] = {}

    def outcomes(self, prefixes: Sequence[Prefix]) -> list[np.ndarray]:
        """Return success ``[K, M]`` per prefix."""
        starts = [(prefix, np.append(prefix.said, token)) for prefix in prefixes for token in prefix.candidates]
        turns = self._finish(starts)
        found = np.zeros((len(starts), self.count))
        open_: list[tuple[int, int, _After, np.ndarray]] = []
        for i, (prefix, _) in enumerate(starts):
            for k, ids in enumerate(turns[i]):
                after = self._judge(prefix, ids)
                if after.success is None:
                    open_.append((i, k, after, self._prompt(prefix, ids, after)))
                else:
                    found[i, k] = after.success
        self._play_on([prefix.row.task for prefix, _ in starts], open_, found)
        cuts = np.cumsum([0, *(len(prefix.candidates) for prefix in prefixes)])
        return [found[a:b] for a, b in itertools.pairwise(cuts)]

    def _finish(self, starts: Sequence[tuple[Prefix, np.ndarray]]) -> list[list[np.ndarray]]:
        """Return M whole turns per start; one that is over with its forced token stays as it is."""
        ends, turns = set(self.policy.chat.end_ids), [[said] * self.count for _, said in starts]
        by_room: dict[int, list[int]] = {}
        for i, (_, said) in enumerate(starts):
            room = 0 if int(said[-1]) in ends else self.sampling.max_tokens - len(said)
            if room > 0:
                by_room.setdefault(room, []).append(i)
        for room, members in sorted(by_room.items()):
            prompts = [np.concatenate([starts[i][0].before, starts[i][1]]) for i in members for _ in range(self.count)]
            limited = dataclasses.replace(self.sampling, max_tokens=room)
            samples = iter(self.driver.generate(prompts, limited, Job(f"diagnose-{room}", 0, evaluation=True)))
            for i in members:
                turns[i] = [np.concatenate([starts[i][1], next(samples).ids]) for _ in range(self.count)]
        return turns

    def _judge(self, prefix: Prefix, ids: np.ndarray) -> _After:
        """Play the row's turns again, then this one; equal texts are judged once. Raises :class:`EnvError` where the replay differs."""
        row = prefix.row
        actions = (*row.actions[: prefix.turn], self.policy.chat.decode_action(ids))
        key = (row.task.task_id, actions)
        if key not in self._known:
            seen, _, messages, _ = replay(self.env, row.task, actions[:-1])
            if prefix.turn and seen != row.observations[prefix.turn]:
                raise EnvError(
                    f"{row.task.task_id}: the same actions led to another observation, so no branch can begin at turn {prefix.turn}"
                )
            observation, _, terminated, truncated, info = self.env.step(actions[-1])
            masked = Outcome(info.get("outcome", "")) in MASKED_OUTCOMES
            success = float("nan") if masked else float(info["success"] > 0)
            messages = [*messages, Message(role="assistant", content=actions[-1]), *info["messages"]]
            self._known[key] = _After(success if terminated or truncated or masked else None, observation, messages, actions)
        return self._known[key]

    def _prompt(self, prefix: Prefix, ids: np.ndarray, after: _After) -> np.ndarray:
        """Return the tokens of the conversation up to the next turn, sampled ones as they were."""
        chat, size = self.policy.chat, len(after.messages)
        said = max(i for i in range(size) if after.messages[i]["role"] == "assistant")
        history, new = after.messages[: said + 1], after.messages[said + 1 :]
        tail = chat.continuation_ids(history, new, ended=int(ids[-1]) in chat.end_ids)
        return chat.prompt_ids(list(after.messages)) if tail is None else np.concatenate([prefix.before, ids, tail])

    def _play_on(self, tasks: Sequence[Task], open_: Sequence[tuple[int, int, _After, np.ndarray]], found: np.ndarray) -> None:
        """Play what goes on to its end and write down its success; a conversation that fills the context has failed."""
        room = self.driver.sampler.context_limit
        fitting = [branch for branch in open_ if len(branch[3]) < room]
        resumed = [dataclasses.replace(tasks[i], meta={**tasks[i].meta, REPLAY: after.actions}) for i, _, after, _ in fitting]
        rows = self.driver.collect(resumed, 1, self.sampling, Job("diagnose-on", 0, evaluation=True), [prompt for *_, prompt in fitting])
        for (i, k, after, _), row in zip(fitting, rows, strict=True):
            if row.observations and row.observations[0] != after.observation:
                raise EnvError(f"{row.task.task_id}: the same actions led to another observation: its world cannot be branched")
            found[i, k] = float(row.success) if row.usable else float("nan")
