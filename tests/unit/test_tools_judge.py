"""State tests: typed comparison, one-to-one matching of effects, collateral damage, dense reward, scores."""

from __future__ import annotations

from typing import Any

import pytest

from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.notes import NOTE
from sdgym.envs.tools.judge import Contains, Goal, created, deleted, dense, judge, same, succeeded, updated
from sdgym.envs.tools.scores import goal_completion, pass_hat_k
from sdgym.envs.tools.session import Episode
from sdgym.envs.tools.world import build_world
from sdgym.errors import ConfigError


@pytest.mark.parametrize(
    "wanted, found, verdict",
    [
        (42, 42, True), (42, 42.0, True), (42, "42", True), (42, " $42 ", True), (42, "42 dollars", True), (42, 43, False),
        (42, "42 or 43", False), (42, True, False), (1, True, False), (42, None, False), (42, [42], False), (42, "1e1", False),
        ("Blue Lamp", " blue  lamp ", True), ("Blue Lamp", "the blue lamp", False), ("5", 5, False),
        ([1, 2], [2, 1], True), ([1, 2], "2, 1", True), ([1, 1], [1, 2], False), ([1], [1, 1], False), (["a"], "a", True),
        (True, True, True), (True, 1, False), (False, None, False),
        (Contains("12", "ok"), "OK: 12 dollars", True), (Contains("12"), "112", False), (Contains("12"), 12, False),
    ],
)  # fmt: skip
def test_comparison_by_type(wanted: Any, found: Any, verdict: bool) -> None:
    assert same(wanted, found) is verdict


@pytest.fixture
def episode() -> Episode:
    episode = build_world(0, "test").episode()
    episode.db.record()
    return episode


def ids(episode: Episode, table: str, count: int) -> list[int]:
    return [row["id"] for row in episode.db.rows(f"SELECT id FROM {table} ORDER BY id LIMIT ?", count)]


def failed(goal: Goal, episode: Episode) -> list[str]:
    return [f.said for f in judge(goal, episode) if not f.passed]


def test_every_way_to_miss_an_effect_is_seen(episode: Episode) -> None:
    one, other = ids(episode, MESSAGE.name, 2)
    goal = Goal((updated(MESSAGE, one, "labelled", labels=["todo"]),), ends=False)
    assert failed(goal, episode) == ["labelled"]
    episode.db.update(MESSAGE, one, {"labels": ["later"]})
    assert failed(goal, episode) == ["labelled"], "a wrong value in the right column is one failure"
    episode.db.update(MESSAGE, one, {"labels": ["todo"]})
    assert succeeded(judge(goal, episode))
    episode.db.update(MESSAGE, one, {"body": "edited"})
    assert failed(goal, episode) == ["labelled", f"Something else was changed in mail: message {one} changed."]
    episode.db.update(MESSAGE, one, {"body": episode.db.changes()[0].before["body"]})  # type: ignore[index]
    assert succeeded(judge(goal, episode)), "what is put back is not damage"
    episode.db.delete(MESSAGE, other)
    assert failed(goal, episode) == [f"Something else was changed in mail: message {other} deleted."]


def test_new_and_deleted_rows_are_matched_one_to_one(episode: Episode) -> None:
    gone = ids(episode, NOTE.name, 1)[0]
    goal = Goal((created(NOTE, "noted", title="A"), created(NOTE, "noted", title="A"), deleted(NOTE, gone, "gone")), ends=False)
    episode.db.insert(NOTE, {"title": "a ", "body": "whatever"})
    assert failed(goal, episode) == ["noted", "gone"]
    episode.db.insert(NOTE, {"title": "A"})
    episode.db.delete(NOTE, gone)
    assert succeeded(judge(goal, episode))
    third = episode.db.insert(NOTE, {"title": "A"})
    assert failed(goal, episode) == [f"Something else was changed in notes: note {third} new."]


def test_answer_status_and_end(episode: Episode) -> None:
    goal = Goal(answer=3)
    assert len(failed(goal, episode)) == 3
    episode.done, episode.status, episode.answer = True, "success", "3"
    assert succeeded(judge(goal, episode))
    episode.status = "fail"
    assert failed(goal, episode) == ["It is reported with the right status (done, or not possible)."]


def test_dense_pays_only_for_what_fails_when_nothing_is_done(episode: Episode) -> None:
    one, other = ids(episode, MESSAGE.name, 2)
    goal = Goal((updated(MESSAGE, one, "a", subject="x"), updated(MESSAGE, other, "b", subject="x")))
    episode.done, episode.status = True, "success"
    idle = judge(goal, episode)
    assert dense(idle, idle) == 0.0 and sum(f.passed for f in idle) == len(idle) - 2
    episode.db.update(MESSAGE, one, {"subject": "x"})
    assert dense(judge(goal, episode), idle) == 0.5
    episode.db.delete(NOTE, ids(episode, NOTE.name, 1)[0])
    assert dense(judge(goal, episode), idle) == 0.0, "collateral damage voids it"


def test_scores() -> None:
    rows = [("s", 1.0), ("s", 0.0), ("s", 1.0), ("t", 1.0), ("t", 1.0), ("t", 1.0)]
    assert goal_completion(rows) == (5 / 6, 0.5)
    assert [pass_hat_k(4, 3, k) for k in (1, 2, 3, 4)] == [0.75, 0.5, 0.25, 0.0]
    with pytest.raises(ConfigError):
        goal_completion([])
    with pytest.raises(ConfigError):
        pass_hat_k(4, 3, 5)
