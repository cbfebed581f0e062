"""Skill-SD and VPD as whole runs: second passes are charged, Sokoban in turns works, and a resumed run is the same run."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

import sdgym
from sdgym.algos import asking
from sdgym.config import make_config
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy
from sdgym.tracking import RunFolder
from sdgym.trainer import Trainer

SMALL: dict[str, Any] = {
    "env": LETTERS_ID,
    "tasks_per_step": 2,
    "group_size": 2,
    "max_live": 4,
    "steps": 3,
    "eval": {"every": 0, "tasks": 2, "samples": 2, "test_tasks": 0},
    "checkpoint": {"every": 1, "keep": 9},
}
ASKING = {"name": "skill_sd", "summariser": "policy", "scope": "world", "skill_weight": 0.1}
CRITICISING = {"name": "vpd_critique", "e_every": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=1024).save(folder)
    return str(folder)


def lines(out: pathlib.Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("algo", [ASKING, CRITICISING], ids=["skill_sd", "vpd_critique"])
def test_resume_changes_nothing_and_second_passes_are_charged(
    algo: dict[str, Any], model: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "MAX_TOKENS", 24)
    whole = sdgym.train(algo, out=tmp_path / "whole", model=model, **SMALL)
    broken = Trainer(make_config({**SMALL, "algo": algo, "model": model}), RunFolder(tmp_path / "broken"))
    steps, train_step = iter(range(2)), broken._train_step

    def step_or_break() -> dict[str, float]:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return train_step()

    broken._train_step = step_or_break  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    broken.folder.close()
    resumed = sdgym.train(out=tmp_path / "broken", resume=True)
    expected, got = (
        [{k: v for k, v in line.items() if not k.startswith(("seconds", "time/"))} for line in lines(run.folder)]
        for run in (whole, resumed)
    )
    assert got == expected and len(got) == 4
    last = got[-1]
    assert last["ledger/sampled_tokens"] > 3 * 4 * 2 + 3 * 4 * 10, "two tokens an answer at most; summaries and critiques are longer"
    if algo is ASKING:
        assert last["algo/skills"] == 8.0 and last["algo/groups_with_skill"] == 1.0 and last["teacher/usable"] == 1.0
    else:
        assert ["e_step/train/updates" in line for line in got] == [False, True, False, True]


def test_skill_sd_plays_sokoban_in_turns(model: str, tmp_path: pathlib.Path) -> None:
    settings = {**SMALL, "env": {"id": "sdgym/Sokoban-v0", "mode": "multi_turn"}, "steps": 2, "sampling": {"max_tokens": 6}}
    algo = {"name": "skill_sd", "skill_weight": 1.0, "slot_tokens": 64, "overflow": "head"}  # a token is a byte here
    run = sdgym.train(algo, out=tmp_path / "run", model=model, **settings)
    _, first, second = lines(run.folder)
    assert first["train/turns"] == 3.0 and "teacher/usable" not in first
    assert second["teacher/usable"] == 1.0 and second["teacher/truncated"] == 1.0
    assert second["loss/distill"] > 0 and second["loss/distill/importance"] == pytest.approx(1.0, abs=1e-4)
