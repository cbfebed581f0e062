"""``eval.retention``: success in worlds that were not trained in, from the run's end to the report."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from typing import Any

import pytest
from rich.console import Console

import sdgym
from sdgym.benchmarks.head_to_head import run_suite
from sdgym.benchmarks.head_to_head.display import retention_table
from sdgym.benchmarks.head_to_head.pace import Pace, trial_seconds
from sdgym.benchmarks.head_to_head.suite import Suite
from sdgym.cli import execute
from sdgym.config import make_config
from sdgym.errors import ConfigError, DataError, UnknownNameError
from sdgym.policy import Policy
from sdgym.report import load_folder, table_rows, write_report
from sdgym.report.tables import blocks
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy

PAIRS = {"id": LETTERS_ID, "kwargs": {"turns": 2}}
PAIRS_NAME = f"{LETTERS_ID}[turns=2]"
SMALL: dict[str, Any] = {"tasks_per_step": 2, "group_size": 2, "steps": 2, "env": LETTERS_ID}
EVAL = {"every": 0, "tasks": 2, "samples": 2, "test_tasks": 24}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=96).save(folder)
    return str(folder)


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def trained(out: pathlib.Path, model: str, *worlds: Any) -> pathlib.Path:
    return sdgym.train("grpo", out=out, model=model, **SMALL, eval={**EVAL, "retention": worlds}).folder


def test_a_run_reads_other_worlds_at_its_end_as_eval_reads_them_and_changes_nothing_else(model: str, tmp_path: pathlib.Path) -> None:
    plain = trained(tmp_path / "plain", model)
    asked = trained(tmp_path / "asked", model, LETTERS_ID, PAIRS)
    weights = [Policy.load(str(folder / "model"), threads=1).state_hash() for folder in (plain, asked)]
    assert weights[0] == weights[1]
    before, after = lines(plain / "metrics.jsonl"), lines(asked / "metrics.jsonl")
    kept = f"eval/retention/{PAIRS_NAME}"
    assert [name for line in after for name in line if "retention" in name] == [kept, "time/retention"], (
        "at the end, the own world left out"
    )
    for one, other in zip(before, after, strict=True):
        moved = {name for name in one if one[name] != other[name] and not name.startswith("time/") and name != "seconds"}
        assert moved <= {name for name in one if name.startswith("ledger/eval_")}, "nothing but the cost of evaluation"
    assert after[-1]["ledger/eval_env_steps"] == before[-1]["ledger/eval_env_steps"] + 24 * (2 + 1) * 2
    records = lines(asked / "eval.jsonl")
    own = [record for record in records if "@" not in record["split"]]
    assert own == lines(plain / "eval.jsonl")
    theirs = [record for record in records if record["split"] == f"test@{PAIRS_NAME}"]
    report = sdgym.evaluate(str(asked / "model"), LETTERS_ID, episodes=24, samples=2, turns=2)
    assert [{**dataclasses.asdict(item)} for item in report.items] == [
        {key: r[key] for key in dataclasses.asdict(report.items[0])} for r in theirs
    ]
    assert after[-1][kept] == report.success > 0.0, "a draw with some success, or equality would say little"


def test_worlds_are_named_by_what_sets_them_apart() -> None:
    worlds = [
        "sdgym/Math-v0",
        {"id": "sdgym/Math-v0", "level": "easy"},
        {"id": "sdgym/Steps-v0", "kwargs": {"kind": "order", "split": "val"}},
    ]
    config = make_config({"env": {"id": "sdgym/Math-v0", "level": "tiny", "split": "train"}, "eval": {"retention": worlds}})
    assert [world.label for world in config.untrained] == ["sdgym/Math-v0[level=easy]", "sdgym/Steps-v0[kind=order]"]
    assert make_config(config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match="names a world twice: sdgym/Math-v0"):
        make_config({"eval": {"retention": ["sdgym/Math-v0", {"id": "sdgym/Math-v0", "level": "tiny"}]}})


@pytest.mark.parametrize(
    ("world", "error", "words"),
    [
        ("sdgym/Maths-v0", UnknownNameError, "did you mean 'sdgym/Math-v0'"),
        ({"id": LETTERS_ID, "trun": 2}, ConfigError, "trun"),
        ({"id": "sdgym/ToolWorld-v0", "level": "hard"}, DataError, "needs"),
    ],
)
def test_a_world_that_cannot_be_read_is_told_before_the_first_rollout(
    model: str, tmp_path: pathlib.Path, world: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        trained(tmp_path / "run", model, world)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_eval_tells_them_beside_its_own_world(
    model: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = json.dumps([LETTERS_ID, PAIRS])
    command = ["eval", "--model", model, "--env", LETTERS_ID, "--episodes", "8", "--set", f"eval.retention={pairs}", "--json", "--out", "m"]
    assert execute(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[f"retention/{PAIRS_NAME}"] == sdgym.evaluate(model, LETTERS_ID, episodes=8, turns=2).success
    assert {r["split"] for r in lines(tmp_path / "m" / "eval.jsonl")} == {"test", f"test@{PAIRS_NAME}"}
    assert json.loads((tmp_path / "m" / "pace.json").read_text())["rollouts"] == 8 * (4 + 1), "the pace is that of the own world"


def record(step: int, split: str, task: int, solved: int) -> dict[str, Any]:
    return {
        "step": step,
        "split": split,
        "task_id": f"t{task}",
        "samples": 4,
        "successes": solved,
        "reward": 0.0,
        "majority": 0.0,
        "greedy": 0.0,
    }


def write_run(folder: pathlib.Path, seed: int, kept: int | None) -> None:
    """One run whose own world goes from 1/4 to 3/4; another starts at 2/4 (unknown to seed 9) and ends at ``kept``/4 (None: not read)."""
    folder.mkdir(parents=True)
    worlds = [{"id": "sdgym/Sokoban-v0", "kwargs": {"level": "easy"}}]
    config = make_config({"algo": "grpo", "env": "sdgym/Math-v0", "seed": seed, "steps": 1, "eval": {"retention": worlds}})
    (folder / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "ledger/sampled_tokens": s}) + "\n" for s in (0, 1)))
    there = "test@sdgym/Sokoban-v0[level=easy]"
    records = [record(0, "test", 0, 1), record(1, "test", 0, 3)]
    if kept is not None:
        records += [record(1, there, 0, kept)] + ([record(0, there, 0, 2)] if seed < 9 else [])
    (folder / "eval.jsonl").write_text("".join(json.dumps(r) + "\n" for r in sorted(records, key=lambda r: r["step"])))


def test_the_report_shows_start_and_end_in_the_other_world_and_ranks_by_the_own_alone(tmp_path: pathlib.Path) -> None:
    for seed, kept in enumerate((1, 2)):
        write_run(tmp_path / f"s{seed}", seed, kept)
    (row,) = table_rows(tmp_path)
    assert (row["before"]["mean"], row["after"]["mean"]) == (0.25, 0.75)
    (kept_row,) = row["retention"]
    assert kept_row["world"] == "sdgym/Sokoban-v0[level=easy]"
    assert (kept_row["before"]["mean"], kept_row["after"]["mean"], kept_row["after"]["n"]) == (0.5, 0.375, 2)
    page = write_report(tmp_path).read_text()
    assert "<strong>Retention</strong>" in page and "<td>sdgym/Sokoban-v0[level=easy]</td>" in page and "−12.5" in page
    (block,) = blocks(load_folder(tmp_path)[0])
    table = retention_table(block)
    assert table is not None
    told = io.StringIO()
    Console(file=told, width=140).print(table)
    assert "sdgym/Sokoban-v0[level=easy]" in told.getvalue(), "brackets are no markup"


def test_without_it_nothing_is_shown(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "a", 0, None)
    assert "retention" not in table_rows(tmp_path)[0]
    assert retention_table(blocks(load_folder(tmp_path)[0])[0]) is None
    assert "<strong>Retention</strong>" not in write_report(tmp_path).read_text()


def test_a_start_that_was_not_measured_is_a_dash(tmp_path: pathlib.Path) -> None:
    write_run(tmp_path / "a", 9, 1)
    (kept,) = table_rows(tmp_path)[0]["retention"]
    assert kept["before"]["n"] == 0 and kept["before"]["mean"] is None
    json.loads(json.dumps(table_rows(tmp_path), allow_nan=False))


def test_the_estimate_of_a_comparison_counts_them() -> None:
    pace = Pace(1_000, 10.0, 5.0)
    plain, asked = (make_config({**SMALL, "eval": {**EVAL, "retention": worlds}}).model_dump(mode="json") for worlds in ([], [PAIRS]))
    assert trial_seconds(asked, 2, pace) - trial_seconds(plain, 2, pace) == pytest.approx(24 * 3 / 100)


@pytest.mark.slow
def test_a_comparison_measures_the_start_once_and_prints_the_table(model: str, tmp_path: pathlib.Path) -> None:
    tree = {
        "title": "t",
        "policies": [model],
        "arms": [{"name": "grpo", "algo": "grpo"}],
        "envs": [{"id": LETTERS_ID}],
        "settings": {**{k: v for k, v in SMALL.items() if k != "env"}, "eval": {**EVAL, "retention": [LETTERS_ID, PAIRS]}},
        "seeds": 1,
    }
    told = io.StringIO()
    done = run_suite(Suite.model_validate(tree), out=tmp_path / "out", console=Console(file=told, width=200))
    ((row,),) = [block.rows for block in done.blocks]
    (kept,) = row.retention
    start = sdgym.evaluate(model, LETTERS_ID, episodes=24, samples=2, turns=2)
    assert (kept.world, kept.before.mean, kept.before.n, kept.after.n) == (PAIRS_NAME, start.success, 1, 1)
    assert "Retention · trained in" in told.getvalue() and "on 24 test tasks" in told.getvalue()
