"""``sdgym/Math-v0``: tasks, splits, worked solutions, the novice, feedback as information, local data."""

from __future__ import annotations

import asyncio
import json
import math
import pathlib
import re
from collections import Counter

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sdgym  # noqa: F401  (registers the environments)
from sdgym.core import Outcome, Task, Verdict
from sdgym.envs.mathematics.env import FAMILIES, MathEnv, gold_of
from sdgym.errors import ConfigError, DataError
from sdgym.text_env import LEVELS, SPLITS, Information
from sdgym.verifiers.math_answer import grade, judge_response
from sdgym.verifiers.math_pool import shared_pool

FAMILY_NAMES = {"arithmetic", "fractions", "equations", "polynomials", "number_theory", "sequences", "calculus", "word_problems"}


@pytest.fixture(autouse=True)
def patient_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_pool(), "deadline", 10.0)  # a busy machine must not turn milliseconds into timeouts


@pytest.fixture(scope="module")
def tiny() -> list[Task]:
    return list(MathEnv().tasks("train", 0, 500))


def _tokens(text: str) -> int:
    """Count words, digits and punctuation marks: an upper bound for a small tokenizer with such units."""
    return len(re.findall(r"\\?[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]", text))


@pytest.mark.filterwarnings("ignore:.*render fps")
def test_gymnasium_accepts_it() -> None:
    check_env(gymnasium.make("sdgym/Math-v0").unwrapped)


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_has_the_eight_families_and_one_held_out(level: str) -> None:
    env = MathEnv(level)
    seen = Counter(task.meta["family"] for task in env.tasks("train", 3, 200))
    assert set(seen) == FAMILY_NAMES
    assert {task.meta["family"] for task in env.tasks("heldout", 3, 8)} == {"geometry"}
    assert bool(env.system_prompt) == (level != "tiny")


@pytest.mark.parametrize("level", LEVELS)
def test_oracle_and_worked_solution_are_right_and_mistakes_wrong(level: str) -> None:
    async def check() -> None:
        env = MathEnv(level)
        for split, count in (("train", 24), ("heldout", 2)):
            for task in env.tasks(split, 1, count):
                gold = gold_of(task)
                assert (await grade(gold, env.oracle(task)[0])).outcome is Outcome.CORRECT
                assert (await grade(gold, task.privileged["reference_solution"])).outcome is Outcome.CORRECT
                for (action,), _ in env.candidates(task)[1:4]:
                    verdict = await grade(gold, action)
                    assert verdict.score == 0.0, (task, action)
                    assert verdict.outcome not in (Outcome.TIMEOUT, Outcome.CRASHED)

    asyncio.run(check())


def test_splits_share_no_content() -> None:
    contents = {split: {task.task_id.rsplit("-", 1)[1] for task in MathEnv().tasks(split, 0, 60)} for split in SPLITS}
    for one in SPLITS:
        for other in SPLITS:
            assert one == other or not contents[one] & contents[other]


def test_task_ids_rebuild_the_task() -> None:
    for level in LEVELS:
        env = MathEnv(level)
        task = env.make_task(12345, "val")
        assert env.task_from_id(task.task_id) == task
        observation, info = env.reset(options={"task_id": task.task_id})
        assert (observation, info["task_id"]) == (task.messages[-1]["content"], task.task_id)


def test_tiny_keeps_its_ceiling(tiny: list[Task]) -> None:
    env = MathEnv()
    assert max(_tokens(task.messages[-1]["content"]) for task in tiny) <= 40
    assert max(_tokens(task.privileged["reference_solution"]) for task in tiny) <= 46
    assert max(_tokens(action) for task in tiny[:300] for (action,), _ in env.candidates(task)) <= 24


def test_tiny_has_twenty_thousand_train_problems_by_enumeration() -> None:
    """Count the canonical contents of the four main families directly; sampling only adds to them."""
    numbers = range(2, 100)
    pairs = [(a, b) for a in numbers for b in numbers]
    contents: list[list[object]] = [["arithmetic", "add", a, b] for a, b in pairs if a != b]
    contents += [["arithmetic", "subtract", a, b] for a, b in pairs if a > b]
    for skill in ("buys", "more_than", "together", "that_is_fewer"):
        contents += [["word_problems", skill, a, b] for a, b in pairs if a != b]
    for skill in ("gives", "fewer_than", "that_is_more", "difference"):
        contents += [["word_problems", skill, a, b] for a, b in pairs if a > b]
    train = sum(MathEnv.split_of(content) == "train" for content in contents)
    assert train >= 20_000
    known = {json.dumps(content) for content in contents}
    drawn = [MathEnv()._problem(seed, "train") for seed in range(150)]
    counted = [p for p in drawn if p.family == "word_problems" or (p.family == "arithmetic" and p.skill != "multiply")]
    assert len(counted) > 30
    assert all(json.dumps(p.canonical) in known for p in counted)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_tiny_gives_ten_thousand_train_problems_by_sampling() -> None:
    """Large numbers are rare, so sampling reaches all of the enumerated problems slowly."""
    assert len({task.task_id for task in MathEnv().tasks("train", 0, 10_000)}) == 10_000


def test_the_novice_is_bad_in_the_intended_way(tiny: list[Task]) -> None:
    env = MathEnv()
    tables = [env.candidates(task) for task in tiny]
    right = np.array([table[0][1] for table in tables])
    assert all(math.isclose(sum(p for _, p in table), 1.0) for table in tables)
    assert all(judge_response(gold_of(task), table[0][0][0]).outcome is Outcome.CORRECT for task, table in zip(tiny, tables, strict=True))  # type: ignore[union-attr]
    # Standard error of the mean over 500 tasks is 0.008.
    assert 0.33 < right.mean() < 0.40
    greedy = np.mean([table[0][1] == max(p for _, p in table) for table in tables])
    assert 0.25 < greedy < 0.48
    assert np.mean((right > 0.05) & (right < 0.95)) >= 0.6
    assert np.mean((right > 0.1) & (right < 0.7)) > 0.9
    slips = [sum(p for action, p in table if p <= 0.041 and action != table[0][0]) for table in tables]
    assert np.mean(slips) <= 0.08


def test_the_novice_draws_from_its_candidates(tiny: list[Task]) -> None:
    env, rng, task, n = MathEnv(), np.random.default_rng(0), tiny[0], 4000
    table = dict(env.candidates(task))
    drawn = Counter(tuple(env.novice(task, rng)) for _ in range(n))
    for action, p in table.items():
        assert abs(drawn[action] / n - p) < 4 * math.sqrt(p * (1 - p) / n) + 1e-9


def test_feedback_is_information_about_the_answer(tiny: list[Task]) -> None:
    """On failed tasks the ideal posterior lies between plain and certainty, and feedback says more than "wrong"."""
    env = MathEnv()
    plain, told_wrong, told_parts, weights = [], [], [], []
    for task in tiny[:150]:
        table, gold = env.candidates(task), gold_of(task)
        for (action,), weight in table[1:]:
            verdict = judge_response(gold, action)
            assert isinstance(verdict, Verdict)  # tiny never needs a worker
            feedback = Information("feedback", task.task_id, (action,), (verdict.feedback,))
            outcome = Information("outcome", task.task_id, (action,))
            assert env.consistent(task, table[0][0], feedback), (task, action, verdict)
            assert not env.consistent(task, (action,), feedback)
            for information, posterior in ((feedback, told_parts), (outcome, told_wrong)):
                posterior.append(table[0][1] / sum(p for a, p in table if env.consistent(task, a, information)))
            plain.append(table[0][1])
            weights.append(weight)
    averages = [float(np.average(values, weights=weights)) for values in (plain, told_wrong, told_parts)]
    assert averages[0] + 0.05 < averages[1] < averages[2] - 0.1
    assert averages[0] + 0.2 < averages[2] < 0.85


def test_references_and_peers_leave_only_the_right_answer(tiny: list[Task]) -> None:
    env, rng = MathEnv(), np.random.default_rng(1)
    for task in tiny[:60]:
        for kind in ("reference", "peer"):
            action = env.demonstrate(task, rng, Information(kind, task.task_id, env.oracle(task)))[0]
            assert judge_response(gold_of(task), action).outcome is Outcome.CORRECT  # type: ignore[union-attr]
    right = Information("outcome", tiny[0].task_id, tuple(env.oracle(tiny[0])))
    table = env.candidates(tiny[0])
    assert [env.consistent(tiny[0], actions, right) for actions, _ in table] == [True] + [False] * (len(table) - 1)


def test_a_mismatched_block_leaves_the_novice_alone(tiny: list[Task]) -> None:
    env, other = MathEnv(), Information("reference", tiny[1].task_id, ("\\boxed{1}",))
    draws = [env.demonstrate(tiny[0], np.random.default_rng(seed), other) for seed in range(50)]
    assert draws == [env.novice(tiny[0], np.random.default_rng(seed)) for seed in range(50)]


def test_an_episode() -> None:
    env = gymnasium.make("sdgym/Math-v0", level="easy", split="val")
    _, info = env.reset(seed=5)
    assert [message["role"] for message in info["messages"]] == ["system", "user"]
    _, reward, terminated, truncated, info = env.step("I do not know")
    assert (reward, terminated, truncated, info["outcome"], info["valid_action"]) == (0.0, True, False, "no_answer", 0.0)
    assert info["feedback"] == "There is no \\boxed{} answer."
    env.reset(seed=5)
    task = env.unwrapped.task
    _, reward, terminated, _, info = env.step(f"Hence \\boxed{{{task.privileged['answer']}}}")
    assert (reward, terminated, info["success"], info["outcome"]) == (1.0, True, 1.0, "correct")


def test_feedback_never_gives_the_answer_away() -> None:
    for level in LEVELS:
        env = MathEnv(level)
        for task in env.tasks("val", 2, 30):
            gold = gold_of(task)
            for action in ("\\boxed{zzz}", "nothing", "\\boxed{99999999}"):
                verdict = judge_response(gold, action)
                assert hasattr(verdict, "pairs") or f" {gold.text}" not in verdict.feedback.replace("99999999", "")


# ---- local data ---------------------------------------------------------------------------------


def _write(path: pathlib.Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _rows(column: str = "problem") -> list[dict[str, object]]:
    return [{column: f"What is {n} + {n}?", "answer": str(2 * n), "solution": f"Twice {n}."} for n in range(60)]


@pytest.mark.parametrize("column", ["problem", "question", "prompt"])
def test_json_lines_are_read(tmp_path: pathlib.Path, column: str) -> None:
    env = MathEnv("easy", "train", data=_write(tmp_path / "x.jsonl", _rows(column)))
    task = env.make_task(7, "train")
    assert env.task_from_id(task.task_id) == task
    env.reset(options={"task": task})
    assert env.step(f"\\boxed{{{task.privileged['answer']}}}")[1] == 1.0
    assert task.privileged["reference_solution"].endswith(f"So \\boxed{{{task.privileged['answer']}}}.")
    assert task.meta["answer_type"] == "int"


def test_parquet_gives_the_same_tasks(tmp_path: pathlib.Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(_rows()), tmp_path / "x.parquet")
    one = MathEnv(data=str(tmp_path / "x.parquet"))
    other = MathEnv(data=_write(tmp_path / "x.jsonl", _rows()))
    assert [one.make_task(seed, "test") for seed in range(20)] == [other.make_task(seed, "test") for seed in range(20)]


def test_data_splits_are_disjoint_and_complete(tmp_path: pathlib.Path) -> None:
    env = MathEnv(data=_write(tmp_path / "x.jsonl", _rows()))
    assert env._rows is not None
    questions = [row.question for rows in env._rows.values() for row in rows]
    assert len(questions) == len(set(questions)) == 60
    assert set(env._rows) == {"pretrain", "train", "val", "test"}


@pytest.mark.parametrize(
    ("answer", "kind", "gold"),
    [
        ("42", "int", "42"),
        ("so it is six times seven\n#### 42", "int", "42"),
        ("\\boxed{\\frac{3}{4}}", "rational", "\\frac{3}{4}"),
        ("2.5", "decimal", "2.5"),
        ("12%", "percent", "12%"),
        ("(1,2)", "tuple", "(1,2)"),
        ("[1,2)", "interval", "[1,2)"),
        ("(-\\infty,3)", "interval", "(-\\infty,3)"),
        ("\\{1,2\\}", "set", "\\{1,2\\}"),
        ("1, 2", "set", "1, 2"),
        ("\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}", "matrix", "\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}"),
        ("B", "choice", "B"),
        ("Monday", "text", "Monday"),
        ("\\sqrt{2}", "expr", "\\sqrt{2}"),
        ("x^2-1", "expr", "x^2-1"),
    ],
)
def test_answer_types_are_inferred(tmp_path: pathlib.Path, answer: str, kind: str, gold: str) -> None:
    rows: list[dict[str, object]] = [{"problem": f"q{n}", "answer": answer} for n in range(40)]
    task = MathEnv(data=_write(tmp_path / "x.jsonl", rows)).make_task(0, "train")
    assert (task.meta["answer_type"], task.privileged["answer"]) == (kind, gold)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"problem": "q", "answer": "1"}\n{"problem": ', "line 2 is not JSON"),
        ("[1]\n", "line 1 is not a JSON object"),
        ('{"text": "q", "answer": "1"}\n', "no column problem, question or prompt; columns found: text, answer"),
        ('{"problem": "q", "anwser": "1"}\n', "row 1 has no answer: did you mean 'anwser'"),
        ('{"problem": " ", "answer": "1"}\n', "problem is empty"),
        ('{"problem": "q", "answer": ""}\n', "the answer is empty"),
        ('{"problem": "q", "answer": "1", "answer_type": "integer"}\n', "no answer type called 'integer'"),
        ('{"problem": "q", "answer": "abc", "answer_type": "int"}\n', "cannot be read as int"),
        ('{"problem": "q", "answer": "1", "tolerance": "wide"}\n', "row 1: could not convert"),
        ("", "holds no rows"),
        ('{"problem": "q", "answer": "1"}\n', "no problem in split 'train'|in split"),
    ],
)
def test_bad_files_are_explained(tmp_path: pathlib.Path, content: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        for split in ("train", "val"):
            MathEnv(split=split, data=str(tmp_path / "x.jsonl"))


def test_missing_files_and_formats_are_explained(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="there is no data file"):
        MathEnv(data=str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"not a \.jsonl or \.parquet file"):
        MathEnv(data=str(tmp_path / "x.csv"))
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        MathEnv(data=str(tmp_path / "x.parquet"))
    env = MathEnv(data=_write(tmp_path / "y.jsonl", _rows()))
    with pytest.raises(ConfigError, match="no novice"):
        env.novice(env.make_task(0, "train"), np.random.default_rng(0))


def test_families_are_weighted_positively() -> None:
    assert all(weight > 0 for groups in FAMILIES.values() for group in groups for _, weight in group)


def test_votes_count_the_text_in_the_box(tiny: list[Task]) -> None:
    env = MathEnv()
    assert env.answer_key(tiny[0], [r"so it is \boxed{12}"]) == env.answer_key(tiny[0], [r"\boxed{12}"]) == "12"
    assert env.answer_key(tiny[0], ["twelve"]) == env.answer_key(tiny[0], []) == ""
