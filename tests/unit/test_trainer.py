from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import sdgym
from sdgym.algos import algorithms
from sdgym.algos.base import Algorithm, Phase, Preset, UpdateSchedule
from sdgym.algos.losses import NLLLoss
from sdgym.algos.terms import build_items
from sdgym.buffer import RolloutBuffer
from sdgym.checkpoint import CheckpointStore
from sdgym.config import OptimizerConfig, make_config
from sdgym.core import LossTerm
from sdgym.errors import ConfigError, NumericalError, UnknownNameError
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy
from sdgym.tracking import RunFolder
from sdgym.trainer import Trainer, learning_rate

SMALL: dict[str, Any] = {
    "tasks_per_step": 2,
    "group_size": 2,
    "steps": 3,
    "env": LETTERS_ID,
    "eval": {"every": 0, "tasks": 2, "samples": 2, "test_tasks": 2},
    "checkpoint": {"every": 1},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=64).save(folder)
    return str(folder)


def lines(out: pathlib.Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


class Watcher:
    """Records what a run tells its progress object."""

    def __init__(self) -> None:
        self.header, self.steps, self.finished = "", [], 0

    def start(self, name: str, header: str, done: int, total: int) -> None:
        self.header = header

    def advance(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(step)

    def message(self, text: str) -> None:
        raise AssertionError(text)

    def finish(self) -> None:
        self.finished += 1


def test_a_run_leaves_the_folder_it_promises(model: str, tmp_path: pathlib.Path) -> None:
    watcher = Watcher()
    result = sdgym.train("grpo", out=tmp_path / "run", model=model, progress=watcher, **{**SMALL, "eval": {**SMALL["eval"], "every": 2}})
    out = result.folder
    assert watcher.header.startswith("device cpu, dtype float32, threads 1;")
    assert watcher.steps == [0, 1, 2, 3] and watcher.finished == 1
    metrics = lines(out)
    assert [line["step"] for line in metrics] == [0, 1, 2, 3]
    assert [line["step"] for line in metrics if "eval/success" in line] == [0, 2, 3]
    assert [line["step"] for line in metrics if "test/success" in line] == [3]
    schema = ("train/reward", "train/success", "train/entropy", "train/clip_frac", "train/logprob_gap", "train/update_kl", "train/length")
    for name in (*schema, "loss/policy", "ledger/sampled_tokens", "time/rollout", "limits_fired", "seconds"):
        assert all(name in line for line in metrics[1:]), name
    assert metrics[-1]["train/logprob_gap"] < 1e-4
    assert {(r["step"], r["split"]) for r in lines(out, "eval.jsonl")} == {(0, "val"), (2, "val"), (3, "val"), (3, "test")}
    assert json.loads((out / "ledger.json").read_text())["episodes"] == 3 * 4
    for kind in ("trajectories", "tokens"):
        assert sorted(p.name for p in (out / kind).iterdir()) == [f"step_{s:06d}.parquet" for s in (1, 2, 3)]
    told = pq.read_table(out / "tokens" / "step_000002.parquet").to_pylist()
    for row, tokens in zip(RolloutBuffer.load(out / "trajectories" / "step_000002.parquet").rows, told, strict=True):
        assert tokens["student"] == pytest.approx(row.action_logprobs(), abs=1e-4), "scored by the weights that sampled"
        assert len(tokens["pieces"]) == len(tokens["advantage"]) == row.action_length
    assert CheckpointStore(out / "checkpoints").steps() == [2, 3]
    assert sdgym.evaluate(str(out / "model"), LETTERS_ID, episodes=2, samples=2).n == 2


def test_the_same_seed_gives_the_same_run_and_another_seed_another(model: str, tmp_path: pathlib.Path) -> None:
    def run(name: str, seed: int) -> list[float]:
        sdgym.train("grpo", out=tmp_path / name, model=model, seed=seed, **SMALL)
        return [line["loss/policy"] for line in lines(tmp_path / name)[1:]] + [lines(tmp_path / name)[-1]["train/entropy"]]

    first, again, other = run("a", 1), run("b", 1), run("c", 2)
    assert first == again != other


def test_two_runs_of_one_process_may_differ_in_precision(model: str, tmp_path: pathlib.Path) -> None:
    found = {}
    for name, dtype in (("a", "float32"), ("b", "bfloat16"), ("c", "float32")):
        sdgym.train("grpo", out=tmp_path / name, model=model, dtype=dtype, **SMALL)
        found[name] = [line["train/entropy"] for line in lines(tmp_path / name)[1:]]
    assert found["a"] == found["c"] != found["b"]
    assert found["b"] == pytest.approx(found["a"], rel=0.05)


def test_rejected_groups_are_drawn_again_a_bounded_number_of_times(model: str, tmp_path: pathlib.Path) -> None:
    """Answers of one token by a policy that seldom succeeds: most groups agree, and dynamic sampling rejects them."""
    settings = {**SMALL, "steps": 2, "max_resamples": 2}
    sdgym.train({"name": "grpo", "dynamic_sampling": True}, out=tmp_path / "run", model=model, **settings)
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert 0 < ledger["discarded_tokens"] <= ledger["sampled_tokens"]
    assert 2 * 4 < ledger["episodes"] <= 2 * 3 * 4  # more than one batch a step, at most three


class Explode(Algorithm):
    """Trains quietly for a step, then on weights that are no numbers."""

    name = "explode"

    def __init__(self, config: Preset) -> None:
        super().__init__(config)
        self.entered: list[str] = []

    @property
    def phases(self) -> list[Phase]:
        first = Phase("first", self.annotate, steps=1, on_enter=lambda: self.entered.append("first"))
        return [first, Phase("second", self.annotate, on_enter=lambda: self.entered.append("second"), schedule=UpdateSchedule(2, 2))]

    def annotate(self, batch: Any, context: Any) -> list[LossTerm]:
        items = build_items(batch, context, range(len(batch.rows)), ratios=False)
        return [LossTerm("x", NLLLoss(), items, math.nan if context.step == 2 else 1.0)]


algorithms.register("explode", Explode)


def test_phases_schedules_and_a_loss_that_is_no_number(model: str, tmp_path: pathlib.Path) -> None:
    folder = RunFolder(tmp_path / "run")
    trainer = Trainer(make_config({**SMALL, "algo": "explode", "model": model}), folder)
    with pytest.raises(NumericalError, match="update 6"):
        trainer.run()
    folder.close()
    assert trainer.session.algorithm.entered == ["first", "second"]
    assert [line.get("train/updates") for line in lines(tmp_path / "run")] == [None, 1, 4]
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    assert store.steps() == [1, 2]
    assert all(bool(torch.isfinite(t).all()) for t in store.load(2)[0]["learner"]["weights"].values())


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.25, 0.5, 1.0, 1.0]), ("linear", [0.25, 0.5 * 0.9, 0.5, 0.1]), ("cosine", [0.25, 0.5 * 0.975528, 0.5, 0.024472])],
)
def test_learning_rates(schedule: str, expected: list[float]) -> None:
    config = OptimizerConfig(lr=1.0, warmup=4, schedule=schedule)  # type: ignore[arg-type]
    points = [(0, 0), (1, 1), (5, 5), (9, 9)]  # (updates, step) of ten steps
    assert [learning_rate(config, updates, step, 10) for updates, step in points] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"algo": "grpp"}, UnknownNameError, "did you mean 'grpo'"),
        ({"algo": {"name": "grpo", "clip_hihg": 1}}, ConfigError, "clip_high"),
        ({"env": "sdgym/Maths-v0"}, UnknownNameError, "did you mean 'sdgym/Math-v0'"),
        ({"env": {"id": "sdgym/Math-v0", "levle": "tiny"}}, ConfigError, "levle"),
        ({"env": {"id": "sdgym/Math-v0", "level": "tny"}}, UnknownNameError, "did you mean 'tiny'"),
        ({"model": "tyni"}, UnknownNameError, "model"),
        ({"log": {"trackers": ["wandbb"]}}, ConfigError, "wandbb"),
        ({"group_size": 1}, ConfigError, "group_size"),
    ],
)
def test_mistakes_are_found_before_the_first_rollout(
    model: str, tmp_path: pathlib.Path, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        sdgym.train(out=tmp_path / "run", **{**SMALL, "model": model, **settings})
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_that_never_began_leaves_its_folder_free(model: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UnknownNameError):
        sdgym.train("grpp", out=tmp_path / "run", model=model, **SMALL)
    assert sdgym.train("grpo", out=tmp_path / "run", model=model, **{**SMALL, "steps": 1}).steps == 1
