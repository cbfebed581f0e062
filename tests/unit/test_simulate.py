"""Lengths and costs of the simulator: laws are recovered, files are lossless, and recorded steps of a real machine are predicted."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest

from sdgym.benchmarks.simulate.costs import Device, Engine, Learner, Model, Worlds, fit_nonnegative
from sdgym.benchmarks.simulate.lengths import MEASURED, Lengths, Lognormal, Row, intraclass_correlation, row_of
from sdgym.benchmarks.simulate.measure import Record
from sdgym.core import Outcome, Segment, StopReason, Task, Trajectory, TurnSpan
from sdgym.errors import DataError

MARGIN = 0.2
"""Relative error of a simulated step against a measured one of a batch size left out of the fit (`docs/scale.md` names it)."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def measured(law: Lognormal, tasks: int = 200, group: int = 8) -> Lengths:
    return Lengths(tuple(map(tuple, law.draw(rng(1), tasks, group))), law.limit, "a test")


@pytest.mark.parametrize("limit", [100_000, 300])
def test_the_law_is_recovered_from_its_draws_censored_or_not(limit: int) -> None:
    law = Lognormal.of_mean(200, 0.8, limit, correlation=0.4, prompt=50)
    found = measured(law).fit()
    if limit == 300:
        cut = np.mean([row.turns[0] == 300 for group in measured(law).groups for row in group])
        assert 0.1 < cut < 0.3
    n = 200  # independent groups: 4 standard errors of a mean and of a spread, of which correlation takes a part
    assert found.mu == pytest.approx(law.mu, abs=4 * 0.8 / math.sqrt(n))
    assert found.sigma == pytest.approx(law.sigma, abs=4 * 0.8 / math.sqrt(2 * n))
    assert found.correlation == pytest.approx(0.4, abs=0.1) and (found.prompt, found.limit) == (50, limit)


def test_ignoring_the_cut_would_be_seen() -> None:
    law = Lognormal.of_mean(200, 0.8, 300)
    rows = [math.log(row.turns[0]) for group in measured(law).groups for row in group]
    assert abs(float(np.std(rows)) - 0.8) > 0.1 > abs(measured(law).fit().sigma - 0.8)


def test_mean_before_the_cut_and_whole_tokens() -> None:
    rows = [row for group in Lognormal.of_mean(200, 0.5, 10_000, turns=3, observed=7, prompt=9).draw(rng(), 500, 4) for row in group]
    tokens = np.array([row.turns for row in rows])
    assert tokens.mean() == pytest.approx(200, rel=0.03) and tokens.min() >= 1 and tokens.dtype.kind == "i"
    assert rows[0].observed == (7, 7) and rows[0].prompt == 9


def test_correlation_is_what_analysis_of_variance_says() -> None:
    assert intraclass_correlation([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]]) == 0.999  # nothing within
    assert intraclass_correlation([[1.0, 5.0], [5.0, 1.0]]) == 0.0  # nothing between
    # By hand: means 2 and 6, grand 4; MSB = 2·(4 + 4) / 1 = 16, MSW = (2 + 2) / 2 = 2, k = 2: (16 - 2) / (16 + 2)
    assert intraclass_correlation([[1.0, 3.0], [5.0, 7.0]]) == pytest.approx(14 / 18)
    assert intraclass_correlation([[1.0], [2.0]]) == 0.0


def test_measured_lengths_are_drawn_group_by_group() -> None:
    found = Lengths((tuple(Row(10, (n,)) for n in (1, 2)), tuple(Row(20, (n,)) for n in (8, 9))), 100)
    for group in found.draw(rng(), 50, 6):
        assert len({row.prompt for row in group}) == 1 and {row.turns[0] for row in group} <= ({1, 2} if group[0].prompt == 10 else {8, 9})


def trajectory(*segments: Segment) -> Trajectory:
    task = Task("t", ({"role": "user", "content": "?"},), "train", 0)
    return Trajectory("g", 0, task, list(segments), [], [], [], [], Outcome.NONE, 0.0, False, StopReason.TERMINATED)


def segment(length: int, *spans: tuple[int, int, int]) -> Segment:
    mask = np.zeros(length, bool)
    for _, start, end in spans:
        mask[start:end] = True
    return Segment(np.arange(length), mask, np.zeros(length, np.float32), tuple(TurnSpan(*s) for s in spans), spans[0][1])


def test_a_recorded_episode_has_its_prompt_turns_and_observations() -> None:
    assert row_of(trajectory(segment(30, (0, 10, 14), (1, 20, 27)))) == Row(10, (4, 7), (6,))
    rewritten = trajectory(segment(14, (0, 10, 14)), segment(40, (1, 33, 40)))
    assert row_of(rewritten) == Row(10, (4, 7), (33,)), "a rewritten history is read again"


def test_files_are_lossless_and_refused_in_one_sentence(tmp_path: pathlib.Path) -> None:
    found = measured(Lognormal.of_mean(20, 0.6, 64, turns=2, observed=3, prompt=5), 3, 2)
    found.save(tmp_path / "l.json")
    assert Lengths.load(tmp_path / "l.json") == found
    with pytest.raises(DataError, match="no measured lengths 'nowhere'; there are"):
        Lengths.load("nowhere")
    (tmp_path / "bad.json").write_text("{}")
    for load in (Lengths.load, Record.load):
        with pytest.raises(DataError, match="holds no measured"):
            load(tmp_path / "bad.json")
    with pytest.raises(DataError, match="two different lengths"):
        Lengths(((Row(1, (5,)),),), 10).fit()


def test_engine_and_learner_by_hand() -> None:
    engine = Engine(0.5, 0.1, slots=64, unit=8)
    assert [engine.step(n) for n in (1, 8, 9, 100)] == pytest.approx([1.3, 1.3, 2.1, 6.9])
    learner = Learner(0.01, processes=4, base=1.0, row=0.1, micro=100, reduce=8.0)
    # 950 tokens are 10 micro-batches, the longest share 3 of them; (W - 1)/W of the reduction
    assert learner.update(20, 950) == pytest.approx(1.0 + 2.0 + 3.0 + 6.0)
    assert Learner(0.01).update(20, 950) == pytest.approx(9.5)


def test_arithmetic_over_a_data_sheet() -> None:
    model = Model(7e9, 28, 4, 128)
    device = Device(1e15, 3e12, reading=0.5, computing=0.5, training=0.4, launch=0.0, link=1e10, storage=7e9)
    assert model.cache == 2 * 28 * 4 * 128 * 2
    engine = device.engine(model, context=1000, slots=8)
    assert engine.tick == pytest.approx(14e9 / 1.5e12) and engine.token == pytest.approx(14e9 / 5e14)
    assert engine.row == pytest.approx(57_344_000 / 1.5e12 + 14e9 / 5e14)
    learner = device.learner(model, 8, 0.0, 6.0, 3, 1024)
    assert learner.token == pytest.approx(42e9 / 4e14) and learner.reduce == pytest.approx(5.6) and learner.push == pytest.approx(4 * 4.0)


def test_answers_have_the_mean_and_the_limit_asked_for() -> None:
    seconds = Worlds(1, 1, 2.0, 1.0).draw(rng(), 20_000)
    assert seconds.mean() == pytest.approx(2.0, rel=4 * math.sqrt(math.e - 1) / math.sqrt(20_000))
    assert Worlds(1, 1, 2.0, 1.0, 3.0).draw(rng(), 1000).max() == 3.0 and not Worlds().draw(rng(), 5).any()


def test_costs_are_found_and_never_negative() -> None:
    features = rng().uniform(1, 100, (30, 3))
    assert fit_nonnegative(features, features @ [0.3, 0.0, 0.02]) == pytest.approx([0.3, 0.0, 0.02], abs=1e-9)
    assert (fit_nonnegative(features, np.maximum(features @ [0.3, -0.1, 0.02], 1.0)) >= 0).all()


@pytest.mark.parametrize("path", sorted(p for p in MEASURED.glob("*.json") if not p.stem.startswith("steps-")), ids=lambda p: p.stem)
def test_committed_lengths_can_be_fitted(path: pathlib.Path) -> None:
    law = Lengths.load(path).fit()
    assert 0 < law.sigma < 3 and 0 <= law.correlation < 1


# ---- with SimPy --------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(MEASURED.glob("steps-*.json")), ids=lambda p: p.stem)
def test_measured_steps_of_a_size_left_out_are_predicted(path: pathlib.Path) -> None:
    pytest.importorskip("simpy", reason="requires simpy")
    from sdgym.benchmarks.simulate.measure import check

    record = Record.load(path)
    assert len(record.sizes()) >= 4
    errors = {comparison.tasks: comparison.error for comparison in check(record)}
    assert all(abs(error) < MARGIN for error in errors.values()), errors


@pytest.mark.slow
def test_a_fit_explains_costs_that_are_known() -> None:
    pytest.importorskip("simpy", reason="requires simpy")
    from sdgym.benchmarks.simulate.measure import Fixed, Measured, calibrate
    from sdgym.benchmarks.simulate.simulation import Plan, Simulation, trained_tokens

    true = Engine(0.004, 2e-4, 3e-5, 2e-3, 64, 8)
    steps = []
    for tasks in (1, 2, 4, 8, 16):
        for seed in range(3):
            law = Lognormal.of_mean(12, 0.7, 48, correlation=0.3, prompt=20 + 60 * seed)  # else prompts and episodes were one
            batch = law.draw(rng(seed), tasks, 8)
            rollout = Simulation(Plan(Fixed(batch), tasks, 8, true, Learner(0.0))).run(1)[0].rollout
            inputs = trained_tokens(batch)
            steps.append(Measured(tasks, 8, rollout, 0.05 + 1e-3 * 8 * tasks + 2e-4 * inputs, 0.0, 0.0, inputs, batch))
    engine, learner, repeated = calibrate(steps, 64)
    for name in ("tick", "row", "token", "begin"):
        assert getattr(engine, name) == pytest.approx(getattr(true, name), rel=1e-3)
    assert (learner.base, learner.row, learner.token) == pytest.approx((0.05, 1e-3, 2e-4), rel=1e-3) and repeated == 0


@pytest.mark.slow
def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path) -> None:
    pytest.importorskip("simpy", reason="requires simpy")
    from sdgym.benchmarks.simulate.__main__ import main

    assert main(["run", "hosts-1000", "--steps", "1", "--set", "tasks=8", "--sweep", "worlds.hosts=1,50", "--json"]) == 0
    few, many = json.loads(capsys.readouterr().out)
    assert few["changed"] == "worlds.hosts=1" and few["seconds"] > 3 * many["seconds"]
    wrong: list[tuple[list[str], str]] = [
        (["run", "gpus-9"], "there is no scenario 'gpus-9'; there are gpus-64, gpus-8, hosts-1000"),
        (["run", "gpus-8", "--set", "worlds.host=1"], "there is no setting 'worlds.host'"),
        (["run", "gpus-8", "--sweep", "tasks=0"], "the setting 'tasks'"),
        (["check", str(tmp_path / "none.json")], "holds no measured steps"),
    ]
    for arguments, sentence in wrong:
        assert main(arguments) == 2 and sentence in capsys.readouterr().err


@pytest.mark.slow
def test_steps_and_lengths_are_measured(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("simpy", reason="requires simpy")
    from sdgym.benchmarks.simulate.__main__ import main
    from sdgym.testing_policy import random_policy

    random_policy(hidden=32, layers=1, heads=2, kv_heads=1).save(tmp_path / "model")
    where: list[Any] = ["--model", str(tmp_path / "model"), "--set", "group_size=3"]
    assert main(["measure", *where, "--tasks", "1", "2", "--steps", "2", "--out", str(tmp_path / "s.json")]) == 0
    record = Record.load(tmp_path / "s.json")
    assert [step.tasks for step in record.steps] == [1, 1, 2, 2] and all(s.rollout > 0 < s.update and s.inputs > 0 for s in record.steps)
    assert main(["lengths", "--model", "tiny", *where[2:], "--tasks", "4", "--out", str(tmp_path / "l.json")]) == 0
    found = Lengths.load(tmp_path / "l.json")
    assert [len(group) for group in found.groups] == [3] * 4 and "lognormal: mu" in capsys.readouterr().out
