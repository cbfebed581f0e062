"""How often the novice of a world is right, and what information is worth to a perfect reader, computed from its explicit tables.

    python -m sdgym.benchmarks.novices [--envs ID,ID] [--tasks N] [--model M]

Of N tasks of level "tiny" (split train, seed 0): *plain* is the mean chance of the right attempt, *mode* the share
of tasks where it is the likeliest one, *greedy* the share where choosing the likeliest token after token leads to it.
The two differ, since a mistake that begins like the right attempt lends it its weight: greedy decoding can be right
far more often than the likeliest attempt is. *feedback* and *outcome* are the chance of the right attempt after a wrong
one (drawn as the novice draws), by the posterior given the world's own words, or given only that it was wrong.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Sequence
from typing import Any

import gymnasium

from sdgym.benchmarks.pretrain_tiny.data import continuation
from sdgym.chat import ChatFormat
from sdgym.core import Task
from sdgym.policy import Policy
from sdgym.text_env import Information

WORLDS = ("sdgym/Math-v0", "sdgym/Sokoban-v0", "sdgym/Code-v0", "sdgym/ToolWorld-v0")
KINDS = ("feedback", "outcome")


def told(env: Any, task: Task, actions: tuple[str, ...]) -> tuple[bool, tuple[str, ...]]:
    """Play an attempt; return whether it is right and what the world says about it, turn by turn."""
    env.reset(options={"task": task})
    infos = []
    for action in actions:
        *_, terminated, truncated, info = env.step(action)
        infos.append(info)
        if terminated or truncated:
            break
    return bool(infos[-1]["success"]), tuple(info["feedback"] for info in infos)


def greedy(texts: Sequence[tuple[Sequence[int], float]]) -> int:
    """Return the index of the ``(token ids, probability)`` that the likeliest token at every step leads to."""
    left, depth = list(range(len(texts))), 0
    while len(left) > 1:
        nexts: dict[int | None, list[int]] = collections.defaultdict(list)
        for index in left:
            ids = texts[index][0]
            nexts[ids[depth] if depth < len(ids) else None].append(index)
        if nexts.keys() == {None}:  # texts that are equal
            break
        left, depth = max(nexts.values(), key=lambda found: sum(texts[index][1] for index in found)), depth + 1
    return left[0]


def measure(env_id: str, count: int, chat: ChatFormat) -> dict[str, float]:
    """Return the numbers of one world."""
    env: Any = gymnasium.make(env_id).unwrapped
    plain, modes, decoded, wrong, after = 0.0, 0, 0, 0.0, dict.fromkeys(KINDS, 0.0)
    for task in env.tasks("train", 0, count):
        table = env.candidates(task)
        played = {actions: told(env, task, actions) for actions, _ in table}
        chance = sum(p for actions, p in table if played[actions][0])
        plain += chance / count
        modes += played[max(table, key=lambda pair: pair[1])[0]][0]
        chosen = greedy([(continuation(env, task, actions, chat)[0].tolist(), p) for actions, p in table])
        decoded += played[table[chosen][0]][0]
        for tried, mass in table:
            if played[tried][0]:
                continue
            wrong += mass / count
            for kind in KINDS:
                information = Information(kind, task.task_id, tried, played[tried][1])
                left = [(actions, p) for actions, p in table if env.consistent(task, actions, information)]
                after[kind] += mass / count * sum(p for actions, p in left if played[actions][0]) / sum(p for _, p in left)
    env.close()
    return {"plain": plain, "mode": modes / count, "greedy": decoded / count, **{kind: total / wrong for kind, total in after.items()}}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", default=",".join(WORLDS), help="environments, separated by commas (default the four worlds)")
    parser.add_argument("--tasks", type=int, default=300, help="tasks of each (default 300)")
    parser.add_argument("--model", default="tiny-four", help="whose tokenizer greedy decoding uses (default tiny-four)")
    arguments = parser.parse_args()
    chat = ChatFormat(Policy.load(arguments.model, threads=1).tokenizer)
    print("| world | plain | mode right | greedy right | told the feedback | told the outcome |\n|---|---|---|---|---|---|")
    for env_id in arguments.envs.split(","):
        found = measure(env_id, arguments.tasks, chat)
        print(f"| {env_id} | {' | '.join(f'{value:.3f}' for value in found.values())} |", flush=True)


if __name__ == "__main__":
    main()
