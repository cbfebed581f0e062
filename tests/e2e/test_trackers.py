"""Every experiment tracker that the documentation names receives a run's numbers; none needs a network."""

from __future__ import annotations

import json
import math
import pathlib
import sqlite3
import time
from typing import Any

import pytest

import sdgym
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy
from sdgym.tracking import tracker_metrics

SETTINGS: dict[str, Any] = {
    "algo": "grpo",
    "steps": 2,
    "tasks_per_step": 2,
    "group_size": 3,
    "max_live": 8,
    "eval": {"every": 1, "tasks": 2, "samples": 2, "test_tasks": 0},
    "env": {"id": LETTERS_ID},
}


@pytest.fixture
def run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train with one tracker and return the run folder and its own metric log; everything a tracker writes lands below it."""
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1).save(tmp_path / "model")
    home = tmp_path / "tracked"
    home.mkdir()
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(home),
        "WANDB_SILENT": "true",
        "WANDB_DISABLE_CODE": "true",
        "MLFLOW_TRACKING_URI": home.as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(home),
        "HF_HUB_OFFLINE": "1",
    }.items():
        monkeypatch.setenv(name, value)

    def train(tracker: str) -> tuple[pathlib.Path, pathlib.Path, list[dict[str, Any]]]:
        out = tmp_path / "run"
        sdgym.train(out=out, model=str(tmp_path / "model"), log={"trackers": [tracker]}, **SETTINGS)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 1, 2]
        return out, home, lines

    return train


@pytest.mark.slow
def test_tensorboard(run: Any) -> None:
    pytest.importorskip("tensorboard", reason="requires tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, _, lines = run("tensorboard")
    found: dict[str, list[Any]] = {}
    for folder in {path.parent for path in out.rglob("events.out.tfevents.*")}:
        reader = EventAccumulator(str(folder))
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            found.setdefault(tag, []).extend(reader.Scalars(tag))
    assert [(e.step, pytest.approx(e.value)) for e in found["eval/success"]] == [(x["step"], x["eval/success"]) for x in lines]


@pytest.mark.slow
def test_wandb_offline(run: Any) -> None:
    pytest.importorskip("wandb", reason="requires wandb")
    _, home, _ = run("wandb")
    (file,) = home.rglob("offline-run-*/*.wandb")
    names, latest = (b"eval/success", b"ledger/sampled_tokens"), time.monotonic() + 30
    while not all(name in file.read_bytes() for name in names):  # offline, its own process writes on for a moment after finish()
        assert time.monotonic() < latest, file.read_bytes()[:2000]
        time.sleep(0.1)


@pytest.mark.slow
def test_mlflow(run: Any) -> None:
    pytest.importorskip("mlflow", reason="requires mlflow")
    _, home, lines = run("mlflow")
    files = [path for path in home.rglob("*") if path.is_file() and path.as_posix().endswith("metrics/eval/success")]
    assert len(files) == 1
    logged = [line.split() for line in files[0].read_text().splitlines()]
    assert [(int(step), pytest.approx(float(value))) for _, value, step, *_ in logged] == [(x["step"], x["eval/success"]) for x in lines]
    assert list(home.rglob("maj_at_2")), "a name that MLflow refuses reaches it under one that it takes"


@pytest.mark.slow
def test_trackio(run: Any) -> None:
    pytest.importorskip("trackio", reason="requires trackio")
    _, home, lines = run("trackio")
    deadline, logged, expected = time.monotonic() + 60, set[float](), {x["eval/success"] for x in lines}
    while time.monotonic() < deadline and not expected <= logged:  # trackio writes from a thread of its own
        for path in home.rglob("*.db"):
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                rows = [row[0] for row in database.execute("select metrics from metrics")]
            logged |= {json.loads(row).get("eval/success") for row in rows}
        time.sleep(0.2)
    assert expected <= logged


def test_trackers_get_numbers_under_names_they_take() -> None:
    line = {"step": 1, "eval/maj@4": 0.5, "eval/pass@2": math.nan, "loss/a": 3, "loss/a/b": 4}
    assert tracker_metrics(line, ["tensorboard"]) == {"step": 1, "eval/maj@4": 0.5, "loss/a": 3, "loss/a/b": 4}
    assert tracker_metrics(line, ["tensorboard", "mlflow"]) == {"step": 1, "eval/maj_at_4": 0.5, "loss/a": 3, "loss/a.b": 4}


def test_an_unknown_tracker_is_one_sentence(tmp_path: pathlib.Path, capsys: Any) -> None:
    from sdgym.cli import execute

    assert execute(["train", "--out", str(tmp_path / "run"), "--set", "log.trackers=[wandboard]"]) == 2
    assert "the tracker 'wandboard' is unknown or not installed" in capsys.readouterr().err
