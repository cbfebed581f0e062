"""reasoning-gym: every generator that is not denied pays nothing for garbage, everything for its own answer, and runs no answer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import gymnasium
import pytest

from sdgym.core import Task
from sdgym.envs import reasoning
from sdgym.envs.reasoning import DENIED, FULL, PLAIN, SIZES, ReasoningEnv, generators
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.testing import CHECKS, GARBAGE, check_text_env

pytestmark = pytest.mark.slow  # the package is an extra
WORDS = ("0", "1", "-1", "0.5", "1/0", "nan", "nan+nanj", "inf", "-inf", "yes", "no", "yes or no", "True", "False", "None", "[]", "answer")
SPRAY = ("A B C D E", "0 1 2 3 4 5 6 7 8 9 10", "on off undetermined", "north south east west", "*", ".*", "%s", "{0}")
TRACE = "SDGYM_TEST_TRACE"
CODE = tuple(
    f"{import_}('os').environ.update({TRACE}='1')"
    for import_ in ("__import__", "Symbol.__new__.__globals__['__builtins__']['__import__']")  # Python's eval, and SymPy's
)
SAMPLE = (
    "basic_arithmetic",
    "caesar_cipher",
    "chain_sum",
    "leg_counting",
    "mini_sudoku",
    "prime_factorization",
    "spell_backward",
    "syllogism",
)


@pytest.fixture(autouse=True)
def package() -> None:
    pytest.importorskip("reasoning_gym", reason="requires reasoning-gym")


def audit(generator: str, tasks: int) -> str:
    """Return what is wrong with a generator, or nothing."""
    try:
        env = ReasoningEnv(generator=generator)
        if any(env._data[number]["answer"] is None for number in range(8)):
            return "some tasks have no reference answer"
        found = [problem for seed in range(tasks) if (problem := _problem(env, seed))]
        found += _master_key(env, [env.make_task(seed, "train") for seed in range(tasks)])
    except ConfigError as error:
        return str(error)
    return found[0] if found else ""


def _problem(env: ReasoningEnv, seed: int) -> str:
    task = env.make_task(seed, "train")
    env.reset(options={"task": task})
    if env.step(env.oracle(task)[0])[1] != 1.0:
        return f"its own answer {task.privileged['answer']!r} does not pay"
    for text in (*GARBAGE, *WORDS, *SPRAY, *CODE):
        env.reset(options={"task": task})
        reward = env.step(text)[1]
        if os.environ.pop(TRACE, ""):
            return f"{text!r} is run"
        if reward and not _same(text, task.privileged["answer"]):
            return f"{text[:20]!r} pays {reward} where {task.privileged['answer']!r} is right"
    return ""


def _master_key(env: ReasoningEnv, tasks: Sequence[Task]) -> list[str]:
    """Say so if the first task's answer pays in all of several others, which have other answers."""
    answer = tasks[0].privileged["answer"]
    others = [task for task in tasks if not _same(answer, task.privileged["answer"])]
    for task in others:
        env.reset(options={"task": task})
        if not env.step(env.oracle(tasks[0])[0])[1]:
            return []
    return [f"{answer!r} pays in every task"] if len(others) > 1 else []


def _same(text: str, answer: str) -> bool:
    """Whether a guess is right by chance."""
    try:
        return abs(float(text) - float(answer)) < 1e-9
    except ValueError:
        return text.strip().lower() == answer.strip().lower()


@pytest.mark.parametrize("generator", SAMPLE)
def test_garbage_pays_nothing(generator: str) -> None:
    assert audit(generator, 2) == ""


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_an_audit_of_every_generator_finds_exactly_those_that_are_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    import reasoning_gym.factory

    monkeypatch.setattr(reasoning, "DENIED", {})
    wrong = {name: said for name in reasoning_gym.factory.DATASETS if (said := audit(name, 4))}
    assert set(wrong) == set(DENIED), wrong


@pytest.mark.parametrize("generator", PLAIN)
def test_an_answer_is_never_run(generator: str) -> None:
    """The generator's own grader runs it: the guard is needed."""
    env = ReasoningEnv(generator=generator)
    task = env.make_task(0, "train")
    for text in CODE:
        with contextlib.suppress(Exception):
            env._data.score_answer(text, env._data[task.meta["number"]])
    assert os.environ.pop(TRACE, ""), "the grader no longer runs answers"
    for text in (*CODE, f"{task.privileged['answer']} {CODE[0]}"):
        env.reset(options={"task": task})
        assert env.step(text)[1] == 0.0 and TRACE not in os.environ


def test_other_solutions_than_the_reference_are_paid() -> None:
    env = ReasoningEnv(generator="countdown")
    for task in env.tasks("train", 0, 3):
        env.reset(options={"task": task})
        assert env.step(f"({task.privileged['answer']})")[1] == 1.0
        env.reset(options={"task": task})
        assert env.step(f"{task.privileged['answer']} + 0")[1] == 0.0  # uses a number that is not given


def test_it_conforms() -> None:
    """The answer of a failed attempt may be a single digit or word; a solution may be longer than at "tiny"."""
    only = [name for name in CHECKS if name not in ("novice", "tiny", "vector")]
    settings = {"level": ReasoningEnv.levels[0], "generator": "chain_sum"}
    check_text_env("sdgym.envs.reasoning:sdgym/Reasoning-v0", tasks=4, only=only, **settings).raise_for_failures()


def test_each_denial_names_a_generator_and_a_reason() -> None:
    import reasoning_gym.factory

    assert set(DENIED) <= set(reasoning_gym.factory.DATASETS) and len(generators()) == len(reasoning_gym.factory.DATASETS) - len(DENIED)
    assert set(SIZES) | set(PLAIN) <= set(generators()) and FULL < 1
    for name in DENIED:
        with pytest.raises(ConfigError, match=f"the generator '{name}' is not used: "):
            ReasoningEnv(generator=name)
    with pytest.raises(UnknownNameError, match="did you mean 'countdown'"):
        ReasoningEnv(generator="countdwn")
    with pytest.raises(ConfigError, match="does not take the settings"):
        ReasoningEnv(settings={"no_such": 1})


def test_tasks_are_rebuilt_from_their_ids_and_splits_are_disjoint() -> None:
    env = gymnasium.make("sdgym.envs.reasoning:sdgym/Reasoning-v0", generator="chain_sum").unwrapped
    assert isinstance(env, ReasoningEnv)
    seen: dict[str, str] = {}
    for split in ("train", "val", "test", "heldout"):
        for task in env.tasks(split, 0, 4):
            assert env.task_from_id(task.task_id) == task and seen.setdefault(task.messages[-1]["content"], split) == split
