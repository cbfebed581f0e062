"""The bars of ARCHITECTURE §6 for an embedded policy: what it can do plainly, and what each block changes.

    python -m sdgym.benchmarks.pretrain_tiny.bars --model tiny

Every number is a rate over held-out tasks (split ``test``), sampled by the policy itself at temperature 1
(greedy where named). Blocks stand in the very frames that conditioners use.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from sdgym.algos.conditioning.frames import feedback_text, filler, section, with_block
from sdgym.benchmarks.pretrain_tiny.data import run_attempt
from sdgym.core import Message, Task
from sdgym.generation.base import Request, SamplingParams
from sdgym.generation.torch_sampler import TorchSampler
from sdgym.policy import Policy
from sdgym.seeding import derive, generator
from sdgym.text_env import TextEnv


@dataclasses.dataclass
class Bars:
    """Rates on ``tasks`` held-out tasks of one environment.

    Attributes:
        plain, greedy: success without information, sampled and greedy.
        band: share of tasks whose sampled success lies strictly between .05 and .95.
        failed_plain: plain success on the tasks of ``feedback`` (those whose first attempt failed).
        blocks: success under each block (``…/heldout``: with wordings never trained on).
        format_errors: share of plain attempts that could not be understood.
    """

    env: str
    tasks: int
    samples: int
    plain: float
    greedy: float
    majority: float
    band: float
    failed_plain: float
    format_errors: float
    blocks: dict[str, float]


def generate(
    policy: Policy, chats: Sequence[Sequence[Message]], count: int, temperature: float, seed: int, limit: int = 24
) -> list[list[str]]:
    """Return ``count`` answers to each chat."""
    sampler = TorchSampler(policy, slots=256)
    sampling = SamplingParams(temperature=temperature, max_tokens=limit)
    answers: list[list[str]] = [[""] * count for _ in chats]
    for i, chat in enumerate(chats):
        prompt = policy.chat.prompt_ids(list(chat))
        for k in range(count):
            number = i * count + k
            sampler.submit(Request(number, number, prompt, derive(seed, "bars", i, k), sampling))
    while sampler.pending:
        for sample in sampler.tick():
            answers[sample.request_id // count][sample.request_id % count] = policy.chat.decode_action(sample.ids)
    return answers


def rate(env: TextEnv, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Return ``[P]``: the share of successful answers per task."""
    return np.array([np.mean([run_attempt(env, task, [a])[0] for a in found]) for task, found in zip(tasks, answers, strict=True)])


KINDS = ("reference", "feedback", "outcome", "empty", "filler", "mismatched_reference", "mismatched_feedback")
POOLS = ("trained", "heldout")


def measure(
    policy: Policy,
    env: TextEnv,
    count: int = 500,
    samples: int = 8,
    block_samples: int = 4,
    kinds: Sequence[str] = KINDS,
    pools: Sequence[str] = POOLS,
    seed: int = 0,
) -> Bars:
    """Measure the bars on ``count`` tasks of split ``test``: ``samples`` plain attempts per task, ``block_samples`` under each block."""
    tasks = list(env.tasks("test", seed, count))
    chats = [list(t.messages) for t in tasks]
    answers = generate(policy, chats, samples, 1.0, seed)
    plain = rate(env, tasks, answers)
    failures = _failures(env, tasks, answers)
    kept = [i for i, failed in enumerate(failures) if failed is not None]
    result = Bars(
        env=env.env_id,
        tasks=count,
        samples=samples,
        plain=float(plain.mean()),
        greedy=float(rate(env, tasks, generate(policy, chats, 1, 0.0, seed)).mean()),
        majority=float(rate(env, tasks, [[max(sorted(set(found)), key=found.count)] for found in answers]).mean()),
        band=float(((plain > 0.05) & (plain < 0.95)).mean()),
        failed_plain=float(plain[kept].mean()),
        format_errors=_format_errors(env, tasks, answers),
        blocks={},
    )
    told_by_kind = blocks(policy, tasks, failures, seed)
    for kind in kinds:
        told = told_by_kind[kind]
        chosen = [i for i, text in enumerate(told) if text is not None]
        for pool in pools:
            framed = [_framed(tasks[i], told[i], i, pool) for i in chosen]
            found = generate(policy, framed, block_samples, 1.0, derive(seed, kind, pool) >> 17)
            name = kind if pool == "trained" else f"{kind}/{pool}"
            result.blocks[name] = float(rate(env, [tasks[i] for i in chosen], found).mean())
    return result


def blocks(policy: Policy, tasks: Sequence[Task], failures: Sequence[str | None], seed: int) -> dict[str, list[tuple[str, str] | None]]:
    """Return, per kind of block, the ``(frame, text)`` of each task, or None where there is nothing to say."""
    count = len(tasks)
    shift = [(i + count // 2) % count for i in range(count)]
    references: list[tuple[str, str] | None] = [("reference", t.privileged["reference_solution"]) for t in tasks]
    feedback: list[tuple[str, str] | None] = [None if f is None else ("feedback", f) for f in failures]

    def length(text: str) -> int:
        return len(policy.chat.encode_text(text))

    rng = generator(seed, "bars-filler")
    idle: list[tuple[str, str] | None] = [(frame[0], filler(rng, length(frame[1]), length)) for frame in references if frame is not None]
    return {
        "reference": references,
        "feedback": feedback,
        "outcome": [None if f is None else ("outcome", "wrong") for f in failures],
        "empty": [("reference", "")] * count,
        "filler": idle,
        "mismatched_reference": [references[j] for j in shift],
        "mismatched_feedback": [feedback[j] if feedback[i] is not None else None for i, j in enumerate(shift)],
    }


def _framed(task: Task, told: tuple[str, str] | None, index: int, pool: str) -> list[Message]:
    assert told is not None
    return with_block(task.messages, [section(told[0], told[1], index, pool)], index, pool)


def _failures(env: TextEnv, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> list[str | None]:
    """Return the feedback on each task's first failed attempt of the policy, or None if none failed."""
    found: list[str | None] = []
    for task, texts in zip(tasks, answers, strict=True):
        said = None
        for text in texts:
            success, _, feedback = run_attempt(env, task, [text])
            if not success:
                said = feedback_text(feedback)
                break
        found.append(said or None)
    return found


def _format_errors(env: TextEnv, tasks: Sequence[Task], answers: Sequence[Sequence[str]]) -> float:
    wrong = 0
    for task, texts in zip(tasks, answers, strict=True):
        for text in texts:
            env.reset(options={"task": task})
            wrong += env.step(text)[4]["valid_action"] == 0.0
    return wrong / sum(len(t) for t in answers)


def main() -> None:
    """Measure a policy on both worlds and print or save the bars."""
    import gymnasium

    import sdgym.envs  # noqa: F401

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--env", action="append")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    policy = Policy.load(options.model, threads=1)
    results = []
    for env_id in options.env or ["sdgym/Math-v0", "sdgym/Sokoban-v0"]:
        env: TextEnv = gymnasium.make(env_id, level="tiny", split="test").unwrapped  # type: ignore[assignment]
        bars = dataclasses.asdict(measure(policy, env, options.tasks))
        results.append(bars)
        print(json.dumps(bars, indent=1), flush=True)
    if options.out:
        options.out.write_text(json.dumps({"model": options.model, "bars": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
