"""``TextEnv``: the one interface of every world: text in, text out, reward *and* feedback.

A subclass describes tasks and answers actions; this class does the Gymnasium part (spaces, seeding,
the fixed ``info`` keys, turn counting, limits) once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np

from sdgym.core import MASKED_OUTCOMES, Message, Outcome, Task, Verdict, content_hash
from sdgym.errors import ConfigError, EnvError, InfraError, UnknownNameError
from sdgym.seeding import derive, generator

SPLITS = ("pretrain", "train", "val", "test", "heldout")
LEVELS = ("tiny", "easy", "medium", "hard")
_SHARES = (("pretrain", 450), ("train", 850), ("val", 920), ("test", 1000))  # cumulative, out of 1000


class UnicodeText(gymnasium.Space[str]):
    """All strings up to ``max_length`` characters.

    ``gymnasium.spaces.Text`` checks every character in Python against an ASCII alphabet and cannot hold
    what a language model writes. Samples are short printable strings.
    """

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        self.max_length = max_length
        super().__init__(shape=None, dtype=None, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return 1 to 24 printable ASCII characters. Masks are not supported and ignored."""
        size = int(self.np_random.integers(1, min(24, self.max_length) + 1))
        return "".join(chr(int(c)) for c in self.np_random.integers(32, 127, size))

    def contains(self, x: Any) -> bool:
        """Return whether ``x`` is a string of acceptable length."""
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no array form."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    def __hash__(self) -> int:
        return hash(("UnicodeText", self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"


@dataclasses.dataclass(frozen=True)
class Response:
    """What an environment answers to one action; the base class turns it into the Gymnasium tuple.

    Attributes:
        observation: new user-role text ("" at the end).
        reward: the reward of this turn.
        terminated: the task is over (solved, failed for good, or single-turn).
        outcome: the verdict so far; ``infra_error`` masks the row.
        feedback: text about this action, for teachers; shown to the student only if the environment
            also puts it into ``observation`` and sets ``feedback_visible``.
        feedback_kind, reveals_answer, feedback_visible: see :class:`sdgym.core.Feedback`.
        success: whether the task is solved.
        valid_action: whether the action could be understood.
        reward_components: named parts for analysis (fixed keys per environment).
        messages: chat messages to append; default one user message with ``observation``.
    """

    observation: str
    reward: float
    terminated: bool
    outcome: Outcome
    feedback: str = ""
    feedback_kind: str = "verifier"
    reveals_answer: bool = False
    feedback_visible: bool = False
    success: bool = False
    valid_action: bool = True
    reward_components: Mapping[str, float] = dataclasses.field(default_factory=dict)
    messages: tuple[Message, ...] | None = None

    @classmethod
    def of(cls, verdict: Verdict) -> Response:
        """Return the answer to an action that ends its episode: the score is the reward, and only what is right is a success."""
        success = verdict.outcome is Outcome.CORRECT
        return cls(
            observation="",
            reward=verdict.score or 0.0,
            terminated=True,
            outcome=verdict.outcome,
            feedback=verdict.feedback,
            success=success,
            valid_action=verdict.outcome not in (Outcome.NO_ANSWER, Outcome.UNPARSABLE),
            reward_components={"success": float(success)},
        )


@dataclasses.dataclass(frozen=True)
class Information:
    """One piece of privileged information, as the posterior of the novice sees it (ARCHITECTURE §6).

    Attributes:
        kind: ``reference``, ``peer``, ``feedback``, ``outcome``, ``empty`` or ``filler``.
        about: the task it speaks of; a mismatched block speaks of another and removes nothing.
        attempt: the tried actions, one per turn (feedback, outcome, peer).
        feedback: the environment's own words about the attempt, one per turn.
    """

    kind: str
    about: str
    attempt: tuple[str, ...] = ()
    feedback: tuple[str, ...] = ()


FRUITLESS = 5_000
"""Draws in a row without a new task after which a world counts as exhausted."""


class TextEnv(gymnasium.Env[str, str]):
    """A text world with the Gymnasium interface.

    A subclass sets the class attributes and implements :meth:`make_task`, :meth:`begin` and
    :meth:`respond`; to be usable for pre-training an embedded policy also :meth:`novice` and
    :meth:`consistent`; and :meth:`oracle`, which proves that tasks can be solved.

    Args:
        level: one of ``levels``.
        split: one of :data:`SPLITS`; ``heldout`` is a whole family never seen in the others.
        privileged: also return ``info["privileged"]`` (never for a student).
        render_mode: ``"ansi"`` or None.

    Raises:
        UnknownNameError: an unknown level or split.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"], "render_fps": 1}  # type: ignore[misc]
    env_id: ClassVar[str] = ""
    system_prompt: ClassVar[str] = ""
    tools: ClassVar[Sequence[dict[str, Any]] | None] = None
    max_turns: ClassVar[int] = 1
    levels: ClassVar[Sequence[str]] = LEVELS
    reward_keys: ClassVar[Sequence[str]] = ("success",)
    max_action_tokens: ClassVar[Mapping[str, int]] = {}
    max_chars: ClassVar[int] = 1_000_000

    def __init__(self, level: str = "tiny", split: str = "train", privileged: bool = False, render_mode: str | None = None) -> None:
        if level not in self.levels:
            raise UnknownNameError("level", level, self.levels)
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UnknownNameError("render mode", str(render_mode), self.metadata["render_modes"])
        self.level, self.split, self.privileged, self.render_mode = level, split, privileged, render_mode
        self.observation_space = UnicodeText(self.max_chars)
        self.action_space = UnicodeText(self.max_chars)
        self.task: Task | None = None
        self.turn = 0
        self._over = True
        self._transcript: list[str] = []

    # ---- what a subclass implements -------------------------------------------------------------

    def make_task(self, seed: int, split: str) -> Task:
        """Return the task of ``seed`` in ``split``: a pure function of (class, level, seed, split)."""
        raise NotImplementedError

    def begin(self, task: Task) -> None:
        """Set up the episode's state for ``task`` (single-turn environments need none)."""

    async def respond(self, action: str) -> Response:
        """Answer one action. Never raises for what a model wrote; raises InfraError if grading failed."""
        raise NotImplementedError

    def oracle(self, task: Task) -> Sequence[str]:
        """Return actions, one per turn, that solve ``task``."""
        raise NotImplementedError

    def novice(self, task: Task, rng: np.random.Generator) -> Sequence[str]:
        """Return one draw from the novice: a plausible, often wrong, attempt (one action per turn)."""
        raise NotImplementedError

    def consistent(self, task: Task, actions: Sequence[str], information: Information) -> bool:
        """Return whether ``actions`` are still possible given ``information`` about this task."""
        raise NotImplementedError

    # ---- tasks ----------------------------------------------------------------------------------

    def tasks(self, split: str, seed: int, count: int) -> Iterator[Task]:
        """Yield ``count`` distinct tasks of ``split``, a pure function of (level, split, seed).

        Being distinct, a long list holds relatively fewer tasks of families that have few: its mix of families depends on ``count``.
        """
        seen: set[str] = set()
        index = fruitless = 0
        while len(seen) < count and fruitless < FRUITLESS:
            task = self.make_task(derive(seed, "tasks", split, index) >> 16, split)
            key = task.task_id.rsplit("-", 1)[1]
            index, fruitless = index + 1, fruitless + 1 if key in seen else 0
            if not fruitless:
                seen.add(key)
                yield task
        if len(seen) < count:
            raise ConfigError(
                f"{self.env_id} at level {self.level!r} gave {len(seen)} distinct {split} tasks and then none in {FRUITLESS} draws; "
                f"{count} were asked for: take fewer, or another level"
            )

    def finish_task(self, seed: int, split: str, user: str, canonical: Any, privileged: Mapping[str, str], meta: Mapping[str, Any]) -> Task:
        """Build a :class:`Task`: id from level, split, seed and the hash of ``canonical``, chat from ``user``."""
        system: tuple[Message, ...] = ({"role": "system", "content": self.system_prompt},) if self.system_prompt else ()
        task_id = f"{self.level}-{split}-{seed}-{content_hash(canonical)[:16]}"
        return Task(task_id, (*system, {"role": "user", "content": user}), split, seed, privileged, {"level": self.level, **meta})

    @staticmethod
    def split_of(canonical: Any) -> str:
        """Return the split that owns this content: disjoint by hash, so that no seed can leak a task."""
        bucket = int(content_hash(canonical)[16:24], 16) % 1000
        return next(name for name, upper in _SHARES if bucket < upper)

    def draw_in_split(self, seed: int, split: str, draw: Callable[[np.random.Generator], tuple[Any, Any]]) -> Any:
        """Draw ``(canonical, value)`` from derived streams until ``canonical`` belongs to ``split``."""
        for attempt in range(100_000):
            canonical, value = draw(generator(seed, type(self).__name__, self.level, attempt))
            if split == "heldout" or self.split_of(canonical) == split:
                return value
        raise EnvError(f"{self.env_id}: no task of split {split!r} found from seed {seed}")

    def task_from_id(self, task_id: str) -> Task:
        """Rebuild a task from its id. Raises :class:`ConfigError` if the id is not one of this environment."""
        parts = task_id.split("-")
        if len(parts) != 4 or parts[0] != self.level or parts[1] not in SPLITS or not parts[2].isdigit():
            raise ConfigError(f"task id {task_id!r} is not one of {self.env_id} at level {self.level!r} (level-split-seed-hash)")
        task = self.make_task(int(parts[2]), parts[1])
        if task.task_id != task_id:
            raise ConfigError(
                f"task id {task_id!r} does not match the task its seed gives ({task.task_id!r}): it comes from another version"
            )
        return task

    # ---- demonstrations -------------------------------------------------------------------------

    def demonstrate(self, task: Task, rng: np.random.Generator, information: Information | None = None, tries: int = 400) -> Sequence[str]:
        """Return a draw from the posterior of the novice given ``information``.

        Rejection sampling: information only removes candidates. Where the novice never produces a
        consistent attempt within ``tries``, the oracle's solution stands in (a reference leaves one).
        """
        if information is None or information.about != task.task_id or information.kind in ("empty", "filler"):
            return self.novice(task, rng)
        for _ in range(tries):
            actions = self.novice(task, rng)
            if self.consistent(task, actions, information):
                return actions
        return self.oracle(task)

    # ---- Gymnasium ------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; ``options={"task_id": …}`` or ``{"task": Task}`` chooses the task.

        Returns the user-role text of the task and ``info`` (``messages`` holds the whole initial chat).
        """
        super().reset(seed=seed)
        options = options or {}
        if "task" in options:
            self.task = options["task"]
        elif "task_id" in options:
            self.task = self.task_from_id(options["task_id"])
        else:
            self.task = self.make_task(int(self.np_random.integers(0, 2**47)), self.split)
        assert self.task is not None
        self.turn, self._over = 0, False
        self.begin(self.task)
        observation = self.task.messages[-1]["content"]
        self._transcript = [observation]
        return observation, self._info(None, self.task.messages)

    async def astep(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer one action without blocking the event loop."""
        if self._over or self.task is None:
            raise EnvError(f"{self.env_id}: step() after the end of an episode; call reset() first")
        if not isinstance(action, str):
            raise EnvError(f"{self.env_id}: an action is a str, got {type(action).__name__}")
        self.turn += 1
        try:
            response = await self.respond(action[: self.max_chars])
        except InfraError as error:
            response = Response("", 0.0, False, Outcome.INFRA_ERROR, feedback_kind="runtime", feedback=f"{type(error).__name__}: {error}")
        masked = response.outcome in MASKED_OUTCOMES
        terminated = response.terminated and not masked
        truncated = masked or (not terminated and self.turn >= self.max_turns)
        self._over = terminated or truncated
        reward = 0.0 if masked else float(response.reward)
        messages = response.messages
        if messages is None:
            messages = ({"role": "user", "content": response.observation},) if response.observation else ()
        self._transcript += [action, response.observation]
        return response.observation, reward, terminated, truncated, self._info(response, messages)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer one action, synchronously."""
        coroutine = self.astep(action)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(coroutine)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:  # inside a running loop (a notebook)
            return pool.submit(asyncio.run, coroutine).result()

    def render(self) -> str | None:
        """Return the transcript so far as text (``render_mode="ansi"``)."""
        if self.render_mode is None:
            return None
        roles = ("user", "assistant")
        return "\n".join(f"[{roles[i % 2]}] {text}" for i, text in enumerate(self._transcript) if text)

    def _info(self, response: Response | None, messages: tuple[Message, ...]) -> dict[str, Any]:
        assert self.task is not None
        components = dict.fromkeys(self.reward_keys, 0.0)
        if response is not None:
            components.update({k: float(v) for k, v in response.reward_components.items()})
        info: dict[str, Any] = {
            "feedback": response.feedback if response else "",
            "feedback_kind": response.feedback_kind if response else "verifier",
            "reveals_answer": float(response.reveals_answer) if response else 0.0,
            "feedback_visible": float(response.feedback_visible) if response else 0.0,
            "outcome": str(response.outcome) if response else "",
            "success": float(response.success) if response else 0.0,
            "valid_action": float(response.valid_action) if response else 1.0,
            "turn": float(self.turn),
            "task_id": self.task.task_id,
            "reward_components": components,
            "messages": tuple(dict(m) for m in messages),
        }
        if self.privileged:
            info["privileged"] = dict(self.task.privileged)
        return info
