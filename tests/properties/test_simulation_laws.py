"""Laws of the simulator: closed forms without variance, conservation of work, bounds, and what may never make a step slower."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdgym.benchmarks.simulate.costs import Engine, Learner, Worlds
from sdgym.benchmarks.simulate.lengths import Lognormal
from sdgym.benchmarks.simulate.simulation import Driver, Plan, Simulation, StepTime, trained_tokens

pytestmark = pytest.mark.slow
DRIVERS: tuple[Driver, ...] = ("lockstep", "batched", "overlapped")
LAW = Lognormal.of_mean(40, 0.9, 400, correlation=0.3, prompt=30, turns=2, observed=10)
ENGINE = Engine(0.01, 2e-4, 1e-5, 1e-3, slots=64)
LEARNER = Learner(1e-3, processes=4, base=0.5, row=1e-3, micro=256, reduce=0.2, push=0.7)


@pytest.fixture(autouse=True, scope="module")
def simpy() -> None:
    pytest.importorskip("simpy", reason="requires simpy")


def simulate(steps: int = 2, seed: int = 0, **changes: Any) -> list[StepTime]:
    plan = dataclasses.replace(Plan(LAW, 6, 4, ENGINE, LEARNER), **changes)
    return Simulation(plan, seed).run(steps)


@given(
    turns=st.integers(1, 4),
    tokens=st.integers(1, 50),
    tasks=st.integers(1, 5),
    group=st.integers(1, 6),
    answer=st.sampled_from([0.0, 0.3, 7.0]),
    driver=st.sampled_from(DRIVERS),
)
@settings(max_examples=60, deadline=None)
def test_without_variance_a_step_has_a_closed_form(turns: int, tokens: int, tasks: int, group: int, answer: float, driver: Driver) -> None:
    law = Lognormal(float(np.log(tokens)), 0.0, 10_000, prompt=30, turns=turns, observed=10)
    rows = tasks * group
    (found,) = simulate(1, lengths=law, tasks=tasks, group=group, driver=driver, worlds=Worlds(rows, 1, answer))
    reading = rows * ENGINE.begin + tasks * 30 * ENGINE.token + (turns - 1) * rows * 10 * ENGINE.token
    rollout = reading + turns * (tokens * (ENGINE.tick + rows * ENGINE.row) + answer)
    trained = tasks * 30 + rows * (turns * tokens + (turns - 1) * 10)
    micro = -(-trained // LEARNER.micro)
    share = min(trained, LEARNER.micro * -(-micro // LEARNER.processes))
    update = LEARNER.base + rows * LEARNER.row + share * LEARNER.token + LEARNER.reduce * 3 / 4
    assert found.rollout == pytest.approx(rollout, rel=1e-9)
    assert found.seconds == pytest.approx(rollout + update + LEARNER.push, rel=1e-9)
    assert found.waiting * found.rollout == pytest.approx((turns - 1) * answer, abs=1e-6)


@pytest.mark.parametrize("driver", DRIVERS)
def test_more_slots_than_rows_or_several_waves(driver: Driver) -> None:
    law = Lognormal(float(np.log(20)), 0.0, 100)
    engine = Engine(0.01, 1e-3, slots=4)
    (found,) = simulate(1, lengths=law, tasks=3, group=4, engine=engine, driver=driver, worlds=Worlds())
    assert found.rollout == pytest.approx(3 * 20 * (0.01 + 4e-3))


@given(seed=st.integers(0, 10_000), replicas=st.integers(1, 5), driver=st.sampled_from(DRIVERS), slots=st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_work_is_conserved(seed: int, replicas: int, driver: Driver, slots: int) -> None:
    """Where only rows cost something, the seconds of all replicas add up to the tokens, however they are cut, queued and interrupted."""
    engine = Engine(0.0, 1e-3, slots=slots)
    worlds = Worlds(3, 1, 0.05, 1.0)
    (found,) = simulate(1, seed, engine=engine, replicas=replicas, driver=driver, worlds=worlds)
    assert found.generating * found.rollout * replicas == pytest.approx(1e-3 * found.tokens, rel=1e-6)
    assert found.generating + found.waiting <= 1 + 1e-9


@given(seed=st.integers(0, 10_000), workers=st.integers(1, 12), more=st.integers(1, 12), sigma=st.sampled_from([0.0, 0.7, 2.0]))
@settings(max_examples=60, deadline=None)
def test_more_hosts_are_never_slower(seed: int, workers: int, more: int, sigma: float) -> None:
    """Exactly so for one engine in lock-step: answers queue in one order. With several engines a change of order can cost (Graham 1969)."""
    few, many = (simulate(2, seed, worlds=Worlds(n, 1, 0.4, sigma)) for n in (workers, workers + more))
    assert all(b.rollout <= a.rollout + 1e-9 for a, b in zip(few, many, strict=True))


@pytest.mark.parametrize("driver", DRIVERS)
def test_more_hosts_are_faster_on_average_with_several_engines(driver: Driver) -> None:
    means = []
    for hosts in (1, 2, 3, 5, 24):
        found = [
            step.rollout for seed in range(6) for step in simulate(2, seed, replicas=3, driver=driver, worlds=Worlds(hosts, 1, 0.4, 1.0))
        ]
        means.append(float(np.mean(found)))
    assert means[0] > means[1] > means[2] > means[3] >= means[4]


@given(seed=st.integers(0, 10_000), replicas=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_without_waiting_all_drivers_are_one(seed: int, replicas: int) -> None:
    found = [simulate(2, seed, driver=driver, replicas=replicas, worlds=Worlds(1000)) for driver in DRIVERS]
    for other in found[1:]:
        assert [s.seconds for s in other] == pytest.approx([s.seconds for s in found[0]], rel=1e-9)


def test_overlapping_hides_what_lock_step_waits_for() -> None:
    mean = {d: np.mean([s.rollout for s in simulate(6, driver=d, worlds=Worlds(100, 1, 1.0, 1.0))]) for d in DRIVERS}
    assert mean["overlapped"] < mean["batched"] < mean["lockstep"]


def test_learners_reach_amdahls_limit_and_no_further() -> None:
    (one,) = simulate(1, learner=dataclasses.replace(LEARNER, processes=1, reduce=0.0))
    tokens = round((one.update - LEARNER.base - 24 * LEARNER.row) / LEARNER.token)
    limit = LEARNER.base + 24 * LEARNER.row + LEARNER.micro * LEARNER.token
    updates = [simulate(1, learner=dataclasses.replace(LEARNER, processes=w, reduce=0.0))[0].update for w in (1, 2, 4, 8, 10**6)]
    assert all(b <= a for a, b in itertools.pairwise(updates)) and updates[-1] == pytest.approx(limit)
    assert updates[0] / updates[-1] <= (LEARNER.base + 24 * LEARNER.row + tokens * LEARNER.token) / limit + 1e-9
    assert updates[0] / updates[2] < 4  # the serial part


@given(seed=st.integers(0, 10_000), driver=st.sampled_from(DRIVERS))
@settings(max_examples=20, deadline=None)
def test_engines_reach_the_longest_row_and_no_further(seed: int, driver: Driver) -> None:
    plan = Plan(LAW, 6, 4, Engine(0.01, 2e-4), LEARNER, driver=driver, replicas=24)
    simulation = Simulation(plan, seed)
    (found,) = simulation.run(1)
    from sdgym.seeding import generator

    longest = max(row.sampled for group in LAW.draw(generator(seed, "simulate", 0), 6, 4) for row in group)
    assert found.rollout == pytest.approx(longest * (0.01 + 2e-4), rel=1e-9)


@given(seed=st.integers(0, 10_000), speed=st.sampled_from([1e-4, 1e-3, 1e-2]))
@settings(max_examples=20, deadline=None)
def test_one_step_off_takes_the_slower_of_two(seed: int, speed: float) -> None:
    learner = dataclasses.replace(LEARNER, token=speed)
    serial = simulate(4, seed, learner=learner, worlds=Worlds(4, 1, 0.2, 1.0))
    parallel = simulate(3, seed, learner=learner, mode="one_step_off", worlds=Worlds(4, 1, 0.2, 1.0))
    for step, following, found in zip(serial, serial[1:], parallel, strict=False):
        assert found.seconds == pytest.approx(max(following.rollout, step.update) + LEARNER.push, rel=1e-9)


def test_the_same_seed_gives_the_same_seconds_and_another_one_others() -> None:
    worlds = Worlds(5, 2, 0.3, 1.0)
    assert simulate(3, 1, worlds=worlds) == simulate(3, 1, worlds=worlds) != simulate(3, 2, worlds=worlds)


def test_a_limit_on_answers_bounds_the_step() -> None:
    worlds = Worlds(100, 1, 1.0, 2.0)
    free, cut = (simulate(5, worlds=dataclasses.replace(worlds, limit=limit)) for limit in (float("inf"), 3.0))
    assert all(b.rollout < a.rollout for a, b in zip(free, cut, strict=True))


def test_prompts_are_read_once_per_group_and_replica_and_trained_once_per_group() -> None:
    law = Lognormal(float(np.log(10)), 0.0, 100, prompt=1000)
    engine = Engine(0.0, 0.0, token=1e-3)
    one = simulate(1, lengths=law, engine=engine, worlds=Worlds(100))[0].rollout
    assert one == pytest.approx(6 * 1000 * 1e-3)
    two_of_a_group_apart = simulate(1, lengths=law, engine=engine, tasks=1, group=4, replicas=2, worlds=Worlds(100))[0]
    assert two_of_a_group_apart.rollout == pytest.approx(1.0) and two_of_a_group_apart.generating == pytest.approx(1.0)
    batch = law.draw(np.random.Generator(np.random.PCG64(0)), 6, 4)
    assert trained_tokens(batch) == 6 * 1000 + 24 * 10 and trained_tokens(batch, shared_prompts=False) == 24 * 1010
    assert trained_tokens(batch, repeated=0.25) == round(0.75 * (6 * 1000 + 24 * 10))
