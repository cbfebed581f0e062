"""Learning curves summarised over sampled tokens and FLOPs: areas to the least that was spent, methods that sample nothing left out."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from sdgym.report.analysis import curve_summaries
from sdgym.report.load import Run, Score

CONFIG = {
    "env": {"id": "sdgym/Math-v0", "kwargs": {}},
    "model": "tiny",
    "seed": 0,
    "steps": 2,
    "eval": {"split": "val", "temperature": 1.0},
}


def run(arm: str, tokens: list[float], success: list[float], flops: float = 0.0) -> Run:
    """A finished run with an evaluation at every step and so many FLOPs per sampled token."""
    scores = tuple(Score(step, "val", value, None, None, 32, 4) for step, value in enumerate(success))
    metrics = tuple({"step": step, "ledger/sampled_tokens": n, "ledger/flops": flops * n} for step, n in enumerate(tokens) if step)
    return Run(pathlib.Path("/suite/trials") / arm, arm, "reward", CONFIG, scores, metrics)


def summaries(*runs: Run, axis: str = "sampled tokens") -> dict[str, tuple[float, float]]:
    details = {"trials": {f"trials/{one.arm}": [one.arm, "math-tiny"] for one in runs}}
    return {s.arm: (s.area.mean, s.limit) for s in curve_summaries(pathlib.Path("/suite"), runs, details) if s.axis == axis}


def test_areas_end_where_the_smallest_budget_ends() -> None:
    found = summaries(run("grpo", [0, 100, 200], [0.0, 0.5, 1.0]), run("rft", [0, 50, 100], [0.0, 0.0, 0.5]))
    assert found == {"grpo": (pytest.approx(0.25), 100.0), "rft": (pytest.approx(0.125), 100.0)}


def test_at_equal_flops_the_dearer_method_has_learnt_less() -> None:
    """Equal over tokens; at three FLOPs a token instead of one, the curve is cut at a third of its way."""
    one, three = run("grpo", [0, 100, 200], [0.0, 0.5, 1.0], flops=1), run("sdpo", [0, 100, 200], [0.0, 0.5, 1.0], flops=3)
    assert summaries(one, three) == {"grpo": (pytest.approx(0.5), 200.0), "sdpo": (pytest.approx(0.5), 200.0)}
    assert summaries(one, three, axis="FLOPs") == {"grpo": (pytest.approx(0.5), 200.0), "sdpo": (pytest.approx(1 / 6), 200.0)}


def test_a_method_that_samples_nothing_has_no_curve_and_cuts_no_other() -> None:
    grpo = run("grpo", [0, 100, 200], [0.0, 0.5, 1.0])
    assert summaries(grpo, run("sft_reference", [0, 0, 0], [0.2, 0.4, 0.6])) == summaries(grpo) == {"grpo": (pytest.approx(0.5), 200.0)}
    cheap = dataclasses.replace(
        run("sft_reference", [0, 1, 2], [0.2, 0.4, 0.6]), metrics=({"step": 1, "ledger/flops": 5.0}, {"step": 2, "ledger/flops": 9.0})
    )
    dear = run("grpo", [0, 100, 200], [0.0, 0.5, 1.0], flops=1)
    assert summaries(dear, cheap, axis="FLOPs") == {"grpo": (pytest.approx(0.5), 200.0)}
