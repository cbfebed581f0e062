"""A real plugin package beside a broken one: found through installed metadata, in processes of their own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tomllib

import pytest

PLUGIN = pathlib.Path(__file__).resolve().parents[1] / "plugin"
USE = """
import sdgym, warnings
from sdgym.verifiers.graders import graders
env = sdgym.make("echo/Echo-v0")
env.reset(seed=1)
print(env.step(env.unwrapped.oracle(env.unwrapped.task)[0])[1])
from sdgym.algos import algorithms
from sdgym.algos.conditioning import conditioners
print(algorithms.get("echo-grpo").__name__, conditioners.get("echo-reference").__name__, graders.get("shouted")("ABC", {"answer": "abc"}))
"""
BROKEN = """
[project]
name = "sdgym-broken"
version = "0"
[project.entry-points."sdgym.plugins"]
absent = "no_such_module:register"
broken = "sdgym_broken:register"
leaving = "sdgym_broken:leave"
promising = "sdgym_broken:promise"
"""
BROKEN_MODULE = """
import sdgym, sys
def register():
    raise RuntimeError("its own fault")
def leave():
    sys.exit(3)
def promise():
    sdgym.register_env("broken/Absent-v0", "sdgym_broken:Absent")
    sdgym.register_env("broken/Unreadable-v0", "sdgym_unreadable:World")
    sdgym.register_algorithm("broken-absent", "sdgym_broken:Absent")
    sdgym.register_algorithm("broken-unreadable", "sdgym_unreadable:Method")
"""
LIST = """
import os, sys
os.environ["COLUMNS"] = "300"
from sdgym.cli import execute
sys.exit(execute(["envs", "list"]) or execute(["algos", "list"]))
"""


def install(folder: pathlib.Path, pyproject: str) -> None:
    """Write the metadata that an installer writes for a package: its name and its entry points."""
    project = tomllib.loads(pyproject)["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in project["entry-points"].items())
    (info / "entry_points.txt").write_text("\n".join(groups))


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> dict[str, str]:
    """A process's environment with the plugin and a broken one installed."""
    install(tmp_path, (PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))
    install(tmp_path, BROKEN)
    (tmp_path / "sdgym_broken.py").write_text(BROKEN_MODULE)
    (tmp_path / "sdgym_unreadable.py").write_text("def (")
    paths = [str(tmp_path), str(PLUGIN), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with ``arguments``."""
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=200)


def test_a_plugin_adds_one_of_everything_and_a_broken_one_hurts_nobody(environment: dict[str, str]) -> None:
    done = run(environment, "-c", USE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["1.0", "GRPO", "Reference", "True"]
    assert "sdgym plugin 'broken' (sdgym_broken:register) failed and is skipped: RuntimeError('its own fault')" in done.stderr
    assert "sdgym plugin 'leaving' (sdgym_broken:leave) failed and is skipped: SystemExit(3)" in done.stderr
    assert "sdgym plugin 'absent' (no_such_module:register) failed and is skipped: ModuleNotFoundError" in done.stderr


def test_what_a_plugin_promises_and_does_not_keep_is_named_beside_everything_else(environment: dict[str, str]) -> None:
    done = run(environment, "-c", LIST)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert {"sdgym/Math-v0", "echo/Echo-v0", "grpo", "sdpo_rich", "echo-grpo"} <= set(lines)
    for name in ("broken/Absent-v0", "broken-absent"):
        assert f"'{name}' points to 'sdgym_broken:Absent', which cannot be loaded" in lines[name]
    for name in ("broken/Unreadable-v0", "broken-unreadable"):
        assert f"'{name}' points to 'sdgym_unreadable:" in lines[name] and "invalid syntax" in lines[name]


@pytest.mark.slow
def test_its_world_is_listed_and_conforms(environment: dict[str, str]) -> None:
    assert "echo/Echo-v0" in run(environment, "-m", "sdgym", "envs", "list").stdout
    done = run(environment, "-m", "sdgym", "envs", "check", "echo/Echo-v0")
    assert done.returncode == 0, done.stdout + done.stderr
