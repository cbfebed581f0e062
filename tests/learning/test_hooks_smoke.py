"""Two steps of every method with a hook or a data policy of its own, on the embedded policy: it runs, learns from something, and resumes."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import pytest

import sdgym

pytestmark = pytest.mark.slow

MATH, TWO_TURN = "sdgym/Math-v0", "sdgym/TwoTurn-v0"
METHODS: dict[str, tuple[str, dict[str, Any], str]] = {  # name: world, settings, a metric that must be there at the end
    "rltf_sd": (MATH, {}, "loss/revision"),
    "rltf_fm": (MATH, {}, "loss/critique"),
    "trace": (MATH, {}, "loss/key"),
    "trace_self": (MATH, {}, "algo/span_share"),
    "pi_distill": (MATH, {}, "loss/student_kl"),
    "atesd": (MATH, {"every": 1, "horizon": 1}, "algo/probe"),
    "tsd_kd": (MATH, {"teacher_model": "tiny"}, "loss/rank"),
    "tsd_kd_self": (MATH, {}, "loss/distill"),
    "curio_sft": (MATH, {}, "loss/curious/temperature"),
    "score": (TWO_TURN, {"stage_steps": 1}, "algo/corrected"),
    "rerest": (MATH, {}, "algo/rationalised"),
    "bstar": (MATH, {"every": 1, "temperatures": [0.7, 1.0]}, "algo/balance"),
    "revise": (MATH, {"stage_steps": 1}, "loss/correct"),
    "pu_rl": (MATH, {}, "algo/order"),
    "pu_pairs": (MATH, {}, "algo/margin"),
    "sgs": (MATH, {}, "algo/readable"),
    "mr_rlvr": ("sdgym/Steps-v0", {}, "loss/policy"),
}


@pytest.mark.parametrize("name", METHODS)
def test_two_steps(name: str, tmp_path: pathlib.Path) -> None:
    world, settings, metric = METHODS[name]
    run: dict[str, Any] = {"steps": 2, "tasks_per_step": 8, "group_size": 4, "model": "tiny", "env": world, "device": "cpu"}
    run |= {"eval": {"every": 0, "tasks": 4, "samples": 1, "test_tasks": 0}, "checkpoint": {"every": 1}}
    done = sdgym.train(name, out=tmp_path / "run", set=[f"algo.{key}={json.dumps(value)}" for key, value in settings.items()], **run)
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert metric in lines[-1] and math.isfinite(lines[-1][metric]), sorted(lines[-1])
    assert done.steps == 2 and sum(line.get("train/updates", 0) for line in lines) >= 1
    again = sdgym.train(out=done.folder, resume=True)
    assert again.steps == 2
