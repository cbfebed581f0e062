"""Wrappers change what they say they change, in ``step`` and ``astep`` alike, and nothing else."""

from __future__ import annotations

import asyncio
import json
import pathlib
from typing import Any

import gymnasium
import pytest

import sdgym  # noqa: F401  (registers the environments)
from sdgym.envs.wrappers import FeedbackControl, NoFeedback, Recording, TurnLimit
from sdgym.errors import ConfigError, UnknownNameError


def sokoban(**settings: Any) -> Any:
    return gymnasium.make("sdgym/Sokoban-v0", mode="multi_turn", **settings)


def test_a_turn_limit_truncates() -> None:
    env: Any = TurnLimit(sokoban(), 2)
    env.reset(seed=0)
    assert env.max_turns == 2 and env.step("Up")[2:4] == (False, False)
    observation, _, terminated, truncated, info = env.step("Up")
    assert (observation, terminated, truncated, info["messages"]) == ("", False, True, ())
    env.reset(seed=0)
    assert asyncio.run(env.astep("Up"))[3] is False
    assert TurnLimit(sokoban(), 99).max_turns == sokoban().unwrapped.max_turns
    with pytest.raises(ConfigError, match="at least 1"):
        TurnLimit(sokoban(), 0)


def test_without_feedback_neither_teacher_nor_policy_is_told() -> None:
    plain, quiet = sokoban(), NoFeedback(sokoban())
    plain.reset(seed=0)
    quiet.reset(seed=0)
    told, silent = plain.step("Up"), quiet.step("Up")
    said = told[4]["feedback"]
    assert said and said in told[0] and silent[4]["feedback"] == "" and silent[4]["feedback_visible"] == 0.0
    assert silent[0] == told[0].replace(said, "").strip() and silent[4]["messages"][0]["content"] == silent[0]
    assert silent[1:4] == told[1:4] and {k: v for k, v in silent[4].items() if v == told[4][k]}.keys() >= {"turn", "outcome", "task_id"}


def test_controls_replace_what_teachers_are_told() -> None:
    plain, bit, shuffled = (
        make(gymnasium.make("sdgym/Sokoban-v0"))
        for make in (lambda e: e, lambda e: FeedbackControl(e, "outcome"), lambda e: FeedbackControl(e, "shuffled"))
    )
    said: dict[str, str] = {}
    for seed in range(6):
        answers = []
        for env in (plain, bit, shuffled):
            env.reset(seed=seed)
            answers.append(env.step("Up Up Left"))
        task = answers[0][4]["task_id"]
        assert answers[1][4]["feedback"] == "The attempt is not right."
        others = {text for other, text in said.items() if other != task}
        assert answers[2][4]["feedback"] in (others or {"The attempt is not right."})
        said[task] = answers[0][4]["feedback"]
        assert answers[0][:4] == answers[1][:4] == answers[2][:4]
    with pytest.raises(UnknownNameError, match="did you mean 'shuffled'"):
        FeedbackControl(sokoban(), "shufled")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"built on sdgym\.TextEnv"):
        NoFeedback(gymnasium.make("CartPole-v1"))


def test_episodes_are_recorded_whole(tmp_path: pathlib.Path) -> None:
    env = Recording(gymnasium.make("sdgym/Sokoban-v0"), tmp_path / "a" / "episodes.jsonl", keep=lambda info: info["outcome"] == "wrong")
    for action in ("Up Up Left", "nonsense \ud800", "Down Down Left"):
        env.reset(seed=1)
        env.step(action)
    rows = [json.loads(line) for line in (tmp_path / "a" / "episodes.jsonl").read_text().splitlines()]
    assert [row["turns"][0]["action"] for row in rows] == ["Up Up Left", "Down Down Left"]
    assert all(row["turns"][0]["feedback"] and row["success"] == 0.0 and row["task_id"].startswith("tiny-train-") for row in rows)
