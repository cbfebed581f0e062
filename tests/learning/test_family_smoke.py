"""Every composed preset really trains: two steps on the embedded policy, a loss, a step of the weights, the metrics of its axes."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import pytest

from sdgym.algos.presets import load_preset, preset_names
from sdgym.config import make_config
from sdgym.tracking import RunFolder
from sdgym.trainer import Trainer

pytestmark = pytest.mark.slow

COMPOSED = [name for name in preset_names() if load_preset(name).algorithm == "compose"]
SMALL: dict[str, Any] = {
    "model": "tiny",
    "tasks_per_step": 4,
    "group_size": 6,
    "steps": 2,
    "threads": 1,
    "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 0},
    "checkpoint": {"every": 2},
    "log": {"trajectories_every": 1},
}
NEEDS: dict[str, dict[str, Any]] = {"uni_opd": {"teacher_model": "tiny"}}


WORLDS = ("sdgym/Math-v0", "sdgym/Sokoban-v0")
CELLS = [(name, env) for name in COMPOSED for env in WORLDS if (name, env) != ("caopd", "sdgym/Sokoban-v0")]  # it edits one final answer


@pytest.mark.parametrize(("name", "env"), CELLS)
def test_two_steps(name: str, env: str, tmp_path: pathlib.Path) -> None:
    config = make_config({**SMALL, "env": env, "algo": {"name": name} | NEEDS.get(name, {})})
    Trainer(config, RunFolder(tmp_path / "run")).run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line.get("train/updates")]
    assert len(trained) >= 1 and all(math.isfinite(v) for line in trained for v in line.values())
    assert any(line["train/grad_norm"] > 0 for line in trained), "nothing was learnt from"
    assert any(line.get("teacher/usable", 0) > 0 for line in trained), "no row had a teacher"
    assert any((tmp_path / "run" / "tokens").iterdir()), "the viewer's file is there"
