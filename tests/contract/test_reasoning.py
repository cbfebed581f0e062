"""reasoning-gym: every generator that is not denied pays nothing for garbage and everything for its own answer."""

from __future__ import annotations

import gymnasium
import pytest

from sdgym.envs.reasoning import DENIED, ReasoningEnv, generators
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.testing.checks import GARBAGE

pytestmark = pytest.mark.slow  # the package is an extra
WORDS = ("0", "1", "-1", "yes", "no", "True", "False", "None", "[]", "answer")
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
    env = ReasoningEnv(generator=generator)
    for seed in range(tasks):
        task = env.make_task(seed, "train")
        env.reset(options={"task": task})
        if env.step(env.oracle(task)[0])[1] != 1.0:
            return f"its own answer {task.privileged['answer']!r} does not pay"
        for text in (*GARBAGE, *WORDS):
            env.reset(options={"task": task})
            reward = env.step(text)[1]
            if reward and not _same(text, task.privileged["answer"]):
                return f"{text[:20]!r} pays {reward} where {task.privileged['answer']!r} is right"
    return ""


def _same(text: str, answer: str) -> bool:
    """Whether a guess is right by chance."""
    try:
        return abs(float(text) - float(answer)) < 1e-9
    except ValueError:
        return text.strip().lower() == answer.strip().lower()


@pytest.mark.parametrize("generator", SAMPLE)
def test_garbage_pays_nothing(generator: str) -> None:
    assert audit(generator, 2) == ""


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
def test_garbage_pays_nothing_in_any_generator() -> None:
    wrong = {name: said for name in generators() if (said := audit(name, 1))}
    assert wrong == {}


def test_each_denial_names_a_generator_and_a_reason() -> None:
    import reasoning_gym.factory

    assert set(DENIED) <= set(reasoning_gym.factory.DATASETS) and len(generators()) == len(reasoning_gym.factory.DATASETS) - len(DENIED)
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
