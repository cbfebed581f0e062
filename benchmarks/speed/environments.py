"""What every world costs and how its oracle and its novice fare, level by level: the tables of docs/environments.

    python -m sdgym.benchmarks.speed.environments [--envs ID,ID] [--tasks N] [--out FILE]

Pinned workload: N tasks of split train, seed 0, each solved once by the oracle and tried once by the novice.
Times are processor seconds of this process, so other jobs on the machine count little; what a sandbox spends
is in ``python -m sdgym.benchmarks.speed.sandbox``.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import time
from typing import Any

import gymnasium

from sdgym.benchmarks.speed.machine import machine
from sdgym.core import Task
from sdgym.envs import ENVIRONMENTS
from sdgym.seeding import generator
from sdgym.text_env import TextEnv


def solved(env: TextEnv, task: Task, actions: Any, seconds: list[float]) -> float:
    """Play ``actions``; return success and note the seconds of the reset and of each step."""
    begun = time.process_time()
    env.reset(options={"task": task})
    seconds.append(time.process_time() - begun)
    info: dict[str, Any] = {"success": 0.0}
    for action in actions:
        begun = time.process_time()
        _, _, terminated, truncated, info = env.step(action)
        seconds.append(time.process_time() - begun)
        if terminated or truncated:
            break
    return float(info["success"])


def measure(env_id: str, level: str, tasks: int) -> dict[str, Any]:
    """Return success rates and milliseconds of one level; no rate for a novice that the world does not have."""
    env: TextEnv = gymnasium.make(env_id, level=level).unwrapped  # type: ignore[assignment]
    next(iter(env.tasks("train", 1, 1)))  # imports and caches
    begun = time.process_time()
    made = list(env.tasks("train", 0, tasks))
    making = (time.process_time() - begun) / len(made)
    seconds: list[float] = []
    oracle = [solved(env, task, env.oracle(task), seconds) for task in made]
    known = made if type(env).novice is not TextEnv.novice else []
    novice = [solved(env, task, env.novice(task, generator(0, "novice", task.task_id)), seconds) for task in known]
    env.close()
    return {
        "env": env_id,
        "level": level,
        "tasks": len(made),
        "oracle": statistics.mean(oracle),
        "novice": statistics.mean(novice) if novice else None,
        "task_ms": making * 1e3,
        "step_ms": statistics.median(seconds) * 1e3,
    }


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description="Oracle, novice and speed of every world and level.")
    parser.add_argument("--envs", default=",".join(sorted(ENVIRONMENTS)), help="environments, separated by commas (default all)")
    parser.add_argument("--tasks", type=int, default=100, help="tasks per level (default 100)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("environments.json"), help="where the result is written")
    arguments = parser.parse_args()
    rows = []
    print("| world | level | oracle | novice | new task, ms | reset or step, ms |\n|---|---|---|---|---|---|")
    for env_id in arguments.envs.split(","):
        for level in gymnasium.make(env_id).unwrapped.levels:  # type: ignore[attr-defined]
            row = measure(env_id, level, arguments.tasks)
            rows.append(row)
            novice = "-" if row["novice"] is None else f"{row['novice']:.0%}"
            cells = (f"{row['oracle']:.0%}", novice, f"{row['task_ms']:.2f}", f"{row['step_ms']:.3f}")
            print(f"| {env_id} | `{level}` | {' | '.join(cells)} |", flush=True)
    arguments.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
