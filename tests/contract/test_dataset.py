"""Any file of questions with any grader."""

from __future__ import annotations

import gzip
import json
import pathlib
from typing import Any

import gymnasium
import pytest

from sdgym.algos.presets import build_algorithm
from sdgym.core import Outcome, Verdict
from sdgym.envs.dataset import DatasetEnv
from sdgym.errors import ConfigError, DataError, UnknownNameError
from sdgym.testing import CHECKS, GARBAGE, check_text_env
from sdgym.verifiers.graders import graders


@pytest.fixture
def file(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"What is {n} in words?", "answer": f"word {n}"}) + "\n" for n in range(60)))
    return str(path)


def test_a_world_in_five_lines(file: str) -> None:
    graders.register("length", lambda answer, row: (min(len(answer), 8) / 8, f"{len(answer)} characters"))
    env = gymnasium.make("sdgym.envs.dataset:sdgym/Dataset-v0", data=file, grader="length")
    env.reset(seed=1)
    _, reward, terminated, _, info = env.step("abcd")
    assert (reward, terminated, info["success"], info["feedback"]) == (0.5, True, 0.0, "4 characters")


def test_it_conforms_in_all_that_does_not_ask_for_a_held_out_family(file: str) -> None:
    """The rows are the user's: no family is held out, and what is said about a failure is the grader's."""
    only = [name for name in CHECKS if name not in ("splits", "oracle", "feedback", "novice", "vector")]
    check_text_env("sdgym.envs.dataset:sdgym/Dataset-v0", tasks=6, only=only, level="data", data=file).raise_for_failures()


def test_rows_without_answers_tell_a_teacher_nothing(tmp_path: pathlib.Path) -> None:
    """No text stands in for a solution: a teacher would believe it, and supervised training would imitate it."""
    path = tmp_path / "open.jsonl"
    path.write_text("".join(json.dumps({"question": f"Write about {n}."}) + "\n" for n in range(60)))
    env = DatasetEnv(data=str(path), grader="caseless")
    assert env.make_task(0, "train").privileged == {}
    for name in ("opsd", "sdft", "sft_reference", "star"):
        with pytest.raises(ConfigError, match="needs a reference solution"):
            build_algorithm(name).validate(env, {"group_size": 4, "tasks_per_step": 4})
    report = check_text_env("sdgym.envs.dataset:sdgym/Dataset-v0", tasks=6, only=["privileged"], level="data", data=str(path))
    assert report.passed and "these tasks have none" in str(report)


def test_the_exact_grader_wants_the_answer_and_nothing_scores_for_garbage(file: str) -> None:
    env: Any = DatasetEnv(data=file)
    for task in env.tasks("train", 0, 5):
        assert env.task_from_id(task.task_id) == task
        env.reset(options={"task": task})
        assert env.step(f"<think>hm</think> {env.oracle(task)[0]} ")[1] == 1.0
        for text in GARBAGE:
            env.reset(options={"task": task})
            assert env.step(text)[1] == 0.0
    assert DatasetEnv(data=file, grader="caseless").grader("Word  3", {"answer": "word 3"}) is True


def test_a_grader_that_fails_masks_the_row_and_one_that_returns_nonsense_is_named(file: str) -> None:
    def broken(answer: str, row: Any) -> float:
        raise KeyError("gold")

    env = DatasetEnv(data=file, grader=broken)
    env.reset(seed=0)
    *_, info = env.step("x")
    assert info["outcome"] == "infra_error" and "the grader raised KeyError" in info["feedback"]
    for nonsense in (2.0, float("nan"), "right", None):
        env = DatasetEnv(data=file, grader=lambda answer, row, said=nonsense: said)  # type: ignore[misc]
        env.reset(seed=0)
        with pytest.raises(ConfigError, match="score from 0 to 1"):
            env.step("x")
    env = DatasetEnv(data=file, grader=lambda answer, row: Verdict(Outcome.UNPARSABLE, 0.0, "no number"))
    env.reset(seed=0)
    *_, info = env.step("x")
    assert (info["outcome"], info["feedback"], info["valid_action"]) == ("unparsable", "no number", 0.0)


def test_mistakes_are_one_sentence(file: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"needs data=FILE\.jsonl"):
        DatasetEnv()
    with pytest.raises(UnknownNameError, match="did you mean 'exact'"):
        DatasetEnv(data=file, grader="exat")
    for content, said in (
        ("", "holds no rows"),
        ("[1]\n", "line 1 is not a JSON object"),
        ("{}\n", "line 1 has no statement"),
        ("{\n", "line 1 is not JSON"),
    ):
        (tmp_path / "bad.jsonl").write_text(content)
        with pytest.raises(DataError, match=said):
            DatasetEnv(data=str(tmp_path / "bad.jsonl"))


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"a\u2028b\u0085{i}", "answer": str(i)} for i in range(40)]  # JSON may hold both as they are
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows), encoding="utf-8", newline="")
    env = DatasetEnv(data=str(path))
    assert env.make_task(0, "train").messages[-1]["content"].startswith("a\u2028b")
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        DatasetEnv(data=str(packed))
