"""Whatever a model writes or a file holds: no crash, no hang, no reward. ``SDGYM_FUZZ=N`` sets the inputs per reader of the slow lane."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdgym.envs.mathematics.data import load as load_problems
from sdgym.envs.programming.data import load as load_programs
from sdgym.errors import ConfigError, DataError
from sdgym.testing.fuzzing import FRAGMENTS, TARGETS, Target, campaign
from sdgym.trees import read_yaml

COUNT = int(os.environ.get("SDGYM_FUZZ", "200000"))
QUICK = sorted(name for name, target in TARGETS.items() if not target.slow)
NOISE = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join))


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_mutations(name: str) -> None:
    assert campaign(name, 2_000, seed=7) >= 20


@settings(max_examples=60, deadline=None)
@given(NOISE)
@example("\\boxed{" * 3_000)
@example('{"a": ' * 3_000)
@example("```python\n" * 2_000)
@example("<answer>" * 3_000 + "</answer>" * 3_000)
@example("(" * 9_000)
def test_noise_and_depth(noise: str) -> None:
    for name in QUICK:
        assert not TARGETS[name].read(noise), name


@pytest.mark.parametrize("body", ['{"answer": ' + "[" * 100_000, '{"problem": "p", "tests": ' + "[" * 100_000])
def test_a_file_that_nests_without_end_is_a_sentence(body: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "deep.jsonl").write_text(body)
    for load in (load_problems, load_programs):
        with pytest.raises(DataError, match="line 1"):
            load(tmp_path / "deep.jsonl")
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5_000)
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(tmp_path / "deep.yaml")


def test_a_target_that_crashes_hangs_or_pays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(text: str) -> bool:
        return 1 // ("0" not in text) < 0

    def hang(text: str) -> bool:
        return sum(1 for _ in range(30_000_000 if "{" in text else 1)) < 0

    monkeypatch.setitem(TARGETS, "bad", Target(crash, ("1",)))  # type: ignore[misc]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        campaign("bad", 500, 0)
    monkeypatch.setitem(TARGETS, "bad", Target(hang, ("{",)))  # type: ignore[misc]
    with pytest.raises(AssertionError, match=r"took|stopped after"):
        campaign("bad", 50, 0, slowest=0.2)

    def never(text: str) -> bool:
        while "{" in text:
            with contextlib.suppress(Exception):
                len(text)
        return False

    monkeypatch.setitem(TARGETS, "bad", Target(never, ("",)))  # type: ignore[misc]
    with pytest.raises(AssertionError, match="stopped after"):
        campaign("bad", 500, 0, slowest=0.1)
    monkeypatch.setitem(TARGETS, "bad", Target(lambda text: "}" in text, ("1",)))  # type: ignore[misc]
    with pytest.raises(AssertionError, match="earned a reward"):
        campaign("bad", 500, 0)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_many_mutations(name: str) -> None:
    """``SDGYM_FUZZ=10000000`` is the millions of inputs of a release; each run of that length draws the same ones."""
    campaign(name, COUNT, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_coverage_guided(name: str) -> None:
    pytest.importorskip("atheris", reason="requires atheris")
    command = [sys.executable, "-m", "sdgym.testing.fuzzing", name, f"-runs={COUNT // 10}", "-timeout=5", "-rss_limit_mb=2048"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
