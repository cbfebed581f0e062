"""The bars of ARCHITECTURE §6, measured on what is committed: 500 held-out tasks per world, fixed seeds.

A bar that the committed weights miss is a strict expected failure with its number (docs/wind-tunnel.md says
the same); weights that clear it turn the test red until the entry is removed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sdgym.benchmarks.pretrain_tiny.bars import KINDS, Bars, measure
from sdgym.policy import Policy
from sdgym.session import make_env

MATH, SOKOBAN = "sdgym/Math-v0", "sdgym/Sokoban-v0"
WORLDS = (MATH, SOKOBAN)
NEUTRAL = ("empty", "filler", "mismatched_reference", "mismatched_feedback")
MISSED = {
    (MATH, "reference"): "0.80 of tasks with the reference, 0.90 wanted: pre-training ended too early",
    (SOKOBAN, "greedy"): "0.63 greedy, at most 0.50 wanted",
    (SOKOBAN, "feedback"): "about 9 points of lift from feedback, 10 wanted",
    (MATH, "neutral"): "mismatched feedback +6 points, 3 allowed",
    (SOKOBAN, "neutral"): "mismatched feedback +6 points, 3 allowed",
    (MATH, "wordings"): "the reference in new wordings loses 7 points, 5 allowed",
}

FAST: dict[str, Callable[[Bars], bool]] = {
    "plain": lambda b: 0.15 <= b.plain <= 0.50,
    "greedy": lambda b: 0.15 <= b.greedy <= 0.50,
    "format": lambda b: b.format_errors <= 0.05,
    "reference": lambda b: b.blocks["reference"] >= 0.90,
    "feedback": lambda b: b.failed_plain + 0.10 <= b.blocks["feedback"] <= 0.85,
}


def neutral(b: Bars) -> bool:
    """±3 points; 16 and 8 samples on the same 500 tasks put the noise of a difference near 1 point."""
    plain = {kind: b.failed_plain if kind == "mismatched_feedback" else b.plain for kind in NEUTRAL}
    return max(abs(b.blocks[kind] - plain[kind]) for kind in NEUTRAL) <= 0.03


def wordings(b: Bars) -> bool:
    """Wordings never trained on are read as well as the others."""
    return max(abs(b.blocks[f"{k}/heldout"] - b.blocks[k]) for k in KINDS) <= 0.05


FULL: dict[str, Callable[[Bars], bool]] = {"neutral": neutral, "band": lambda b: b.band >= 0.5, "wordings": wordings}


@pytest.fixture(scope="module")
def quick_bars() -> dict[str, Bars]:
    return {
        world: measure(
            Policy.load("tiny", threads=1),
            make_env(world, level="tiny", split="test").unwrapped,
            samples=8,
            block_samples=4,
            kinds=("reference", "feedback"),
            pools=("trained",),
        )
        for world in WORLDS
    }


@pytest.fixture(scope="module")
def full_bars() -> dict[str, Bars]:
    return {
        world: measure(Policy.load("tiny", threads=1), make_env(world, level="tiny", split="test").unwrapped, samples=16, block_samples=8)
        for world in WORLDS
    }


def expect(request: pytest.FixtureRequest, world: str, name: str) -> None:
    """Mark the running test as a strict expected failure if the bar is known to be missed."""
    if reason := MISSED.get((world, name)):
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", FAST)
def test_bar(request: pytest.FixtureRequest, quick_bars: dict[str, Bars], world: str, name: str) -> None:
    expect(request, world, name)
    assert FAST[name](quick_bars[world]), quick_bars[world]


@pytest.mark.parametrize("world", WORLDS)
def test_the_expert_is_a_stronger_teacher_than_its_student_may_be(world: str) -> None:
    env = make_env(world, level="tiny", split="test").unwrapped
    assert measure(Policy.load("tiny-expert", threads=1), env, count=200, samples=2, kinds=()).plain >= 0.5  # a student's upper bar


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", FULL)
def test_bar_in_full(request: pytest.FixtureRequest, full_bars: dict[str, Bars], world: str, name: str) -> None:
    expect(request, world, name)
    assert FULL[name](full_bars[world]), full_bars[world]
