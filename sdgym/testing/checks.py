"""The conformance checks, one function each: return a short finding, or raise with what is wrong.

A new check is a function of a :class:`Probe` under ``@_check``; it is then part of every run.
"""

from __future__ import annotations

import asyncio
import functools
import pickle
import random
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy import random as numpys_global

from sdgym.core import Task
from sdgym.errors import SdgymError
from sdgym.seeding import generator
from sdgym.testing.offline import attempts
from sdgym.testing.probe import Probe, Step, play
from sdgym.text_env import SPLITS, Information, TextEnv

GARBAGE: tuple[str, ...] = (
    "",
    " \n\t",
    "\x00\x01\x7f",
    "I do not know.",
    "\U0001f9e9 \u4f60\u597d \u202e \ud800",
    "<answer></answer>",
    "</answer><answer>",
    "</think></think><think>",
    "<|end|><|user|>",
    '{"tool": "none", "arguments": {}}',
    "\\boxed{",
    "{" * 5_000,
    "(" * 5_000 + ")" * 5_000,
    "a" * 100_000,
    "x y " * 25_000,
)
"""Actions that are no answer to anything: none may score, none may raise."""

_TYPES: dict[str, type] = {
    "feedback": str,
    "feedback_kind": str,
    "reveals_answer": float,
    "feedback_visible": float,
    "outcome": str,
    "success": float,
    "valid_action": float,
    "turn": float,
    "task_id": str,
    "reward_components": dict,
    "messages": tuple,
}
_BAND = (0.10, 0.60)  # of the novice at "tiny": measured on few draws, hence wider than the 15-50 % asked of a policy
_PIECES = re.compile(r"\\[A-Za-z]+\{?| ?[A-Za-z]+|[^A-Za-z]")  # what a small tokenizer takes for one token at best
_PROMPT_TOKENS, _ACTION_TOKENS, _TURNS = 96, 24, 3


CHECKS: dict[str, Callable[[Probe], str]] = {}
"""Every check by name, in the order of the report."""


def _check(function: Callable[[Probe], str]) -> Callable[[Probe], str]:
    CHECKS[function.__name__.strip("_")] = function
    return function


@_check
def _gymnasium(probe: Probe) -> str:
    """Gymnasium's own checker, without a single warning."""
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(gymnasium.make(probe.env_id, **probe.kwargs).unwrapped)
    assert not caught, f"check_env warns: {caught[0].message}"
    return "check_env passes without warnings"


@_check
def _info(probe: Probe) -> str:
    """The same keys and types at every step, fresh objects each time."""
    env, seen = probe.make(), 0
    for task in probe.tasks()[:10]:
        for actions in probe.attempts(env, task):
            steps = play(env, actions, repeat=True, options={"task": task})
            for turn, step in enumerate(steps):
                _assert_info(step.info, env.reward_keys)
                assert step.info["turn"] == float(turn) and step.info["task_id"] == task.task_id, f"turn or task_id wrong at turn {turn}"
                assert type(step.reward) is float, f"the reward is a {type(step.reward).__name__}, it must be a float"
                seen += 1
            assert steps[-1].over and len(steps) - 1 <= env.max_turns, f"no end after {len(steps) - 1} turns (max_turns {env.max_turns})"
    return f"{seen} infos with the same {len(_TYPES)} keys and types"


def _assert_info(info: dict[str, Any], reward_keys: Sequence[str]) -> None:
    assert set(info) == set(_TYPES), f"info keys differ from the contract by {sorted(set(info) ^ set(_TYPES))}"
    for key, wanted in _TYPES.items():
        assert type(info[key]) is wanted, f"info[{key!r}] is a {type(info[key]).__name__}, it must be a {wanted.__name__}"
    parts = info["reward_components"]
    assert set(parts) == set(reward_keys), f"reward_components has {sorted(parts)}, reward_keys says {sorted(reward_keys)}"
    assert all(type(v) is float for v in parts.values()), "reward_components holds something that is not a float"
    assert all({"role", "content"} <= set(m) for m in info["messages"]), "a message lacks role or content"


@_check
def _text_space(probe: Probe) -> str:
    """Observations lie in the space, and so does any Unicode text as an action."""
    env = probe.make()
    for task in probe.tasks()[:5]:
        steps = play(env, env.oracle(task), options={"task": task})
        assert all(step.observation in env.observation_space for step in steps), "an observation is not in observation_space"
        assert steps[0].observation == task.messages[-1]["content"], "the first observation is not the task's last message"
    assert all(text in env.action_space for text in GARBAGE), "action_space refuses some Unicode text"
    return "observations and arbitrary Unicode actions are members"


@_check
def _seeding(probe: Probe) -> str:
    """One seed, one episode, whatever else happens; the global generators are left alone."""
    before, legacy = random.getstate(), numpys_global.get_state()
    first, second, alone = probe.make(), probe.make(), {}
    for seed in (3, 4):
        alone[seed] = [play(probe.make(), ("I do not know.",), seed=seed), play(probe.make(), ("2",), seed=seed)]
    mixed = {3: [first.reset(seed=3)], 4: [second.reset(seed=4)]}
    for seed in (3, 4):
        assert mixed[seed][0] == (alone[seed][0][0].observation, alone[seed][0][0].info), f"seed {seed} gives different episodes"
    for seed, env in ((4, second), (3, first)):
        assert Step(*env.step("I do not know.")) == alone[seed][0][1], f"an episode of seed {seed} depends on other instances"
    texts = {probe.make().reset(seed=seed)[0] for seed in range(8)}
    assert len(texts) > 1, "eight seeds give the same task"
    assert random.getstate() == before, "the global generator of `random` was used"
    assert all(np.array_equal(a, b) for a, b in zip(legacy, numpys_global.get_state(), strict=True)), "NumPy's global generator was used"
    return "same seed, same episode; instances are independent; no global generator"


@_check
def _task_ids(probe: Probe) -> str:
    """An id alone rebuilds the task; a wrong id is a user error."""
    for task in probe.tasks()[:10]:
        env = probe.make()
        env.reset(options={"task_id": task.task_id})
        assert env.task == task, f"the id {task.task_id} rebuilds another task"
        assert pickle.loads(pickle.dumps(task)) == task, "a task does not survive pickling"
    for wrong in ("nonsense", task.task_id[:-1] + ("0" if task.task_id[-1] != "0" else "1")):
        try:
            probe.make().reset(options={"task_id": wrong})
        except SdgymError:
            continue
        raise AssertionError(f"the wrong task id {wrong!r} is accepted")
    return "ids rebuild their tasks"


@_check
def _splits(probe: Probe) -> str:
    """No content is in two splits."""
    owner: dict[str, str] = {}
    for split in SPLITS:
        for task in probe.tasks(split):
            assert task.split == split, f"a task of {split} says it is of {task.split}"
            other = owner.setdefault(task.task_id.rsplit("-", 1)[1], split)
            assert other == split, f"the same content is in {other} and {split}"
    return f"{len(owner)} tasks of {len(SPLITS)} splits, none shared"


@_check
def _oracle(probe: Probe) -> str:
    """The oracle solves at least 99 % of the tasks, on every split."""
    env, failed = probe.make(), []
    tasks = [task for split in SPLITS for task in probe.tasks(split)]
    for task in tasks:
        end = play(env, env.oracle(task), options={"task": task})[-1]
        if not (end.over and end.info["success"] == 1.0 and end.info["outcome"] == "correct"):
            failed.append(task.task_id)
    assert len(failed) <= 0.01 * len(tasks), f"{len(failed)} of {len(tasks)} tasks not solved, for example {failed[0]}"
    return f"solves {len(tasks) - len(failed)} of {len(tasks)}"


@_check
def _garbage(probe: Probe) -> str:
    """Garbage earns nothing and raises nothing; misuse of the interface does raise."""
    env, task = probe.make(), probe.tasks()[0]
    for action in GARBAGE:
        steps = play(env, (action,), repeat=True, options={"task": task})
        name = f"{action[:20]!r}{'…' if len(action) > 20 else ''}"
        assert sum(step.reward for step in steps) <= 0.0 and not any(step.info["success"] for step in steps), f"{name} scores"
        assert steps[-1].info["outcome"] != "infra_error", f"{name} breaks the grader"
    for misuse, call in (("a step after the end", lambda: env.step("x")), ("an action that is no str", lambda: _fresh(env).step(3))):
        try:
            call()
        except SdgymError:
            continue
        raise AssertionError(f"{misuse} is accepted")
    return f"{len(GARBAGE)} kinds score nothing"


def _fresh(env: TextEnv) -> Any:
    env.reset(seed=0)
    return env


@_check
def _feedback(probe: Probe) -> str:
    """A failed attempt is told something, and never the answer unless that is flagged."""
    env, told = probe.make(), 0
    for task in probe.tasks():
        answer = task.privileged.get("answer", "")
        for actions in probe.attempts(env, task):
            for step in play(env, actions, options={"task": task})[1:]:
                info = step.info
                if info["success"] or info["reveals_answer"]:
                    continue
                assert info["feedback"], f"nothing is said about {actions[-1][:40]!r} on {task.task_id}"
                told += 1
                known = task.messages[-1]["content"] + " ".join(actions)
                if len(answer) > 2 and answer not in known:  # shorter ones occur in any sentence
                    leak = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", info["feedback"])
                    assert not leak, f"the feedback on {task.task_id} gives the answer away: {info['feedback']!r}"
    return f"{told} failures explained without the answer"


@_check
def _privileged(probe: Probe) -> str:
    """Privileged text is in ``info`` only when asked for, and never in what the student sees."""
    asked, told = probe.make(privileged=True), False
    for task in probe.tasks()[:10]:
        info = asked.reset(options={"task": task})[1]
        assert info["privileged"] == dict(task.privileged), "privileged=True does not give the task's privileged text"
        told = told or bool(task.privileged)
        assert all(type(v) is str for v in info["privileged"].values()), "privileged holds something that is not a str"
        assert "privileged" not in probe.make().reset(options={"task": task})[1], "privileged text without being asked"
        solution = task.privileged.get("reference_solution", "")
        shown = "".join(m["content"] for m in task.messages)
        assert len(solution) < 8 or solution not in shown, "the reference solution is in the task's text"
    return "only when asked" if told else "these tasks have none"


@_check
def _novice(probe: Probe) -> str:
    """Demonstrations: a novice in the band, right under a reference, never losing the truth to information."""
    if not probe.has_novice:
        return "no novice (the environment cannot be used to pre-train an embedded policy)"
    env, right, total = probe.make(), 0, 0
    for task in probe.tasks():
        rng = generator(0, "novice", task.task_id)
        assert _solved(env, task, env.demonstrate(task, rng, Information("reference", task.task_id))), "a reference does not make it right"
        for _ in range(8):
            actions = tuple(env.novice(task, rng))
            steps, total = play(env, actions, options={"task": task}), total + 1
            assert len(actions) <= env.max_turns, "the novice takes more turns than there are"
            if steps[-1].info["success"]:
                right += 1
                continue
            for kind in ("feedback", "outcome"):
                information = Information(kind, task.task_id, actions, tuple(step.info["feedback"] for step in steps[1:]))
                assert not env.consistent(task, actions, information), f"told by {kind} that it failed, the novice may repeat {actions}"
                assert env.consistent(task, env.oracle(task), information), f"{kind} on {actions} rules the solution out ({task.task_id})"
    share = right / total
    assert env.level != "tiny" or _BAND[0] <= share <= _BAND[1], f"the novice is right in {share:.0%}, wanted {_BAND[0]:.0%}-{_BAND[1]:.0%}"
    return f"right in {share:.0%} of {total} draws"


def _solved(env: TextEnv, task: Task, actions: Sequence[str]) -> bool:
    return bool(play(env, actions, options={"task": task})[-1].info["success"])


@_check
def _tiny(probe: Probe) -> str:
    """The ceiling of level "tiny", in tokens of a small tokenizer."""
    env = probe.make()
    if env.level != "tiny":
        return f"not asked of level {env.level!r}"
    prompt = max(sum(len(_PIECES.findall(m["content"])) + 2 for m in task.messages) for task in probe.tasks())
    action = max(len(_PIECES.findall(text)) + 1 for task in probe.tasks() for text in env.oracle(task))
    assert prompt <= _PROMPT_TOKENS, f"a prompt has {prompt} tokens, at most {_PROMPT_TOKENS} are allowed"
    assert action <= _ACTION_TOKENS, f"a solution has {action} tokens, at most {_ACTION_TOKENS} are allowed"
    assert env.max_turns <= _TURNS, f"{env.max_turns} turns, at most {_TURNS} are allowed"
    return f"{prompt} prompt and {action} action tokens, {env.max_turns} turn(s)"


@_check
def _asynchronous(probe: Probe) -> str:
    """``astep`` equals ``step``, which also works inside a running event loop."""
    task = probe.tasks()[0]
    action = probe.make().oracle(task)[0]
    expected = play(probe.make(), (action,), options={"task": task})[1]

    async def inside() -> tuple[Step, Step]:
        one, two = probe.make(), probe.make()
        one.reset(options={"task": task})
        two.reset(options={"task": task})
        return Step(*await one.astep(action)), Step(*two.step(action))

    assert asyncio.run(inside()) == (expected, expected), "astep and step disagree"
    return "astep equals step"


@_check
def _pickling(probe: Probe) -> str:
    """An environment pickled in mid-episode goes on as the original does."""
    env, task = probe.make(), probe.tasks()[0]
    env.reset(seed=5, options={"task": task})
    copy = pickle.loads(pickle.dumps(env))
    action = env.oracle(task)[0]
    assert Step(*copy.step(action)) == Step(*env.step(action)), "the copy answers differently"
    assert copy.reset() == env.reset(), "the copy draws another next task"
    return "a copy goes on alike"


@_check
def _vector(probe: Probe) -> str:
    """SyncVectorEnv and AsyncVectorEnv (spawned workers, no shared memory) agree."""
    makers = [functools.partial(probe.cls, **probe.kwargs)] * 2
    texts = [play(probe.make(), (), seed=seed)[0] for seed in (1, 2)]
    ids = [step.info["task_id"] for step in texts]
    tasks = [probe.make().task_from_id(i) for i in ids]
    batches = [("I do not know.", "?"), tuple(probe.make().oracle(t)[0] for t in tasks), ("x", "y")]
    records = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = (
            gymnasium.vector.SyncVectorEnv(makers),
            gymnasium.vector.AsyncVectorEnv(makers, shared_memory=False, context="spawn"),
        )
    for vector in vectors:
        record: list[tuple[Any, ...]] = []
        try:
            record.append(vector.reset(seed=[1, 2]))
            record += [vector.step(batch) for batch in batches]
            records.append(record)
        finally:
            vector.close()
    assert list(records[0][0][0]) == [step.observation for step in texts], "vectorised observations are not the environments' own"
    assert _plain(records[0]) == _plain(records[1]), "SyncVectorEnv and AsyncVectorEnv disagree"
    return "both vector environments agree (spawned workers)"


@_check
def _offline(probe: Probe) -> str:
    """Importing, making and resetting it needs no network."""
    asked = attempts(probe.cls, probe.kwargs)
    assert not asked, f"it asks the network for {', '.join(dict.fromkeys(asked))}"
    return "imported, made and reset without a network"


def _plain(value: Any) -> Any:
    """Return nested data with arrays as (dtype, list), so that ``==`` compares everything."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@_check
def _render(probe: Probe) -> str:
    """``render_mode="ansi"`` gives text, no mode gives None."""
    env = probe.make(render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert isinstance(text, str) and text, "render() gives no text"
    bare = probe.make()
    bare.reset(seed=0)
    assert bare.render() is None, "render() without a mode must return None"
    return f"{len(text)} characters"
