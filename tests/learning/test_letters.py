"""Methods learn a trivial task within seconds; the reward-free control does not.

The policy has random weights and starts at about a tenth. Margins are far from the seen values (GRPO ends near 1.0,
sharpening at the start's own greedy answer, whatever that is worth), so that another CPU's last bits cannot matter.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

import sdgym
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy

SETTINGS: dict[str, Any] = {
    "env": LETTERS_ID,
    "tasks_per_step": 8,
    "group_size": 8,
    "sampling": {"max_tokens": 1},
    "optimizer": {"lr": 2e-3},
    "eval": {"every": 0, "tasks": 32, "samples": 4, "test_tasks": 0},
    "checkpoint": {"every": 0},
    "log": {"trajectories_every": 0},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(context=64).save(folder)
    return str(folder)


def train(algo: Any, model: str, out: pathlib.Path, **settings: Any) -> tuple[dict[str, float], dict[str, float]]:
    sdgym.train(algo, out=out, model=model, **{**SETTINGS, "steps": 15, **settings})
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return lines[0], lines[-1]


def test_grpo_learns_the_letters(model: str, tmp_path: pathlib.Path) -> None:
    before, after = train("grpo", model, tmp_path / "run")
    assert before["eval/success"] < 0.3
    assert after["eval/success"] > before["eval/success"] + 0.5


def test_sharpening_only_sharpens(model: str, tmp_path: pathlib.Path) -> None:
    before, after = train("sharpen", model, tmp_path / "run")
    assert after["eval/success"] < before["eval/success"] + 0.4
    assert after["train/entropy"] < 0.2 and after["eval/success"] == pytest.approx(after["eval/greedy"], abs=0.05)
