"""The judge of a soak finds what grows and leaves noise alone; a short soak of the real thing is flat."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from sdgym.benchmarks.endurance.soak import FEWEST, TOLERANCE, Sample, measure, verdict

FLAT = [Sample(float(i), 900_000_000 + (i % 3) * 5_000_000, 40 + i % 2, 3, 9, 0) for i in range(30)]


def test_flat_is_flat_and_a_warm_up_is_none_of_its_business() -> None:
    assert verdict(FLAT) == []
    warm = [dataclasses.replace(s, memory=s.memory - 500_000_000, processes=0) if i < 9 else s for i, s in enumerate(FLAT)]
    assert verdict(warm) == []
    peak = [dataclasses.replace(s, memory=3 * s.memory, descriptors=400) if i == 25 else s for i, s in enumerate(FLAT)]
    assert verdict(peak) == [], "one round's peak is no leak"


@pytest.mark.parametrize("name", sorted(TOLERANCE))
def test_a_leak_per_round_is_found(name: str) -> None:
    step = 8_000_000 if name == "memory" else 1
    leaking = [dataclasses.replace(s, **{name: getattr(s, name) + step * i}) for i, s in enumerate(FLAT)]
    assert [line.split()[0] for line in verdict(leaking)] == [name]


def test_too_few_rounds_say_nothing() -> None:
    assert "let it run longer" in verdict(FLAT[: FEWEST - 1])[0]


def test_what_is_measured_is_there(tmp_path: pathlib.Path) -> None:
    before = measure(time.monotonic())
    held = [open(tmp_path / str(i), "w") for i in range(5)]  # noqa: SIM115  held open on purpose
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    after = measure(time.monotonic())
    for file in held:
        file.close()
    child.communicate()
    assert after.descriptors >= before.descriptors + 5 and after.processes == before.processes + 1 and after.memory > before.memory


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_a_soak_is_flat(tmp_path: pathlib.Path) -> None:
    """``SDGYM_SOAK`` minutes, 3 unless it is set; a release takes 30."""
    minutes = os.environ.get("SDGYM_SOAK", "3")
    command = [sys.executable, "-m", "sdgym.benchmarks.endurance.soak", "--minutes", minutes, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    told = (tmp_path / "soak.json").read_text()
    assert done.returncode == 0 and json.loads(told)["passed"], f"{done.stdout}{done.stderr[-2000:]}{told}"
