"""ToolWorld speed: resets, calls, tasks with their proof.

    python -m sdgym.benchmarks.speed.toolworld --out toolworld.json

Pinned workload: 20 tasks of level "hard" (split train, seed 0), reset in turn; the same call 5,000 times on
the first world. No baseline: the bars are absolute (1,000 resets < 1 s; an API that reads one row ≤ 0.05 ms).
Single-threaded, so seconds are those of the processor and other jobs count little.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdgym.benchmarks.speed.machine import machine
from sdgym.envs.tools.apps import APPS
from sdgym.envs.tools.env import ToolWorldEnv
from sdgym.envs.tools.session import call_api
from sdgym.envs.tools.world import build_world


def milliseconds(work: Callable[[], Any], count: int, repeats: int = 3) -> float:
    """Return the best mean over ``repeats`` runs of ``count`` calls."""
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time()
        for _ in range(count):
            work()
        best = min(best, (time.process_time() - started) / count)
    return 1e3 * best


def calls() -> dict[str, float]:
    """Return milliseconds per call: one row, a page of eight rows, a write (which undoes the last one)."""
    episode = build_world(0, "train").episode()
    episode.signed_in = True
    episode.db.record()
    number = episode.db.scalar("SELECT min(id) FROM mail_message")
    starred = [False]

    def call(tool: str, **args: Any) -> None:
        call_api(episode, APPS, tool, args)
        episode.trace.clear()

    def write() -> None:
        starred[0] = not starred[0]
        call("mail.star", id=number, starred=starred[0])

    return {
        "mail.show": milliseconds(lambda: call("mail.show", id=number), 5_000),
        "mail.list": milliseconds(lambda: call("mail.list"), 5_000),
        "mail.star": milliseconds(write, 2_000),
    }


def main() -> None:
    """Measure and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("toolworld.json"))
    out = parser.parse_args().out
    env = ToolWorldEnv(level="hard")
    started = time.process_time()
    tasks = list(env.tasks("train", 0, 20))
    made = 1e3 * (time.process_time() - started) / len(tasks)
    turn = iter(range(10**9))
    result = {
        "machine": machine(),
        "task_with_proof_ms": made,
        "reset_ms": milliseconds(lambda: env.reset(options={"task": tasks[next(turn) % len(tasks)]}), 1_000),
        "call_ms": calls(),
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
