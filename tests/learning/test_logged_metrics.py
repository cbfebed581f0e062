"""Every number that a named method really logs has its meaning on the method's page, or among the metrics of every run.

SD-Zero's run is in test_letters_teachers.py: random weights revise nothing.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

import sdgym
from sdgym.testing.pages import explained, unexplained
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy

RUN: dict[str, Any] = {"env": LETTERS_ID, "steps": 2, "tasks_per_step": 2, "group_size": 4, "sampling": {"max_tokens": 4}}
RUN |= {"eval": {"every": 0, "tasks": 2, "samples": 2, "test_tasks": 2}, "checkpoint": {"every": 0}, "log": {"trajectories_every": 0}}
ARMS: dict[str, tuple[str, dict[str, Any], set[str]]] = {  # page: preset, settings, metrics that must be there
    "grpo": ("grpo_ema", {}, {"train/solved_groups", "loss/policy/reference_kl", "train/clip_frac"}),
    "rft": ("rft_offline", {"collect_steps": 1}, {"algo/phase"}),
    "opsd": ("opsd_v3", {}, {"teacher/localisation", "teacher/entropy"}),
    "sdpo": ("sdpo_hybrid", {}, {"loss/policy", "loss/distill/importance", "teacher/own_captured_mass"}),
    "sdft": ("sdft", {}, {"teacher/divergence_p95"}),
    "sft_reference": ("sft_reference", {}, {"algo/references", "loss/likelihood"}),
    "star": ("star", {}, {"algo/rationalised"}),
    "skill_sd": ("skill_sd", {}, {"algo/groups_with_skill", "loss/distill/bounded"}),
    "vpd": ("vpd", {"one_sided": True}, {"e_step/train/updates"}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=512).save(folder)
    return str(folder)


@pytest.mark.parametrize("page", ARMS)
def test_what_is_logged_is_explained(page: str, model: str, tmp_path: pathlib.Path) -> None:
    preset, settings, expected = ARMS[page]
    run = sdgym.train({"name": preset, **settings}, model=model, out=tmp_path / "run", **RUN)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert expected <= {name for line in lines for name in line}
    assert unexplained(lines, page) == []


def test_an_unexplained_metric_would_be_seen() -> None:
    assert unexplained([{"step": 1.0, "loss/nothing": 0.0, "ledger/anything": 0.0}], "grpo") == ["loss/nothing"]
    assert explained("`a/b` and `c/…`, not `c` or `a b/c`") == {"a/b", "c/…"}
