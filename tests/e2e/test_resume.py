"""Interrupt anywhere, resume, and end with the bits of the run that was never interrupted."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

import sdgym
from sdgym.errors import RunFolderError
from sdgym.testing.killing import run_contents
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy

STEPS = 8
SETTINGS: dict[str, Any] = {
    "steps": STEPS,
    "tasks_per_step": 3,
    "group_size": 4,
    "optimizer": {"lr": 2e-3, "schedule": "cosine"},
    "eval": {"every": 3, "tasks": 4, "samples": 2, "test_tasks": 4},
    "checkpoint": {"every": 2, "keep": 2},
    "env": {"id": LETTERS_ID, "turns": 2},
}
SDPO = {**SETTINGS, "algo": {"name": "sdpo", "teacher": "ema", "teacher_rate": 0.2, "epochs": 2, "minibatches": 2}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1).save(folder)
    return str(folder)


def start(settings: dict[str, Any], out: pathlib.Path, *extra: str) -> subprocess.Popen[str]:
    """``sdgym train`` in a process of its own."""
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps(settings))  # JSON is YAML
    command = [sys.executable, "-m", "sdgym", "train", "--config", str(file), "--out", str(out), *extra]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def touched(out: pathlib.Path) -> int:
    """When the metric log was last written, or 0."""
    log = out / "metrics.jsonl"
    return log.stat().st_mtime_ns if log.exists() else 0


def wait_for_lines(process: subprocess.Popen[str], out: pathlib.Path, lines: int, since: int = 0) -> None:
    """Wait until the process has written to the metric log (later than ``since``) and it has this many lines."""
    log, limit = out / "metrics.jsonl", time.monotonic() + 200
    while not (touched(out) > since and log.read_text().count("\n") >= lines):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        assert time.monotonic() < limit
        time.sleep(0.005)


def kill_after(settings: dict[str, Any], out: pathlib.Path, lines: int) -> None:
    process = start(settings, out)
    wait_for_lines(process, out, lines)
    process.send_signal(signal.SIGKILL)
    process.wait()


def assert_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a["metrics.jsonl"] == b["metrics.jsonl"]
    assert a["eval.jsonl"] == b["eval.jsonl"]
    assert a["rows"] == b["rows"]
    assert a["digests"] == b["digests"]


@pytest.fixture(scope="module")
def uninterrupted(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = sdgym.train(out=out, model=model, **SDPO)
    assert result.steps == STEPS and result.exit_code == 0
    found = run_contents(out)
    assert [line["step"] for line in found["metrics.jsonl"]] == list(range(STEPS + 1))
    assert {name.split("/")[1] for name in found["digests"] if name.startswith("checkpoints")} == {"step_000006", "step_000008"}
    assert found["metrics.jsonl"][-1]["loss/distill"] != found["metrics.jsonl"][1]["loss/distill"]  # the run moves
    return found


def signalled(settings: dict[str, Any], out: pathlib.Path, number: int, lines: int) -> tuple[int, str]:
    """Resume in a process of its own, send a signal after this many lines; return exit code and output."""
    before = touched(out)  # a killed run leaves lines that the resumed one cuts off
    process = start(settings, out, "--resume")
    wait_for_lines(process, out, lines, before)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=200)
    return process.returncode, printed


def test_killed_interrupted_terminated_and_resumed(model: str, tmp_path: pathlib.Path, uninterrupted: dict[str, Any]) -> None:
    """SIGKILL before the first checkpoint, then SIGINT, then SIGTERM, then to the end: bit for bit the same run."""
    out, settings = tmp_path / "run", {**SDPO, "model": model}
    kill_after(settings, out, 2)
    assert not (out / "checkpoints").exists() or not list((out / "checkpoints").glob("step_*"))
    last = 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        returned, printed = signalled(settings, out, number, last + 2)
        assert returned == code and "--resume" in printed and "Traceback" not in printed, printed
        last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"]
        assert (out / "checkpoints" / f"step_{last:06d}").is_dir() and last < STEPS  # the step was finished and saved
    assert sdgym.train(out=out, resume=True).steps == STEPS
    resumed = run_contents(out)
    for found in (resumed, uninterrupted):  # which earlier steps were saved differs, the last one does not
        found["digests"] = {k: v for k, v in found["digests"].items() if "checkpoints" not in k or f"{STEPS:06d}" in k}
    assert_equal(resumed, uninterrupted)


def test_resuming_a_finished_run_changes_nothing(model: str, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "run"
    settings = {**SETTINGS, "steps": 2}
    sdgym.train("grpo", out=out, model=model, **settings)
    before = run_contents(out)
    sdgym.train(out=out, resume=True)
    assert_equal(run_contents(out), before)


def test_resume_refuses_other_arguments_and_takes_the_same(model: str, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "run"
    settings = {**SETTINGS, "steps": 1, "eval": {"tasks": 1, "samples": 1, "test_tasks": 0}}
    sdgym.train("grpo", out=out, model=model, **settings)
    with pytest.raises(RunFolderError, match=r"seed: 0 != 3; leave the argument out"):
        sdgym.train(out=out, resume=True, seed=3)
    with pytest.raises(RunFolderError, match=r"algo\.name: 'grpo' != 'rft'"):
        sdgym.train("rft", out=out, resume=True)
    with pytest.raises(RunFolderError, match="not empty"):
        sdgym.train("grpo", out=out, model=model, **settings)
    assert sdgym.train("grpo", out=out, resume=True, model=model, **settings).steps == 1


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["grpo", "dapo", "rft", "opsd", "sdpo", "sharpen"])
@pytest.mark.parametrize("lines", [4, 7])
def test_every_method_resumes(model: str, tmp_path: pathlib.Path, algo: str, lines: int) -> None:
    settings = {**SETTINGS, "algo": algo, "model": model}
    sdgym.train(out=tmp_path / "whole", **settings)
    kill_after(settings, tmp_path / "run", lines)
    sdgym.train(out=tmp_path / "run", resume=True)
    assert_equal(run_contents(tmp_path / "run"), run_contents(tmp_path / "whole"))
