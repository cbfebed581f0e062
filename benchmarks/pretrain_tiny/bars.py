"""The bars of ARCHITECTURE §6 for an embedded policy: what it can do plainly, and what each block changes.

    python -m sdgym.benchmarks.pretrain_tiny.bars --model tiny

Every number is a rate over held-out tasks (split ``test``), sampled by the policy itself at temperature 1
(greedy where named). Blocks stand in the very frames that conditioners use.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from sdgym.algos.conditioning.frames import feedback_text, filler, section, with_block
from sdgym.benchmarks.pretrain_tiny.data import run_attempt
from sdgym.benchmarks.pretrain_tiny.train import Recipe
from sdgym.benchmarks.speed.machine import machine
from sdgym.core import Message, Task
from sdgym.generation.base import Request, SamplingParams
from sdgym.generation.torch_sampler import TorchSampler
from sdgym.model_store import local_path
from sdgym.policy import Policy
from sdgym.seeding import derive, generator
from sdgym.text_env import TextEnv

DEFAULT_TOKENS = 24
"""Of an action, where the environment states no ceiling: what level "tiny" has everywhere."""


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


Actions = tuple[str, ...]
"""One attempt: an action per turn."""


@dataclasses.dataclass
class _Episode:
    """An attempt under way: what the policy has read and written (``ids``), the chat it belongs to, the actions so far."""

    ids: np.ndarray
    chat: list[Message]
    actions: Actions = ()


def generate(
    policy: Policy,
    env: TextEnv,
    tasks: Sequence[Task],
    chats: Sequence[Sequence[Message]],
    count: int,
    temperature: float,
    seed: int,
) -> list[list[Actions]]:
    """Return ``count`` attempts at each task whose chat begins as ``chats`` says; later turns read what the environment answers."""
    sampling = SamplingParams(temperature=temperature, max_tokens=env.max_action_tokens.get(env.level, DEFAULT_TOKENS))
    prompts = [policy.chat.prompt_ids(list(chat)) for chat in chats]
    episodes = [_Episode(prompt, list(chat)) for prompt, chat in zip(prompts, chats, strict=True) for _ in range(count)]
    going = list(range(len(episodes)))
    for turn in itertools.count():
        if not going:
            break
        sampler = TorchSampler(policy, slots=256)
        for number in going:
            noise = (number // count, number % count) if turn == 0 else (number // count, number % count, turn)
            sampler.submit(Request(number, number, episodes[number].ids, derive(seed, "bars", *noise), sampling))
        written: dict[int, np.ndarray] = {}
        while sampler.pending:
            written.update({sample.request_id: sample.ids for sample in sampler.tick()})
        going = [n for n in going if _goes_on(policy, env, tasks[n // count], episodes[n], written[n], sampling.max_tokens)]
    return [[e.actions for e in episodes[i * count : (i + 1) * count]] for i in range(len(chats))]


def _goes_on(policy: Policy, env: TextEnv, task: Task, episode: _Episode, ids: Sequence[int] | np.ndarray, limit: int) -> bool:
    """Add an action to an episode and, if another turn follows that has room, what the environment answers; return whether one does."""
    action = policy.chat.decode_action(ids)
    episode.actions = (*episode.actions, action)
    if len(episode.actions) == env.max_turns:
        return False
    observations = run_attempt(env, task, episode.actions)[1]
    if len(observations) < len(episode.actions):
        return False
    new: list[Message] = [{"role": "user", "content": observations[-1]}]
    episode.chat.append({"role": "assistant", "content": action})
    ended = len(ids) > 0 and int(ids[-1]) in policy.chat.end_ids
    tail = policy.chat.continuation_ids(episode.chat, new, ended)
    episode.chat += new
    if tail is None:  # the template rewrites what came before
        episode.ids = policy.chat.prompt_ids(episode.chat)
    else:
        episode.ids = np.concatenate([episode.ids, np.asarray(ids, np.int64), tail])
    return len(episode.ids) + limit <= policy.context_limit


def rate(env: TextEnv, tasks: Sequence[Task], attempts: Sequence[Sequence[Actions]]) -> np.ndarray:
    """Return ``[P]``: the share of successful attempts per task."""
    return np.array([np.mean([run_attempt(env, task, a)[0] for a in found]) for task, found in zip(tasks, attempts, strict=True)])


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
    answers = generate(policy, env, tasks, chats, samples, 1.0, seed)
    plain = rate(env, tasks, answers)
    failures = _failures(env, tasks, answers)
    kept = [i for i, failed in enumerate(failures) if failed is not None]
    result = Bars(
        env=env.env_id,
        tasks=count,
        samples=samples,
        plain=float(plain.mean()),
        greedy=float(rate(env, tasks, generate(policy, env, tasks, chats, 1, 0.0, seed)).mean()),
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
            about = [tasks[i] for i in chosen]
            found = generate(policy, env, about, framed, block_samples, 1.0, derive(seed, kind, pool) >> 17)
            name = kind if pool == "trained" else f"{kind}/{pool}"
            result.blocks[name] = float(rate(env, about, found).mean())
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


def _failures(env: TextEnv, tasks: Sequence[Task], attempts: Sequence[Sequence[Actions]]) -> list[str | None]:
    """Return the feedback on each task's first failed attempt of the policy, or None if none failed."""
    found: list[str | None] = []
    for task, tried in zip(tasks, attempts, strict=True):
        said = None
        for actions in tried:
            success, _, feedback = run_attempt(env, task, actions)
            if not success:
                said = feedback_text(feedback)
                break
        found.append(said or None)
    return found


def _format_errors(env: TextEnv, tasks: Sequence[Task], attempts: Sequence[Sequence[Actions]]) -> float:
    """Return the share of attempts with an action that could not be understood."""
    wrong = 0
    for task, tried in zip(tasks, attempts, strict=True):
        for actions in tried:
            env.reset(options={"task": task})
            wrong += any(env.step(action)[4]["valid_action"] == 0.0 for action in actions)
    return wrong / sum(len(tried) for tried in attempts)


def worlds_of(model: str) -> list[str]:
    """Return the environments that ``model`` was pre-trained on, as its recipe says; those of ``tiny`` where it has none."""
    folder = local_path(model)
    told = folder / "recipe.json" if folder is not None else None
    if told is None or not told.is_file():
        return [env_id for env_id, _, _ in Recipe().envs]
    return [env[0] for env in json.loads(told.read_text(encoding="utf-8"))["envs"]]


def main() -> None:
    """Measure a policy on the worlds of its recipe, or on those that are named, and print or save the bars."""
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
    for env_id in options.env or worlds_of(options.model):
        env: TextEnv = gymnasium.make(env_id, level="tiny", split="test").unwrapped  # type: ignore[assignment]
        bars = dataclasses.asdict(measure(policy, env, options.tasks))
        results.append(bars)
        print(json.dumps(bars, indent=1), flush=True)
    if options.out:
        about = {"command": f"python -m sdgym.benchmarks.pretrain_tiny.bars --model {options.model}", "model": options.model}
        options.out.write_text(json.dumps({**about, "hardware": f"{machine()['cpu']}, 1 thread", "bars": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
