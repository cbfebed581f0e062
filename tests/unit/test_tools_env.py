"""The environment: turns, rewards, what is said at the end, the tiny level and its novice."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sdgym.core import Task
from sdgym.envs.tools.draws import draw_task
from sdgym.envs.tools.env import CALLS_PER_TURN, ToolWorldEnv
from sdgym.envs.tools.tiny import action_text
from sdgym.errors import UnknownNameError
from sdgym.text_env import Information


def task_of(env: ToolWorldEnv, family: str, effects: int = 0) -> Task:
    for seed in range(0, 600, 3):
        if draw_task(env.level, "train", seed, 0).family == family:
            task = env.make_task(seed, "train")
            if len(env._drawn(task).case.goal.effects) >= effects:
                return task
    raise AssertionError(f"no task of {family}")


def play(env: ToolWorldEnv, task: Task, *actions: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
    env.reset(options={"task": task})
    for action in actions:
        step = env.step(action)
    return step


@pytest.fixture(scope="module")
def easy() -> ToolWorldEnv:
    return ToolWorldEnv(level="easy")


def test_a_model_can_find_its_way_from_the_docs(easy: ToolWorldEnv) -> None:
    """Log in with the passwords, read, act and finish, knowing nothing but the system prompt."""
    task = task_of(easy, "rule")
    easy.reset(options={"task": task})
    system, user = task.messages
    assert "docs.apps" in system["content"] and "8 turns" in system["content"] and user["content"].startswith("I am ")
    observation, *_ = easy.step('{"docs.apps": {}}\n{"supervisor.passwords": {}}')
    secrets = json.loads(observation.split("[supervisor.passwords] ")[1].split("\n")[0])
    assert "(7 turns left)" in observation
    observation, *_ = easy.step(json.dumps({"mail.login": {"username": secrets["username"], "password": secrets["passwords"]["mail"]}}))
    token = json.loads(observation.split("] ")[1].split("\n")[0])["access_token"]
    words = user["content"].replace(":", " ").replace(".\n", " ").split()
    sender = next(w for w in reversed(words) if "@" in w).rstrip(".,")
    folder = next(
        f
        for f in ("work", "family", "receipts", "archive")
        if f in user["content"].split("\n")[1].split("@")[0] + user["content"].split("@")[-1]
    )
    observation, *_ = easy.step(json.dumps({"mail.list": {"sender": sender, "access_token": token}}))
    found = json.loads(observation.split("] ", 1)[1].split("\n")[0])
    assert found["pages"] == 1
    moves = [{"mail.move": {"id": row["id"], "folder": folder, "access_token": token}} for row in found["items"]]
    _, reward, terminated, _, info = easy.step(json.dumps([*moves, {"supervisor.complete_task": {}}]))
    assert (reward, terminated, info["success"], info["outcome"], info["feedback"]) == (1.0, True, 1.0, "correct", "Solved.")
    assert info["reward_components"] == {"success": 1.0, "dense": 1.0, "milestones": 1.0, "collateral": 0.0}


def test_errors_are_shown_in_the_turn_and_the_failed_tests_at_the_end(easy: ToolWorldEnv) -> None:
    task = task_of(easy, "rule")
    observation, reward, terminated, _, info = play(easy, task, '{"mail.mov": {"id": 1}}\n{"mail.list": {}}')
    assert '"code": 404' in observation and "mail.move" in observation and '"code": 401' in observation
    assert (reward, terminated, info["feedback_visible"], info["feedback_kind"]) == (0.0, False, 1.0, "runtime")
    assert info["feedback"].startswith("0 of 2 calls were carried out. Refused: mail.mov: there is no API")
    _, reward, terminated, _, info = easy.step('{"supervisor.complete_task": {}}')
    assert (reward, terminated, info["outcome"]) == (0.0, True, "wrong")
    assert info["feedback"] == "Not solved. These tests fail: Every message that the rule is about is in its folder."
    assert info["reveals_answer"] == 0.0


def test_only_reveal_gives_the_wanted_values_and_flags_them() -> None:
    env = ToolWorldEnv(level="easy", reveal=True)
    task = task_of(env, "split")
    *_, info = play(env, task, '{"supervisor.complete_task": {}}')
    wanted = env._drawn(task).case.goal.effects[0].values
    assert info["reveals_answer"] == 1.0 and f"amount = {wanted['amount']}" in info["feedback"]
    *_, info = play(env, task, *env.oracle(task))
    assert info["reveals_answer"] == 0.0 and info["feedback"] == "Solved."


def test_doing_nothing_earns_nothing_in_either_reward() -> None:
    for reward in ("success", "dense"):
        for level in ("tiny", "easy", "medium"):
            env = ToolWorldEnv(level=level, reward=reward)  # type: ignore[arg-type]
            for task in env.tasks("train", 4, 4):
                for actions in (['{"answer": null}'], ['{"docs.apps": {}}'] * env.max_turns, ["I am done."] * env.max_turns):
                    assert play(env, task, *actions)[1] == 0.0
    with pytest.raises(UnknownNameError, match="did you mean 'dense'"):
        ToolWorldEnv(reward="dens")  # type: ignore[arg-type]


def test_dense_pays_for_parts_and_nothing_after_a_side_effect() -> None:
    env = ToolWorldEnv(level="easy", reward="dense")
    task = task_of(env, "bulk", effects=2)
    calls = [line for action in env.oracle(task) for line in action.split("\n")]
    stars = [line for line in calls if "mail.star" in line]
    without = [line for line in calls if line != stars[0]]
    *_, info = play(env, task, *("\n".join(without[i : i + CALLS_PER_TURN]) for i in range(0, len(without), CALLS_PER_TURN)))
    assert info["reward_components"]["dense"] == pytest.approx(1 - 1 / len(stars)) and info["success"] == 0.0
    stray = stars[0].replace("mail.star", "mail.delete")
    harmed = [stray, *without[:-1]] if "login" in without[0] else [*without[:-1], stray]
    step = play(
        env, task, *("\n".join(x[i : i + CALLS_PER_TURN]) for x in ([*harmed, without[-1]],) for i in range(0, len(x), CALLS_PER_TURN))
    )
    assert (
        step[1] == 0.0 and step[4]["reward_components"]["collateral"] == 1.0 and "Something else was changed in mail" in step[4]["feedback"]
    )


def test_an_episode_without_an_end_is_truncated_at_its_last_turn(easy: ToolWorldEnv) -> None:
    task = task_of(easy, "rule")
    observation, reward, terminated, truncated, info = play(easy, task, *['{"docs.apps": {}}'] * easy.max_turns)
    assert (observation, reward, terminated, truncated) == ("", 0.0, False, True)
    assert "The task is reported with complete_task." in info["feedback"]
    *_, info = play(easy, task, *["what?"] * easy.max_turns)
    assert info["outcome"] == "unparsable" and info["valid_action"] == 0.0


def test_nothing_counts_after_the_end_within_a_turn(easy: ToolWorldEnv) -> None:
    task = task_of(easy, "split")
    last = easy.oracle(task)[-1]
    lines = last.split("\n")
    assert play(easy, task, *easy.oracle(task)[:-1], "\n".join([*lines, lines[-2]]))[1] == 1.0


def test_native_tool_messages_and_schemas() -> None:
    env = ToolWorldEnv(level="easy", native=True)
    assert env.tools is not None and all(t["type"] == "function" for t in env.tools)
    task = task_of(env, "split")
    native = '<tool_call>{"name": "docs.apps", "arguments": {}}</tool_call>' * 2
    *_, info = play(env, task, native)
    assert [m["role"] for m in info["messages"]] == ["tool", "tool"] and "turns left" in info["messages"][1]["content"]
    assert ToolWorldEnv().tools is None


def test_another_user_can_answer() -> None:
    asked: list[str] = []

    def user(question: str, facts: Mapping[str, str]) -> str:
        asked.append(question)
        return "Ask my sister."

    env = ToolWorldEnv(level="medium", user=user)
    observation, *_ = play(env, task_of(env, "impossible"), '{"supervisor.ask_user": {"question": "How much?"}}')
    assert asked == ["How much?"] and "Ask my sister." in observation


def test_an_oversized_result_is_cut_and_says_so(easy: ToolWorldEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdgym.envs.tools.env.RESULT_CHARS", 50)
    observation, *_ = play(easy, task_of(easy, "split"), '{"docs.apps": {}}')
    assert "more characters)" in observation and len(observation) < 200


def test_a_pickled_episode_keeps_rows_tokens_and_log() -> None:
    env = ToolWorldEnv(level="medium")
    task = task_of(env, "undo")
    first, *rest = [line for action in env.oracle(task) for line in action.split("\n")]
    env.reset(options={"task": task})
    for line in (first, *rest[:-1]):
        env.step(line)
    copy = pickle.loads(pickle.dumps(env))
    for each in (copy, env):
        assert each.step(rest[-1])[1] == 1.0
    assert copy.episode.db.changes() == [] or len(copy.episode.db.changes()) == len(env.episode.db.changes())  # type: ignore[union-attr]


# ---- level "tiny" -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> list[tuple[Task, dict[tuple[str, ...], float]]]:
    env = ToolWorldEnv()
    return [(task, dict(env.candidates(task))) for task in env.tasks("train", 0, 160)]


def test_the_novice_lies_in_the_band(tiny: Any) -> None:
    """Measured on 300 tasks (sdgym.benchmarks.novices): mean .37, mode right .36. Standard errors at n = 160: .015 and .038, margins three of them."""
    chance = np.array([table[task.privileged["answer"],] for task, table in tiny])
    modes = np.array([max(table, key=table.__getitem__) == (task.privileged["answer"],) for task, table in tiny])
    assert 0.33 < chance.mean() < 0.42 and 0.26 < modes.mean() < 0.48
    assert ((chance > 0.05) & (chance < 0.95)).all()
    for _, table in tiny:
        assert sum(table.values()) == pytest.approx(1.0, abs=1e-12) and min(table.values()) > 0 and len(table) >= 4


def test_exactly_one_candidate_is_right(tiny: Any) -> None:
    env = ToolWorldEnv()
    for task, table in tiny[:30]:
        assert [actions for actions in table if play(env, task, *actions)[1] == 1.0] == [(task.privileged["answer"],)]


def test_feedback_narrows_the_novice_down_more_than_the_outcome(tiny: Any) -> None:
    """Ideal success after one failure, by the exact posterior: .75 with feedback, .45 with the outcome alone (300 tasks, spread .2 each)."""
    env, after = ToolWorldEnv(), {"feedback": [], "outcome": []}
    for task, table in tiny[:40]:
        right = (task.privileged["answer"],)
        for kind, values in after.items():
            for tried, weight in table.items():
                if tried == right:
                    continue
                said = play(env, task, *tried)[4]["feedback"]
                information = Information(kind, task.task_id, tried, (said,))
                left = {a: p for a, p in table.items() if env.consistent(task, a, information)}
                assert right in left and tried not in left
                values.append((weight, table[right] / sum(left.values())))
    means = {kind: np.average([v for _, v in rows], weights=[w for w, _ in rows]) for kind, rows in after.items()}
    assert 0.66 < means["feedback"] < 0.86 and 0.35 < means["outcome"] < 0.55


@pytest.mark.parametrize(
    "change, said",
    [
        ("It is 3.", "Not understood: there is no JSON object in it."),
        ('{"mail.star":{"id":777}}', "Error 404: there is no message 777."),
        ('{"mail.lable":{"id":1}}', "Error 404: there is no API 'mail.lable'"),
        ('{"docs.apps":{}}', "Nothing was changed."),
    ],
)
def test_what_is_said_about_a_useless_call(change: str, said: str) -> None:
    env = ToolWorldEnv()
    assert play(env, task_of(env, "sort_mail"), change)[4]["feedback"].startswith(said)


def test_what_is_said_about_a_wrong_call(tiny: Any) -> None:
    env = ToolWorldEnv()
    task = task_of(env, "sort_mail")
    screen = env._drawn(task).screen
    assert screen is not None
    target = next(row for row in screen.rows if row["id"] == screen.right.args["id"])
    for row in screen.rows:
        wrong = [name for name, column in (("sender", "sender"), ("subject", "subject")) if row[column] != target[column]]
        text = action_text(type(screen.right)(screen.right.tool, {"id": row["id"]}))
        named = f"Right call {screen.right.tool}, wrong row {row['id']}: "
        expected = "Right." if not wrong else named + ", ".join(f"{name} wrong" for name in wrong) + "."
        assert play(env, task, text)[4]["feedback"] == expected
    spray = "".join(f'{{"{screen.right.tool}":{{"id":{row["id"]}}}}}' for row in screen.rows[:3])
    *_, info = play(env, task, spray)
    assert info["success"] == 0.0 and info["feedback"] == "One row was to be changed, not several."


def test_a_thousand_resets_take_less_than_a_second_of_processor_time() -> None:
    """At the pace of the best fifty of a thousand: about 0.4 s; the others tell how busy the machine is."""
    env = ToolWorldEnv(level="hard")
    tasks = list(env.tasks("train", 0, 5))
    best = float("inf")
    for _ in range(20):
        started = time.process_time()
        for index in range(50):
            env.reset(options={"task": tasks[index % 5]})
        best = min(best, time.process_time() - started)
    assert 20 * best < 1.0


@pytest.mark.parametrize(
    "skill, column, more, less",
    [("settle", "amount", "high", "low"), ("buy", "price", "high", "low"), ("extreme_task", "due", "late", "early")],
)
def test_directions_are_told_the_right_way_round(skill: str, column: str, more: str, less: str) -> None:
    env = ToolWorldEnv()
    task = task_of(env, skill)
    screen = env._drawn(task).screen
    assert screen is not None
    key, right = next(iter(screen.right.args.items()))
    target = next(row for row in screen.rows if row["id"] == right)
    for row in screen.rows:
        if row is not target:
            *_, info = play(env, task, json.dumps({screen.right.tool: {key: row["id"]}}))
            assert f"{column} too {more if row[column] > target[column] else less}" in info["feedback"]


def test_an_answer_is_told_too_high_or_too_low() -> None:
    env = ToolWorldEnv()
    task = task_of(env, "count")
    number = json.loads(task.privileged["answer"])["answer"]
    said_of = (
        (number + 1, f"The answer {number + 1} is too high."),
        (number - 1, f"The answer {number - 1} is too low."),
        (str(number), "Right."),
        (10**12, "The answer is too high."),  # what a model writes does not come back at any length
        ("many " * 100, "The answer is wrong."),
    )
    for given, said in said_of:
        *_, info = play(env, task, json.dumps({"answer": given}))
        assert info["feedback"] == said and info["success"] == float(said == "Right.")
