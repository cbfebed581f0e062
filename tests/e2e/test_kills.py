"""SIGKILL anywhere, resume, and end with the bits of the run that was never killed."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from sdgym.benchmarks.endurance.kills import METHODS, SETTINGS, differences, kills
from sdgym.benchmarks.endurance.record import Record
from sdgym.testing.killing import PLACES, Zygote, run_contents
from sdgym.testing_policy import random_policy

SHORT: dict[str, Any] = {"steps": 4, "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 2}, "report": False}
FAST = {**SETTINGS, **METHODS["sdpo"], **SHORT}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as process:
        yield process


def whole(zygote: Zygote, settings: dict[str, Any], out: pathlib.Path) -> tuple[dict[str, int], dict[str, Any]]:
    """The run that nobody disturbs: how often each place was called, and what it left."""
    done = zygote.attempt(settings, out)
    assert done["code"] == 0 and not done["killed"]
    assert set(done["calls"]) >= set(PLACES) - {"report"}, "every place is on the way of this run"
    found = run_contents(out)
    lines = found["metrics.jsonl"]
    assert lines[-1]["step"] == settings["steps"] and lines[-1]["loss/distill"] != lines[1]["loss/distill"], "the run moves"
    return done["calls"], found


def test_three_deaths_and_the_same_bits(zygote: Zygote, model: str, tmp_path: pathlib.Path) -> None:
    """In the middle of an optimizer step, with half a checkpoint on disk, and in the middle of a log's line: one run, three deaths."""
    settings = {**FAST, "model": model}
    _, expected = whole(zygote, settings, tmp_path / "whole")
    for place, number in (("update", 9), ("checkpoint", 2), ("log", 3)):
        assert zygote.attempt(settings, tmp_path / "run", place, number)["killed"], place
    assert zygote.attempt(settings, tmp_path / "run")["code"] == 0
    assert differences(tmp_path / "run", expected) == []


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_thirty_runs_killed_at_random(zygote: Zygote, tmp_path: pathlib.Path) -> None:
    """Thirty runs of three methods, each killed at a random call of a place, half of them again on the way back."""
    record = Record(tmp_path / "kills.json", {"runs": 30}, at="unknown")
    assert kills(zygote, 30, record, tmp_path) == 0, [part for part in record.parts.values() if not part["good"]]
    deaths = [death["place"] for part in record.parts.values() for death in part["deaths"]]
    assert len(record.parts) == 30 < len(deaths), "some runs died twice"
    assert set(deaths) == set(PLACES)


def test_a_lane_goes_on_where_it_stopped_and_finds_a_run_that_ended_otherwise(zygote: Zygote, tmp_path: pathlib.Path) -> None:
    record = Record(tmp_path / "kills.json", {"runs": 1}, at="c0ffee")
    assert kills(zygote, 1, record, tmp_path, ["sdpo"]) == 0 and record.passed and record.parts["run-0"]["deaths"]
    again = Record(tmp_path / "kills.json", {"runs": 1}, at="c0ffee")
    assert again.parts == record.parts and again.passed
    for settings, at in (({"runs": 2}, "c0ffee"), ({"runs": 1}, "decaf"), ({"runs": 1}, "c0ffee+changes")):
        assert not Record(tmp_path / "kills.json", settings, at=at).parts, "another commit, another lane"
    whole = tmp_path / "whole-sdpo"
    expected = run_contents(whole)
    assert differences(whole, expected) == []
    (whole / "ledger.json").write_text("{}")
    (whole / "report.html").write_text("<html>")
    (whole / ".model.writing").write_text("")
    assert differences(whole, expected) == ["digests", "half a report", "left over: .model.writing"]
