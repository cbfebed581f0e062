"""The comparison harness: suites, cache keys, the budget, steps that fit; and one real comparison with a failing arm."""

from __future__ import annotations

import io
import json
import pathlib
import time

import pytest

from sdgym.benchmarks.head_to_head import compare, run_suite
from sdgym.benchmarks.head_to_head.compare import customise, trials_at_once
from sdgym.benchmarks.head_to_head.expand import expand
from sdgym.benchmarks.head_to_head.pace import FEWEST, UPDATE_COST, Pace, fit_steps, trial_seconds
from sdgym.benchmarks.head_to_head.runner import Board, Running
from sdgym.benchmarks.head_to_head.suite import Suite, load_suite, suite_names, world_name
from sdgym.benchmarks.head_to_head.trials import Trial, make_plan, obstacle
from sdgym.errors import ConfigError, RunFolderError, UnknownNameError

SMALL = {"steps": 4, "tasks_per_step": 2, "group_size": 2, "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 2}}


def suite(**change: object) -> Suite:
    """A suite of two arms on one world."""
    arms = [{"name": "grpo", "algo": "grpo"}, {"name": "rft", "algo": "rft"}]
    tree = {"title": "t", "arms": arms, "envs": [{"id": "sdgym/Math-v0", "kwargs": {"level": "tiny"}}], "settings": SMALL, "seeds": 3}
    return Suite.model_validate(tree | change)


def trials(folder: pathlib.Path, chosen: Suite) -> list[Trial]:
    """The plan of a comparison."""
    return make_plan(chosen, 0, folder)


@pytest.mark.parametrize("name", suite_names())
def test_every_shipped_suite_is_valid_down_to_each_trial(name: str) -> None:
    chosen = load_suite(name)
    for world in chosen.envs:
        for arm in chosen.arms:
            settings = chosen.trial_settings(arm, world, 0)
            assert settings["threads"] == 1 and settings["algo"]["name"] == arm.algo and settings["env"]["id"] == world.id
    customise(chosen, None, None, None, None, None, None)  # builds every algorithm


def test_quick_has_the_four_methods_the_control_and_all_four_worlds() -> None:
    quick = load_suite("quick")
    assert {arm.algo for arm in quick.arms} == {"grpo", "rft", "opsd", "sdpo", "sharpen"}
    assert {world.id for world in quick.envs} == {f"sdgym/{name}-v0" for name in ("Math", "Sokoban", "Code", "ToolWorld")}
    assert quick.time_budget is not None and quick.time_budget <= 540, "ten minutes, less what the report takes"
    assert quick.settings["eval"]["samples"] >= 8, "maj@8"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"arms": []}, "arms"),
        ({"tiem_budget": 3}, "time_budget"),
        ({"seeds": 0}, "seeds"),
        ({"arms": [{"name": "a/b", "algo": "grpo"}]}, "arms"),
    ],
)
def test_a_wrong_suite_file_is_one_sentence(tmp_path: pathlib.Path, change: dict[str, object], words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(suite().model_dump(mode="json") | change))
    with pytest.raises(ConfigError, match=words):
        load_suite(str(path))


def test_two_arms_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names an arm twice"):
        suite(arms=[{"name": "grpo", "algo": "grpo"}, {"name": "grpo", "algo": "dr_grpo"}])


def test_choices_filter_and_add(tmp_path: pathlib.Path) -> None:
    changed = customise(suite(), ["rft", "dapo"], ["math-tiny"], 2, "other", {"level": "easy"}, {"steps": 7})
    assert [arm.name for arm in changed.arms] == ["rft", "dapo"]
    assert (changed.seeds, changed.time_budget, changed.policies) == (2, None, ("other",))
    settings = changed.trial_settings(changed.arms[0], changed.envs[0], 0)
    assert (settings["steps"], settings["env"]["kwargs"]["level"], settings["tasks_per_step"]) == (7, "easy", 2)
    with pytest.raises(UnknownNameError):
        customise(suite(), ["grop"], None, None, None, None, None)
    with pytest.raises(ConfigError):
        customise(suite(), None, None, None, None, None, {"algo": {"no_such_setting": 1}})


@pytest.mark.parametrize(
    ("settings", "instead"),
    [
        ({"algo": "rft"}, "--algos"),
        ({"env": {"id": "sdgym/Math-v0"}}, "--envs"),
        ({"env": "sdgym/Math-v0"}, "--envs"),
        ({"model": "tiny-b"}, "--model"),
        ({"seed": 3}, "--seeds"),
        ({"threads": 2}, "--threads"),
    ],
)
def test_a_setting_that_the_comparison_decides_is_refused_instead_of_ignored(settings: dict[str, object], instead: str) -> None:
    with pytest.raises(ConfigError, match=f"gives every trial its own .*{instead}"):
        customise(suite(), None, None, None, None, None, settings)


def test_threads_are_how_many_trials_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "available_cores", lambda: 8)
    assert [trials_at_once(n) for n in (None, 1, 3, 99)] == [8, 1, 3, 8]
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        trials_at_once(0)


def test_settings_of_worlds_count_however_they_are_given() -> None:
    changed = customise(suite(), None, None, None, None, {"split": "val"}, {"env": {"level": "easy"}})
    tree = changed.trial_settings(changed.arms[0], changed.envs[0], 0)
    assert tree["env"]["kwargs"] == {"level": "easy", "split": "val"}


def test_names_of_worlds_are_folders() -> None:
    (world,) = suite().envs
    assert world_name(world) == "math-tiny"
    assert world_name(world.model_copy(update={"id": "word_count:custom/WordCount-v0", "kwargs": {}})) == "wordcount"


def test_a_record_counts_only_for_its_settings_and_code(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trials(tmp_path, suite())[0]
    assert trial.prepare()[-2:] == ["--config", str(trial.folder / "settings.yaml")]
    assert trial.seconds_if_done() is None
    trial.finish(12.5)
    assert trial.seconds_if_done() == 12.5
    assert trials(tmp_path, suite(settings=SMALL | {"steps": 5}))[0].seconds_if_done() is None
    monkeypatch.setattr("sdgym.benchmarks.head_to_head.trials.code_hash", lambda: "edited")
    assert trial.seconds_if_done() is None


def test_an_interrupted_trial_resumes_and_a_changed_one_starts_afresh(tmp_path: pathlib.Path) -> None:
    trial = trials(tmp_path, suite())[0]
    trial.prepare()
    (trial.run_folder / "checkpoints" / "step_000002").mkdir(parents=True)
    assert trial.prepare()[-1] == "--resume"
    other = trials(tmp_path, suite(settings=SMALL | {"steps": 5}))[0]
    assert "--config" in other.prepare() and not other.run_folder.exists()


def board(plan: list[Trial], budget: float | None, spent: float = 0.0) -> Board:
    """A board that has used ``spent`` seconds."""
    return Board(plan, 2, budget, started=time.monotonic() - spent)


def test_first_seeds_run_whatever_the_budget_and_more_only_while_it_lasts(tmp_path: pathlib.Path) -> None:
    plan = trials(tmp_path, suite())
    late = board(plan, budget=10.0, spent=60.0)
    assert late.next_trial() is plan[0]
    late.finished = {plan[0]: 30.0, plan[1]: 20.0}
    assert late.next_trial() is None
    early = board(plan, budget=100.0, spent=60.0)
    early.finished = {plan[0]: 50.0, plan[1]: 20.0}
    assert early.next_trial() is plan[3], "30 s remain of 100: the cell that takes 50 s does not fit, the one of 20 s does"
    unlimited = board(plan, budget=None, spent=1e6)
    unlimited.finished = dict(early.finished)
    assert unlimited.next_trial() is plan[2]


def test_reused_trials_have_used_up_their_share_of_the_budget(tmp_path: pathlib.Path) -> None:
    plan = trials(tmp_path, suite())
    again = board(plan, budget=60.0)
    again.finished = {plan[0]: 50.0, plan[1]: 50.0}
    again.reused = set(plan[:2])
    assert again.spent == pytest.approx(50.0, abs=1.0)
    assert again.next_trial() is None, "a second call of the demo ends at once"


def test_time_left_counts_running_and_coming_trials(tmp_path: pathlib.Path) -> None:
    plan = trials(tmp_path, suite(seeds=1))
    now = board(plan, budget=None)
    now.finished = {plan[0]: 40.0}
    assert now.seconds_left() == pytest.approx(20.0, abs=0.5), "one trial of 40 s on two cores"
    now.running = [Running(plan[1], None, time.monotonic() - 30.0, 1, 4)]  # type: ignore[arg-type]
    assert now.seconds_left() == pytest.approx(5.0, abs=0.5)


def test_a_slow_machine_trains_fewer_steps_and_says_so() -> None:
    big = suite(settings=SMALL | {"steps": 100, "tasks_per_step": 32, "group_size": 8}, time_budget=500.0)
    fast, why = fit_steps(big, {"math-tiny": Pace(100_000, 1.0, 5.0)}, 2)
    assert fast is big and why is None
    slow, why = fit_steps(big, {"math-tiny": Pace(1_000, 10.0, 5.0)}, 2)
    steps = slow.settings["steps"]
    assert FEWEST < steps < 100 and why is not None and f"{steps} steps per trial instead of 100" in why
    cost = trial_seconds(slow.trial_settings(slow.arms[0], slow.envs[0], 0), steps, Pace(1_000, 10.0, 5.0))
    assert cost <= 0.9 * 500.0, "two cells on two cores"
    assert fit_steps(big, {"math-tiny": Pace(1, 100.0, 5.0)}, 2)[0].settings["steps"] == FEWEST
    costly, bare, plan = Pace(100, 10.0, 5.0), Pace(1_000, 10.0, 5.0), slow.trial_settings(slow.arms[0], slow.envs[0], 0)
    drawn = 10 * int(plan["tasks_per_step"]) * int(plan["group_size"])
    saved = trial_seconds(plan, 10, costly) - trial_seconds(plan, 10, costly, bare)
    assert saved == pytest.approx(UPDATE_COST * drawn * (1 / 10 - 1 / 100)), "updates play no world"
    assert fit_steps(suite(), {"math-tiny": Pace(1, 100.0, 5.0)}, 2)[1] is None, "no budget, no cut"


def test_a_full_folder_needs_resume(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(RunFolderError, match="add --resume"):
        run_suite(suite(), out=tmp_path)


@pytest.mark.parametrize("name", suite_names())
def test_every_arm_of_a_suite_can_be_played_in_its_worlds(name: str) -> None:
    chosen = expand(load_suite(name))
    refused = {(arm.name, world.id): why for arm in chosen.arms for world in chosen.envs if (why := obstacle(chosen, arm, world))}
    assert refused == {}


@pytest.mark.slow
def test_a_comparison_end_to_end_is_restartable_and_leaves_missing_worlds_out(tmp_path: pathlib.Path) -> None:
    from rich.console import Console

    from sdgym.testing_policy import random_policy

    random_policy(seed=0).save(tmp_path / "policy")
    worlds = [{"id": "sdgym/Math-v0", "kwargs": {"level": "tiny"}}, {"id": "sdgym/Nowhere-v0"}]
    gone = {"teacher": "external", "teacher_model": str(tmp_path / "gone")}  # seen only once the trial loads its teacher
    arms = [{"name": "grpo", "algo": "grpo"}, {"name": "broken", "algo": "opsd", "settings": {"algo": gone}}]
    chosen = suite(envs=worlds, arms=arms, seeds=1, policies=[str(tmp_path / "policy")])
    told = io.StringIO()
    done = run_suite(chosen, out=tmp_path / "out", console=Console(file=told, width=200))
    text = told.getvalue()
    assert "sdgym/Nowhere-v0 is left out: there is no environment called 'sdgym/Nowhere-v0'" in text
    assert "is tried once more" in text and list(done.failed) == ["math-tiny/broken/seed-0"]
    assert done.report.is_file() and f"report: {done.report}" in text
    (block,) = done.blocks
    assert [row.arm for row in block.rows] == ["grpo"] and block.split == "test"
    again = run_suite(
        chosen.model_copy(update={"arms": chosen.arms[:1]}), out=tmp_path / "out", resume=True, console=Console(file=told, width=200)
    )
    assert "(reused)" in told.getvalue() and repr(again.blocks) == repr(done.blocks), "one sample has no pass@k: NaN is not NaN"
