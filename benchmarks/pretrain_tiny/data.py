"""Pre-training examples: a task, a prompt with or without information, and draws from the novice's posterior.

Every kind of prompt that a conditioner or a control can build appears here in the very same frames
(:mod:`sdgym.algos.conditioning.frames`), so that what a block *says* is all that matters: a reference
leaves one candidate, feedback those it does not rule out, and empty, filler or mismatched blocks leave
the novice as he was.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from sdgym.algos.conditioning.frames import attempt_text, feedback_text, filler, phrase, phrases, with_block
from sdgym.chat import ChatFormat
from sdgym.core import Feedback, Message, Task
from sdgym.seeding import derive, generator
from sdgym.text_env import Information, TextEnv

MIXTURE: Mapping[str, float] = {
    "none": 0.20,
    "empty": 0.04,
    "filler": 0.08,
    "mismatched": 0.16,
    "reference": 0.14,
    "peer": 0.08,
    "feedback": 0.23,
    "peer+feedback": 0.02,
    "outcome": 0.05,
}

READING: Mapping[str, float] = {
    "none": 0.13,
    "empty": 0.03,
    "filler": 0.06,
    "mismatched": 0.27,
    "reference": 0.20,
    "peer": 0.06,
    "feedback": 0.21,
    "peer+feedback": 0.01,
    "outcome": 0.03,
}
"""The mixture once the skills are there: more text to read, true and not."""


WORD_NOISE = 0.15
"""Share of a frame's words that pre-training replaces by other words of such frames, or by words that say nothing."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Privileged text about one task: framed kind → bare text, and what the posterior may conclude."""

    sections: tuple[tuple[str, str], ...]
    information: Information | None


@dataclasses.dataclass(frozen=True)
class Example:
    """One prompt with several weighted continuations.

    Attributes:
        kind: a key of :data:`MIXTURE`, or ``study``.
        prompt_ids: int64 ``[Lp]``, ends with the generation marker.
        continuations: per distinct demonstration ``(ids [L], action_mask [L], share)``; shares sum to 1.
    """

    kind: str
    prompt_ids: np.ndarray
    continuations: tuple[tuple[np.ndarray, np.ndarray, float], ...]


def run_attempt(env: TextEnv, task: Task, actions: Sequence[str]) -> tuple[bool, list[str], list[Feedback]]:
    """Play ``actions``; return success, the observations between turns, and the feedback."""
    env.reset(options={"task": task})
    observations, said, success = [], [], False
    for turn, action in enumerate(actions):
        observation, _, terminated, truncated, info = env.step(action)
        said.append(Feedback(info["feedback_kind"], info["feedback"], turn))
        success = bool(info["success"])
        if terminated or truncated:
            break
        observations.append(observation)
    return success, observations, said


def failed_attempt(env: TextEnv, task: Task, rng: np.random.Generator, tries: int = 60) -> tuple[Sequence[str], list[Feedback]] | None:
    """Draw the novice until an attempt fails; None if it does not within ``tries``."""
    for _ in range(tries):
        actions = env.novice(task, rng)
        success, _, said = run_attempt(env, task, actions)
        if not success and feedback_text(said):
            return actions, said
    return None


def block_about(kind: str, env: TextEnv, task: Task, rng: np.random.Generator) -> Block | None:
    """Return what a conditioner of ``kind`` would tell about ``task``, with the matching information."""
    if kind == "reference":
        text = task.privileged["reference_solution"]
        return Block((("reference", text),), Information("reference", task.task_id))
    if kind == "peer":
        right = tuple(env.demonstrate(task, rng, Information("reference", task.task_id)))
        return Block((("peer", attempt_text(right)),), Information("peer", task.task_id, right))
    failed = failed_attempt(env, task, rng)
    if failed is None:
        return None
    actions, said = failed
    if kind == "outcome":
        if rng.random() < 0.35:  # "correct" about an attempt that is not shown rules no candidate out
            return Block((("outcome", "correct"),), None)
        return Block((("outcome", "wrong"),), Information("outcome", task.task_id, tuple(actions)))
    information = Information("feedback", task.task_id, tuple(actions), tuple(f.text for f in said))
    sections: tuple[tuple[str, str], ...] = (("feedback", feedback_text(said)),)
    if kind == "peer+feedback":
        peer = block_about("peer", env, task, rng)
        assert peer is not None
        return Block((*peer.sections, *sections), peer.information)
    return Block(sections, information)


def make_block(kind: str, env: TextEnv, task: Task, other: Callable[[], Task], rng: np.random.Generator, chat: ChatFormat) -> Block | None:
    """Return the block of a :data:`MIXTURE` kind; ``other`` makes the task that a mismatched block speaks of."""
    if kind == "none":
        return Block((), None)
    if kind in ("empty", "filler", "mismatched"):
        framed = ("reference", "peer", "feedback", "outcome")[int(rng.choice(4, p=[0.3, 0.15, 0.5, 0.05]))]
        if kind == "mismatched" and framed == "outcome":
            framed = "feedback"
        if kind == "empty":
            return Block(((framed, ""),), None)
        told = block_about(framed, env, other(), rng)
        if told is None or kind == "mismatched":
            return told
        length = len(chat.encode_text(told.sections[0][1]))
        return Block(((framed, filler(rng, length, lambda text: len(chat.encode_text(text)))),), None)
    return block_about(kind, env, task, rng)


@functools.cache
def _words(kind: str) -> Sequence[str]:
    """Return the words of all trained wordings of ``kind`` and of the fillers."""
    return [
        word for text in (*phrases()[kind]["trained"], *phrases()["filler"]["trained"]) for word in text.split() if "{text}" not in word
    ]


def reworded(kind: str, frame: str, rng: np.random.Generator) -> str:
    """Return a wording with a share :data:`WORD_NOISE` of its words replaced, so that a reader relies on what stands in the slot."""
    words, noise = frame.split(" "), _words(kind)
    return " ".join(w if "{text}" in w or rng.random() >= WORD_NOISE else noise[int(rng.integers(len(noise)))] for w in words)


def framed_messages(task: Task, block: Block, rng: np.random.Generator) -> list[Message]:
    """Return the chat with the block in randomly chosen trained wordings, each with some noise (:func:`reworded`)."""
    sections = []
    for kind, text in block.sections:
        frame = phrase(kind, int(rng.integers(len(phrases()[kind]["trained"]))))
        sections.append(reworded(kind, frame, rng).replace("{text}", text))
    return with_block(task.messages, sections, int(rng.integers(len(phrases()["closing"]["trained"]))))


def continuation(env: TextEnv, task: Task, actions: Sequence[str], chat: ChatFormat) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(ids, action_mask)`` of a demonstration as the rollout driver would record it."""
    observations: list[str] = run_attempt(env, task, actions)[1] if len(actions) > 1 else []
    ids: list[np.ndarray] = []
    mask: list[np.ndarray] = []
    history: list[Message] = list(task.messages)
    for turn, action in enumerate(actions):
        said = np.concatenate([chat.encode_text(action), np.array(chat.end_ids[:1], np.int64)])
        ids.append(said)
        mask.append(np.ones(len(said), bool))
        history.append({"role": "assistant", "content": action})
        if turn < min(len(actions) - 1, len(observations)):
            new: list[Message] = [{"role": "user", "content": observations[turn]}]
            tokens = chat.continuation_ids(history, new, True)
            assert tokens is not None
            ids.append(tokens)
            mask.append(np.zeros(len(tokens), bool))
            history += new
        elif turn < len(actions) - 1:
            break
    return np.concatenate(ids), np.concatenate(mask)


def make_example(
    env: TextEnv,
    task: Task,
    other: Callable[[], Task],
    kind: str,
    rng: np.random.Generator,
    chat: ChatFormat,
    draws: int,
    trust: float = 1.0,
) -> Example | None:
    """Build one example; None if its block cannot be made (a novice that never fails).

    A share ``trust`` of the demonstrations is drawn from the posterior given the block, the rest from the novice as he was.
    """
    if kind == "study":
        return Example(kind, chat.prompt_ids(list(task.messages)), ((*continuation(env, task, tuple(env.oracle(task)), chat), 1.0),))
    block = make_block(kind, env, task, other, rng, chat)
    if block is None:
        return None
    prompt = chat.prompt_ids(framed_messages(task, block, rng))
    about_task = block.information is not None and block.information.about == task.task_id
    believed = rng.random(draws) < trust if about_task else np.zeros(draws, bool)
    counts = collections.Counter(tuple(env.demonstrate(task, rng, block.information if told else None)) for told in believed)
    made = [(*continuation(env, task, actions, chat), n / draws) for actions, n in sorted(counts.items())]
    return Example(kind, prompt, tuple(made))


WINDOW = 500
"""Tasks that are distinct from each other before any may come again, as many as an evaluation holds."""


def drawn_tasks(env: TextEnv, seed: int, first: int) -> Iterator[Task]:
    """Yield tasks of split ``pretrain`` from number ``first`` of an endless, reproducible series on.

    They are drawn as an evaluation draws its tasks, distinct within :data:`WINDOW`. Independent draws would show the
    few small problems again and again, and the many large ones of which an evaluation mostly consists hardly ever.
    """
    for window in itertools.count(first // WINDOW):
        tasks = _window(env, seed, window)
        yield from tasks[first % WINDOW if window == first // WINDOW else 0 :]


@functools.lru_cache(maxsize=8)
def _window(env: TextEnv, seed: int, window: int) -> list[Task]:
    tasks = list(env.tasks("pretrain", derive(seed, "pretrain-window", window) >> 17, WINDOW))
    return [tasks[i] for i in generator(seed, "pretrain-order", window).permutation(WINDOW)]


def examples(
    envs: Sequence[TextEnv],
    chat: ChatFormat,
    tasks: Sequence[Iterator[Task]],
    seed: int,
    draws: int,
    shares: Sequence[float],
    trust: float = 1.0,
    study: float = 0.0,
    prompts: int = 1,
    mixture: Mapping[str, float] = MIXTURE,
) -> Iterator[Example]:
    """Yield an endless, reproducible stream of examples over ``envs`` (split ``pretrain``).

    Args:
        tasks: per environment, what its examples are about (:func:`drawn_tasks`).
        shares: of the tasks, per environment.
        trust: see :func:`make_example`; below 1 the policy learns to make less of what it is told.
        study: the share of tasks that are shown solved and without any block, from which the skills are learnt.
        prompts: prompts per task that is not studied. They differ in their blocks only, so that the contrast
            between them is what the blocks say, and the task itself is computed once (:mod:`sdgym.packing`).
        mixture: shares of the kinds of prompts.
    """
    kinds = list(mixture)
    weights = np.array(list(mixture.values()))
    for index in itertools.count():
        rng = generator(seed, "pretrain", index)
        which = int(rng.choice(len(envs), p=np.array(shares)))
        env, task = envs[which], next(tasks[which])
        chosen = ["study"] if rng.random() < study else rng.choice(kinds, size=prompts, p=weights / weights.sum())
        for kind in chosen:
            example = make_example(env, task, functools.partial(next, tasks[which]), str(kind), rng, chat, draws, trust)
            if example is not None:
                yield example
