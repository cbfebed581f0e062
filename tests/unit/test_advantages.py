"""Advantages: printed fixtures, rows that leave the statistics, turns, overlong shaping."""

from __future__ import annotations

import numpy as np
import pytest

from sdgym.algos.advantages import advantages, overlong_penalty, returns

NAN = np.nan
R = np.array([[1.0], [0.0], [0.0], [1.0]])
ALL = [[0, 1, 2, 3]]
EXACT = 1e-12


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"scale": "group", "ddof": 1}, 0.8660254),
        ({"scale": "group", "ddof": 0}, 1.0),
        ({"scale": "none", "baseline": "leave_one_out"}, 2 / 3),
        ({"scale": "none"}, 0.5),
    ],
    ids=["grpo-sample", "grpo-population", "rloo", "dr-grpo"],
)
def test_fixture(settings: dict, size: float) -> None:
    got = advantages(R, ALL, epsilon=1e-12, **settings)
    np.testing.assert_allclose(got[:, 0], [size, -size, -size, size], atol=1e-6)


def test_epsilon_is_added_to_the_deviation() -> None:
    got = advantages(R, ALL, ddof=0, epsilon=0.25)
    np.testing.assert_allclose(got[:, 0], np.array([0.5, -0.5, -0.5, 0.5]) / 0.75, atol=EXACT)


def test_groups_are_judged_apart_and_the_batch_scale_is_shared() -> None:
    values = np.array([[1.0], [0.0], [0.5], [0.4]])
    groups = [[0, 1], [2, 3]]
    np.testing.assert_allclose(advantages(values, groups, scale="none")[:, 0], [0.5, -0.5, 0.05, -0.05], atol=EXACT)
    deviation = np.std([1.0, 0.0, 0.5, 0.4], ddof=1)
    got = advantages(values, groups, scale="batch", epsilon=1e-12)[:, 0]
    np.testing.assert_allclose(got, np.array([0.5, -0.5, 0.05, -0.05]) / deviation, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3])
@pytest.mark.parametrize("settings", [{"scale": "group"}, {"scale": "none"}, {"scale": "none", "baseline": "leave_one_out"}])
def test_equal_rewards_give_exactly_zero(value: float, settings: dict) -> None:
    """Not 1e-17/1e-6: a mean of eight times 0.1 is not 0.1 in floating point."""
    assert not advantages(np.full((7, 1), value), [list(range(7))], **settings).any()


def test_a_row_that_could_not_be_graded_leaves_the_statistics() -> None:
    values = np.array([[1.0], [NAN], [0.0], [0.0]])
    got = advantages(values, ALL, scale="none")[:, 0]
    np.testing.assert_allclose(got, [2 / 3, 0.0, -1 / 3, -1 / 3], atol=EXACT)
    without = advantages(values[[0, 2, 3]], [[0, 1, 2]], scale="group")[:, 0]
    np.testing.assert_allclose(advantages(values, ALL, scale="group")[[0, 2, 3], 0], without, atol=EXACT)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_lonely_row_has_nothing_to_be_compared_with(baseline: str, scale: str) -> None:
    got = advantages(np.array([[1.0], [NAN], [NAN]]), [[0, 1, 2]], baseline=baseline, scale=scale)  # type: ignore[arg-type]
    assert not got.any()


def test_no_baseline_keeps_the_reward() -> None:
    np.testing.assert_array_equal(advantages(np.array([[1.0], [NAN]]), [[0, 1]], baseline="none", scale="none")[:, 0], [1.0, 0.0])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("value", [1.0, 0.1])
def test_no_baseline_keeps_rewards_that_all_agree(scale: str, value: float) -> None:
    """Nothing is divided by a spread of 0 (verl's sigma of 1), nor by one that only rounding makes."""
    got = advantages(np.full((3, 1), value), [[0, 1, 2]], baseline="none", scale=scale)  # type: ignore[arg-type]
    np.testing.assert_array_equal(got[:, 0], value)


def test_outcome_credit_is_the_same_sum_at_every_turn() -> None:
    rewards = np.array([[0.1, 0.2, 0.7], [0.3, NAN, NAN], [NAN, NAN, NAN]])
    np.testing.assert_allclose(returns(rewards, "outcome"), [[1.0, 1.0, 1.0], [0.3, 0.3, 0.3], [NAN, NAN, NAN]], atol=EXACT)


@pytest.mark.parametrize("scale", ["group", "none"])
def test_outcome_credit_compares_episodes_of_different_lengths_as_wholes(scale: str) -> None:
    """Solved at once, failed after three turns, failed after three, solved after two: a row has one advantage (algorithms-core 1a)."""
    rewards = np.array([[1.0, NAN, NAN], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, NAN]])
    got = advantages(returns(rewards, "outcome"), [[0, 1, 2, 3]], scale=scale)  # type: ignore[arg-type]
    each = 0.5 / (1.0 if scale == "none" else np.sqrt(1 / 3) + 1e-6)
    np.testing.assert_allclose(got, np.array([[1.0], [-1.0], [-1.0], [1.0]]) * np.full((4, 3), each), atol=EXACT)


def test_turn_credit_is_the_discounted_return_to_go() -> None:
    rewards = np.array([[1.0, 2.0, 4.0], [3.0, NAN, NAN]])
    np.testing.assert_allclose(returns(rewards, "turn", 0.5), [[3.0, 4.0, 4.0], [3.0, NAN, NAN]], atol=EXACT)


def test_turns_are_compared_with_the_same_turn_of_others() -> None:
    """The third row ended after its first turn, so it plays no part in the second turn's mean."""
    values = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, NAN]])
    got = advantages(values, [[0, 1, 2]], scale="none")
    np.testing.assert_allclose(got, [[2 / 3, 0.5], [-1 / 3, -0.5], [-1 / 3, 0.0]], atol=EXACT)


@pytest.mark.parametrize(("length", "penalty"), [(70, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0)])
def test_overlong_fixture(length: int, penalty: float) -> None:
    assert overlong_penalty(length, 100, 20) == pytest.approx(penalty, abs=EXACT)
    assert overlong_penalty(length, 100, 20, 2.0) == pytest.approx(2 * penalty, abs=EXACT)
