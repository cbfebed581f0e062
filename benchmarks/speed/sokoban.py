"""Sokoban speed: level generation with its proof, and steps of the rules.

    python -m sdgym.benchmarks.speed.sokoban --out sokoban.json

Pinned workload: the levels of seeds 0 … n − 1; 2,000 fixed random walks of 100 steps on
the first of them, blocked moves and pushes included. No baseline: the bars are absolute
(median ≤ 1.5 ms at 6×6 with one box, ≤ 7 ms at 8×8 with two; ≥ 2 million steps per second). All of it is
single-threaded Python, so seconds are those of the processor and other jobs do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from sdgym.benchmarks.speed.machine import machine
from sdgym.envs.sokoban.core import step
from sdgym.envs.sokoban.env import RULES
from sdgym.envs.sokoban.generator import Spec, cave, generate
from sdgym.seeding import derive, generator

SPECS: dict[str, tuple[Spec, int]] = {
    "tiny": (RULES["tiny"].spec, 500),
    "6x6, 1 box, 3-6 pushes": (Spec(6, 6, boxes=(1, 1), pushes=(3, 6), wanted=(3, 3), floor=(0.6, 1.0), moves=40), 300),
    "easy": (RULES["easy"].spec, 200),
    "8x8, 2 boxes, 6-20 pushes": (Spec(8, 8, boxes=(2, 2), pushes=(6, 20), wanted=(6, 9), floor=(0.6, 0.95), moves=80), 100),
    "medium": (RULES["medium"].spec, 60),
    "hard": (RULES["hard"].spec, 10),
}


def generation(spec: Spec, levels: int) -> dict[str, float | int]:
    """Return milliseconds per level, the proof included."""
    times = []
    for seed in range(levels):
        started = time.process_time()
        generate(spec, cave, derive(seed, "benchmark", "sokoban"))
        times.append(1e3 * (time.process_time() - started))
    times.sort()
    return {"levels": levels, "median_ms": statistics.median(times), "p90_ms": times[int(0.9 * levels)], "max_ms": times[-1]}


def steps_per_second(count: int = 200_000, repeats: int = 5) -> float:
    """Return the best rate of :func:`sdgym.envs.sokoban.core.step` over ``repeats`` runs, the loop around it included."""
    level, _ = generate(RULES["tiny"].spec, cave, 0)
    moves = [level.deltas[m] for m in generator(0, "benchmark", "moves").integers(0, 4, count).tolist()]
    walls, best = level.walls, float("inf")
    walks = [moves[i : i + 100] for i in range(0, count, 100)]
    for _ in range(repeats):
        started = time.process_time()
        for walk in walks:
            boxes, player = level.boxes, level.player
            for delta in walk:
                boxes, player, _ = step(walls, boxes, player, delta)
        best = min(best, time.process_time() - started)
    return count / best


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("sokoban.json"))
    out = parser.parse_args().out
    result = {
        "machine": machine(),
        "steps_per_second": steps_per_second(),
        "generation": {name: generation(spec, levels) for name, (spec, levels) in SPECS.items()},
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
