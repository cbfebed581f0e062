from __future__ import annotations

import itertools
import json
import math
from typing import Any

import gymnasium
import numpy as np
import pytest

from sdgym.chat import ChatFormat
from sdgym.core import Outcome, StopReason, Task, Trajectory
from sdgym.evaluation import (
    EvalReport,
    ItemResult,
    answer_key,
    eval_tasks,
    final_answer,
    majority_success,
    pass_at_k,
    report_from_records,
    run_evaluation,
)
from sdgym.generation.base import SamplingParams
from sdgym.ledger import Ledger
from sdgym.rollout import RolloutDriver
from sdgym.testing_engine import LETTERS_ID, LettersEnv, ScriptedSampler
from sdgym.testing_policy import small_tokenizer

TASK = Task("tiny-val-1-x", ({"role": "user", "content": "?"},), "val", 1)


def row(action: str, success: bool) -> Trajectory:
    outcome = Outcome.CORRECT if success else Outcome.WRONG
    return Trajectory("g", 0, TASK, [], ["?"], [action], [float(success)], [], outcome, float(success), success, StopReason.TERMINATED)


def test_pass_at_k_equals_enumeration() -> None:
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(np.mean([any(d) for d in draws]), abs=1e-12)


def test_pass_at_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="pass@5 needs at least 5"):
        pass_at_k(4, 1, 5)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [("AAb", 1.0), ("Abb", 0.0), ("Ab", 0.5), ("AbcC", 0.5), ("", math.nan)],  # a capital is a success; letters are the answers
)
def test_majority(answers: str, expected: float) -> None:
    rows = [row(a.lower() if a in "Ab" else a, a.isupper()) for a in answers]
    assert majority_success(rows, final_answer) == pytest.approx(expected, nan_ok=True)


def test_an_answer_is_the_actions_with_blanks_normalised() -> None:
    assert final_answer(row("  4 \n 2 ", True)) == "4 2"


class Keyed(LettersEnv):
    def answer_key(self, task: Task, actions: list[str]) -> str:
        return f"{task.split}:{actions[-1][0]}"


def test_an_environment_may_say_what_counts_as_the_same_answer() -> None:
    assert answer_key(Keyed())(row("4 of them", True)) == "val:4"
    assert answer_key(LettersEnv()) is final_answer


def report(*items: tuple[int, int, float, float]) -> EvalReport:
    return EvalReport("val", tuple(ItemResult(f"t{i}", n, c, c / n if n else math.nan, m, g) for i, (n, c, m, g) in enumerate(items)), 1.0)


def test_means_leave_out_what_could_not_be_measured() -> None:
    found = report((4, 1, 0.0, 1.0), (2, 2, 1.0, math.nan), (0, 0, math.nan, 0.0))
    assert found.n == 2 and found.success == pytest.approx((0.25 + 1) / 2)
    assert found.greedy == 0.5 and found.majority == 0.5
    metrics = found.metrics()
    assert metrics["eval/pass@4"] == 1.0 and metrics["eval/pass@2"] == pytest.approx((pass_at_k(4, 1, 2) + 1) / 2)
    assert set(metrics) == {f"eval/{k}" for k in ("success", "greedy", "maj@4", "pass@2", "pass@4", "n", "reward", "length", "errored")}


def test_records_survive_json() -> None:
    found = report((4, 1, 0.0, 1.0), (2, 2, 1.0, 0.0))
    lines = [json.loads(json.dumps(record)) for record in found.records(step=3)]
    assert lines[0]["step"] == 3 and lines[0]["split"] == "val"
    assert report_from_records(lines, "val") == found


def driver(seed: int) -> RolloutDriver:
    chat = ChatFormat(small_tokenizer())
    sampler = ScriptedSampler([int(chat.encode_text(c)[0]) for c in "abXY01+-"], chat.end_ids[0])
    return RolloutDriver(lambda: gymnasium.make(LETTERS_ID), chat, sampler, Ledger(), seed)


def evaluate(seed: int, run_seed: int = 0, samples: int = 6, **settings: Any) -> EvalReport:
    with driver(run_seed) as made:
        tasks = eval_tasks(LettersEnv(), "val", seed, 10)
        return run_evaluation(made, tasks, samples, SamplingParams(max_tokens=2), split="val", seed=seed, **settings)


def test_a_report_counts_its_rows() -> None:
    found = evaluate(0)
    assert len(found.rows) == 10 * 6 + 10 and found.n == 10
    for i, item in enumerate(found.items):
        mine = found.rows[6 * i : 6 * i + 6]
        assert item.successes == sum(r.success for r in mine) and {r.task.task_id for r in mine} == {item.task_id}
        assert item.greedy == float(found.rows[60 + i].success)
    assert all(r.sampling["temperature"] == 0.0 for r in found.rows[60:])
    assert math.isnan(evaluate(0, greedy=False).greedy)


def test_evaluation_has_its_own_seed() -> None:
    assert evaluate(0, run_seed=1).items == evaluate(0, run_seed=2).items
    assert [i.task_id for i in evaluate(1).items] != [i.task_id for i in evaluate(0).items]


def test_tasks_are_the_splits_own() -> None:
    tasks = eval_tasks(LettersEnv(), "test", 3, 20)
    assert len({t.task_id for t in tasks}) == 20 and {t.split for t in tasks} == {"test"}
