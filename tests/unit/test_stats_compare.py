"""The statistics of comparisons against closed forms, SciPy, enumeration and numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdgym.stats import (
    Cell,
    Contrast,
    Design,
    Estimate,
    ScoredRun,
    area_under_curve,
    budget_to_threshold,
    build_cells,
    contrasts,
    holm,
    interquartile_mean,
    kendall_rows,
    mean_score,
    normalised_gain,
    pooled_score,
    probability_of_improvement,
    profile,
    rank_agreement,
    ranking,
    sign_flip_test,
    weighted_mean,
)

quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws slowly
B = 4_000
SE = 5 / math.sqrt(2 * B)  # five relative standard errors of a standard deviation estimated from B normal draws


def cell(arm: str, after: np.ndarray, world: str = "w", checkpoints: int = 1, before: float | np.ndarray = 0.0) -> Cell:
    """Runs in the order (checkpoint 0, seed 0), (checkpoint 0, seed 1) … from per-task scores ``[n, T]``."""
    after = np.asarray(after, np.float64)
    per = len(after) // checkpoints
    runs = tuple((f"c{i // per}", i % per) for i in range(len(after)))
    return Cell(arm, world, runs, np.broadcast_to(before, after.shape).astype(np.float64), after)


def constant(values: list[float], tasks: int = 4) -> np.ndarray:
    """Every task of run i scores ``values[i]``."""
    return np.repeat(np.array(values, np.float64)[:, None], tasks, axis=1)


# ---- small definitions --------------------------------------------------------------------------


def test_normalised_gain_by_hand() -> None:
    gains = normalised_gain(np.array([0.25, 0.5, 0.0, 1.0]), np.array([0.5, 0.25, 1.0, 1.0]))
    assert gains[:3].tolist() == pytest.approx([1 / 3, -0.5, 1.0])
    assert math.isnan(gains[3]), "nothing was missing"


def test_holm_equals_the_example_of_r_p_adjust() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == []
    with pytest.raises(ValueError):
        holm([1.2])


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    expected = set()
    for step, i in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        if p[i] * (len(p) - step) > alpha:
            break
        expected.add(i)
    assert {i for i, value in enumerate(holm(p)) if value <= alpha} == expected


@pytest.mark.parametrize("data", [[0.1, 0.2, 0.3, 0.05, 0.4], [0.3, -0.1, 0.2, 0.2, -0.4, 0.6], [0.0, 0.0, 1.0]])
def test_sign_flips_are_enumerated(data: list[float]) -> None:
    means = [abs(np.mean(np.array(signs) * data)) for signs in itertools.product((1, -1), repeat=len(data))]
    assert sign_flip_test(data) == pytest.approx(np.mean([m >= abs(np.mean(data)) - 1e-12 for m in means]))


def test_five_unanimous_runs_are_no_proof() -> None:
    assert sign_flip_test([0.3, 0.31, 0.29, 0.3, 0.32]) == pytest.approx(2 / 32)
    assert sign_flip_test([0.3]) == 1.0 and math.isnan(sign_flip_test([]))


@quick
@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 4)), min_size=1, max_size=12).filter(lambda rows: any(c for _, c in rows)))
def test_interquartile_mean_is_scipys_trimmed_mean_of_the_repeated_values(rows: list[tuple[float, int]]) -> None:
    values, counts = np.array([v for v, _ in rows]), np.array([c for _, c in rows])
    expected = scipy.stats.trim_mean(np.repeat(values, counts), 0.25)
    assert interquartile_mean(values, counts) == pytest.approx(expected, abs=1e-12)
    with_gap = np.append(values, np.nan), np.append(counts, 3)
    assert interquartile_mean(*with_gap) == pytest.approx(expected, abs=1e-12), "a missing run is left out"


@quick
@given(st.integers(2, 7), st.integers(0, 10_000))
def test_kendall_of_rows_is_scipys(m: int, seed: int) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    a, b = rng.integers(0, 4, (3, m)) / 4, rng.integers(0, 4, (3, m)) / 4  # many ties
    expected = [scipy.stats.kendalltau(x, y).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(kendall_rows(a, b), expected, atol=1e-12)


def test_area_by_hand() -> None:
    assert area_under_curve([0, 10, 30], [0.2, 0.4, 0.8]) == pytest.approx((10 * 0.3 + 20 * 0.6) / 30)
    assert area_under_curve([0, 10, 30], [0.2, 0.4, 0.8], limit=20) == pytest.approx((10 * 0.3 + 10 * 0.5) / 20)
    assert area_under_curve([5, 7], [0.5, 0.5]) == pytest.approx(0.5)
    for wrong in (([1], [1]), ([1, 1], [0, 1]), ([1, 2], [0, math.nan])):
        with pytest.raises(ValueError):
            area_under_curve(*wrong)
    with pytest.raises(ValueError):
        area_under_curve([0, 10], [0, 1], limit=11)


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0.01, 100))
def test_area_does_not_depend_on_the_unit_of_x_and_lies_between_the_extremes(y: list[float], unit: float) -> None:
    x = np.arange(len(y), dtype=float)
    area = area_under_curve(list(x), y)
    assert area_under_curve(list(unit * x), y) == pytest.approx(area, abs=1e-9)
    assert min(y) - 1e-12 <= area <= max(y) + 1e-12


def test_budget_to_threshold_by_hand() -> None:
    assert budget_to_threshold([0, 100, 200], [0.2, 0.4, 0.8], 0.6) == pytest.approx(150)
    assert budget_to_threshold([0, 100, 200], [0.2, 0.4, 0.8], 0.1) == 0
    assert budget_to_threshold([0, 100, 200], [0.2, 0.9, 0.1], 0.9) == pytest.approx(100), "the first time counts"
    assert budget_to_threshold([0, 100], [0.2, 0.4], 0.5) == math.inf


# ---- the bootstrap ------------------------------------------------------------------------------


def spread(design: Design, arm: str = "a") -> float:
    """The standard deviation of the resampled mean."""
    return float(np.std(weighted_mean(design.drawn_scores(arm, "w", "after"), design.counts("w"))))


def test_spread_of_three_levels_is_the_closed_form() -> None:
    """Var = [Var_c(mean of c) + E_c(Var within c)/S]/C for C checkpoints of S seeds, population variances."""
    rng = np.random.Generator(np.random.PCG64(0))
    values = rng.uniform(size=(3, 5)) + np.array([[0.0], [1.0], [3.0]])
    design = Design([cell("a", constant(values.ravel().tolist()), checkpoints=3)], B)
    expected = math.sqrt((values.mean(axis=1).var() + values.var(axis=1).mean() / 5) / 3)
    assert spread(design) == pytest.approx(expected, rel=SE)
    flat = Design([cell("a", constant(values.ravel().tolist()), checkpoints=1)], B)
    assert spread(flat) < expected / 2, "ignoring checkpoints would be overconfident"


@pytest.mark.parametrize("runs", [1, 8])
def test_the_luck_of_the_tasks_does_not_average_away_over_runs(runs: int) -> None:
    """Equal runs on T tasks: Var = Var_t/T however many runs there are; nested draws would divide by them."""
    tasks = np.array([0.0, 0.25, 1.0, 1.0, 0.5, 0.0])
    design = Design([cell("a", np.tile(tasks, (runs, 1)))], B)
    assert spread(design) == pytest.approx(math.sqrt(tasks.var() / len(tasks)), rel=SE)


def test_equal_arms_differ_by_exactly_nothing_in_every_resample() -> None:
    after = np.random.Generator(np.random.PCG64(1)).uniform(size=(6, 10))
    design = Design([cell("a", after), cell("b", after)], 200)
    (found,) = contrasts(design, [("a", "b")])
    assert found.difference == Estimate(6, 0.0, 0.0, 0.0) and found.p == 1.0 and found.improvement.mean == 0.5
    assert found.verdict == "no difference shown"


def test_missing_tasks_and_runs_are_left_out() -> None:
    after = np.array([[1.0, 0.0, np.nan], [0.5, 0.5, 0.5]])
    design = Design([cell("a", after), cell("b", constant([0.25], 3))], 50)
    assert design.scores("a", "w", "after").tolist() == [0.5, 0.5]
    assert design.scores("b", "w", "after")[0] == 0.25 and math.isnan(design.scores("b", "w", "after")[1])
    assert (design.n("a"), design.n("b")) == (2, 1)
    (found,) = contrasts(design, [("a", "b")], measure="after")
    assert (found.difference.n, found.difference.mean) == (1, 0.25), "only the common run is paired"
    assert contrasts(Design([cell("a", after, "v"), cell("b", after, "w")], 50), [("a", "b")]) == []


def test_equal_input_gives_equal_output_and_the_seed_counts() -> None:
    after = np.random.Generator(np.random.PCG64(2)).uniform(size=(6, 7))
    first, again, other = (mean_score(Design([cell("a", after)], 300, seed), "a", "w") for seed in (0, 0, 1))
    assert first == again and first.mean == other.mean and first != other


def test_few_runs_get_no_interval_anywhere() -> None:
    design = Design([cell("a", constant([0.1, 0.2, 0.3, 0.4])), cell("b", constant([0.3, 0.4, 0.5, 0.6]))], 50)
    (found,) = contrasts(design, [("b", "a")])
    assert found.verdict == "too few runs" and found.p is None and found.difference.low is None and found.improvement.low is None
    assert mean_score(design, "a", "w").low is None and profile(design, "a", [0.0]).low is None
    assert all(row.ranks is None and row.best is None for row in ranking(design)) and rank_agreement(design, design).tau.low is None


@pytest.mark.slow
def test_intervals_cover_about_as_often_as_they_say() -> None:
    """Truth 0; effects of 6 checkpoints, 4 seeds and 40 tasks. Few checkpoints make percentile intervals short of 95 %."""
    rng, hits = np.random.Generator(np.random.PCG64(7)), 0
    for trial in range(300):
        effects = rng.normal(size=(6, 1)) * 0.3 + rng.normal(size=(6, 4)) * 0.3
        after = effects.reshape(24, 1) + rng.normal(size=40) * 0.5
        found = mean_score(Design([cell("a", after, checkpoints=6)], 500, trial), "a", "w")
        hits += found.low is not None and found.high is not None and found.low <= 0 <= found.high
    assert 0.83 < hits / 300 < 0.99


# ---- what a comparison says ---------------------------------------------------------------------


def test_probability_of_improvement_is_mann_whitneys() -> None:
    a, b = [0.1, 0.5, 0.5, 0.9, 0.7], [0.5, 0.2, 0.6, 0.1, 0.0]
    design = Design([cell("a", constant(a)), cell("b", constant(b))], 200)
    expected = scipy.stats.mannwhitneyu(a, b).statistic / 25
    found = probability_of_improvement(design, "a", "b")
    assert found.mean == pytest.approx(expected) and found.low is not None and found.low <= expected <= (found.high or 0)
    assert probability_of_improvement(design, "b", "a").mean == pytest.approx(1 - expected)


def test_probability_of_improvement_averages_worlds() -> None:
    cells = [cell("a", constant([1.0, 1.0]), "v"), cell("b", constant([0.0, 0.0]), "v")]
    cells += [cell("a", constant([0.5]), "w"), cell("b", constant([0.5]), "w")]
    assert probability_of_improvement(Design(cells, 10), "a", "b").mean == pytest.approx((1.0 + 0.5) / 2)


def test_pooling_takes_gains_so_that_an_easy_world_does_not_outvote_a_hard_one() -> None:
    hard = cell("a", constant([0.1] * 5), "hard", before=0.0)
    easy = cell("a", constant([0.9] * 5), "easy", before=0.8)
    found = pooled_score(Design([hard, easy], 100), "a")
    assert found.mean == pytest.approx(scipy.stats.trim_mean([0.1] * 5 + [0.5] * 5, 0.25))
    assert found.n == 5


def test_profile_by_hand() -> None:
    design = Design([cell("a", constant([0.1, 0.2, 0.3, 0.4]), "v"), cell("a", constant([0.4, 0.4, 0.4, 0.4]), "w")], 100)
    found = profile(design, "a", [0.0, 0.15, 0.2, 0.4])
    assert found.share == pytest.approx((1.0, (0.75 + 1) / 2, (0.5 + 1) / 2, 0.0)), "strictly above"


@settings(quick, max_examples=15)
@given(st.lists(st.floats(0, 0.9), min_size=5, max_size=8))
def test_a_profile_falls_from_one_to_nothing_and_lies_in_its_band(values: list[float]) -> None:
    found = profile(Design([cell("a", constant(values))], 200), "a", [-0.1, 0.2, 0.5, 0.9])
    assert found.share[0] == 1.0 and found.share[-1] == 0.0 and list(found.share) == sorted(found.share, reverse=True)
    assert found.low is not None and found.high is not None
    assert all(low <= high for low, high in zip(found.low, found.high, strict=True))


def test_ranking_by_hand() -> None:
    good, bad = [0.6, 0.7, 0.65, 0.6, 0.7], [0.1, 0.2, 0.15, 0.1, 0.2]
    design = Design([cell("bad", constant(bad)), cell("good", constant(good)), cell("twin", constant(good))], 200)
    rows = ranking(design)
    assert [(row.arm, row.rank) for row in rows] == [("good", 1), ("twin", 2), ("bad", 3)]
    assert rows[0].ranks == rows[1].ranks == (1.5, 1.5) and rows[0].best == rows[1].best == 0.5 and rows[2].ranks == (3.0, 3.0)
    assert rows[0].score.mean == pytest.approx(scipy.stats.trim_mean(good, 0.25))
    assert [row.arm for row in ranking(design, ["bad", "twin"])] == ["twin", "bad"]


@pytest.mark.filterwarnings("error")
def test_where_nothing_is_missing_nothing_is_ranked() -> None:
    full = Design([cell(name, constant([1.0] * 5), before=1.0) for name in "ab"], 50)
    assert all(math.isnan(row.score.mean) and row.ranks is None and row.best is None for row in ranking(full))
    after = np.array([[1.0, 0.5, 1.0]] * 5)
    sometimes = Design([cell(name, after, before=np.array([1.0, 0.5, 1.0])) for name in "ab"], 200)  # some resamples draw only full tasks
    assert [row.best for row in ranking(sometimes)] == [0.5, 0.5] and ranking(sometimes)[0].ranks == (1.5, 1.5)


def test_contrasts_form_one_family_and_say_what_they_show() -> None:
    base = [0.30, 0.32, 0.28, 0.31, 0.29, 0.30, 0.33, 0.27]
    better = [x + 0.3 + 0.01 * i for i, x in enumerate(base)]
    mixed = [x + 0.1 * (-1) ** i for i, x in enumerate(base)]
    design = Design([cell(n, constant(v)) for n, v in (("base", base), ("better", better), ("mixed", mixed))], 500)
    up, flat, down = contrasts(design, [("better", "base"), ("mixed", "base"), ("base", "better")], measure="after")
    assert up.p == pytest.approx(2 / 2**8) and up.p_holm == pytest.approx(3 * 2 / 2**8) and up.improvement.mean == 1.0
    assert (up.verdict, flat.verdict, down.verdict) == ("higher", "no difference shown", "lower")
    assert up.difference.mean == pytest.approx(np.mean(better) - np.mean(base)) and down.difference.mean == -up.difference.mean
    (alone,) = contrasts(design, [("better", "base")])
    assert alone.p_holm == alone.p, "a family of one"


def test_a_verdict_needs_both_the_interval_and_the_family() -> None:
    def found(low: float, p: float, attainable: float = 0.008) -> str:
        return Contrast("a", "b", "", "gain", Estimate(8, 0.2, low, 0.4), p, p, attainable, Estimate(8, 0.9, 0.8, 1.0)).verdict

    assert found(0.1, 0.01) == "higher" and found(0.1, 0.06) == "no difference shown" and found(-0.1, 0.01) == "no difference shown"
    assert found(0.1, 0.06, attainable=0.06) == "too few runs", "nothing that these runs could have been would have passed"
    assert found(-0.1, 0.06, attainable=0.06) == "no difference shown"


@pytest.mark.parametrize(
    ("runs", "family", "verdict"), [(5, 1, "too few runs"), (6, 1, "higher"), (6, 2, "too few runs"), (7, 2, "higher")]
)
def test_runs_that_all_agree_are_too_few_until_the_test_can_pass(runs: int, family: int, verdict: str) -> None:
    values = [constant([base + 0.01 * i for i in range(runs)]) for base in (0.3, 0.6)]
    design = Design([cell("low", values[0]), cell("high", values[1])], 300)
    for one in contrasts(design, [("high", "low")] * family, measure="after"):
        assert one.p == pytest.approx(2 / 2**runs) and one.attainable == pytest.approx(family * 2 / 2**runs) == pytest.approx(one.p_holm)
        assert one.verdict == verdict


def test_pooled_contrasts_average_worlds_and_pair_runs() -> None:
    cells = [cell("a", constant([0.5] * 5), "v"), cell("b", constant([0.3] * 5), "v")]
    cells += [cell("a", constant([0.2] * 5), "w"), cell("b", constant([0.6] * 5), "w")]
    design = Design(cells, 100)
    (pooled,) = contrasts(design, [("a", "b")])
    assert pooled.difference.mean == pytest.approx((0.2 - 0.4) / 2) and pooled.difference.n == 5, "five seeds, whatever the worlds"
    assert pooled.p == pytest.approx(sign_flip_test([0.2] * 5 + [-0.4] * 5)), "ten runs to flip"
    per_world = contrasts(design, [("a", "b")], worlds=("v", "w"), measure="after")
    assert [c.difference.mean for c in per_world] == pytest.approx([0.2, -0.4])
    assert all(c.p_holm == pytest.approx(2 * 2 / 32) for c in per_world), "two worlds are a family of two"


def test_agreement_of_rankings() -> None:
    def design(order: list[float]) -> Design:
        return Design([cell(name, constant([v] * 5)) for name, v in zip("abcd", order, strict=True)], 100)

    up = design([0.1, 0.2, 0.3, 0.4])
    assert rank_agreement(up, up).tau == Estimate(5, pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0))
    assert rank_agreement(up, design([0.4, 0.3, 0.2, 0.1])).tau.mean == pytest.approx(-1.0)
    assert rank_agreement(up, design([0.2, 0.1, 0.3, 0.4])).tau.mean == pytest.approx(4 / 6), "one of six pairs is swapped"
    assert math.isnan(rank_agreement(up, Design([cell("a", constant([0.1]))], 10)).tau.mean)


def test_wrong_designs_are_refused() -> None:
    good = constant([0.1, 0.2])
    with pytest.raises(ValueError, match="different numbers of tasks"):
        Design([cell("a", good), cell("b", constant([0.1], tasks=3))], 10)
    with pytest.raises(ValueError, match="same arm and world"):
        Design([cell("a", good), cell("a", good)], 10)
    with pytest.raises(ValueError, match="at least one finished run"):
        Design([], 10)
    with pytest.raises(ValueError, match="two runs of the same"):
        Cell("a", "w", (("c", 0), ("c", 0)), good, good)
    with pytest.raises(ValueError, match="need two arrays"):
        Cell("a", "w", (("c", 0),), good, good)


def records(*counts: tuple[int, int]) -> list[dict[str, object]]:
    """Per-item records with these (successes, samples)."""
    return [{"task_id": f"t{i}", "successes": c, "samples": n} for i, (c, n) in enumerate(counts)]


def test_cells_come_from_per_item_records() -> None:
    start, end = records((1, 4), (0, 0), (2, 4)), records((3, 4), (1, 4), (0, 4))
    (found,) = build_cells([ScoredRun("a", "w", "tiny", s, start, end) for s in (0, 1)])
    assert found.runs == (("tiny", 0), ("tiny", 1))
    np.testing.assert_array_equal(found.after[0], [0.75, 0.25, 0.0])
    np.testing.assert_array_equal(found.before[1], [0.25, np.nan, 0.5])
    with pytest.raises(ValueError, match="not scored on the same tasks"):
        build_cells([ScoredRun("a", "w", "tiny", 0, start, end), ScoredRun("b", "w", "tiny", 0, start[:2], end[:2])])
