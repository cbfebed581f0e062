"""A world to begin with: whose tasks the first steps play, who is evaluated on what, one ledger, resume, refusals."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import yaml

import sdgym
from sdgym.config import dump_config, make_config
from sdgym.core import Outcome
from sdgym.envs.steps import StepsEnv
from sdgym.errors import ConfigError
from sdgym.session import Session
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy

SMALL: dict[str, Any] = {
    "env": LETTERS_ID,
    "tasks_per_step": 2,
    "group_size": 2,
    "steps": 4,
    "device": "cpu",
    "eval": {"every": 0, "tasks": 2, "samples": 2, "test_tasks": 2},
    "checkpoint": {"every": 1, "keep": 9},
}
TWO_TURNS = {"env": {"id": LETTERS_ID, "turns": 2}, "steps": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=512).save(folder)
    return str(folder)


def lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_first_steps_play_the_other_world_and_evaluations_never_do(model: str, tmp_path: pathlib.Path) -> None:
    begun = sdgym.train("sharpen", out=tmp_path / "begun", model=model, curriculum=TWO_TURNS, **SMALL)
    plain = sdgym.train("sharpen", out=tmp_path / "plain", model=model, **SMALL)
    with_it, without = lines(begun.folder), lines(plain.folder)
    assert [line["train/turns"] for line in with_it[1:]] == [2, 2, 1, 1] and [line["train/turns"] for line in without[1:]] == [1] * 4
    start = {key: value for key, value in without[0].items() if key.startswith("eval/")}
    assert start == {key: with_it[0][key] for key in start}, "before the first update both are the same policy on the same tasks"
    assert with_it[-1]["ledger/episodes"] == without[-1]["ledger/episodes"] and with_it[-1]["test/n"] == 2
    assert with_it[-1]["ledger/verifier_calls"] == without[-1]["ledger/verifier_calls"] + 2 * 4, (
        "two turns of four rows, twice, are charged"
    )
    judged = [json.loads(line)["task_id"] for line in (begun.folder / "eval.jsonl").read_text().splitlines()]
    assert judged == [json.loads(line)["task_id"] for line in (plain.folder / "eval.jsonl").read_text().splitlines()]
    config = make_config({**SMALL, "curriculum": TWO_TURNS})
    assert make_config(yaml.safe_load(dump_config(config))) == config


def test_the_other_world_has_its_own_limit(model: str, tmp_path: pathlib.Path) -> None:
    steps = {"env": {"id": "sdgym/Steps-v0", "gaps": 1}, "steps": 1}
    session = Session(make_config({**SMALL, "model": model, "curriculum": steps}), tmp_path)
    try:
        first, then = session.training(0), session.training(1)
        assert (first.sampling.max_tokens, then.sampling.max_tokens) == (24, 2) and first.sampling.temperature == then.sampling.temperature
        assert first.env.unwrapped.env_id == "sdgym/Steps-v0" and then.env is session.env and then.driver is session.driver
    finally:
        session.close()


def test_refusals(model: str, tmp_path: pathlib.Path) -> None:
    tools = {"env": {"id": "sdgym/ToolWorld-v0", "level": "easy"}, "steps": 1}
    with pytest.raises(ConfigError, match="other tools"):
        Session(make_config({**SMALL, "model": model, "curriculum": tools}), tmp_path)
    with pytest.raises(ConfigError, match="2 turns"):
        Session(make_config({**SMALL, "algo": "revise", "steps": 30, "model": model, "curriculum": TWO_TURNS}), tmp_path)
    with pytest.raises(ConfigError, match=r"curriculum\.steps"):
        make_config({"curriculum": {"env": LETTERS_ID, "steps": 0}})


@pytest.mark.parametrize("gaps", [1, 2, 4])
def test_gaps_are_at_most_as_many_as_asked_for(gaps: int) -> None:
    world = StepsEnv(kind="fill", gaps=gaps)
    counts = [len(task.meta["key"]) for task in world.tasks("train", 0, 40)]
    assert max(counts) == gaps and min(counts) >= 1
    with pytest.raises(ConfigError, match="at least 1"):
        StepsEnv(gaps=0)
    task = next(iter(world.tasks("train", 0, 1)))
    world.reset(options={"task": task})
    _, reward, *_, info = world.step(task.privileged["answer"])
    assert reward == 1.0 and info["outcome"] == Outcome.CORRECT
