"""SGS: what can be read as a problem, what it pays, and both players' objectives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest

import sdgym  # noqa: F401  (registers the worlds)
from sdgym.algos.base import AnnotateContext, CollectContext
from sdgym.algos.conjecture import conjecturer_rewards, evaluate, guide, read, request
from sdgym.algos.presets import build_algorithm
from sdgym.chat import ChatFormat
from sdgym.core import Task, Trajectory
from sdgym.errors import ConfigError
from sdgym.generation.base import Sample
from sdgym.testing.objective import BagModel, Interpreter, group_rows, scripted_row, scripted_task
from sdgym.testing_engine import LettersEnv
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
INTERPRETER = Interpreter(BagModel(len(CHAT.tokenizer), seed=1))
SEED = scripted_task("tiny-train-1-aa", "What is 3 + 4? Put the answer in \\boxed{}.")
OTHER = scripted_task("tiny-train-2-bb", "Compute 2 * 3. Put the answer in \\boxed{}.", answer="6")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1+2*3", 7), ("(1+2)*3", 9), ("-4/6", Fraction(-2, 3)), ("8-(3-1)", 6), ("2**9", None), ("7//2", None), ("1/0", None), ("007", None),
     ("9999999", None), ("(" * 300 + "1" + ")" * 300, None), ("__import__('os')", None), ("1.5+1", None), ("True+1", None)],
)  # fmt: skip
def test_evaluate_is_exact_and_executes_nothing(text: str, value: Any) -> None:
    found = evaluate(text)
    assert found == value if text != "True+1" else found in (None, 2)


def test_reading_a_problem() -> None:
    made = read("What is 12 + 35?\n", SEED)
    assert made is not None and (made.text, made.value, made.points) == ("What is 12 + 35?", 47, 8)
    assert [read(t, SEED) for t in ("", "What is x?", "What is 7?", "Compute 7 / 2.", "9 " * 99, "999999 * 999999", "3 + (4")] == [None] * 7
    assert (read("I say 5 * (2 + 9)- and more", SEED) or made).value == 55


def test_the_guide_likes_questions_with_new_numbers_that_are_not_trivial() -> None:
    assert guide("What is 12 + 35?", "12 + 35", SEED) == 8 and guide("What is 3 + 4?", "3 + 4", SEED) == 6
    assert guide("12 + 35", "12 + 35", SEED) == 5 and guide("What is 12 * 1?", "12 * 1", SEED) == 6
    assert guide("What is 5 + 5?" + " really" * 9, "5 + 5", SEED) == 5


def test_a_conjecture_is_a_task_that_the_world_can_judge() -> None:
    env = gymnasium.make("sdgym/Math-v0").unwrapped
    seed = env.make_task(3, "train")
    task = (read("What is 12 + 35?", seed) or pytest.fail("readable")).task(seed)
    for said, reward in (("\\boxed{47}", 1.0), ("\\boxed{48}", 0.0)):
        env.reset(options={"task": task})
        assert env.step(said)[1] == reward
    assert task.task_id != seed.task_id and request(seed)[-1]["content"].count("boxed") == 0


def test_what_nobody_and_what_everybody_solves_pays_nothing() -> None:
    raw = conjecturer_rewards([0.0, 1.0, 0.25, 0.5], [8, 8, 8, 4], share=1.0)
    np.testing.assert_allclose(raw, [0, 0, 1, 0.25 / 0.75])
    np.testing.assert_allclose(conjecturer_rewards([0.0, 0.125, 0.5, 0.75], [8] * 4, share=0.7), [0, 1, 0.5 / 0.875, 0])
    np.testing.assert_array_equal(conjecturer_rewards([0.5, 0.5], [8, 8]), [0, 0])
    np.testing.assert_array_equal(conjecturer_rewards([np.nan, 0.25, np.nan], [0, 8, 0]), [0, 1, 0])
    assert not len(conjecturer_rewards([], [])) and not conjecturer_rewards([np.nan], [0]).any()


class Draws:
    """Writes one readable problem and one that is none; answers are right once in four."""

    def generate(self, stream: str, prompts: Sequence[np.ndarray], max_tokens: int | None = None) -> list[Sample]:
        ids = [CHAT.encode_text(text) for text in ("What is 12 + 35?", "so what")]
        return [Sample(i, found, np.zeros(len(found), np.float32), "eos") for i, found in enumerate(ids)]

    def play(self, stream: str, tasks: Sequence[Task], prompts: Sequence[np.ndarray], samples: int = 1) -> list[Trajectory]:
        assert [t.privileged["answer"] for t in tasks] == ["47"] and samples == 4
        rows = [scripted_row(CHAT, tasks[0], i, ["47" if i == 0 else "5"], [float(i == 0)]) for i in range(samples)]
        return [dataclasses.replace(row, group_id="try") for row in rows]


def test_both_players() -> None:
    script = [(SEED, "7", 1.0), (SEED, "8", 0.0), (SEED, "9", 0.0), (OTHER, "6", 1.0), (OTHER, "6.", 1.0), (OTHER, "5", 0.0)]
    rollouts = group_rows([scripted_row(CHAT, t, i % 3, [a], [r]) for i, (t, a, r) in enumerate(script)])
    base, seen = INTERPRETER.context(CHAT), dict[str, float]()
    base = dataclasses.replace(base, report=seen.__setitem__)
    context = CollectContext(**{f.name: getattr(base, f.name) for f in dataclasses.fields(AnnotateContext)}, draw=Draws())  # type: ignore[arg-type]
    algorithm = build_algorithm("sgs", {"tries": 4})
    batch = group_rows(algorithm.play(rollouts, context))
    assert seen == {"readable": 0.5, "solve_rate": 0.25} and len(batch.rows) == 10
    np.testing.assert_array_equal(algorithm.payoff, [1, 0])
    solver, maker = algorithm.annotate(batch, base)
    assert [item.view.row for item in solver.items] == [0, 6], "the second task is solved too often to learn from"
    assert all((item.advantage == 1).all() for item in solver.items)
    assert [float(item.advantage[0]) for item in maker.items] == [0.5, -0.5]
    assert CHAT.tokenizer.decode(maker.items[0].view.token_ids) == "What is 12 + 35?"
    assert "like this one" in CHAT.tokenizer.decode(maker.items[0].view.prefix_ids)


def test_long_answers_are_worth_less_and_other_worlds_are_refused() -> None:
    row = scripted_row(CHAT, SEED, 0, ["7" * 21], [1.0], max_tokens=24)
    algorithm = build_algorithm("sgs")
    wrong = scripted_row(CHAT, SEED, 1, ["5"], [0.0])
    (solver,) = algorithm.annotate(group_rows([row, wrong]), INTERPRETER.context(CHAT))
    expected = 1 - max(0.0, (row.action_length - 0.8 * 24) / (0.2 * 24))
    np.testing.assert_allclose(solver.items[0].advantage, expected, atol=1e-6)
    with pytest.raises(ConfigError, match="Math-v0"):
        algorithm.validate(LettersEnv(), {})
