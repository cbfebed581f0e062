"""Keys in the environment stay there: no sandbox, log, checkpoint, trajectory or report ever holds one."""

from __future__ import annotations

import asyncio
import pathlib
import subprocess
import sys
from typing import Any

import pytest

import sdgym
from sdgym.report import write_report
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy

CANARY = "sk-canary-5f1d7c0a93b24e68"
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SUMMARISER_KEY")


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, CANARY)


def holding(folder: pathlib.Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]


@pytest.mark.usefixtures("keys")
def test_a_run_and_its_report_hold_no_key(tmp_path: pathlib.Path) -> None:
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1).save(tmp_path / "model")
    out = tmp_path / "run"
    settings: dict[str, Any] = {"steps": 2, "tasks_per_step": 2, "group_size": 2, "max_live": 8, "env": {"id": LETTERS_ID}}
    sdgym.train("grpo", out=out, model=str(tmp_path / "model"), eval={"tasks": 2, "samples": 1, "test_tasks": 0}, **settings)
    write_report(out)
    assert len([p for p in out.rglob("*") if p.is_file()]) > 8 and holding(out) == []
    (out / "leak.txt").write_text(CANARY)
    assert holding(out) == ["leak.txt"], "the search finds one where it is"


@pytest.mark.usefixtures("keys")
def test_a_run_that_fails_prints_no_key(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "sdgym", "train", "--model", "nobody/nothing-of-this-name-0", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env={**__import__("os").environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode in (1, 2) and CANARY not in done.stdout + done.stderr
    assert holding(tmp_path) == []


@pytest.mark.usefixtures("keys")
def test_a_grader_process_starts_without_keys() -> None:
    """The workers of the mathematics grader are started by exec with an environment of their own."""
    import psutil

    from sdgym.verifiers.math_answer import Gold, grade

    verdict = asyncio.run(grade(Gold("\\sqrt{2}+1", "expr"), "\\boxed{\\frac{2+\\sqrt{2}}{\\sqrt{2}}}"))
    assert verdict.score == 1.0, "the computer algebra of a worker was needed"
    found = [child.environ() for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    assert found and not any(CANARY in "".join(environment.values()) for environment in found)


SEARCH = """
import glob, os

def solve(x):
    seen = [repr(sorted(os.environ.items())).encode()]
    for place in ["/proc/self/environ", *glob.glob("/proc/[0-9]*/environ"), *glob.glob("/proc/[0-9]*/cmdline")]:
        try:
            seen.append(open(place, "rb").read())
        except OSError:
            pass
    return [len(seen[0]) > 2, any(b"sk-cana" + b"ry-" in text for text in seen)]
"""


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("tier", ["bwrap", "landlock", "docker"])
def test_a_program_in_the_sandbox_finds_no_key(tier: str) -> None:
    """A program that reads every environment it can: its own, and those of all processes that it can see."""
    from sdgym.verifiers.sandbox import Limits, Session, choose, probes

    problem = next(probe.problem for probe in probes() if probe.name == tier)
    if problem:
        pytest.skip(f"{tier}: {problem}")
    with Session(choose(tier), SEARCH, Limits(cpu=5, wall=30.0)) as session:
        result = session.call("solve", (0,))
    assert result.status == "ok" and isinstance(result.value, list) and result.value[1] is False, result
    outside = subprocess.run([sys.executable, "-c", SEARCH + "print(solve(0))"], capture_output=True, text=True, check=True)
    assert outside.stdout.strip() == "[True, True]", "outside of a sandbox the same program finds one"
