"""Every registered environment passes the conformance suite, and the suite sees what it claims to see."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import random
import socket
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from sdgym.core import Outcome, Task
from sdgym.envs import ENVIRONMENTS
from sdgym.errors import ConfigError, EnvError, UnknownNameError
from sdgym.testing import CHECKS, check_text_env
from sdgym.text_env import Information, Response, TextEnv
from sdgym.verifiers.math_pool import shared_pool
from sdgym.verifiers.sandbox import sandbox_available


@pytest.fixture(autouse=True)
def patient_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_pool(), "deadline", 10.0)  # a busy machine must not turn milliseconds into timeouts


def _skip_without_sandbox(env_id: str) -> None:
    available, said = sandbox_available() if env_id == "sdgym/Code-v0" else (True, "")
    if not available:
        pytest.skip(f"sandbox: {said}")


@pytest.mark.parametrize("env_id", sorted(ENVIRONMENTS))
def test_every_environment_conforms(env_id: str) -> None:
    _skip_without_sandbox(env_id)
    check_text_env(env_id, tasks=20).raise_for_failures()


@pytest.mark.slow
@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
@pytest.mark.parametrize("env_id", sorted(ENVIRONMENTS))
def test_every_level_conforms(env_id: str, level: str) -> None:
    _skip_without_sandbox(env_id)
    check_text_env(env_id, tasks=8, level=level).raise_for_failures()


def test_the_other_mode_of_sokoban_conforms() -> None:
    check_text_env("sdgym/Sokoban-v0", tasks=12, mode="multi_turn", only=[name for name in CHECKS if name != "vector"]).raise_for_failures()


class Adder(TextEnv):
    """A conforming world in thirty lines: the sum of two numbers."""

    env_id: ClassVar[str] = "contract/Adder-v0"
    max_action_tokens: ClassVar[Mapping[str, int]] = {"tiny": 8}

    def make_task(self, seed: int, split: str) -> Task:
        low = 500 if split == "heldout" else 100  # the held-out family: larger numbers

        def draw(rng: np.random.Generator) -> tuple[Any, Any]:
            pair = tuple(int(x) for x in rng.integers(low, low + 400, 2))
            return pair, pair

        a, b = self.draw_in_split(seed, split, draw)
        return self.finish_task(seed, split, f"{a} + {b} = ?", (a, b), {"answer": str(a + b), "reference_solution": f"it is {a + b}"}, {})

    async def respond(self, action: str) -> Response:
        assert self.task is not None
        right = action.strip() == self.task.privileged["answer"]
        outcome = Outcome.CORRECT if right else Outcome.WRONG
        return Response("", float(right), True, outcome, "Right." if right else "Wrong.", success=right)

    def oracle(self, task: Task) -> Sequence[str]:
        return (task.privileged["answer"],)

    def novice(self, task: Task, rng: np.random.Generator) -> Sequence[str]:
        return (str(int(task.privileged["answer"]) + int(rng.integers(0, 3))),)

    def consistent(self, task: Task, actions: Sequence[str], information: Information) -> bool:
        if information.kind == "reference":
            return actions[0] == task.privileged["answer"]
        return tuple(actions) != information.attempt


class WarnsInGymnasium(Adder):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"]}


class ForgetsAKey(Adder):
    def _info(self, *args: Any) -> dict[str, Any]:
        info = super()._info(*args)
        del info["valid_action"]
        return info


class CountsTurnsInIntegers(Adder):
    def _info(self, *args: Any) -> dict[str, Any]:
        return {**super()._info(*args), "turn": self.turn}


class RefusesUnicode(Adder):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.action_space = gymnasium.spaces.Text(100)


class UsesTheGlobalGenerator(Adder):
    def begin(self, task: Task) -> None:
        random.random()


_SHARED: list[str] = []


class SharesState(Adder):
    def begin(self, task: Task) -> None:
        _SHARED[:] = [task.privileged["answer"]]

    async def respond(self, action: str) -> Response:
        response = await super().respond(action)
        return dataclasses.replace(response, feedback=f"Wrong, last of {_SHARED}")


class ForgetsItsTasks(Adder):
    def task_from_id(self, task_id: str) -> Task:
        return self.make_task(1, "train")


class LeaksBetweenSplits(Adder):
    @staticmethod
    def split_of(canonical: Any) -> str:
        return "train"

    def draw_in_split(self, seed: int, split: str, draw: Any) -> Any:
        return super().draw_in_split(seed % 50, "heldout", draw)


class HasAFalseOracle(Adder):
    def oracle(self, task: Task) -> Sequence[str]:
        return (str(int(task.privileged["answer"]) + task.seed % 2),)


class PaysForAnything(Adder):
    async def respond(self, action: str) -> Response:
        return Response("", 0.1, True, Outcome.WRONG, "Nice try.")


class ChokesOnText(Adder):
    async def respond(self, action: str) -> Response:
        return await super().respond(str(int(action)))


class TellsTheAnswer(Adder):
    async def respond(self, action: str) -> Response:
        assert self.task is not None
        return Response("", 0.0, True, Outcome.WRONG, f"It was {self.task.privileged['answer']}.")


class SaysNothing(Adder):
    async def respond(self, action: str) -> Response:
        return Response("", 0.0, True, Outcome.WRONG)


class ShowsTheSolution(Adder):
    def finish_task(self, seed: int, split: str, user: str, canonical: Any, privileged: Any, meta: Any) -> Task:
        return super().finish_task(seed, split, f"{user} ({privileged['reference_solution']})", canonical, privileged, meta)


class HasAnExpertForANovice(Adder):
    def novice(self, task: Task, rng: np.random.Generator) -> Sequence[str]:
        return self.oracle(task)


class LosesTheTruth(Adder):
    def consistent(self, task: Task, actions: Sequence[str], information: Information) -> bool:
        return information.kind == "reference" and super().consistent(task, actions, information)


class TalksTooMuch(Adder):
    def finish_task(self, seed: int, split: str, user: str, canonical: Any, privileged: Any, meta: Any) -> Task:
        return super().finish_task(seed, split, "please " * 100 + user, canonical, privileged, meta)


class IsSlowerInALoop(Adder):
    def step(self, action: str) -> Any:
        observation, *rest = super().step(action)
        return (observation + "!", *rest)


class CannotBePickled(Adder):
    def begin(self, task: Task) -> None:
        self.callback = lambda: task


class AnswersDifferentlyInAWorker(Adder):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.suffix = "" if multiprocessing.parent_process() is None else " (worker)"

    async def respond(self, action: str) -> Response:
        return Response("", 0.0, True, Outcome.WRONG, f"Wrong{self.suffix}.")


class AsksTheNetwork(Adder):
    def begin(self, task: Task) -> None:
        with contextlib.suppress(OSError):  # it gets along without, and asks all the same
            socket.create_connection(("192.0.2.1", 9), timeout=0.01).close()  # an address for documentation


class RendersNothing(Adder):
    def render(self) -> None:
        return None


BROKEN: list[tuple[type[TextEnv], str, str]] = [
    (WarnsInGymnasium, "gymnasium", "fps"),
    (ForgetsAKey, "info", "valid_action"),
    (CountsTurnsInIntegers, "info", "is a int"),
    (RefusesUnicode, "text_space", "refuses"),
    (UsesTheGlobalGenerator, "seeding", "global generator"),
    (SharesState, "seeding", "depends on other instances"),
    (ForgetsItsTasks, "task_ids", "rebuilds another task"),
    (LeaksBetweenSplits, "splits", "the same content is in"),
    (HasAFalseOracle, "oracle", "not solved"),
    (PaysForAnything, "garbage", "scores"),
    (ChokesOnText, "garbage", "ValueError"),
    (TellsTheAnswer, "feedback", "gives the answer away"),
    (SaysNothing, "feedback", "nothing is said"),
    (ShowsTheSolution, "privileged", "in the task's text"),
    (HasAnExpertForANovice, "novice", "the novice is right in 100%"),
    (LosesTheTruth, "novice", "rules the solution out"),
    (TalksTooMuch, "tiny", "a prompt has"),
    (IsSlowerInALoop, "asynchronous", "disagree"),
    (CannotBePickled, "pickling", "pickle"),
    (AnswersDifferentlyInAWorker, "vector", "disagree"),
    (AsksTheNetwork, "offline", "asks the network for 192.0.2.1"),
    (RendersNothing, "render", "no text"),
]


@pytest.fixture
def registered(request: pytest.FixtureRequest) -> str:
    """Register the class under test for one test."""
    env_id = f"contract/{request.param.__name__}-v0"
    gymnasium.register(id=env_id, entry_point=f"{__name__}:{request.param.__name__}", disable_env_checker=True, order_enforce=False)
    yield env_id
    del gymnasium.registry[env_id]


@pytest.mark.parametrize("registered", [Adder], indirect=True)
def test_a_world_of_thirty_lines_conforms(registered: str) -> None:
    report = check_text_env(registered, tasks=15)
    assert report.passed, str(report)
    assert [check.name for check in report.checks] == list(CHECKS)
    assert str(report).count("  ok  ") == len(CHECKS)


@pytest.mark.parametrize("registered, check, said", [pytest.param(*row, id=row[0].__name__) for row in BROKEN], indirect=["registered"])
def test_each_check_turns_red_on_a_world_broken_that_way(registered: str, check: str, said: str) -> None:
    report = check_text_env(registered, tasks=10, only=[check])
    assert not report.passed and said in report.failures[0].message, str(report)
    with pytest.raises(EnvError, match="breaks the contract"):
        report.raise_for_failures()


def test_every_check_has_a_world_that_breaks_it() -> None:
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


def test_wrong_names_are_user_errors() -> None:
    with pytest.raises(ConfigError, match="cannot be made"):
        check_text_env("sdgym/Sokobahn-v0")
    with pytest.raises(ConfigError, match=r"not an sdgym\.TextEnv"):
        check_text_env("CartPole-v1")
    with pytest.raises(UnknownNameError, match="did you mean 'oracle'"):
        check_text_env("sdgym/Sokoban-v0", only=["oracel"])
