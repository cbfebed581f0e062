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
    broken = '[project]\nname = "sdgym-broken"\nversion = "0"\n[project.entry-points."sdgym.plugins"]\nbroken = "sdgym_broken:register"\n'
    install(tmp_path, broken)
    (tmp_path / "sdgym_broken.py").write_text("def register():\n    raise RuntimeError('its own fault')\n")
    paths = [str(tmp_path), str(PLUGIN), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with ``arguments``."""
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=200)


def test_a_plugin_adds_one_of_everything_and_a_broken_one_hurts_nobody(environment: dict[str, str]) -> None:
    done = run(environment, "-c", USE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1.0", "GRPO", "Reference", "True"]
    assert "sdgym plugin 'broken' (sdgym_broken:register) failed and is skipped: RuntimeError('its own fault')" in done.stderr


@pytest.mark.slow
def test_its_world_is_listed_and_conforms(environment: dict[str, str]) -> None:
    assert "echo/Echo-v0" in run(environment, "-m", "sdgym", "envs", "list").stdout
    without_spawn = "from sdgym.testing import CHECKS, check_text_env; import sdgym.registry as r; r.load_plugins(); " + (
        "check_text_env('echo/Echo-v0', tasks=5, only=[c for c in CHECKS if c != 'vector']).raise_for_failures()"
    )
    done = run(environment, "-c", without_spawn)
    assert done.returncode == 0, done.stderr
