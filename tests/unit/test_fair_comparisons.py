"""What a comparison promises a reviewer: its price first, equal tuning, no lost or hidden trial, suites of the stated shape."""

from __future__ import annotations

import io
import json
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from rich.console import Console

from sdgym.benchmarks.head_to_head import compare, trials
from sdgym.benchmarks.head_to_head.details import Record
from sdgym.benchmarks.head_to_head.expand import expand, has_controls
from sdgym.benchmarks.head_to_head.machine import Machine
from sdgym.benchmarks.head_to_head.pace import NOMINAL, RECORDED, core_hours, recorded_hours
from sdgym.benchmarks.head_to_head.runner import Board, LocalEngine, Running, run_all
from sdgym.benchmarks.head_to_head.suite import Suite, load_suite, suite_names
from sdgym.benchmarks.head_to_head.trials import Trial, make_plan
from sdgym.benchmarks.head_to_head.tuning import candidates, tune_arms
from sdgym.config import make_config
from sdgym.session import DEFAULT_GROUP_SIZE

MATH = {"id": "sdgym/Math-v0", "kwargs": {"level": "tiny"}}
SMALL: dict[str, Any] = {"steps": 4, "tasks_per_step": 2, "group_size": 2, "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 2}}


def suite(**change: Any) -> Suite:
    arms = [{"name": "grpo", "algo": "grpo"}, {"name": "rft", "algo": "rft"}]
    return Suite.model_validate({"title": "t", "arms": arms, "envs": [MATH], "settings": SMALL, "seeds": 2} | change)


# ---- the price ----------------------------------------------------------------------------------


class StartedError(Exception):
    """The first thing that costs time has begun."""


def first_words(chosen: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> list[str]:
    """Return what a comparison says before it runs anything."""

    def measure(*_: object) -> None:
        raise StartedError

    monkeypatch.setattr(compare, "measure_starts", measure)
    said = io.StringIO()
    with pytest.raises(StartedError):
        machine = Machine(2)
        compare.prepare(expand(chosen), tmp_path, machine, LocalEngine(machine), Console(file=said, width=300), tune=False)
    return said.getvalue().splitlines()


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_says_its_core_hours_before_anything_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    chosen = load_suite(name)
    head, cost = first_words(chosen, monkeypatch, tmp_path)
    assert head.startswith(chosen.title) and cost.startswith("estimated ")
    assert float(cost.split()[1]) > 0 and "core-hours" in cost


def test_a_policy_without_a_recorded_pace_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    (_, cost) = first_words(suite(policies=["tiny", "mine"]), monkeypatch, tmp_path)
    assert cost.startswith("core-hours can be estimated once") and "mine" in cost
    (_, cost) = first_words(suite(time_budget=3600.0, seeds=10_000), monkeypatch, tmp_path)
    assert cost.startswith("estimated 2.0 core-hours"), "an hour on two cores is all that there is to spend"


def test_policies_cost_what_each_of_them_costs_and_tuning_is_paid_once() -> None:
    both, slow = suite(policies=["tiny", "smollm2-135m"], lift_tasks=0), RECORDED["smollm2-135m"]
    assert slow.rollouts_per_second < NOMINAL.rollouts_per_second / 10
    parts = [core_hours(suite(lift_tasks=0), {"math-tiny": pace}) for pace in (NOMINAL, slow)]
    assert recorded_hours(both) == pytest.approx(sum(parts))
    more = recorded_hours(both, tune=True)
    assert more == pytest.approx(sum(parts) + parts[0] / both.seeds * both.tune.trials)


# ---- tuning -------------------------------------------------------------------------------------


class Script:
    """A process that has done its work: it answers with these exit codes, one per look."""

    def __init__(self, *codes: int | None) -> None:
        self.codes = list(codes)

    def poll(self) -> int | None:
        return self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]

    def terminate(self) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int:
        return 0


class Instant(LocalEngine):
    """Plays a tuning run at once: it leaves the ``val`` successes of a checkpoint half-way and of the last one."""

    def __init__(self, ends: dict[str, list[int | None]]) -> None:
        super().__init__(Machine(2))
        self.ends = ends

    def start(self, trial: Trial, attempt: int) -> Running:
        arm, number = trial.arm, int(trial.folder.name.removeprefix("trial-"))
        solved = self.ends[arm][number]
        trial.run_folder.mkdir(parents=True, exist_ok=True)
        item = {"split": "val", "task_id": "t", "samples": 8, "reward": 0.0, "majority": 0.0, "greedy": 0.0}
        if solved is not None:
            lines = [item | {"step": step, "successes": n} for step, n in ((0, 1), (2, 8), (4, solved))]
            (trial.run_folder / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (trial.run_folder / "metrics.jsonl").write_text(json.dumps({"step": 4, "ledger/sampled_tokens": 100}) + "\n")
        return Running(trial, Script(0 if solved is not None else 1), time.monotonic(), attempt, 4)


def test_the_last_checkpoint_on_val_decides_and_the_report_says_what_was_tried(tmp_path: pathlib.Path) -> None:
    """Half-way every run solves all eight; only its end counts. A tie goes to the arm's own settings, which come first."""
    chosen = suite(tune={"trials": 3, "space": {"optimizer.lr": [1e-3, 1e-4]}})
    said: list[str] = []
    tuned, records = tune_arms(chosen, tmp_path, Instant({"grpo": [2, 5, 3], "rft": [4, 4, None]}), said.append)
    best = candidates(chosen, chosen.arms[0])[1]
    assert tuned.tuned == {"math-tiny/grpo": best, "math-tiny/rft": {}}
    assert [(r["arm"], r["success"], r["chosen"]) for r in records] == [
        ("grpo", 0.25, False),
        ("grpo", 0.625, True),
        ("grpo", 0.375, False),
        ("rft", 0.5, True),
        ("rft", 0.5, False),
        ("rft", None, False),
    ]
    assert tuned.trial_settings(tuned.arms[0], tuned.envs[0], 0)["optimizer"]["lr"] == best["optimizer"]["lr"]
    notes = Record(tuned, tmp_path, Board([], 1, None), {}, tuning=records).tree()["notes"]
    assert notes == [
        f"grpo on math-tiny was tuned with 3 trials on val, which sampled 300 tokens; it runs with optimizer.lr={best['optimizer']['lr']}",
        "rft on math-tiny was tuned with 3 trials on val, which sampled 200 tokens; it runs with its own settings",
    ]
    assert any("grpo on math-tiny: optimizer.lr" in line for line in said)


# ---- trials -------------------------------------------------------------------------------------


def test_a_crashed_trial_is_retried_and_told_and_no_more_run_than_there_are_cores(tmp_path: pathlib.Path) -> None:
    codes: dict[str, list[list[int | None]]] = {"grpo": [[3], [None, None, 0]], "rft": [[None, 0]]}
    board, said, most = Board(make_plan(suite(seeds=1), 0, tmp_path), 1, None), list[str](), 0

    def launch(trial: Trial, attempt: int) -> Running:
        trial.folder.mkdir(parents=True, exist_ok=True)
        (trial.folder / "log.txt").write_text("out of luck\n")
        return Running(trial, Script(*codes[trial.arm][attempt - 1]), time.monotonic(), attempt, 4)

    board.launch = launch
    for state in run_all(board, said.append):
        most = max(most, len(state.running))
    assert most == 1 and {t.arm for t in board.finished} == {"grpo", "rft"} and not board.failed
    assert said == ["grpo on math-tiny, seed 0, failed (exit code 3) and is tried once more: out of luck"]
    notes = Record(suite(seeds=1), tmp_path, board, {}).tree()["notes"]
    assert notes == ["math-tiny/grpo/seed-0 was run a second time (exit code 3: out of luck)"]
    assert all(trial.seconds_if_done() is not None for trial in board.plan), "each left its record"


def packed(folder: pathlib.Path, names: Sequence[str]) -> pathlib.Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("one")
    return folder


def test_the_code_hash_sees_what_changes_a_result_and_nothing_else(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [
        "trainer.py",
        "stats/basic.py",
        "assets/tiny/model.safetensors",
        "algos/presets/grpo.yaml",
        "envs/math/env.py",
        "verifiers/math.py",
    ]
    ignored = ["report/page.py", "commands/run.py", "benchmarks/suites/quick.yaml", "nursery.py", "algos/notes.md"]
    root = packed(tmp_path / "sdgym", [*counted, *ignored])
    monkeypatch.setattr(trials.importlib.resources, "files", lambda _: root)  # type: ignore[attr-defined]
    code_hash = trials.code_hash.__wrapped__
    before = code_hash()
    for name in ignored:
        (root / name).write_text("two")
        assert code_hash() == before, name
    for name in counted:
        (root / name).write_text("two")
        assert code_hash() != before, name
        (root / name).write_text("one")
    shutil.move(root / "envs/math", root / "envs/maths")
    assert code_hash() != before, "a moved file is another package"


def test_trls_trials_depend_on_the_adapter_as_well(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = suite(arms=[{"name": "ours", "algo": "grpo"}, {"name": "theirs", "algo": "grpo", "engine": "trl"}], seeds=1)
    ours, theirs = make_plan(chosen, 0, tmp_path)
    before = ours.key, theirs.key
    assert before[0] != before[1]
    monkeypatch.setattr(trials, "adapter_hash", lambda: "edited")
    assert ours.key == before[0] and theirs.key != before[1]


def test_what_trl_cannot_do_is_in_the_report(tmp_path: pathlib.Path) -> None:
    notes = Record(load_suite("peers"), tmp_path, Board([], 1, None), {}).tree()["notes"]
    for arm, algo in (("trl-grpo", "grpo"), ("trl-sdpo-peer", "sdpo_norich")):
        (told,) = [note for note in notes if note.startswith(f"{arm} is ")]
        assert f"TRL's own trainer with the settings of {algo}; not carried over: " in told and "episodes of one turn only" in told


# ---- suites -------------------------------------------------------------------------------------


def test_a_suite_file_takes_an_algorithm_by_module_and_class(tmp_path: pathlib.Path) -> None:
    arms = [{"name": "mine", "algo": "sdgym.algos.sdpo:SDPO", "settings": {"algo": {"top_k": 3}}}]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"title": "t", "arms": arms, "envs": [MATH], "controls": ["P2"]}))
    chosen = expand(compare.customise(load_suite(str(tmp_path / "mine.yaml")), None, None, None, None, None, None))
    assert [arm.name for arm in chosen.arms] == ["mine", "mine-P2"]
    assert chosen.trial_settings(chosen.arms[1], chosen.envs[0], 0)["algo"]["overrides"] == {"top_k": 3, "control": "P2"}


@pytest.mark.parametrize("name", suite_names())
def test_curves_are_on_val_test_is_read_at_the_end_and_only_the_demonstration_counts_seconds(name: str) -> None:
    chosen = load_suite(name)
    for arm in chosen.arms:
        settings = make_config(chosen.trial_settings(arm, chosen.envs[0], 0))
        assert settings.eval.split == "val" and settings.eval.test_tasks > 0
    assert (chosen.time_budget is None) == (name != "quick")
    assert chosen.budget is not None or name in ("quick", "smollm2"), "equal sampled tokens"


def test_named_is_ten_seeds_crossed_over_three_checkpoints() -> None:
    named = load_suite("named")
    assert (named.seeds, named.policies, named.lift_tasks) == (10, ("tiny", "tiny-b", "tiny-c"), 500)
    assert {"grpo", "opsd", "sdpo", "sd_zero", "skill_sd", "vpd"} <= {arm.algo for arm in named.arms}
    assert len(make_plan(named, 0, pathlib.Path("out"))) == len(named.arms) * len(named.envs) * 30


def test_controls_gives_each_distilling_arm_all_four_and_the_arms_that_use_the_same_information() -> None:
    chosen = load_suite("controls")
    twins = {arm.name: {a.name for a in expand(chosen).arms if a.control_of == arm.name} for arm in chosen.arms}
    for arm in chosen.arms:
        distils = has_controls(arm) and arm.algo != "star"
        assert twins[arm.name] == ({f"{arm.name}-P{i}" for i in range(4)} if distils else set())
    assert {"sft_reference", "star", "grpo_ema", "sharpen"} <= {arm.algo for arm in chosen.arms} and chosen.lift_tasks >= 500


def test_the_family_is_cheap_and_smollm2_small() -> None:
    family, real = load_suite("family"), load_suite("smollm2")
    assert (family.seeds, len(family.envs), family.controls) == (3, 1, ("P2",)) and "exploratory" in family.title
    assert ([arm.algo for arm in real.arms], real.seeds, len(real.envs)) == (["grpo", "sdpo"], 2, 1)
    for arm in real.arms:
        settings = make_config(real.trial_settings(arm, real.envs[0], 0))
        assert settings.steps >= 60 and settings.checkpoint.every > 0, "restartable"
        assert (settings.tasks_per_step, settings.group_size or DEFAULT_GROUP_SIZE) == (8, 8) and (settings.sampling.max_tokens or 97) <= 96
