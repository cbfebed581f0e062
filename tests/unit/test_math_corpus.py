"""The committed grading corpus: reproducible, honestly labelled, mostly beyond the fast path."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from sdgym.benchmarks.speed.math_corpus import ANSWERS, PATH, PROBLEMS, records
from sdgym.benchmarks.speed.math_grading import differences, load
from sdgym.core import Outcome, Verdict
from sdgym.verifiers.math_answer import MathGrader, judge_response
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_pool import shared_pool
from sdgym.verifiers.math_quick import Job


def _verdicts(corpus: Sequence[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[Verdict]:
    monkeypatch.setattr(shared_pool(), "deadline", 20.0)  # verdicts are tested here, not the speed of a busy machine
    grader = MathGrader(cache_size=0)

    async def run() -> list[Verdict]:
        return await asyncio.gather(*(grader.grade(Gold(r["gold"], r["type"]), r["response"]) for r in corpus))

    return asyncio.run(run())


def test_the_script_gives_the_committed_corpus() -> None:
    assert PATH.read_text(encoding="utf-8").splitlines() == [json.dumps(record, ensure_ascii=False) for record in records()]
    assert len(load()) == PROBLEMS * ANSWERS == 1000


def test_most_answers_need_computer_algebra() -> None:
    jobs = [isinstance(judge_response(Gold(r["gold"], r["type"]), r["response"]), Job) for r in load()]
    assert sum(jobs) >= 600


def test_a_slice_is_judged_as_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load()[::17]
    verdicts = _verdicts(corpus, monkeypatch)
    assert [r["answer"] for r, v in zip(corpus, verdicts, strict=True) if (v.outcome is Outcome.CORRECT) != r["right"]] == []


@pytest.mark.slow
def test_no_false_accept_in_the_whole_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = load()
    verdicts = _verdicts(corpus, monkeypatch)
    assert [r for r, v in zip(corpus, verdicts, strict=True) if v.outcome is Outcome.CORRECT and not r["right"]] == []
    assert sum(r["right"] and v.outcome is not Outcome.CORRECT for r, v in zip(corpus, verdicts, strict=True)) <= 5


def test_differences_are_listed_with_a_reason() -> None:
    record = {"gold": "\\pi", "type": "expr", "answer": "3.1416", "right": False}
    mine = Verdict(Outcome.WRONG, 0.0, "3.1416 is rounded; an exact answer is expected.")
    assert differences([record], [mine], [False]) == []
    assert differences([record], [mine], [True])[0]["why"] == mine.feedback
