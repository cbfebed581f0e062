"""Where nothing confines programs, the comparison goes on without the world that needs it, and says why once."""

from __future__ import annotations

import pathlib

import pytest
import yaml

from sdgym.cli import execute
from sdgym.testing_policy import random_policy


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_comparison_leaves_code_out_with_one_reason(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random_policy(seed=0).save(tmp_path / "policy")
    settings = {"steps": 1, "tasks_per_step": 2, "group_size": 2, "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 2}}
    worlds = [{"id": "sdgym/Math-v0"}, {"id": "sdgym/Code-v0", "kwargs": {"sandbox": "docker"}}]
    suite = {"title": "t", "arms": [{"name": "grpo", "algo": "grpo"}], "envs": worlds, "seeds": 1, "settings": settings}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite | {"policies": [str(tmp_path / "policy")]}))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nowhere.sock")
    assert execute(["compare", str(tmp_path / "suite.yaml"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.count("sdgym/Code-v0 is left out") == 1 and "no Docker engine answers" in said
    assert (tmp_path / "out" / "report.html").is_file()
