"""``sdgym/Reasoning-v0``: the procedural generators of the package ``reasoning-gym``, with their graders fenced.

Importing this module registers the id: ``sdgym.envs.reasoning:sdgym/Reasoning-v0`` does both. Needs
``pip install reasoning-gym``.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import gymnasium

from sdgym.core import Outcome, Task
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.seeding import derive
from sdgym.text_env import Response, TextEnv

_UNPROVED = "it gives no reference answer, so nothing proves that a task can be solved"
_EVALUATES = "its grader evaluates the answer as Python code, in the trainer's own process"
DENIED: Mapping[str, str] = {
    "boxnet": _UNPROVED,
    "coin_flip": "its grader pays for numbers far from the answer",
    "complex_arithmetic": "its grader pays for 'nan'",
    "composite": "it is a mixture of others: name one of them",
    "game_of_life_halting": "its grader pays for any text",
    "graph_color": _UNPROVED,
    "intermediate_integration": _EVALUATES,
    "polynomial_multiplication": _EVALUATES,
    "propositional_logic": _UNPROVED,
    "puzzle24": "its grader does not look at the task's numbers: one answer pays in every task",
    "rubiks_cube": _UNPROVED,
    "rush_hour": _UNPROVED,
    "simple_integration": _EVALUATES,
}
"""Generators that are refused, and why (reasoning-gym 0.1.25)."""
PLAIN: Mapping[str, str] = {
    "binary_matrix": r"[\d\s]+",
    "countdown": r"(?!.*(\*\s*\*|/\s*/))[\d\s()+*/-]{1,200}",
    "n_queens": r"[Q_\s]+",
    "spiral_matrix": r"[\d\s]+",
    "string_insertion": r"[A-Z]+",
}
"""Generators whose graders evaluate the answer as Python code, too, but need not: only an answer of this form reaches them."""
SYSTEM_PROMPT = "Think first if you like, then give the answer alone inside <answer></answer>."
LONGEST = 20_000
SIZE = 2**20
"""How many items a generator is asked for; it makes each when it is read."""
SIZES: Mapping[str, int] = {"acre": 2_000, "word_ladder": 20_000}
"""But the first makes all when it is opened, and the second gives no more."""
FULL = 0.99
"""From this score on an answer is right. Some generators pay a little for any text, so less is nothing."""


def generators() -> list[str]:
    """Return the names of the generators that can be used. Raises ConfigError if the package is missing."""
    _package()
    factory = importlib.import_module("reasoning_gym.factory")
    return sorted(set(factory.DATASETS) - set(DENIED))


def _package() -> ModuleType:
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise ConfigError("the package reasoning-gym is not installed: pip install reasoning-gym") from error


class ReasoningEnv(TextEnv):
    """One question of a generator of reasoning-gym; reward 1 if its grader finds the answer right, else 0.

    Args:
        level, split, privileged, render_mode: see :class:`TextEnv`.
        generator: name of the generator (:func:`generators` lists them).
        settings: its own settings.

    Raises:
        ConfigError: the package is missing, the generator is denied, or does not take the settings.
        UnknownNameError: no such generator.
    """

    env_id: ClassVar[str] = "sdgym/Reasoning-v0"
    levels: ClassVar[Sequence[str]] = ("data",)
    max_action_tokens: ClassVar[Mapping[str, int]] = {"data": 512}
    system_prompt: ClassVar[str] = SYSTEM_PROMPT

    def __init__(
        self,
        level: str = "data",
        split: str = "train",
        privileged: bool = False,
        render_mode: str | None = None,
        generator: str = "chain_sum",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(level, split, privileged, render_mode)
        if generator in DENIED:
            raise ConfigError(f"the generator {generator!r} is not used: {DENIED[generator]}")
        if generator not in generators():
            raise UnknownNameError("generator of reasoning-gym", generator, generators())
        self.generator, self.settings = generator, dict(settings or {})
        self._size = SIZES.get(generator, SIZE)
        self._data = self._open()

    def _open(self) -> Any:
        """Return the generator, opened once: its items are made when they are asked for."""
        try:
            return _package().create_dataset(self.generator, size=self._size, seed=0, **self.settings)
        except (TypeError, AssertionError, ValueError) as error:
            raise ConfigError(f"the generator {self.generator!r} does not take the settings {self.settings}: {error}") from error

    def make_task(self, seed: int, split: str) -> Task:
        """Return the first task, counted from ``seed``, that belongs to ``split``; there is no held-out family, it is the test split's."""
        wanted = "test" if split == "heldout" else split
        for attempt in range(1000):
            number = derive(seed, self.env_id, self.generator, attempt) % self._size
            item = self._data[number]
            if item["answer"] is None:
                continue
            if self.split_of([item["question"]]) == wanted and (
                wanted != "test" or (derive(number, "half") % 2 == 1) == (split == "heldout")
            ):
                answer = str(item["answer"])
                meta = {"family": self.generator, "skill": self.generator, "number": number}
                return self.finish_task(
                    seed, split, item["question"], [item["question"]], {"answer": answer, "reference_solution": answer}, meta
                )
        raise ConfigError(f"the generator {self.generator!r} has too few different tasks for split {split!r}: widen its settings")

    async def respond(self, action: str) -> Response:
        """Let the generator's grader judge; what it raises on is wrong, what it pays partly is wrong."""
        assert self.task is not None
        found = _answer(action)
        if not found:
            return Response("", 0.0, True, Outcome.NO_ANSWER, "There is no answer.", valid_action=False)
        if found.strip() == self.task.privileged["answer"].strip():
            score = 1.0
        else:
            item = self._data[self.task.meta["number"]]
            score = await asyncio.to_thread(_score, self._data, found, item) if self._harmless(found) else 0.0
        right = score >= FULL
        said = "Right." if right else f"Wrong: {found[:80]!r} is not the answer."
        return Response(
            "",
            float(right),
            True,
            Outcome.CORRECT if right else Outcome.WRONG,
            said,
            success=right,
            reward_components={"success": float(right)},
        )

    def _harmless(self, answer: str) -> bool:
        """Return whether ``answer`` can be given to the generator's grader."""
        form = PLAIN.get(self.generator)
        return form is None or re.fullmatch(form, answer, re.ASCII | re.DOTALL) is not None

    def oracle(self, task: Task) -> Sequence[str]:
        """Return the reference answer."""
        return (f"<answer>{task.privileged['answer']}</answer>",)

    def answer_key(self, task: Task, actions: Sequence[str]) -> str:
        """Return what a vote counts."""
        return _answer(actions[-1]) if actions else ""


def _answer(action: str) -> str:
    """Return the last ``<answer>`` block after the reasoning, or all of it; "" if there is none or it is too long."""
    _, _, rest = action.rpartition("</think>")
    if "<think>" in rest:
        return ""
    _, mark, last = rest.rpartition("<answer>")
    found = last.partition("</answer>")[0] if mark else rest
    return found.strip("\n") if found.strip() and len(found) <= LONGEST else ""


def _score(data: Any, answer: str, item: Mapping[str, Any]) -> float:
    try:
        score = float(data.score_answer(answer, item))
    except Exception:  # these graders parse a stranger's text and raise on much of it: that is a wrong answer
        return 0.0
    return score if math.isfinite(score) else 0.0


if ReasoningEnv.env_id not in gymnasium.registry:
    gymnasium.register(id=ReasoningEnv.env_id, entry_point=f"{__name__}:ReasoningEnv", disable_env_checker=True, order_enforce=False)
