"""The bars of ARCHITECTURE §6, measured on what is committed: 500 held-out tasks per world, fixed seeds.

A bar that the committed weights miss is a strict expected failure with its number (docs/wind-tunnel.md says
the same); weights that clear it turn the test red until the entry is removed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from sdgym.benchmarks.pretrain_tiny.bars import KINDS, Bars, measure
from sdgym.policy import Policy
from sdgym.session import make_env
from sdgym.verifiers.sandbox import sandbox_available

MATH, SOKOBAN, CODE, TOOLS = "sdgym/Math-v0", "sdgym/Sokoban-v0", "sdgym/Code-v0", "sdgym/ToolWorld-v0"
JUDGED = [("tiny", MATH), ("tiny", SOKOBAN)]
FOUR = [("tiny-four", world) for world in (MATH, SOKOBAN, CODE, TOOLS)]
LONG = [pytest.param(*each, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]) for each in FOUR]  # minutes per world
NEUTRAL = ("empty", "filler", "mismatched_reference", "mismatched_feedback")
MISSED = {
    ("tiny", MATH, "reference"): "0.80 of tasks with the reference, 0.90 wanted: pre-training ended too early",
    ("tiny", SOKOBAN, "greedy"): "0.63 greedy, at most 0.50 wanted",
    ("tiny", SOKOBAN, "feedback"): "about 9 points of lift from feedback, 10 wanted",
    ("tiny", MATH, "neutral"): "mismatched feedback +6 points, 3 allowed",
    ("tiny", SOKOBAN, "neutral"): "mismatched feedback +6 points, 3 allowed",
    ("tiny", MATH, "wordings"): "the reference in new wordings loses 7 points, 5 allowed",
    ("tiny-four", MATH, "reference"): "0.87 with the reference, 0.90 wanted",
    ("tiny-four", TOOLS, "feedback"): "3 points of lift from feedback, 10 wanted",
    ("tiny-four", MATH, "neutral"): "mismatched feedback +6 points, 3 allowed",
    ("tiny-four", SOKOBAN, "neutral"): "mismatched feedback +5 points, 3 allowed",
    ("tiny-four", CODE, "neutral"): "mismatched feedback +21 points, mismatched reference +9, filler +6, empty +4, 3 allowed",
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


@functools.cache
def quick_bars(policy: str, world: str) -> Bars:
    """Return what the fast lane measures."""
    env = make_env(world, level="tiny", split="test").unwrapped
    return measure(Policy.load(policy, threads=1), env, samples=8, block_samples=4, kinds=("reference", "feedback"), pools=("trained",))


@functools.cache
def full_bars(policy: str, world: str) -> Bars:
    """Return everything, with twice the samples."""
    return measure(Policy.load(policy, threads=1), make_env(world, level="tiny", split="test").unwrapped, samples=16, block_samples=8)


def expect(request: pytest.FixtureRequest, policy: str, world: str, name: str) -> None:
    """Skip where nothing confines programs; make the test a strict expected failure if its bar is known to be missed."""
    if world == CODE and not sandbox_available()[0]:
        pytest.skip(f"sandbox: {sandbox_available()[1]}")
    if reason := MISSED.get((policy, world, name)):
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))


@pytest.mark.parametrize(("policy", "world"), [*JUDGED, *LONG])
@pytest.mark.parametrize("name", FAST)
def test_bar(request: pytest.FixtureRequest, policy: str, world: str, name: str) -> None:
    expect(request, policy, world, name)
    assert FAST[name](quick_bars(policy, world)), quick_bars(policy, world)


@pytest.mark.parametrize(("policy", "world"), FOUR)
def test_four_worlds_are_neither_closed_to_it_nor_solved(request: pytest.FixtureRequest, policy: str, world: str) -> None:
    expect(request, policy, world, "a glance")
    env = make_env(world, level="tiny", split="test").unwrapped
    bars = measure(Policy.load(policy, threads=1), env, count=80, samples=2, kinds=())
    assert 0.08 <= bars.plain <= 0.60, bars  # the bar is 0.15 to 0.50 on 500 tasks; 80 tasks put a standard error of 4 to 5 points on it
    assert bars.format_errors <= 0.12, bars


@pytest.mark.parametrize("world", (MATH, SOKOBAN))
def test_the_expert_is_a_stronger_teacher_than_its_student_may_be(world: str) -> None:
    env = make_env(world, level="tiny", split="test").unwrapped
    assert measure(Policy.load("tiny-expert", threads=1), env, count=200, samples=2, kinds=()).plain >= 0.5  # a student's upper bar


@pytest.mark.parametrize("world", (MATH, SOKOBAN))
def test_the_poor_listener_has_the_skills_of_tiny_and_less_of_its_lift(world: str) -> None:
    env = make_env(world, level="tiny", split="test").unwrapped
    bars = measure(
        Policy.load("tiny-weak", threads=1), env, count=150, samples=4, block_samples=2, kinds=("reference",), pools=("trained",)
    )
    assert 0.15 <= bars.plain <= 0.50, bars
    assert 0.05 <= bars.blocks["reference"] - bars.plain <= 0.33, bars  # tiny's lift is 0.56 and 0.59


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("policy", "world"), [*JUDGED, *FOUR])
@pytest.mark.parametrize("name", FULL)
def test_bar_in_full(request: pytest.FixtureRequest, policy: str, world: str, name: str) -> None:
    expect(request, policy, world, name)
    assert FULL[name](full_bars(policy, world)), full_bars(policy, world)
