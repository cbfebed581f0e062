"""What a comparison declares and what is recomputed from its files: controls, contrasts, cost, tuning, lift, predictions, analysis."""

from __future__ import annotations

import io
import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import yaml

from sdgym.algos.conditioning import FeedbackOnly, PeerFeedback, Reference
from sdgym.benchmarks.head_to_head.details import Record
from sdgym.benchmarks.head_to_head.expand import declared_contrasts, expand
from sdgym.benchmarks.head_to_head.lift import conditioners, has_teacher, identity, lift_key
from sdgym.benchmarks.head_to_head.pace import NOMINAL, Pace, core_hours, expected_steps, trial_seconds
from sdgym.benchmarks.head_to_head.predictions import Prediction, check, load_predictions
from sdgym.benchmarks.head_to_head.runner import Board
from sdgym.benchmarks.head_to_head.suite import Suite, load_suite, suite_names
from sdgym.benchmarks.head_to_head.trials import make_plan, obstacle
from sdgym.benchmarks.head_to_head.tuning import candidates, leaves, plan
from sdgym.config import dump_config, make_config
from sdgym.errors import ConfigError
from sdgym.report import load_folder
from sdgym.report.analysis import analyse, contrast_families
from sdgym.report.lifts import read_lift
from sdgym.stats import Contrast, Estimate

SMALL: dict[str, Any] = {
    "steps": 4,
    "tasks_per_step": 2,
    "group_size": 2,
    "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 2},
}
MATH = {"id": "sdgym/Math-v0", "kwargs": {"level": "tiny"}}


def suite(*arms: str | dict[str, Any], **change: Any) -> Suite:
    """A suite of these arms (names of algorithms, or whole arms) on one world."""
    full = [{"name": arm, "algo": arm} if isinstance(arm, str) else arm for arm in arms or ("grpo", "sdpo")]
    return Suite.model_validate({"title": "t", "arms": full, "envs": [MATH], "settings": SMALL, "seeds": 2} | change)


# ---- what is declared ---------------------------------------------------------------------------


def test_controls_become_arms_that_differ_in_one_setting() -> None:
    chosen = expand(suite(controls=["P0", "P2"]))
    assert [arm.name for arm in chosen.arms] == ["grpo", "sdpo", "sdpo-P0", "sdpo-P2"], "grpo reads no text that one could replace"
    real, twin = (chosen.trial_settings(chosen.arms[i], chosen.envs[0], 0) for i in (1, 3))
    assert twin["algo"]["overrides"] == {"control": "P2"} and {**twin, "algo": None} == {**real, "algo": None}
    assert expand(chosen) == chosen, "expanding twice adds nothing"


def test_an_arm_may_have_controls_of_its_own_or_none() -> None:
    own = expand(
        suite("grpo", {"name": "a", "algo": "sdpo", "controls": ["P1"]}, {"name": "b", "algo": "sdpo", "controls": []}, controls=["P3"])
    )
    assert [arm.name for arm in own.arms] == ["grpo", "a", "a-P1", "b"]
    with pytest.raises(ConfigError, match="shows its teacher no text"):
        expand(suite({"name": "grpo", "algo": "grpo", "controls": ["P0"]}))


def test_contrasts_are_each_arm_against_grpo_what_it_names_and_its_controls() -> None:
    chosen = expand(suite("grpo", "rft", {"name": "sdpo", "algo": "sdpo", "against": ["rft", "absent"]}, controls=["P0"]))
    assert declared_contrasts(chosen) == [("rft", "grpo"), ("sdpo", "grpo"), ("sdpo", "rft"), ("sdpo", "sdpo-P0")]
    assert declared_contrasts(suite("rft", "sdpo")) == [], "no baseline, no contrast with it"


def test_seeds_are_crossed_over_policies(tmp_path: pathlib.Path) -> None:
    chosen = suite(policies=["tiny", "some/where/tiny-b"])
    trials = make_plan(chosen, 5, tmp_path)
    assert len(trials) == 2 * 2 * 2 and len({t.folder for t in trials}) == 8
    assert [(t.place, t.seed) for t in trials if t.arm == "grpo"] == [
        ("math-tiny/tiny", 5),
        ("math-tiny/tiny-b", 5),
        ("math-tiny/tiny", 6),
        ("math-tiny/tiny-b", 6),
    ]
    assert {t.settings["model"] for t in trials} == {"tiny", "some/where/tiny-b"}
    with pytest.raises(ValueError, match="names a policy twice"):
        suite(policies=["a/tiny", "b/tiny"])


def test_a_budget_reaches_every_trial_and_excludes_seconds() -> None:
    chosen = suite(budget={"sampled_tokens": 500})
    assert chosen.trial_settings(chosen.arms[0], chosen.envs[0], 0)["budget"] == {"sampled_tokens": 500}
    with pytest.raises(ValueError, match="either a budget"):
        suite(budget={"sampled_tokens": 500}, time_budget=10.0)


def test_what_an_algorithm_refuses_is_left_out_with_its_own_words(tmp_path: pathlib.Path) -> None:
    chosen = suite("grpo", "sd_zero", settings={**SMALL, "steps": 3})
    why = obstacle(chosen, chosen.arms[1], chosen.envs[0])
    assert why is not None and "sd_zero needs" in why
    assert {t.arm for t in make_plan(chosen, 0, tmp_path)} == {"grpo"}
    record = Record(chosen, tmp_path, Board([], 1, None), {})
    assert any(note.startswith("sd_zero is left out on math-tiny: sd_zero needs") for note in record.tree()["notes"])


@pytest.mark.parametrize("name", suite_names())
def test_every_shipped_suite_expands_and_says_what_it_may_be_quoted_for(name: str) -> None:
    chosen = expand(load_suite(name))
    names = {arm.name for arm in chosen.arms}
    assert all({a, b} <= names for a, b in declared_contrasts(chosen))
    assert name in ("quick",) or chosen.claims or name.startswith("sensitivity")
    for arm in load_suite(name).arms:
        assert set(arm.against) <= names, f"{arm.name} is compared with an arm that {name} lacks"


# ---- cost ---------------------------------------------------------------------------------------


def test_core_hours_by_hand() -> None:
    """One arm, one seed: overhead 10 s; 4 steps of 4 rollouts (2.5 times their drawing), 2 evaluations and a test of 2 × 2."""
    pace = Pace(rollouts=10, seconds=1.0, overhead=10.0, tokens=50)
    chosen = suite("grpo", seeds=1, lift_tasks=0)
    seconds = 10.0 + (4 * 4 * 2.5 + 2 * 4 + 4) / 10
    assert trial_seconds(chosen.trial_settings(chosen.arms[0], chosen.envs[0], 0), 4, pace) == pytest.approx(seconds)
    assert core_hours(chosen, {"math-tiny": pace}) == pytest.approx(seconds / 3600)
    more = chosen.model_copy(update={"seeds": 3, "policies": ("a", "b")})
    assert core_hours(more, {"math-tiny": pace}) == pytest.approx(6 * seconds / 3600)
    assert core_hours(chosen, {"math-tiny": pace}, tune=True) == pytest.approx((1 + chosen.tune.trials) * seconds / 3600)
    lift = core_hours(chosen.model_copy(update={"lift_tasks": 100}), {"math-tiny": pace}, lifts=1) - core_hours(chosen, {"math-tiny": pace})
    assert lift == pytest.approx((10.0 + 100 * 10 / 10) / 3600)


def test_a_budget_of_tokens_says_how_many_steps_it_lasts() -> None:
    pace = Pace(rollouts=10, seconds=1.0, overhead=0.0, tokens=50)
    settings = {"steps": 100, "tasks_per_step": 4, "group_size": 5, "budget": {"sampled_tokens": 1000}}
    assert expected_steps(settings, pace) == 10, "1000 tokens at 5 a rollout and 20 rollouts a step"
    assert expected_steps({**settings, "steps": 7}, pace) == 7 and expected_steps({**settings, "budget": None}, pace) == 100
    assert Pace(1, 1.0, 0.0).tokens_per_rollout == NOMINAL.tokens / NOMINAL.rollouts


# ---- tuning -------------------------------------------------------------------------------------


def test_every_arm_gets_the_same_number_of_trials_on_val_alone(tmp_path: pathlib.Path) -> None:
    space = {"trials": 3, "space": {"optimizer.lr": [1e-3, 1e-4], "optimizer.warmup": [0, 9]}}
    chosen = expand(suite("grpo", {"name": "sdpo", "algo": "sdpo", "tune": {"algo.teacher_rate": [0.1, 0.2]}}, controls=["P2"], tune=space))
    found = plan(chosen, tmp_path)
    assert [sum(c.arm == name for c in found) for name in ("grpo", "sdpo", "sdpo-P2")] == [3, 3, 3]
    assert all(c.trial.settings["eval"]["test_tasks"] == 0 and c.trial.seed == chosen.tune.seed for c in found)
    assert all(not c.settings for c in found if c.trial.folder.name == "trial-0"), "an arm's own settings are tried first"
    assert candidates(chosen, chosen.arms[0]) == candidates(chosen, chosen.arms[2]), "the same space, the same settings"
    keys = {key for c in candidates(chosen, chosen.arms[1])[1:] for key, _ in leaves(c)}
    assert keys == {"optimizer.lr", "optimizer.warmup", "algo.teacher_rate"}
    with pytest.raises(ConfigError, match="needs a larger space"):
        candidates(suite(tune={"trials": 5, "space": {"optimizer.lr": [1e-3]}}), chosen.arms[0])
    with pytest.raises(ConfigError, match="no_such"):
        plan(suite(tune={"trials": 2, "space": {"algo.no_such": [1]}}), tmp_path)


def test_what_tuning_chose_reaches_the_trials_of_that_world_alone() -> None:
    chosen = suite(envs=[MATH, {"id": "sdgym/Sokoban-v0", "kwargs": {"level": "tiny"}}])
    tuned = chosen.model_copy(update={"tuned": {"math-tiny/sdpo": {"optimizer": {"lr": 0.5}}}})
    rates = [[tuned.trial_settings(arm, world, 0)["optimizer"]["lr"] for arm in tuned.arms] for world in tuned.envs]
    assert rates == [[5e-4, 0.5], [5e-4, 5e-4]]


# ---- teacher lift -------------------------------------------------------------------------------


def test_methods_that_tell_the_same_share_a_measurement_and_others_do_not() -> None:
    chosen = suite("sdpo", {"name": "x", "algo": "sdpo", "settings": {"algo": {"top_k": 5}, "steps": 9}}, "opsd", "grpo")
    trees = [chosen.trial_settings(arm, chosen.envs[0], 0) for arm in chosen.arms]
    keys = [lift_key(tree, 500) for tree in trees[:3]]
    assert keys[0] == keys[1] != keys[2] and lift_key(trees[0], 501) != keys[0]
    assert lift_key({**trees[0], "model": "other"}, 500) != keys[0]
    external = [make_config({"algo": {**EXPERT, "overrides": {"teacher_model": name}}}).model_dump() for name in ("tiny", "tiny-expert")]
    assert lift_key(external[0], 500) != lift_key(external[1], 500), "the same words from another teacher lift differently"
    assert [has_teacher(chosen, arm) for arm in chosen.arms] == [True, True, True, False] and not conditioners(trees[3])
    assert identity(PeerFeedback()) == identity(PeerFeedback()) != identity(PeerFeedback(only_without_solution=False))
    assert identity(Reference()) != identity(FeedbackOnly())


def write_lines(path: pathlib.Path, records: list[dict[str, Any]]) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def item(number: int, student: bool | None, teacher: bool | None, kind: str = "feedback") -> dict[str, Any]:
    return {"kind": kind, "task_id": f"t{number}", "student": student, "teacher": teacher}


def test_lift_is_recomputed_from_its_items(tmp_path: pathlib.Path) -> None:
    told = [item(i, i < 2, i < 8) for i in range(10)] + [item(10 + i, None, None) for i in range(5)]
    (lift,) = read_lift(write_lines(tmp_path / "items.jsonl", told), "sdpo", "math-tiny")
    assert (lift.tasks, lift.lift.n, lift.student, lift.teacher) == (15, 10, 0.2, 0.8) and lift.lift.mean == pytest.approx(0.6)
    assert lift.shown and lift.sentence().startswith(
        "teacher lift of sdpo on math-tiny (feedback): student 20.0 %, teacher 80.0 %, +60.0 points"
    )
    assert "on 10 of 15 tasks" in lift.sentence()


@pytest.mark.parametrize("teacher", [lambda i: i < 2, lambda i: i == 5])
def test_no_lift_is_said(tmp_path: pathlib.Path, teacher: Any) -> None:
    items = [item(i, i < 2, teacher(i)) for i in range(10)]
    (lift,) = read_lift(write_lines(tmp_path / "items.jsonl", items), "a", "p")
    assert not lift.shown and lift.sentence().startswith("no teacher lift of a on p")


def test_nothing_to_say_is_said(tmp_path: pathlib.Path) -> None:
    (lift,) = read_lift(write_lines(tmp_path / "items.jsonl", [item(i, None, None, "skill") for i in range(4)]), "a", "p")
    assert math.isnan(lift.teacher) and "nothing to say before training, on any of 4 tasks" in lift.sentence()


EXPERT = {"name": "uni_opd", "overrides": {"teacher_model": "tiny-expert"}}


@pytest.mark.parametrize(("algo", "kind"), [("opsd", "reference"), (EXPERT, "plain")])
def test_lift_is_measured_on_real_rollouts(tmp_path: pathlib.Path, algo: Any, kind: str) -> None:
    """A reference must lift the embedded policy, and so must a stronger teacher that is told nothing, playing with its own weights;
    student and teacher play the same tasks, none of them of the test split."""
    from sdgym.benchmarks.head_to_head.lift import main

    tree = {"algo": algo, "env": MATH["id"], "tasks_per_step": 2, "group_size": 2, "model": "tiny"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(make_config(tree).model_dump(mode="json")))
    main(tmp_path, 24)
    (lift,) = read_lift(tmp_path / "items.jsonl", "any", "math")
    assert lift.lift.n == lift.tasks == 24 and lift.kind == kind and lift.teacher > lift.student + 0.2
    assert all("-val-" in json.loads(line)["task_id"] for line in (tmp_path / "items.jsonl").read_text().splitlines())


# ---- predictions --------------------------------------------------------------------------------


def contrast(a: str, b: str, low: float | None, high: float | None, p: float | None = 0.01, world: str = "") -> Contrast:
    mean = 0.0 if low is None or high is None else (low + high) / 2
    return Contrast(a, b, world, "gain", Estimate(8, mean, low, high), p, p, 0.02, Estimate(8, 0.9, 0.8, 1.0))


def test_predictions_are_checked_both_ways_round() -> None:
    expected = [Prediction(treatment=t, control="grpo", expect="higher", source="somewhere in a paper") for t in "abcde"]
    found = [contrast("a", "grpo", 0.1, 0.3), contrast("grpo", "b", 0.1, 0.3), contrast("c", "grpo", -0.1, 0.3)]
    found += [contrast("d", "grpo", None, None, None), contrast("e", "grpo", 0.1, 0.3, world="math")]
    checked = check(expected, found)
    assert [c.result for c in checked] == ["confirmed", "contradicted", "not confirmed", "too few runs", "not tested"]
    turned = checked[1].contrast
    assert turned is not None and turned.treatment == "b" and turned.difference.low == pytest.approx(-0.3)
    assert turned.improvement.mean == pytest.approx(0.1) and turned.improvement.high == pytest.approx(0.2)


def test_committed_predictions_name_a_source_and_a_suite_tests_each() -> None:
    predictions = load_predictions()
    tested = {frozenset(pair) for name in suite_names() for pair in declared_contrasts(expand(load_suite(name)))}
    assert {p.treatment for p in predictions} >= {"grpo", "rft", "opsd", "sdpo", "sd_zero", "skill_sd", "vpd", "sdft", "star"}
    for p in predictions:
        assert frozenset((p.treatment, p.control)) in tested, f"no suite declares {p.treatment} − {p.control}"


def test_wrong_predictions_are_one_sentence(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "p.yaml"
    good = {"treatment": "a", "control": "b", "expect": "higher", "source": "a long enough source"}
    path.write_text(yaml.safe_dump([good, {**good, "treatment": "b", "control": "a"}]))
    with pytest.raises(ConfigError, match="compared twice"):
        load_predictions(path)
    path.write_text(yaml.safe_dump([{**good, "expect": "better"}]))
    with pytest.raises(ConfigError, match="expect"):
        load_predictions(path)


# ---- the analysis of a folder -------------------------------------------------------------------


def write_comparison(folder: pathlib.Path, ends: dict[str, list[float]], tasks: int = 10, samples: int = 4) -> None:
    """A comparison's folder with 40 % at the start and these successes at the end, per arm and seed."""
    rng = np.random.Generator(np.random.PCG64(0))
    kept = {"trials": {}, "starts": {"math-tiny": "starts/math-tiny/eval.jsonl"}}

    def records(step: int, split: str, value: float) -> list[dict[str, Any]]:
        solved = np.zeros(tasks * samples, bool)
        solved[: round(value * tasks * samples)] = True
        per_task = rng.permutation(solved).reshape(tasks, samples).sum(axis=1)
        return [
            {"step": step, "split": split, "task_id": f"t{i}", "samples": samples, "successes": int(n), "reward": n / samples}
            | {"majority": 0.0, "greedy": 0.0}
            for i, n in enumerate(per_task)
        ]

    write_lines(folder / kept["starts"]["math-tiny"], records(0, "test", 0.4))
    for arm, values in ends.items():
        for seed, value in enumerate(values):
            run = folder / "trials" / "math-tiny" / arm / f"seed-{seed}" / "run"
            config = make_config(
                {"algo": arm.partition("-")[0], "env": MATH["id"], "seed": seed, "steps": 50, "budget": {"sampled_tokens": 900}}
            )
            write_lines(run / "eval.jsonl", [*records(0, "val", 0.4), *records(10, "val", value), *records(10, "test", value)])
            write_lines(run / "metrics.jsonl", [{"step": 0, "ledger/sampled_tokens": 0}, {"step": 10, "ledger/sampled_tokens": 1000}])
            (run / "config.yaml").write_text(dump_config(config))
            kept["trials"][run.relative_to(folder).as_posix()] = [arm, "math-tiny"]
    pairs = [[arm, "grpo"] for arm in ends if arm != "grpo"]
    more = {
        "order": [*ends],
        "contrasts": pairs,
        "baseline": "grpo",
        "places": {"math-tiny": ["math-tiny", "tiny"]},
        "unranked": [a for a in ends if "-P" in a],
    }
    (folder / "comparison.json").write_text(json.dumps({"title": "t", "notes": [], **kept, **more}))


def test_everything_is_recomputed_from_per_item_files(tmp_path: pathlib.Path) -> None:
    ends = {"grpo": [0.5, 0.6, 0.5, 0.6, 0.5, 0.6], "rft": [0.8, 0.9, 0.8, 0.9, 0.8, 0.9], "sdpo-P2": [0.4] * 6}
    write_comparison(tmp_path, ends)
    found = analyse(tmp_path, *load_folder(tmp_path))
    assert found is not None
    (rows,) = found.rankings.values()
    assert [(row.arm, row.rank) for row in rows] == [("rft", 1), ("grpo", 2)], "a control is in no ranking"
    assert rows[0].score.mean == pytest.approx((0.85 - 0.4) / 0.6, abs=0.06)
    contrasts = {(c.treatment, c.control): c for c in found.pooled}
    assert (
        contrasts["rft", "grpo"].difference.mean == pytest.approx(0.3 / 0.6, abs=1e-9) and contrasts["rft", "grpo"].p_holm == 2 * 2 / 2**6
    )
    assert contrasts["sdpo-P2", "grpo"].difference.mean < 0
    curve = next(c for c in found.curves if c.arm == "rft")
    assert curve.area.mean == pytest.approx((0.4 + 0.85) / 2) and curve.limit == 1000 and curve.threshold == pytest.approx(0.7)
    assert curve.median == pytest.approx(np.median([1000 * 0.3 / (v - 0.4) for v in ends["rft"]])) and curve.reached == 6
    assert next(c for c in found.curves if c.arm == "grpo").median == math.inf
    path = tmp_path / "trials/math-tiny/rft/seed-0/run/eval.jsonl"
    path.write_text("".join(json.dumps(r | {"successes": 0}) + "\n" for r in map(json.loads, path.read_text().splitlines())))
    again = analyse(tmp_path, *load_folder(tmp_path))
    assert again is not None and again.pooled[0].difference.mean < contrasts["rft", "grpo"].difference.mean - 0.1, "an edited item shows"


def test_families_of_contrasts_are_questions() -> None:
    declared = [("rft", "grpo"), ("sdpo", "grpo"), ("sdpo", "sdpo-P1"), ("vpd", "sdpo"), ("sdpo", "sdpo-P2")]
    assert contrast_families(declared, "grpo") == [declared[:2], [declared[2], declared[4]], [declared[3]]]


def test_the_closing_tables_say_what_the_papers_expected(tmp_path: pathlib.Path) -> None:
    from rich.console import Console

    from sdgym.benchmarks.head_to_head.tables import findings

    write_comparison(tmp_path, {"grpo": [0.5] * 8, "rft": [0.8, 0.9] * 4, "sdpo": [0.3] * 8})
    told = io.StringIO()
    for table in findings(tmp_path):
        Console(width=250, file=told).print(table)
    text = told.getvalue()
    assert "rft − grpo" in text and "Predictions" in text
    assert any("rft − grpo" in line and "confirmed" in line for line in text.splitlines())
    assert any("sdpo − grpo" in line and "contradicted" in line for line in text.splitlines())
