from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest

from sdgym.buffer import RolloutBuffer
from sdgym.core import Feedback, Outcome, Segment, StopReason, Task, Trajectory, TurnSpan
from sdgym.errors import DataError
from sdgym.seeding import generator


def row(group: str, member: int, *, reward: float | None = 1.0, tokens: int = 3) -> Trajectory:
    rng = generator(member, group)
    ids = rng.integers(0, 2**40, 2 + 2 * tokens)
    mask = np.array([False] * 2 + [True] * tokens + [False] * tokens)
    first = Segment(ids, mask, np.where(mask, rng.normal(size=len(ids)), 0).astype(np.float32), (TurnSpan(0, 2, 2 + tokens),), 2)
    empty = Segment(ids[:1], np.zeros(1, bool), np.zeros(1, np.float32), (), 1)
    task = Task(
        f"tiny-train-5-{group}", ({"role": "user", "content": "2+2=\u00e9\U0001f600?"},), "train", 5, {"answer": "4"}, {"n": 1, "x": [1.5]}
    )
    return Trajectory(
        group_id=group,
        member=member,
        task=task,
        segments=[first, empty],
        observations=["see", ""],
        actions=["\ufffd four\n", ""],
        turn_rewards=[0.1, 0.2],
        feedback=[Feedback("judge", "no \u2260", 1, True, False)],
        outcome=Outcome.WRONG if reward is not None else Outcome.INFRA_ERROR,
        reward=reward,
        success=False,
        stop_reason=StopReason.MAX_TURNS if reward is not None else StopReason.ERRORED,
        error="" if reward is not None else "infra_error",
        policy_version=7,
        key=(3, "train", 2, 1, member),
        sampling={"temperature": 1.0, "max_tokens": 24.0},
        truncated_tokens=True,
    )


def same(a: Trajectory, b: Trajectory) -> bool:
    left, right = ({k: v for k, v in vars(x).items() if k not in ("segments", "task")} for x in (a, b))
    segments = all(
        np.array_equal(x.ids, y.ids)
        and np.array_equal(x.action_mask, y.action_mask)
        and np.array_equal(x.logprobs, y.logprobs)
        and x.logprobs.dtype == y.logprobs.dtype
        and (x.spans, x.prompt_length) == (y.spans, y.prompt_length)
        for x, y in zip(a.segments, b.segments, strict=True)
    )
    tasks = (a.task, dict(a.task.privileged), dict(a.task.meta)) == (b.task, dict(b.task.privileged), dict(b.task.meta))
    return segments and tasks and left == right


def test_parquet_is_lossless(tmp_path: pathlib.Path) -> None:
    rows = [row("a", 0), row("a", 1, reward=None), row("b", 0, tokens=0)]
    RolloutBuffer(rows).save(tmp_path / "t.parquet")
    again = RolloutBuffer.load(tmp_path / "t.parquet")
    assert all(same(x, y) for x, y in zip(again.rows, rows, strict=True))
    assert again.groups() == [[0, 1], [2]]
    changed = dataclasses.replace(rows[0], turn_rewards=[0.1, 0.25])
    assert not same(changed, rows[0])  # the comparison can fail


def test_an_empty_buffer_survives(tmp_path: pathlib.Path) -> None:
    RolloutBuffer().save(tmp_path / "t.parquet")
    assert len(RolloutBuffer.load(tmp_path / "t.parquet")) == 0


def test_groups_keep_admission_order_whatever_order_rows_arrive_in() -> None:
    buffer = RolloutBuffer([row("b", 1), row("a", 0), row("b", 0), row("a", 1)])
    assert buffer.groups() == [[2, 0], [1, 3]]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_batches_hold_whole_groups_once(count: int) -> None:
    buffer = RolloutBuffer([row(g, m) for g in "abcde" for m in range(3)])
    batches = list(buffer.batches(count, generator(0, "x")))
    assert len(batches) == min(count, 5)
    assert sorted(i for batch in batches for i in batch) == list(range(15))
    for batch in batches:
        assert all({3 * (i // 3) + k for k in range(3)} <= set(batch) for i in batch)
    sizes = [len(batch) // 3 for batch in batches]
    assert max(sizes) - min(sizes) <= 1


def test_batches_are_shuffled_by_the_given_generator_only() -> None:
    buffer = RolloutBuffer([row(g, 0) for g in "abcdefgh"])
    assert list(buffer.batches(2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    first, again, other = (list(buffer.batches(2, generator(seed, "x"))) for seed in (1, 1, 2))
    assert first == again != other


def test_state_holds_rows_and_cursor() -> None:
    buffer = RolloutBuffer([row(g, m) for g in "abc" for m in range(2)])
    parts = buffer.batches(3)
    next(parts), next(parts)
    other = RolloutBuffer([row("z", 0)])
    other.load_state_dict(buffer.state_dict())
    assert other.cursor == 2 and other.groups() == buffer.groups()
    assert all(same(x, y) for x, y in zip(other.rows, buffer.rows, strict=True))


def test_a_foreign_file_is_named(tmp_path: pathlib.Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(DataError, match=r"absent\.parquet"):
        RolloutBuffer.load(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="not a readable trajectory file"):
        RolloutBuffer.load(tmp_path / "text.parquet")
    pq.write_table(pa.table({"group_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="missing columns"):
        RolloutBuffer.load(tmp_path / "other.parquet")
