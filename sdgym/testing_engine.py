"""Small parts for tests of the engine: a world that asks for letters, and a sampler that needs no model.

Importing this module registers ``sdgym-test/Letters-v0``; ``gymnasium.make("sdgym.testing_engine:sdgym-test/Letters-v0")``
does both. A policy with random weights meets it in some attempts, so that every method has something to learn.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np

from sdgym.core import Outcome, Task
from sdgym.errors import InfraError
from sdgym.generation.base import Request, Sample
from sdgym.seeding import counter_uniform
from sdgym.text_env import Response, TextEnv

LETTERS_ID = "sdgym.testing_engine:sdgym-test/Letters-v0"
KINDS: Mapping[str, str] = {
    "small letter": "abcdefghijklmnopqrstuvwxyz",
    "capital letter": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "digit": "0123456789",
    "other sign": "!\"#$%&'()*+,-./:;<=>?@[]^_{|}~",
}


class LettersEnv(TextEnv):
    """Each turn asks for a sign of one kind; the reward of a turn is 1 if the answer starts with such a sign.

    Args:
        turns: how many turns an episode has.
        jitter: longest random pause in seconds before each answer; drawn from the process's own
            unseeded generator, because results must not depend on it.
        trouble: ``infra``: every third task cannot be graded. ``bug``: the environment raises.
        **settings: see :class:`sdgym.text_env.TextEnv`.
    """

    env_id: ClassVar[str] = "sdgym-test/Letters-v0"
    levels: ClassVar[Sequence[str]] = ("tiny",)
    max_action_tokens: ClassVar[Mapping[str, int]] = {"tiny": 2}

    def __init__(self, turns: int = 1, jitter: float = 0.0, trouble: Literal["none", "infra", "bug"] = "none", **settings: Any) -> None:
        super().__init__(**settings)
        self.max_turns, self.jitter, self.trouble = turns, jitter, trouble  # type: ignore[misc]

    def make_task(self, seed: int, split: str) -> Task:
        """Return a task: kinds for all turns, and a number that tells tasks apart."""
        kind = sorted(KINDS)[seed % len(KINDS)]
        privileged = {"reference_solution": KINDS[kind][0], "answer": KINDS[kind][0]}
        return self.finish_task(seed, split, self._question(kind, seed % 97), [kind, seed], privileged, {"kind": kind, "number": seed % 97})

    @staticmethod
    def _question(kind: str, number: int) -> str:
        return f"{kind} {number}"

    async def respond(self, action: str) -> Response:
        """Judge the first sign of ``action``."""
        assert self.task is not None
        if self.jitter:
            await asyncio.sleep(random.Random().random() * self.jitter)
        if self.trouble == "infra" and self.task.meta["number"] % 3 == 0:
            raise InfraError("no grader today")
        if self.trouble == "bug":
            raise ValueError("a bug in this world")
        kind = str(self.task.meta["kind"])
        right = action[:1] != "" and action[0] in KINDS[kind]
        last = self.turn >= self.max_turns
        return Response(
            observation="" if last else ("good" if right else "bad") + f" {kind} {self.turn}",
            reward=float(right),
            terminated=last,
            outcome=Outcome.CORRECT if right else Outcome.WRONG,
            feedback="" if right else f"{action[:1]!r} is not a {kind}",
            success=right,
            valid_action=bool(action),
            reward_components={"success": float(right)},
        )

    def oracle(self, task: Task) -> Sequence[str]:
        """Return a sign of the asked kind for every turn."""
        return [KINDS[str(task.meta["kind"])][0]] * self.max_turns


gymnasium.register(id="sdgym-test/Letters-v0", entry_point="sdgym.testing_engine:LettersEnv", disable_env_checker=True, order_enforce=False)


class ScriptedSampler:
    """A back end whose tokens are a pure function of (noise key, token index), whatever the weights are.

    Args:
        alphabet: token ids to draw from, uniformly.
        end_id: ends a turn.
        end_rate: chance of the end at each token after the first.
        slots: rows decoded at once; the others wait in submit order.
        context_limit: tokens of a session.

    Attributes:
        log: every request in submit order.
        sessions: the live contexts, to check what the driver claims to have sent.
    """

    def __init__(self, alphabet: Sequence[int], end_id: int, end_rate: float = 0.3, slots: int = 8, context_limit: int = 256) -> None:
        self.alphabet, self.end_id, self.end_rate = list(alphabet), end_id, end_rate
        self.slots, self.context_limit = slots, context_limit
        self.log: list[Request] = []
        self.sessions: dict[int, list[int]] = {}
        self._waiting: list[Request] = []
        self._live: list[tuple[Request, list[int]]] = []

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self.log.append(request)
        self._waiting.append(request)

    def tick(self) -> list[Sample]:
        """Admit what fits and draw one token for every live row."""
        while self._waiting and len(self._live) < self.slots:
            request = self._waiting.pop(0)
            self.sessions.setdefault(request.session, []).extend(int(i) for i in request.new_ids)
            self._live.append((request, []))
        finished, live = [], []
        for request, drawn in self._live:
            token = self._draw(request.noise_key, len(drawn))
            drawn.append(token)
            self.sessions[request.session].append(token)
            full = len(self.sessions[request.session]) >= self.context_limit
            stop = "eos" if token == self.end_id else "length" if len(drawn) >= request.sampling.max_tokens else "context" if full else ""
            if stop:
                logprobs = -np.arange(1, len(drawn) + 1, dtype=np.float32)
                finished.append(Sample(request.request_id, np.array(drawn, np.int64), logprobs, stop))  # type: ignore[arg-type]
            else:
                live.append((request, drawn))
        self._live = live
        return finished

    def _draw(self, key: int, index: int) -> int:
        end, choice = counter_uniform(np.array([key, key], np.uint64), np.array([2 * index, 2 * index + 1]))
        return self.end_id if index and end < self.end_rate else self.alphabet[int(choice * len(self.alphabet))]

    def release(self, session: int) -> None:
        """Forget a session."""
        self.sessions.pop(session, None)

    @property
    def pending(self) -> int:
        """Requests not yet returned."""
        return len(self._waiting) + len(self._live)

    def sync_weights(self) -> None:
        """Drop every session."""
        self.sessions.clear()
