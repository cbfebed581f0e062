"""Folders of runs that nobody declared a comparison: what is one method, what is a seed, and files that are damaged."""

from __future__ import annotations

import json
import pathlib
import types

import pytest
from typer.testing import CliRunner

from sdgym.benchmarks.head_to_head.tables import findings
from sdgym.cli import app
from sdgym.report import load_folder, table_rows
from sdgym.report.versus import implied

Made = types.SimpleNamespace


def test_runs_with_other_settings_are_no_seeds_of_one_method(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "a", seed=0, optimizer={"lr": 1e-3})
    made.write_run(tmp_path / "b", seed=1, optimizer={"lr": 1e-3})
    made.write_run(tmp_path / "c", seed=0, optimizer={"lr": 1e-4}, threads=2)
    made.write_run(tmp_path / "d", algo="rft")
    rows = {row["arm"]: row["after"]["n"] for row in table_rows(tmp_path)}
    assert rows == {"grpo (optimizer.lr=0.001)": 2, "grpo (optimizer.lr=0.0001)": 1, "rft": 1}


def test_a_control_is_set_beside_what_it_controls(tmp_path: pathlib.Path, made: Made) -> None:
    made.write_run(tmp_path / "real", algo={"name": "opsd"})
    made.write_run(tmp_path / "other", algo={"name": "opsd", "control": "P2"})
    runs, _ = load_folder(tmp_path)
    assert implied(tmp_path, runs)["controls"] == {"opsd (control=P2)": "opsd (control=default)"}


def test_two_files_of_problems_are_two_worlds(tmp_path: pathlib.Path, made: Made) -> None:
    for name in ("mine", "yours"):
        folder = made.write_run(tmp_path / name)
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("level: tiny", f"level: tiny\n    data: {name}.jsonl"))
    assert [row["env"] for row in table_rows(tmp_path)] == ["sdgym/Math-v0[data=mine.jsonl]", "sdgym/Math-v0[data=yours.jsonl]"]


def test_runs_on_other_tasks_are_told_apart_in_a_sentence(tmp_path: pathlib.Path, made: Made) -> None:
    trials = {}
    for arm in ("grpo", "rft"):
        made.write_run(tmp_path / arm, algo=arm)
        trials[arm] = [arm, "math"]
    items = tmp_path / "rft" / "eval.jsonl"
    items.write_text(items.read_text().replace('"task_id": "', '"task_id": "other-'))
    told = {"trials": trials, "starts": {}, "order": ["grpo", "rft"], "contrasts": [["rft", "grpo"]], "baseline": "grpo"}
    (tmp_path / "comparison.json").write_text(json.dumps(told))
    (line,) = findings(tmp_path)
    assert isinstance(line, str) and "were not scored on the same tasks (rft, seed 0)" in line
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0


@pytest.mark.parametrize(
    ("file", "text", "command"),
    [
        ("config.yaml", "algo: [", "report"),
        ("config.yaml", "algo: grpo\nenv: sdgym/Math-v0\n", "report"),
        ("config.yaml", "algo: [", "watch"),
        ("eval.jsonl", '{"step": 0}\n{"step": 1}\n', "report"),
        ("eval.jsonl", "3\n4\n", "report"),
        ("metrics.jsonl", "[1]\n[2]\n", "watch"),
        ("comparison.json", "{", "report"),
        ("comparison.json", "[]", "report"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(file: str, text: str, command: str, tmp_path: pathlib.Path, made: Made) -> None:
    (made.write_run(tmp_path / "run") / file).write_text(text)
    if file == "comparison.json":
        (tmp_path / "run" / file).rename(tmp_path / file)
    done = CliRunner().invoke(app, [command, str(tmp_path), *(["--once"] if command == "watch" else [])])
    assert done.exception is not None and file in str(done.exception) and type(done.exception).__module__ == "sdgym.errors"
