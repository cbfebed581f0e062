"""Skill-SD and VPD learn a trivial task within seconds, through their own parts and not only through what they stand on."""

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
    "max_live": 64,
    "sampling": {"max_tokens": 1},
    "optimizer": {"lr": 2e-3},
    "eval": {"every": 0, "tasks": 32, "samples": 4, "test_tasks": 0},
    "checkpoint": {"every": 0},
    "log": {"trajectories_every": 0},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(context=384).save(folder)
    return str(folder)


def train(algo: dict[str, Any], model: str, out: pathlib.Path, **settings: Any) -> list[dict[str, float]]:
    sdgym.train(algo, out=out, model=model, **{**SETTINGS, "steps": 15, **settings})
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_skill_sd_learns_the_letters_and_uses_its_skills(model: str, tmp_path: pathlib.Path) -> None:
    """Seen: .11 at the start, .98 at the end; skills are there from the second step on."""
    lines = train({"name": "skill_sd", "summaries_per_group": 1}, model, tmp_path / "run")
    assert lines[0]["eval/success"] < 0.3
    assert lines[-1]["eval/success"] > lines[0]["eval/success"] + 0.5
    assert lines[1]["algo/groups_with_skill"] == 0.0 and all(line["teacher/usable"] == 1.0 for line in lines[2:])


def test_vpd_learns_through_its_e_steps(model: str, tmp_path: pathlib.Path) -> None:
    """Seen: .11 at the start; .38 with an E-step before every M-step, .15 by M-steps alone.

    A policy with random weights understands no feedback, so that what it hears from itself is noise until the E-step
    has given it a meaning; it ends on the signs that are right most often, with which no more than about .38 can be had.
    """
    with_e = train({"name": "vpd", "e_every": 1}, model, tmp_path / "both", steps=12)
    without = train({"name": "vpd", "e_every": 0}, model, tmp_path / "m", steps=12)
    assert with_e[0]["eval/success"] == without[0]["eval/success"] < 0.2
    assert with_e[-1]["eval/success"] > with_e[0]["eval/success"] + 0.15
    assert with_e[-1]["eval/success"] > without[-1]["eval/success"] + 0.1
    assert all(line["e_step/train/updates"] == 1.0 for line in with_e[1:]) and "e_step/train/updates" not in without[-1]
