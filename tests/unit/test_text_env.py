"""The base class: space, episode bookkeeping, masking of infrastructure failures, task ids, demonstrations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from sdgym.core import Outcome, Task
from sdgym.errors import ConfigError, EnvError, InfraError, UnknownNameError
from sdgym.text_env import Information, Response, TextEnv, UnicodeText


class Parity(TextEnv):
    """Say a number of the parity asked for, within three turns; "boom" breaks the grader."""

    env_id: ClassVar[str] = "test/Parity-v0"
    levels: ClassVar[Sequence[str]] = ("tiny",)
    max_turns: ClassVar[int] = 3
    max_chars: ClassVar[int] = 50

    def make_task(self, seed: int, split: str) -> Task:
        number = self.draw_in_split(seed, split, lambda rng: ((n := int(rng.integers(0, 60))), n))
        return self.finish_task(seed, split, f"Like {number}.", number, {"answer": str(number)}, {"parity": number % 2})

    async def respond(self, action: str) -> Response:
        assert self.task is not None
        if action == "boom":
            raise InfraError("the grader is gone")
        if action == "long":
            return Response(str(len(action)), 0.0, False, Outcome.WRONG)
        right = action.isdigit() and int(action) % 2 == self.task.meta["parity"]
        outcome = Outcome.CORRECT if right else Outcome.WRONG
        return Response(
            "" if right else f"again ({len(action)})", float(right), right, outcome, "no", feedback_visible=not right, success=right
        )

    def oracle(self, task: Task) -> Sequence[str]:
        return (task.privileged["answer"],)

    def novice(self, task: Task, rng: np.random.Generator) -> Sequence[str]:
        return (str(int(rng.integers(0, 3))),)

    def consistent(self, task: Task, actions: Sequence[str], information: Information) -> bool:
        return information.kind != "outcome" or tuple(actions) != information.attempt


def test_the_space_holds_any_unicode_up_to_its_length_and_samples_itself() -> None:
    space = UnicodeText(30, seed=3)
    assert "\U0001f9e9 \x00\ud800" in space and "" in space
    assert "x" * 31 not in space and 3 not in space and b"x" not in space
    samples = [space.sample() for _ in range(50)]
    assert all(s in space and s.isprintable() and 1 <= len(s) <= 24 for s in samples) and len(set(samples)) > 40
    space.seed(3)
    assert [space.sample() for _ in range(50)] == samples
    assert space == UnicodeText(30) and space != UnicodeText(31) and hash(space) == hash(UnicodeText(30))


def test_an_episode_counts_turns_and_ends_at_the_limit() -> None:
    env = Parity()
    _, info = env.reset(seed=0)
    wrong = str(1 - env.task.meta["parity"])  # type: ignore[union-attr]
    seen = [env.step(wrong) for _ in range(3)]
    assert [(s[2], s[3]) for s in seen] == [(False, False), (False, False), (False, True)]
    assert [s[4]["turn"] for s in seen] == [1.0, 2.0, 3.0] and info["turn"] == 0.0
    assert seen[0][4]["messages"] == ({"role": "user", "content": "again (1)"},)
    with pytest.raises(EnvError, match="after the end"):
        env.step(wrong)


def test_success_terminates() -> None:
    env = Parity()
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(env.oracle(env.task)[0])  # type: ignore[arg-type]
    assert (observation, reward, terminated, truncated, info["outcome"]) == ("", 1.0, True, False, "correct")
    assert info["messages"] == () and "privileged" not in info


def test_an_infrastructure_failure_masks_the_row_instead_of_scoring_it() -> None:
    env = Parity()
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step("boom")
    assert (reward, terminated, truncated, info["outcome"], info["feedback_kind"]) == (0.0, False, True, "infra_error", "runtime")
    assert "the grader is gone" in info["feedback"]


def test_actions_are_strings_and_cut_to_the_limit() -> None:
    env = Parity()
    env.reset(seed=0)
    assert env.step("z" * 10_000)[0] == "again (50)"
    with pytest.raises(EnvError, match="an action is a str, got int"):
        env.step(3)  # type: ignore[arg-type]
    with pytest.raises(EnvError, match="call reset"):
        Parity().step("1")


def test_step_works_inside_a_running_loop() -> None:
    async def inside() -> float:
        env = Parity()
        env.reset(seed=0)
        return env.step(env.oracle(env.task)[0])[1]  # type: ignore[arg-type]

    assert asyncio.run(inside()) == 1.0


@pytest.mark.parametrize(
    "kwargs, said", [({"level": "tinny"}, "level"), ({"split": "trian"}, "did you mean 'train'"), ({"render_mode": "human"}, "render mode")]
)
def test_unknown_names_are_refused(kwargs: dict[str, str], said: str) -> None:
    with pytest.raises(UnknownNameError, match=said):
        Parity(**kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", ["", "tiny-train-1", "tiny-train-x-0", "easy-train-1-0", "tiny-nosplit-1-0", "tiny-train-1-0000000000000000"]
)
def test_a_wrong_task_id_is_a_user_error(wrong: str) -> None:
    with pytest.raises(ConfigError, match="task id"):
        Parity().task_from_id(wrong)


def test_tasks_are_distinct_reproducible_and_run_out_with_a_sentence() -> None:
    env = Parity()
    ids = [task.task_id for task in env.tasks("train", 4, 12)]
    assert ids == [task.task_id for task in Parity().tasks("train", 4, 12)] != [task.task_id for task in env.tasks("train", 5, 12)]
    assert len({i.rsplit("-", 1)[1] for i in ids}) == 12
    with pytest.raises(ConfigError, match=r"gave \d+ distinct train tasks and then none in 5000 draws; 61"):
        list(env.tasks("train", 4, 61))


def test_splits_partition_the_contents_in_the_stated_shares() -> None:
    """20,000 contents: the standard error of a share of 45 % is .0035; the margin is four of them."""
    owners = [TextEnv.split_of(["content", n]) for n in range(20_000)]
    shares = {name: owners.count(name) / len(owners) for name in ("pretrain", "train", "val", "test")}
    assert shares == pytest.approx({"pretrain": 0.45, "train": 0.40, "val": 0.07, "test": 0.08}, abs=0.014)


def test_demonstrations_without_usable_information_are_the_novices() -> None:
    env = Parity()
    task, other = env.tasks("train", 0, 2)
    for information in (
        None,
        Information("empty", task.task_id),
        Information("filler", task.task_id),
        Information("outcome", other.task_id, ("0",)),
    ):
        drawn = [env.demonstrate(task, np.random.default_rng(s), information) for s in range(20)]
        assert drawn == [env.novice(task, np.random.default_rng(s)) for s in range(20)]


def test_information_removes_candidates_and_keeps_the_proportions_of_the_rest() -> None:
    """2,000 draws of two equally likely answers: five standard errors are .056."""
    env, rng = Parity(), np.random.default_rng(0)
    task = next(iter(env.tasks("train", 0, 1)))
    drawn = [env.demonstrate(task, rng, Information("outcome", task.task_id, ("1",)))[0] for _ in range(2_000)]
    assert set(drawn) == {"0", "2"} and abs(drawn.count("0") / len(drawn) - 0.5) < 0.056


def test_the_oracle_stands_in_where_the_novice_never_is_consistent() -> None:
    class Hopeless(Parity):
        def consistent(self, task: Task, actions: Sequence[str], information: Information) -> bool:
            return False

    env: Any = Hopeless()
    task = next(iter(env.tasks("train", 0, 1)))
    assert env.demonstrate(task, np.random.default_rng(0), Information("reference", task.task_id), tries=5) == env.oracle(task)


def test_render_is_the_transcript() -> None:
    env = Parity(render_mode="ansi")
    observation, _ = env.reset(seed=0)
    env.step("x")
    assert env.render() == f"[user] {observation}\n[assistant] x\n[user] again (1)"


def test_an_exhausted_world_gives_all_it_has_and_then_says_so() -> None:
    """60 numbers belong to five splits; rare ones count, however long the list that was asked for."""
    drawn, env = [], Parity()
    with pytest.raises(
        ConfigError, match=r"test/Parity-v0 at level 'tiny' gave (\d+) distinct val tasks and then none in 5000 draws; 50 were"
    ):
        for task in env.tasks("val", 0, 50):
            drawn.append(int(task.privileged["answer"]))
    assert sorted(drawn) == [n for n in range(60) if TextEnv.split_of(n) == "val"]
    assert [int(task.privileged["answer"]) for task in env.tasks("val", 0, len(drawn))] == drawn
