"""``sdgym/Steps-v0``: tasks made from the worked solutions of another world: fill its gaps, or put its steps in order (MR-RLVR)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sdgym.core import Outcome, Task
from sdgym.envs.two_turn import inner_world
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.seeding import derive, generator
from sdgym.text_env import Response, TextEnv

KINDS = ("fill", "order")
LETTERS = "ABCDEFGH"
MOST_GAPS = 4
_NUMBER = re.compile(r"(?<![\d.])\d+(?:\.\d+)?(?!\d|\.\d)")
_STEP = re.compile(r"(?<=[.;:,])\s+")
_TRIES = 200


class StepsEnv(TextEnv):
    """A problem with its worked solution, some numbers taken out or its steps shuffled; the reward is the share put right.

    ``fill``: the missing numbers in order, separated by commas; reward: the share of gaps that match. ``order``: the letters of
    the steps in their right order; reward: the share of places that are right, so that 1 is the right order, and an order drawn
    at random earns 1/n in expectation (never exactly right places by luck of a tie: equal steps are not used).

    Args:
        kind: ``fill`` or ``order``.
        gaps: most numbers that ``fill`` takes out; at most half of a solution's.
        base: id of a single-turn world whose tasks have a ``reference_solution``.
        level, split, privileged, render_mode: see :class:`TextEnv`.
        **settings: for the inner world.

    Raises:
        UnknownNameError: an unknown kind.
        ConfigError: ``gaps`` below 1; the inner world is not single-turn, or its solutions have nothing to take out or to order.
    """

    env_id: ClassVar[str] = "sdgym/Steps-v0"
    max_action_tokens: ClassVar[Mapping[str, int]] = {"tiny": 24, "easy": 48, "medium": 64, "hard": 96}

    def __init__(
        self,
        kind: str = "fill",
        gaps: int = MOST_GAPS,
        base: str = "sdgym/Math-v0",
        level: str = "tiny",
        split: str = "train",
        privileged: bool = False,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(level, split, privileged, render_mode)
        if kind not in KINDS:
            raise UnknownNameError("kind of step task", kind, KINDS)
        if gaps < 1:
            raise ConfigError(f"gaps must be at least 1, got {gaps}")
        self.kind, self.gaps, self.inner = kind, gaps, inner_world(base, level=level, split=split, **settings)

    # ---- tasks ----------------------------------------------------------------------------------

    def make_task(self, seed: int, split: str) -> Task:
        """Return the task of ``seed``: inner tasks are drawn until one has gaps to make or steps to shuffle."""
        for attempt in range(_TRIES):
            task = self.inner.make_task(seed if not attempt else derive(seed, "steps", attempt) >> 16, split)
            rng = generator(seed, "steps", self.kind, attempt)
            solution = task.privileged.get("reference_solution", "")
            found = self._fill(solution, rng) if self.kind == "fill" else self._order(solution, rng)
            if found is not None:
                text, key = found
                question = task.messages[-1]["content"]
                content = [self.kind, task.task_id.rsplit("-", 1)[1], key, text]
                privileged = {"answer": ", ".join(key) if self.kind == "fill" else "".join(key), "reference_solution": solution}
                return self.finish_task(seed, split, f"{question}\n{text}", content, privileged, {"kind": self.kind, "key": list(key)})
        needed = "a number" if self.kind == "fill" else "two different steps"
        raise ConfigError(f"no solution of {self.inner.env_id} at level {self.level!r} has {needed}: choose another base, level or kind")

    def _fill(self, solution: str, rng: np.random.Generator) -> tuple[str, list[str]] | None:
        numbers = list(_NUMBER.finditer(solution))
        if not numbers:
            return None
        count = min(self.gaps, max(1, len(numbers) // 2))
        chosen = sorted(int(i) for i in rng.permutation(len(numbers))[:count])
        text, done = "", 0
        for number, i in enumerate(chosen, 1):
            text += f"{solution[done : numbers[i].start()]}[{number}]"
            done = numbers[i].end()
        return f"Solution: {text}{solution[done:]}\nWrite {_gaps(count)}.", [numbers[i][0] for i in chosen]

    @staticmethod
    def _order(solution: str, rng: np.random.Generator) -> tuple[str, list[str]] | None:
        steps = [step.strip(" ,;:.") for step in _STEP.split(solution.strip()) if step.strip(" ,;:.")][: len(LETTERS)]
        if len(steps) < 2 or len(set(steps)) < len(steps):
            return None
        shown = rng.permutation(len(steps))
        while np.array_equal(shown, np.arange(len(steps))):
            shown = rng.permutation(len(steps))
        lines = [f"{LETTERS[place]}) {steps[int(i)]}" for place, i in enumerate(shown)]
        key = [LETTERS[int(place)] for place in np.argsort(shown)]
        return "\n".join([*lines, "Write the letters in the right order."]), key

    # ---- episode --------------------------------------------------------------------------------

    async def respond(self, action: str) -> Response:
        """Compare what was written with the key, place by place."""
        assert self.task is not None
        key = [str(part) for part in self.task.meta["key"]]
        said = answer_of(action, self.kind)
        valid = len(said) == len(key)
        right = [valid and a == b for a, b in zip(said, key, strict=False)]
        share = sum(right) / len(key) if valid else 0.0
        success = share == 1.0
        what = "gap" if self.kind == "fill" else "place"
        wrong = ", ".join(str(i) for i, good in enumerate(right, 1) if not good)
        words = f"There are {len(key)} {what}s and you wrote {len(said)} answers." if not valid else f"Wrong at {what} {wrong}."
        return Response(
            observation="",
            reward=share,
            terminated=True,
            outcome=Outcome.CORRECT if success else Outcome.WRONG if valid else Outcome.UNPARSABLE,
            feedback="" if success else words,
            success=success,
            valid_action=valid,
            reward_components={"success": float(success)},
        )

    def oracle(self, task: Task) -> Sequence[str]:
        """Return the key."""
        return (task.privileged["answer"],)


def answer_of(action: str, kind: str) -> list[str]:
    """Return the answers of the last line that has any: numbers, or letters that stand alone or together in capitals."""
    for line in reversed(action[-10_000:].splitlines()):
        if kind == "fill":
            found = [match[0] for match in _NUMBER.finditer(line[-1000:])]
        else:
            found = [letter for word in re.findall(r"\b[A-H]+\b", line[-1000:]) for letter in word]
        if found:
            return found
    return []


def _gaps(count: int) -> str:
    return "the number for [1]" if count == 1 else f"the numbers for [1] to [{count}], separated by commas"
