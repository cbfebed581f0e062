"""A budget of sampled tokens ends a run at the first step that reaches it, resumed or not, and spares phases that sample nothing."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

import sdgym
from sdgym.config import make_config
from sdgym.report.load import load_run
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy
from sdgym.tracking import RunFolder
from sdgym.trainer import Trainer

SMALL: dict[str, Any] = {
    "tasks_per_step": 2,
    "group_size": 2,
    "steps": 4,
    "env": LETTERS_ID,
    "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 2},
    "checkpoint": {"every": 1},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=64).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run without a budget."""
    return sdgym.train("grpo", out=tmp_path_factory.mktemp("whole") / "run", model=model, **SMALL).folder


def lines(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def spent(folder: pathlib.Path) -> list[int]:
    """Sampled tokens after each step."""
    return [int(line["ledger/sampled_tokens"]) for line in lines(folder)]


@pytest.mark.parametrize("over, steps", [(0, 2), (1, 3)])
def test_the_step_that_reaches_the_budget_is_the_last(
    model: str, whole: pathlib.Path, tmp_path: pathlib.Path, over: int, steps: int
) -> None:
    tokens = spent(whole)
    result = sdgym.train("grpo", out=tmp_path / "run", model=model, **SMALL, budget={"sampled_tokens": tokens[2] + over})
    assert result.steps == steps and spent(result.folder) == tokens[: steps + 1], "what was trained is what the longer run trained"
    assert (result.folder / "model").is_dir() and "test/success" in lines(result.folder)[-1] and "eval/success" in lines(result.folder)[-1]
    assert load_run(result.folder).finished


def test_resuming_knows_that_the_budget_is_spent(model: str, whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    budget = {"sampled_tokens": spent(whole)[2]}
    first = sdgym.train("grpo", out=tmp_path / "run", model=model, **SMALL, budget=budget)
    before = (first.folder / "metrics.jsonl").read_bytes()
    again = sdgym.train(out=first.folder, resume=True)
    assert again.steps == 2 and (first.folder / "metrics.jsonl").read_bytes() == before and (first.folder / "model").is_dir()


def test_a_phase_that_samples_nothing_is_played_to_its_end(model: str, tmp_path: pathlib.Path) -> None:
    settings = {**SMALL, "algo": {"name": "rft_offline", "collect_steps": 2}}
    full = sdgym.train(out=tmp_path / "full", model=model, **settings)
    tokens = spent(full.folder)
    assert tokens[2] == tokens[4]
    exact = sdgym.train(out=tmp_path / "exact", model=model, **settings, budget={"sampled_tokens": tokens[2]})
    assert exact.steps == 4
    early = sdgym.train(out=tmp_path / "early", model=model, **settings, budget={"sampled_tokens": 1})
    assert early.steps == 1, "collecting more would sample beyond the budget"


def rates(folder: pathlib.Path) -> list[float]:
    return [line["train/lr"] for line in lines(folder) if line.get("train/updates")]


def test_a_decaying_rate_decays_over_the_budget(model: str, whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Linear to 0: a step begun with half of the tokens spent has half of the rate, whatever number of steps is allowed."""
    tokens, optimizer = spent(whole), {"schedule": "linear", "lr": 1e-3, "warmup": 0}
    run = sdgym.train("grpo", out=tmp_path / "run", model=model, **SMALL, optimizer=optimizer, budget={"sampled_tokens": tokens[3]})
    trained = [line for line in lines(run.folder)[1:] if line["train/updates"]]
    assert len(trained) >= 2, "a group without a difference in reward brings no update; more is needed to see a decay"
    before = [spent(run.folder)[line["step"] - 1] for line in trained]
    assert rates(run.folder) == pytest.approx([1e-3 * (1 - spent / tokens[3]) for spent in before])


def test_a_phase_that_samples_nothing_decays_over_the_steps(model: str, tmp_path: pathlib.Path) -> None:
    """The budget is spent before it begins: its rate is the one of its step, not 0."""
    optimizer = {"schedule": "linear", "lr": 1e-3, "warmup": 0}
    algo = {"name": "rft_offline", "collect_steps": 2}
    config = make_config({**SMALL, "algo": algo, "model": model, "optimizer": optimizer, "budget": {"sampled_tokens": 100}})
    trainer = Trainer(config, RunFolder(tmp_path / "run"))
    trainer._spent = 100
    for step, expected in ((1, 0.0), (2, 5e-4), (3, 2.5e-4)):
        trainer.step = step
        assert trainer._learning_rate(0) == pytest.approx(expected)
    trainer.session.close()


def test_the_rate_warms_up_with_every_update(model: str, tmp_path: pathlib.Path) -> None:
    """Several optimizer steps are made of one batch: each has its own rate, of which the log has the mean."""
    optimizer = {"schedule": "constant", "lr": 1e-3, "warmup": 100}
    settings = {**SMALL, "algo": {"name": "sharpen", "epochs": 2}, "tasks_per_step": 4, "steps": 2, "optimizer": optimizer}
    run = sdgym.train(out=tmp_path / "run", model=model, **settings)
    made, expected = 0, []
    for line in lines(run.folder)[1:]:
        now = int(line["train/updates"])
        expected += [1e-5 * (made + 1 + made + now) / 2] if now else []
        made += now
    assert made > len(expected) > 0, "several updates per step"
    assert rates(run.folder) == pytest.approx(expected)
