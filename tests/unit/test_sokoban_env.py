"""Feedback in words, both modes, shaping, and the novice with its exact posterior."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from sdgym.core import Task
from sdgym.envs.sokoban.core import Level
from sdgym.envs.sokoban.env import RULES, SokobanEnv
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.text_env import Information

ROOM = "######\n#@---#\n#-$-.#\n#----#\n#----#\n######"  # Down Right Right


def task_of(env: SokobanEnv, grid: str, answer: str) -> Task:
    return env.finish_task(0, "train", grid, grid, {"answer": answer, "reference_solution": answer}, {"grid": grid})


def say(grid: str, *actions: str, **kwargs: Any) -> tuple[str, float, bool, dict[str, Any]]:
    """Play the actions on ``grid`` and return the last turn's observation, reward, end and info."""
    env = SokobanEnv(**kwargs)
    env.reset(options={"task": task_of(env, grid, "")})
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
    return observation, reward, terminated or truncated, info


@pytest.mark.parametrize(
    "grid, action, feedback",
    [
        (ROOM, "Down Right Right", "Solved."),
        (ROOM, "Up", "Move 1 (Up) is blocked: there is a wall. 0 of 1 on target."),
        (ROOM, "Down Right Right Right", "Move 4 (Right) is blocked: the box there has a wall behind it. 1 of 1 on target."),
        (ROOM, "Down Right", "Not solved after 2 moves: the box is at least 1 push away. 0 of 1 on target."),
        (ROOM, "Right", "Not solved after 1 move: no box was pushed. 0 of 1 on target."),
        (ROOM, "R D D D", "Move 3 (Down) put a box against a wall along which there is no target. 0 of 1 on target."),
        (ROOM, "R R D", "Not solved after 3 moves: no box was pushed. 0 of 1 on target."),
        (ROOM, "D D R U", "Move 4 (Up) put a box against a wall along which there is no target. 0 of 1 on target."),
        ("######\n#@$-.#\n#-#--#\n#----#\n#----#\n######", "R R R", "Move 3 (Right) is blocked: the box there has a wall behind it. 1 of 1 on target."),
        ("#######\n#-----#\n#@$.--#\n#-----#\n#-----#\n#-----#\n#######", "R R", "Move 2 (Right) pushed a box off its target. 0 of 1 on target."),
        ("######\n#----#\n#-$@-#\n#---.#\n#----#\n######", "L U L D D", "Move 1 (Left) put a box against a wall along which there is no target. 0 of 1 on target."),
        ("######\n#----#\n#-@--#\n#-$-.#\n######", "Down", "Move 1 (Down) is blocked: the box there has a wall behind it. 0 of 1 on target."),
        ("######\n#-@--#\n#-$--#\n#.---#\n#----#\n######", "D D", "Move 2 (Down) put a box against a wall along which there is no target. 0 of 1 on target."),
        ("######\n#@$--#\n#----#\n#.---#\n######", "R R", "Move 1 (Right) put a box against a wall along which there is no target. 0 of 1 on target."),
        ("######\n#--.-#\n#@$--#\n#----#\n#-####\n######", "R R", "Move 2 (Right) put a box against a wall along which there is no target. 0 of 1 on target."),
        ("#######\n#@$$--#\n#.----#\n#.----#\n#######", "R", "Move 1 (Right) is blocked: the box there has another box behind it. 0 of 2 on target."),
        ("#######\n#.*---#\n#-$@--#\n#-----#\n#######", "L", "Not solved after 1 move: the boxes are at least 1 push away. 1 of 2 on target."),
        ("######\n#----#\n#-@--#\n#.$--#\n#-#--#\n######", "L D", "Not solved after 2 moves: no box was pushed. 0 of 1 on target."),
        ("######\n#--@-#\n#--$-#\n#-.--#\n#---##\n######", "D D", "Move 2 (Down) put a box into a corner, it can never be moved out. 0 of 1 on target."),
    ],
)  # fmt: skip
def test_feedback_names_the_move_and_the_reason(grid: str, action: str, feedback: str) -> None:
    _, reward, over, info = say(grid, action)
    assert info["feedback"] == feedback
    assert over and reward == info["success"] == float(feedback == "Solved.")


@pytest.mark.parametrize("action, outcome", [("", "no_answer"), ("  \n", "no_answer"), ("go up", "unparsable"), ("U" * 21, "unparsable")])
def test_a_format_error_names_the_grammar(action: str, outcome: str) -> None:
    _, reward, over, info = say(ROOM, action)
    assert (reward, over, info["outcome"], info["valid_action"]) == (0.0, True, outcome, 0.0)
    assert "Up Down Left Right" in info["feedback"] and "at most 20" in info["feedback"] and "go up" not in info["feedback"]


def test_multi_turn_goes_on_after_a_blocked_move_and_stops_when_solved() -> None:
    observation, reward, over, info = say(ROOM, "Down Up Up Right", mode="multi_turn")
    assert not over and reward == 0.0 and info["feedback_visible"] == 1.0
    assert observation == "Move 3 (Up) is blocked: there is a wall. 0 of 1 on target.\n" + ROOM, "the rest of the turn is dropped"
    observation, reward, over, info = say(ROOM, "Down", "Right Right Right Right", mode="multi_turn")
    assert (observation, reward, over, info["outcome"]) == ("", 1.0, True, "correct")
    *_, over, info = say(ROOM, "Down", "nonsense", "Up", mode="multi_turn")
    assert over and info["turn"] == 3.0 and info["outcome"] == "wrong"


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'plan'"):
        SokobanEnv(mode="plans")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="shaping"):
        SokobanEnv(shaping=-1.0)


@pytest.mark.parametrize("actions", [("Down Right", "Right"), ("Down", "Up", "Down"), ("D D R U", "Right"), ("x", "", "Right")])
def test_shaping_telescopes_to_a_constant(actions: tuple[str, ...]) -> None:
    """Σ F = −Φ(start), which is 2 pushes here, whatever is done: no optimal policy changes."""
    env, total, end = SokobanEnv(mode="multi_turn", shaping=0.1), 0.0, False
    env.reset(options={"task": task_of(env, ROOM, "")})
    actions = actions + ("Up",) * (3 - len(actions))
    for action in actions:
        if not end:
            _, reward, terminated, truncated, info = env.step(action)
            total, end = total + info["reward_components"]["shaping"], terminated or truncated
            assert reward == info["reward_components"]["success"] + info["reward_components"]["shaping"]
    assert end and total == pytest.approx(0.2, abs=1e-12)


def test_render_shows_the_board_reached() -> None:
    env = SokobanEnv(mode="multi_turn", render_mode="ansi")
    env.reset(options={"task": task_of(env, ROOM, "")})
    env.step("Down")
    assert env.render() == "turn 1/3\n" + Level.from_text(ROOM.replace("@", "-").replace("#-$", "#@$")).text()


def test_privileged_text_of_tiny_is_short_and_right() -> None:
    for task in SokobanEnv().tasks("train", 5, 60):
        answer, story, hint = (task.privileged[k] for k in ("answer", "reference_solution", "hint"))
        assert len(answer.split()) == task.meta["moves"] <= 9
        assert story.endswith(": " + answer) and len(story.replace(",", " ,").replace(":", " :").split()) <= 30
        told = [w for w in story.split(":")[0].replace(",", "").split() if w.lower() not in ("walk", "push")]
        assert " ".join(told) == answer, "the story tells the same moves"
        assert hint.startswith(f"It takes {task.meta['pushes']} push")


# ---- the novice ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample() -> list[tuple[Task, dict[tuple[str, ...], float], set[tuple[str, ...]]]]:
    env, rows = SokobanEnv(), []
    for task in env.tasks("train", 0, 250):
        table = dict(env.candidates(task))
        rows.append((task, table, {turns for turns in table if env.solved_by(task, turns)}))
    return rows


def test_solving_candidates_are_merged_and_probabilities_sum_to_one(sample: Any) -> None:
    for task, table, right in sample:
        assert sum(table.values()) == pytest.approx(1.0, abs=1e-12) and min(table.values()) > 0
        assert right == {(task.privileged["answer"],)}
        assert len(table) >= 3


def test_the_novice_lies_in_the_band(sample: Any) -> None:
    """Measured on 2,000 tasks: mean .39, mode right .385. Standard errors at n = 250: .014 and .031, margins three of them."""
    chance = np.array([sum(table[t] for t in right) for _, table, right in sample])
    modes = np.array([max(table, key=table.__getitem__) in right for _, table, right in sample])
    assert 0.34 < chance.mean() < 0.44
    assert 0.29 < modes.mean() < 0.48
    assert ((chance > 0.05) & (chance < 0.95)).mean() >= 0.6


def test_draws_follow_the_candidates(sample: Any) -> None:
    env, rng, n = SokobanEnv(), np.random.default_rng(0), 2000
    task, table, right = sample[0]
    hits = sum(tuple(env.novice(task, rng)) in right for _ in range(n))
    p = sum(table[t] for t in right)
    assert abs(hits / n - p) < 4 * (p * (1 - p) / n) ** 0.5, "four standard errors"


def posterior(env: SokobanEnv, row: Any, information: Information) -> float:
    task, table, right = row
    left = {turns: p for turns, p in table.items() if env.consistent(task, turns, information)}
    return sum(p for turns, p in left.items() if turns in right) / sum(left.values())


def test_feedback_lifts_the_ideal_posterior_but_does_not_give_the_solution_away(sample: Any) -> None:
    env, mass, plain, told, only_wrong = SokobanEnv(), 0.0, 0.0, 0.0, 0.0
    for row in sample[:40]:
        task, table, right = row
        chance = sum(table[t] for t in right)
        for turns, p in table.items():
            if turns not in right:
                mass, plain = mass + p, plain + p * chance
                told += p * posterior(env, row, Information("feedback", task.task_id, turns))
                only_wrong += p * posterior(env, row, Information("outcome", task.task_id, turns))
    plain, told, only_wrong = plain / mass, told / mass, only_wrong / mass
    assert told >= plain + 0.15 and told <= 0.85
    assert plain < only_wrong < told - 0.05, "the words say more than that it failed"


def test_information_never_rules_the_solution_out_and_always_the_attempt(sample: Any) -> None:
    env = SokobanEnv()
    for task, table, right in sample[:80]:
        for turns in table.keys() - right:
            for kind in ("feedback", "outcome"):
                information = Information(kind, task.task_id, turns)
                assert env.consistent(task, next(iter(right)), information)
                assert not env.consistent(task, turns, information)


def test_feedback_keeps_the_moves_before_the_failing_one() -> None:
    env = SokobanEnv()
    task = task_of(env, ROOM, "Down Right Right")
    told = Information("feedback", task.task_id, ("Down Right Right Right",))
    assert env.consistent(task, ("Down Right Right",), told) and env.consistent(task, ("Down Right Right Up",), told)
    assert not env.consistent(task, ("Right Right",), told), "the first three moves were on the way"
    short = Information("feedback", task.task_id, ("Down Right",))
    assert env.consistent(task, ("Down Right Up",), short) and not env.consistent(task, ("Down",), short)
    astray = Information("feedback", task.task_id, ("Right Right Up",))
    assert env.consistent(task, ("Down Right Right",), astray) and env.consistent(task, ("Down",), astray)
    assert not env.consistent(task, ("Down Up Up",), Information("feedback", task.task_id, ("Right Left Up",))), "the same words again"


def test_blocks_about_another_task_or_about_nothing_leave_the_novice_as_he_was(sample: Any) -> None:
    env = SokobanEnv()
    (task, *_), (other, *_) = sample[0], sample[1]
    for information in (
        None,
        Information("empty", task.task_id),
        Information("filler", task.task_id),
        Information("reference", other.task_id),
    ):
        drawn = [env.demonstrate(task, np.random.default_rng(s), information) for s in range(20)]
        assert drawn == [env.novice(task, np.random.default_rng(s)) for s in range(20)]


def test_multi_turn_demonstrations_end_at_success_or_the_limit() -> None:
    env, lengths = SokobanEnv(mode="multi_turn"), set()
    for task in env.tasks("train", 0, 60):
        turns = list(env.novice(task, np.random.default_rng(task.seed)))
        lengths.add(len(turns))
        assert all(len(turn.split()) <= RULES["tiny"].moves for turn in turns)
        solved = [env.solved_by(task, turns[:n]) for n in range(1, len(turns) + 1)]
        assert not any(solved[:-1]) and (solved[-1] or len(turns) == 3)
        reference = env.demonstrate(task, np.random.default_rng(2), Information("reference", task.task_id))
        assert env.solved_by(task, reference)
    assert lengths == {1, 2, 3}


def test_astep_does_not_need_a_loop_of_its_own() -> None:
    async def play() -> float:
        env = SokobanEnv()
        env.reset(options={"task": task_of(env, ROOM, "")})
        return (await env.astep("D R R"))[1]

    assert asyncio.run(play()) == 1.0


def test_votes_count_moves_however_they_are_written() -> None:
    env = SokobanEnv()
    task = next(env.tasks("val", 0, 1))
    assert env.answer_key(task, ["up, L"]) == env.answer_key(task, ["<answer>Up Left</answer>"]) == "Up Left"
    assert env.answer_key(task, ["jump"]) == ""
