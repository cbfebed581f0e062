"""The last bar of ARCHITECTURE §6: what GRPO makes of the embedded policy in 100 steps of 32 × 8, beside the reward-free arm."""

from __future__ import annotations

import pathlib

import pytest

import sdgym

MATH, SOKOBAN = "sdgym/Math-v0", "sdgym/Sokoban-v0"


def success_after(algo: str, world: str, folder: pathlib.Path) -> float:
    """Return success at T = 1 on 256 held-out tasks after training."""
    done = sdgym.train(
        algo,
        {"id": world, "level": "tiny"},
        out=folder / algo,
        model="tiny",
        device="cpu",
        steps=100,
        tasks_per_step=32,
        group_size=8,
        eval={"every": 0, "tasks": 8, "samples": 1, "test_tasks": 256},
        checkpoint={"every": 0},
        log={"trajectories_every": 0},
    )
    return done.metrics["test/success"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("world", [MATH, SOKOBAN])
def test_grpo_learns_and_beats_sharpening(world: str, tmp_path: pathlib.Path) -> None:
    """256 tasks × 4 samples: the standard error of a success rate is at most 2.5 points."""
    grpo, sharpened = (success_after(algo, world, tmp_path) for algo in ("grpo", "sharpen"))
    assert 0.55 <= grpo <= 0.92
    assert grpo > sharpened + 0.05
