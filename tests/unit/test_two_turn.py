"""Two-turn and step worlds, SCoRe on the former; Re-ReST and PU-RL: fixtures, objectives, limits, refusals."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import sdgym  # noqa: F401  (registers the worlds)
from sdgym.algos.base import Batch, student_views
from sdgym.algos.presets import build_algorithm
from sdgym.algos.pu_pairs import extremes
from sdgym.algos.pu_rl import order, ranked
from sdgym.algos.score import shaped
from sdgym.chat import ChatFormat
from sdgym.envs.steps import StepsEnv, answer_of
from sdgym.envs.two_turn import AGAIN, TwoTurnEnv
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_engine import LETTERS_ID, LettersEnv
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
POLICY, START = (BagModel(len(CHAT.tokenizer), seed=s) for s in (1, 2))
INTERPRETER = Interpreter(POLICY, START)
TASK, OTHER = scripted_task("a", "3+4?"), scripted_task("b", "2*3?", answer="6", solution="2*3=6")


# ---- the worlds --------------------------------------------------------------------------------------------------


def test_two_turns_are_judged_by_the_inner_world_and_the_request_reveals_nothing() -> None:
    env = gymnasium.make("sdgym/TwoTurn-v0").unwrapped
    for first, second in itertools.product((True, False), repeat=2):
        env.reset(seed=3)
        (right, _), wrong = env.oracle(env.task), "\\boxed{no}"
        observation, reward, terminated, _, info = env.step(right if first else wrong)
        assert (observation, reward, terminated) == (AGAIN, float(first), False) and info["feedback_visible"] == 0.0
        observation, reward, terminated, _, info = env.step(right if second else wrong)
        assert (observation, reward, terminated, info["success"]) == ("", float(second), True, float(second))
    inner = gymnasium.make("sdgym/Math-v0").unwrapped
    assert env.make_task(11, "train") == inner.make_task(11, "train") and env.max_action_tokens == inner.max_action_tokens


def test_wrappers_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(ConfigError, match="needs a single-turn world"):
        TwoTurnEnv(base="sdgym/Sokoban-v0", mode="multi_turn")
    with pytest.raises(ConfigError, match="cannot be made"):
        TwoTurnEnv(base="sdgym/Nowhere-v0")
    with pytest.raises(UnknownNameError, match="fill"):
        StepsEnv(kind="fil")
    with pytest.raises(ConfigError, match="two different steps"):
        StepsEnv(kind="order", base=LETTERS_ID).make_task(0, "train")


@pytest.mark.parametrize("kind", ["fill", "order"])
@pytest.mark.parametrize("level", ["tiny", "easy"])
def test_step_tasks_are_solved_by_their_key_and_hide_it(kind: str, level: str) -> None:
    env = StepsEnv(kind=kind, level=level)
    for task in env.tasks("train", 0, 30):
        env.reset(options={"task": task})
        text, key = task.messages[-1]["content"], list(task.meta["key"])
        solution = task.privileged["reference_solution"]
        if kind == "fill":
            filled = text.split("Solution: ")[1].rsplit("\nWrite", 1)[0]
            for number, value in enumerate(key, 1):
                filled = filled.replace(f"[{number}]", value, 1)
            assert filled == solution
        else:
            shown = dict(line.split(") ", 1) for line in text.splitlines() if line[1:3] == ") ")
            at = 0
            for letter in key:
                at = solution.index(shown[letter], at) + len(shown[letter])
            assert key != sorted(key), "never shown in the right order"
        _, reward, terminated, _, info = env.step(env.oracle(task)[0])
        assert reward == 1.0 and terminated and info["success"] == 1.0
    assert env.make_task(5, "test").task_id != env.make_task(5, "train").task_id


def test_shares() -> None:
    """One of two gaps is a half, without saying what belongs there; the wrong number of answers is no answer."""
    env = StepsEnv(kind="fill")
    task = next(t for t in env.tasks("train", 0, 50) if len(t.meta["key"]) == 2)
    env.reset(options={"task": task})
    _, reward, _, _, info = env.step(f"{task.meta['key'][0]}, 99999")
    assert reward == 0.5 and info["feedback"] == "Wrong at gap 2." and info["success"] == 0.0
    env.reset(options={"task": task})
    _, reward, _, _, info = env.step("1, 2, 3")
    assert reward == 0.0 and info["outcome"] == "unparsable" and "2 gaps" in info["feedback"]


def test_a_random_order_earns_one_nth_and_the_right_one_all() -> None:
    """MR-RLVR (g): under the fixed-point reward the identity pays 1 and a random permutation 1/n on average."""
    env = StepsEnv(kind="order", level="easy")
    task = next(t for t in env.tasks("train", 0, 50) if 3 <= len(t.meta["key"]) <= 4)
    n, paid = len(task.meta["key"]), []
    for said in itertools.permutations("ABCDEFGH"[:n]):
        env.reset(options={"task": task})
        paid.append(env.step("".join(said))[1])
    assert np.mean(paid) == pytest.approx(1 / n) and max(paid) == 1.0 and paid.count(1.0) == 1


def test_answers_are_read_from_the_last_line_that_has_one() -> None:
    assert answer_of("1, 2\nso 30 and 4.5.\nthat is it", "fill") == ["30", "4.5"]
    assert answer_of("B, A, C", "order") == answer_of("I say BAC", "order") == ["B", "A", "C"]
    assert answer_of("no idea", "order") == answer_of("", "fill") == []


# ---- SCoRe -------------------------------------------------------------------------------------------------------


def two_turns() -> Batch:
    script = [([0.0, 1.0], "5", "7"), ([1.0, 1.0], "7", "7"), ([0.0, 0.0], "5", "8"), ([1.0, 0.0], "7", "12")]
    rows = [scripted_row(CHAT, TASK, i, [a, b], r, observations=[AGAIN], policy=POLICY) for i, (r, a, b) in enumerate(script)]
    return group_rows([*rows, scripted_row(CHAT, OTHER, 0, ["?", "?"], None, observations=[AGAIN])])


def test_progress_is_paid_to_the_second_turn() -> None:
    """(g) α = 10: wrong→right +11, right→right +1, wrong→wrong 0, right→wrong −10."""
    rewards = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [np.nan, np.nan]], float)
    np.testing.assert_array_equal(shaped(rewards, 10.0)[:4], [[0, 11], [1, 1], [0, 0], [1, -10]])
    assert np.isnan(shaped(rewards, 10.0)[4]).all() and (rewards[0] == [0, 1]).all()


@pytest.mark.parametrize(("stage", "discount"), [(1, 0.0), (2, 0.0), (2, 1.0)])
def test_score_is_its_formula(stage: int, discount: float) -> None:
    batch = two_turns()
    terms = build_algorithm("score", {"discount": discount}).annotate(batch, INTERPRETER.context(CHAT), stage=stage)
    r = np.array([row.turn_rewards for row in batch.rows[:4]])
    second = r[:, 1] if stage == 1 else r[:, 1] + 10 * (r[:, 1] - r[:, 0])
    first = np.zeros(4) if stage == 1 else r[:, 0] + discount * second
    total = torch.zeros((), dtype=torch.float64)
    for row, a0, a1 in zip(batch.rows, first - first.mean(), second - second.mean(), strict=False):
        segment = row.segments[0]
        for turn, a in enumerate((a0, a1)):
            places = np.arange(segment.spans[turn].start, segment.spans[turn].end)
            logp, ref = POLICY.logprobs(segment.ids, places), START.logprobs(segment.ids, places).detach()
            price = (0.1 if turn == 0 else 0.0) if stage == 1 else 0.01
            total = total + (-a * logp + price * 0.5 * (logp - ref) ** 2).sum() / 4
    assert INTERPRETER.objective(terms).item() == pytest.approx(total.item(), rel=1e-5)
    for got, want in zip(INTERPRETER.gradient(terms), torch.autograd.grad(total, POLICY.parameters), strict=True):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=2e-5)


def test_score_stages_and_refusals() -> None:
    algorithm, seen = build_algorithm("score"), dict[str, float]()
    assert [(p.name, p.steps) for p in algorithm.phases] == [("pin", 20), ("progress", None)]
    pinned, free = (p.annotate(two_turns(), INTERPRETER.context(CHAT)) for p in algorithm.phases)
    assert (pinned[0].items[0].advantage[:2] == 0).all() and free[0].items[0].advantage[0] != 0
    algorithm.annotate(two_turns(), dataclasses.replace(INTERPRETER.context(CHAT), report=seen.__setitem__))
    assert seen == {"first_reward": 0.5, "second_reward": 0.5, "corrected": 0.25, "spoilt": 0.25}
    with pytest.raises(ConfigError, match="TwoTurn-v0"):
        algorithm.validate(LettersEnv(), {})
    with pytest.raises(ConfigError, match="steps=20"):
        algorithm.validate(LettersEnv(turns=2), {"steps": 20})
    algorithm.validate(LettersEnv(turns=2), {"steps": 21, "group_size": 2})


# ---- Re-ReST and PU-RL -------------------------------------------------------------------------------------------


def attempts() -> Batch:
    script = [(TASK, "7", 1.0, ""), (TASK, "is 5", 0.0, "too low"), (TASK, "12", 0.0, ""), (OTHER, "6", 1.0, ""), (OTHER, "66", 0.0, "no")]
    return group_rows([scripted_row(CHAT, t, i, [a], [r], feedback=f, policy=POLICY) for i, (t, a, r, f) in enumerate(script)])


def test_the_reflector_reads_its_failure_and_the_worlds_words() -> None:
    algorithm = build_algorithm("rerest")
    views = algorithm.conditioners[0].views(attempts(), INTERPRETER.context(CHAT))
    assert [v is not None for v in views] == [False, True, False, False, True]
    text = CHAT.tokenizer.decode(views[1][0].prefix_ids)
    assert "is 5" in text and "too low" in text and "3+4=7" not in text
    assert algorithm.supervision == "feedback" and algorithm._failures(attempts()) == [1, 2, 4]


def test_ranks() -> None:
    values, groups = np.array([-3.0, -1.0, -2.0, np.nan, 5.0, 5.0, 1.0]), [[0, 1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(ranked(values, groups), [0, 1, 0.5, np.nan, 0.75, 0.75, 0])
    batch = attempts()
    assert order(batch.rows, batch.groups, np.array([1.0, 0.0, 2.0, 3.0, 3.0])) == pytest.approx((1 + 0 + 0.5) / 3)
    assert order(batch.rows[:1], [[0]], np.zeros(1)) == 0.5


def test_pu_rl_is_grpo_on_the_anchored_ranking_and_never_reads_the_reward() -> None:
    batch, seen = attempts(), dict[str, float]()
    algorithm = build_algorithm("pu_rl")
    context = dataclasses.replace(INTERPRETER.context(CHAT), report=seen.__setitem__)
    terms = algorithm.annotate(batch, context)
    views = algorithm.conditioners[0].views(batch, context)
    scores = np.array([POLICY_OR_START(v[0]) for v in views])
    want = np.zeros(5)
    for group in batch.groups:
        places = ranked(scores, batch.groups)[group]
        want[group] = (places - places.mean()) / (places.std(ddof=1) + 1e-6)
    np.testing.assert_allclose([item.advantage[0] for item in terms[0].items], want, atol=1e-6)
    assert seen["order"] == order(batch.rows, batch.groups, scores)
    flipped = group_rows([dataclasses.replace(r, reward=1.0 - (r.reward or 0.0), turn_rewards=[0.3]) for r in batch.rows])
    for useless in ({"overlong_share": 0.2}, {"credit": "turn"}):
        with pytest.raises(ConfigError, match="leave out overlong_share and credit"):
            build_algorithm("pu_rl", useless)
    again = build_algorithm("pu_rl").annotate(flipped, INTERPRETER.context(CHAT))
    assert all(np.array_equal(a.advantage, b.advantage) for a, b in zip(terms[0].items, again[0].items, strict=True))


def test_pu_pairs_is_dpo_on_the_extremes_of_the_ranking_and_never_reads_the_reward() -> None:
    batch, seen = attempts(), dict[str, float]()
    algorithm = build_algorithm("pu_pairs", {"beta": 0.7})
    context = dataclasses.replace(INTERPRETER.context(CHAT), report=seen.__setitem__)
    terms = algorithm.annotate(batch, context)
    views = [v and dataclasses.replace(v[0], weights="policy") for v in algorithm.conditioners[0].views(batch, context)]
    scores = np.array([POLICY_OR_START(v) for v in views])
    total = torch.zeros((), dtype=torch.float64)
    for group in batch.groups:
        sides = []
        for i in (max(group, key=scores.__getitem__), min(group, key=scores.__getitem__)):
            (view,) = student_views(batch, i)
            now, start = (model.logprobs(*view.sequence()).sum() for model in (POLICY, START))
            sides.append(now - start.detach())
        total = total - torch.nn.functional.logsigmoid(0.7 * (sides[0] - sides[1])) / len(batch.groups)
    for got, want in zip(INTERPRETER.gradient(terms), torch.autograd.grad(total, POLICY.parameters), strict=True):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-5)  # advantages are float32
    assert seen["order"] == order(batch.rows, batch.groups, scores) and seen["pairs"] == 1 and algorithm.teacher_weights.kind == "frozen"
    flipped = group_rows([dataclasses.replace(r, reward=1.0 - (r.reward or 0.0), turn_rewards=[0.3]) for r in batch.rows])
    again = build_algorithm("pu_pairs", {"beta": 0.7}).annotate(flipped, INTERPRETER.context(CHAT))
    assert all(np.array_equal(a.advantage, b.advantage) for a, b in zip(terms[0].items, again[0].items, strict=True))


def test_a_pair_needs_two_different_samples() -> None:
    batch = attempts()
    assert [(a.row, b.row) for a, b in extremes(batch, np.array([1.0, np.nan, -1.0, 2.0, 2.0]))] == [(0, 2)]
    twins = group_rows([scripted_row(CHAT, TASK, i, ["7"], [1.0]) for i in range(3)])
    assert extremes(twins, np.array([0.0, 1.0, 2.0])) == []
    with pytest.raises(ConfigError, match="one update per batch"):
        build_algorithm("pu_pairs", {"epochs": 2})
    with pytest.raises(ConfigError, match="2 turns"):
        build_algorithm("pu_pairs").validate(LettersEnv(turns=2), {})
    with pytest.raises(ConfigError, match="group_size"):
        build_algorithm("pu_pairs").validate(LettersEnv(), {"group_size": 1})


def POLICY_OR_START(view: Any) -> float:
    """The mean log-prob under the weights that the view names, straight from the model."""
    model = START if view.weights == "teacher" else POLICY
    return float(model.logprobs(*view.sequence()).mean().detach())
