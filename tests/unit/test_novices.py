"""The worth of information to a perfect reader, on a table small enough to be done by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from sdgym.benchmarks.novices import WORLDS, greedy, measure
from sdgym.chat import ChatFormat
from sdgym.core import Outcome, Task
from sdgym.policy import Policy
from sdgym.text_env import Information, Response, TextEnv

TABLES: tuple[dict[str, float], ...] = ({"right": 0.5, "near": 0.3, "far": 0.2}, {"near": 0.6, "right": 0.4})


class Guess(TextEnv):
    """Two tasks with known novices; the words single the right attempt out, the bare outcome rules the attempt out."""

    env_id: ClassVar[str] = "unit/Guess-v0"

    def make_task(self, seed: int, split: str) -> Task:
        return self.finish_task(seed % 2, split, "?", [seed % 2], {"answer": "right"}, {})

    async def respond(self, action: str) -> Response:
        good = action == "right"
        return Response(
            "", float(good), True, Outcome.CORRECT if good else Outcome.WRONG, "It is right." if good else "Say right.", success=good
        )

    def candidates(self, task: Task) -> list[tuple[tuple[str, ...], float]]:
        return [((text,), p) for text, p in TABLES[task.seed].items()]

    def consistent(self, task: Task, actions: Any, information: Information) -> bool:
        return (
            actions[0] == "right"
            if information.feedback == ("Say right.",) and information.kind == "feedback"
            else actions != information.attempt
        )


@pytest.fixture
def world() -> Iterator[str]:
    gymnasium.register(id=Guess.env_id, entry_point=f"{__name__}:Guess", disable_env_checker=True, order_enforce=False)
    yield Guess.env_id
    del gymnasium.registry[Guess.env_id]


def test_the_numbers_are_those_done_by_hand(world: str) -> None:
    found = measure(world, 2, ChatFormat(Policy.load("tiny", threads=1).tokenizer))
    outcome = (0.3 * 0.5 / 0.7 + 0.2 * 0.5 / 0.8 + 0.6 * 1.0) / (0.5 + 0.6)
    assert found == {
        "plain": pytest.approx(0.45),
        "mode": 0.5,
        "greedy": 0.5,  # no two attempts begin with the same token
        "feedback": pytest.approx(1.0),
        "outcome": pytest.approx(outcome),
    }
    assert np.isclose(outcome, 0.8539, atol=1e-4)


def test_greedy_decoding_follows_the_weight_of_a_common_beginning() -> None:
    """Texts 1 2 (.35) and 1 3 (.25) share .6 of the weight and beat 4 (.4), the likeliest of all; a text that ends is a choice like another."""
    assert greedy([([4], 0.4), ([1, 2], 0.35), ([1, 3], 0.25)]) == 1
    assert greedy([([4], 0.4), ([1], 0.35), ([1, 3], 0.25)]) == 1
    assert greedy([([4], 0.4), ([1], 0.25), ([1, 3], 0.35)]) == 2
    assert greedy([([4], 0.4), ([1, 2], 0.25), ([1, 2], 0.25)]) == 1


@pytest.mark.parametrize("env_id", WORLDS)
def test_greedy_decoding_of_every_novice_lies_in_the_band(env_id: str) -> None:
    """15 to 50 % (ARCHITECTURE §6): a policy that has become the novice must leave greedy decoding room to be wrong."""
    found = measure(env_id, 100, ChatFormat(Policy.load("tiny-four", threads=1).tokenizer))
    assert 0.15 < found["plain"] < 0.5 and 0.15 < found["greedy"] < 0.5
    assert found["plain"] + 0.1 < found["outcome"] + 0.1 < found["feedback"]
