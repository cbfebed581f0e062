"""A comparison that is killed loses nothing that was finished, leaves nothing running, and the same command goes on."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from sdgym.testing_policy import random_policy

PATIENCE = 400.0


def wait_for(what: str, condition: object, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until ``condition()`` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        assert process is None or process.poll() is None, f"the comparison ended before {what}: {process.communicate()[0][-2000:]}"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_sigkill_loses_no_finished_trial(tmp_path: pathlib.Path) -> None:
    random_policy(seed=0, hidden=32, layers=1, heads=2, kv_heads=1).save(tmp_path / "policy")
    suite = {
        "title": "Killed",
        "policies": [str(tmp_path / "policy")],
        "seeds": 3,
        "lift_tasks": 0,
        "arms": [{"name": "grpo", "algo": "grpo"}],
        "envs": [{"id": "sdgym/Math-v0", "kwargs": {"level": "tiny"}}],
        "settings": {
            "steps": 12,
            "tasks_per_step": 2,
            "group_size": 2,
            "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 2},
            "checkpoint": {"every": 2},
        },
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "sdgym", "compare", str(tmp_path / "suite.yaml"), "--out", str(out)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for("a finished trial", lambda: list(out.glob("trials/**/trial.json")), first)
        finished = list(out.glob("trials/**/trial.json"))
        children = psutil.Process(first.pid).children(recursive=True)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    kept = {path: (path.parent / "run" / "metrics.jsonl").read_bytes() for path in finished}
    assert json.loads((out / "comparison.json").read_text())["planned"] == 3, "the record is there from the start"
    wait_for("the trials under way to stop", lambda: not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children))
    ended = list(out.glob("trials/**/run/model"))  # one may have come to its end after the kill, with nobody left to record it
    assert len(finished) <= len(ended) < 3, "the kill came too late to test anything"

    again = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert again.stdout.count("(reused)") == len(ended)
    assert all((path.parent / "run" / "metrics.jsonl").read_bytes() == text for path, text in kept.items())
    record = json.loads((out / "comparison.json").read_text())
    assert len(record["trials"]) == record["planned"] == 3 and record["notes"] == []
