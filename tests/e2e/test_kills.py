"""SIGKILL anywhere, resume, and end with the bits of the run that was never killed."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from sdgym.seeding import generator
from sdgym.testing.killing import PLACES, Zygote, run_contents
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy

SETTINGS: dict[str, Any] = {
    "tasks_per_step": 2,
    "group_size": 3,
    "threads": 1,
    "max_live": 8,
    "optimizer": {"lr": 2e-3, "schedule": "cosine"},
    "checkpoint": {"every": 2, "keep": 2},
    "env": {"id": LETTERS_ID, "turns": 2},
    "algo": {"name": "sdpo", "teacher": "ema", "teacher_rate": 0.2, "epochs": 2, "minibatches": 2},
}
FAST = {**SETTINGS, "steps": 4, "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 2}}
LONG = {**SETTINGS, "steps": 7, "eval": {"every": 3, "tasks": 3, "samples": 2, "test_tasks": 3}}


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


def check(out: pathlib.Path, expected: dict[str, Any]) -> None:
    """The folder holds what the undisturbed run left, a whole report, and nothing half written."""
    found = run_contents(out)
    for part in expected:
        assert found[part] == expected[part], part
    page = out / "report.html"
    assert not page.exists() or page.read_text().rstrip().endswith("</html>")
    assert not [p.name for p in out.rglob("*writing*")]


def test_three_deaths_and_the_same_bits(zygote: Zygote, model: str, tmp_path: pathlib.Path) -> None:
    """In the middle of an optimizer step, with half a checkpoint on disk, and in the middle of a log's line: one run, three deaths."""
    settings = {**FAST, "model": model}
    _, expected = whole(zygote, settings, tmp_path / "whole")
    for place, number in (("update", 9), ("checkpoint", 2), ("log", 3)):
        assert zygote.attempt(settings, tmp_path / "run", place, number)["killed"], place
    assert zygote.attempt(settings, tmp_path / "run")["code"] == 0
    check(tmp_path / "run", expected)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_thirty_runs_killed_at_random(zygote: Zygote, model: str, tmp_path: pathlib.Path) -> None:
    """Thirty runs, each killed at a random call of a place (every place at least twice), half of them again on the way back."""
    settings = {**LONG, "model": model, "report": True}
    calls, expected = whole(zygote, settings, tmp_path / "whole")
    assert calls["report"] == 1
    rng = generator(20_26, "kills")
    places, deaths = sorted(PLACES), 0
    for run in range(30):
        out, place = tmp_path / f"run-{run}", places[run % len(places)]
        number = int(rng.integers(1, calls[place] + 1))
        assert zygote.attempt(settings, out, place, number)["killed"], (place, number)
        deaths += 1
        if rng.random() < 0.5:
            again = places[int(rng.integers(len(places)))]
            deaths += zygote.attempt(settings, out, again, int(rng.integers(1, max(2, calls[again] // 4))))["killed"]
        assert zygote.attempt(settings, out)["code"] == 0, (place, number)
        try:
            check(out, expected)
        except AssertionError as error:
            raise AssertionError(json.dumps({"place": place, "call": number, "of": calls[place]})) from error
    assert deaths > 30, "some runs died twice"
