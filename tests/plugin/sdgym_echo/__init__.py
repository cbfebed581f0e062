"""A world that wants words backwards, and one of everything else that a plugin can add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

import sdgym
from sdgym.core import Outcome, Task
from sdgym.text_env import Response, TextEnv

WORDS = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen")


class EchoEnv(TextEnv):
    """Say two words and a number in reverse order."""

    env_id: ClassVar[str] = "echo/Echo-v0"
    max_action_tokens: ClassVar[Mapping[str, int]] = {"tiny": 8}

    def make_task(self, seed: int, split: str) -> Task:
        """Return two words and a number, held out from a thousand on."""
        least = 1000 if split == "heldout" else 0

        def draw(rng: np.random.Generator) -> tuple[Any, str]:
            words = f"{WORDS[rng.integers(8)]} {WORDS[rng.integers(8)]} {least + int(rng.integers(1000))}"
            return words, words

        words = self.draw_in_split(seed, split, draw)
        answer = " ".join(reversed(words.split()))
        return self.finish_task(
            seed, split, f"Say in reverse order: {words}", words, {"answer": answer, "reference_solution": f"It is {answer}"}, {}
        )

    async def respond(self, action: str) -> Response:
        """Compare."""
        assert self.task is not None
        right = action.strip() == self.task.privileged["answer"]
        return Response("", float(right), True, Outcome.CORRECT if right else Outcome.WRONG, "" if right else "Not that.", success=right)

    def oracle(self, task: Task) -> Sequence[str]:
        """Return the words."""
        return (task.privileged["answer"],)


def shouted(answer: str, row: Mapping[str, Any]) -> bool:
    """Want the answer in capitals."""
    return answer.strip() == str(row["answer"]).upper()


def register() -> None:
    """Add everything."""
    from sdgym.algos.conditioning import conditioners
    from sdgym.verifiers.graders import graders

    sdgym.register_env("echo/Echo-v0", "sdgym_echo:EchoEnv")
    sdgym.register_algorithm("echo-grpo", "sdgym.algos.grpo:GRPO")
    conditioners.register("echo-reference", conditioners.get("reference"))
    graders.register("shouted", shouted)
