"""What the recorder keeps is what a plain scoring of the same tokens says, row by row and token by token."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sdgym.algos.losses import DistillLoss, PolicyGradientLoss
from sdgym.core import LossItem, LossTerm, Outcome, ScoringView, Segment, StopReason, Task, Trajectory, TurnSpan
from sdgym.learner import Learner, OptimizerSettings
from sdgym.ledger import Ledger
from sdgym.policy import Policy
from sdgym.recording import Recorder, schema
from sdgym.seeding import generator
from sdgym.teacher import Teacher
from sdgym.testing_policy import random_policy


@pytest.fixture(scope="module")
def policy() -> Policy:
    return random_policy(hidden=32, layers=1, heads=2, kv_heads=1)


def two_turn_row(number: int) -> Trajectory:
    """Prompt of 4, action of 3, observation of 2, action of 2 tokens."""
    ids = generator(number, "row").integers(5, 250, 11)
    mask = np.array([False] * 4 + [True] * 3 + [False] * 2 + [True] * 2)
    segment = Segment(ids, mask, np.where(mask, -9.0, 0.0).astype(np.float32), (TurnSpan(0, 4, 7), TurnSpan(1, 9, 11)), 4)
    task = Task(f"t{number}", ({"role": "user", "content": "?"},), "train", number)
    outcome = (Outcome.WRONG, 0.0, False, StopReason.TERMINATED)
    return Trajectory(f"g{number}", 0, task, [segment], ["a", "b"], ["x", "y"], [0.0, 0.0], [], *outcome)


def item_of(row: int, trajectory: Trajectory, advantage: Any = None, weight: Any = None, teacher: bool = False) -> LossItem:
    """Its own tokens as a view; a teacher reads three more tokens in front and two more before the second turn."""
    (segment,) = trajectory.segments
    view = ScoringView(row, segment.ids[:4], segment.ids[4:], segment.action_mask[4:], np.arange(5))
    hint = generator(row, "hint").integers(5, 250, 5)
    told = {"insertions": ((5, hint[3:]),), "weights": "teacher", "grad": False, "kind": "feedback", "source": "row 7"}
    other = dataclasses.replace(view, prefix_ids=np.concatenate([hint[:3], view.prefix_ids]), **told)
    weight = np.ones(5, np.float32) if weight is None else np.array(weight, np.float32)
    return LossItem(view, weight, references=(other,) if teacher else (), advantage=advantage)


def record(policy: Policy, path: pathlib.Path, rows: list[Trajectory], terms: list[LossTerm], parts: Any) -> list[dict[str, Any]]:
    """Run one update that is listened to, and read back what was kept. The learning rate is 0: nothing moves."""
    learner = Learner(policy.model, Teacher(policy.model), Ledger(), OptimizerSettings(lr=0.0))
    learner.recorder = Recorder(rows)
    learner.update(terms, rows, parts)
    learner.recorder.save(path, policy.chat)
    table = pq.read_table(path)
    assert table.schema == schema()
    return list(table.to_pylist())


@pytest.mark.parametrize("support", ["sampled", "student_topk"])
def test_values_are_those_of_a_plain_scoring(policy: Policy, tmp_path: pathlib.Path, support: str) -> None:
    rows = [two_turn_row(i) for i in range(3)]
    items = [item_of(i, rows[i], teacher=True) for i in (2, 0)]  # row 1 takes no part, and the order is not that of the rows
    estimator = {"estimator": "k2"} if support == "sampled" else {}
    terms = [LossTerm("distill", DistillLoss(divergence="reverse_kl", support=support, residual="none", **estimator), items)]
    kept = record(policy, tmp_path / "tokens" / "step_000001.parquet", rows, terms, [range(3)])
    learner = Learner(policy.model, Teacher(policy.model), Ledger())
    for item in items:
        own, other = (scores.logprobs for scores in learner.score([item.view, item.references[0]]))
        found = kept[item.view.row]
        assert found["student"] == pytest.approx(own, abs=1e-5)  # float32, another packing
        (teacher,) = found["teachers"]
        assert teacher["logprobs"] == pytest.approx(other, abs=1e-5)
        assert (teacher["term"], teacher["kind"], teacher["source"], teacher["weights"]) == ("distill", "feedback", "row 7", "teacher")
        assert teacher["insertions"] == [{"token": 3, "text": policy.chat.tokenizer.decode(item.references[0].insertions[0][1])}]
        assert teacher["contexts"] == [{"token": 0, "text": policy.chat.tokenizer.decode(item.references[0].prefix_ids)}]
    assert kept[1]["teachers"] == [] and kept[1]["student"] == [-9.0] * 5, "an untrained row keeps the sampler's word"
    assert kept[0]["turns"] == [0, 0, 0, 1, 1]
    assert kept[0]["pieces"] == [policy.chat.tokenizer.decode([t]) for t in rows[0].action_ids()]
    assert kept[0]["contexts"] == [{"token": 0, "text": policy.chat.tokenizer.decode(rows[0].segments[0].ids[:4])}]


def test_advantages_are_kept_where_they_count(policy: Policy, tmp_path: pathlib.Path) -> None:
    rows = [two_turn_row(i) for i in range(2)]
    values = np.arange(5, dtype=np.float32)
    terms = [LossTerm("policy", PolicyGradientLoss(), [item_of(1, rows[1], advantage=values, weight=[1, 0, 1, 1, 1])])]
    kept = record(policy, tmp_path / "step_000001.parquet", rows, terms, [range(2)])
    assert kept[0]["advantage"] is None
    assert kept[1]["advantage"] == pytest.approx([0.0, float("nan"), 2.0, 3.0, 4.0], nan_ok=True)


def test_only_the_first_look_counts_and_strangers_are_passed_over(policy: Policy, tmp_path: pathlib.Path) -> None:
    rows = [two_turn_row(0)]
    item = item_of(0, rows[0], advantage=np.ones(5, np.float32))
    view = dataclasses.replace(item.view, row=5)
    rewritten = dataclasses.replace(item.view, provenance="rewritten", index_map=np.full(5, -1))
    others = [dataclasses.replace(item, view=view), dataclasses.replace(item, view=rewritten, advantage=np.full(5, 7.0, np.float32))]
    learner = Learner(policy.model, Teacher(policy.model), Ledger(), OptimizerSettings(lr=1e-2))
    before = learner.score([item.view])[0].logprobs
    weights = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    try:
        learner.recorder = Recorder(rows)
        learner.update([LossTerm("policy", PolicyGradientLoss(), [item, *others])], [], [range(6)] * 3)
        moved = learner.score([item.view])[0].logprobs
    finally:
        policy.model.load_state_dict(weights)
    learner.recorder.save(tmp_path / "step_000001.parquet", policy.chat)
    (kept,) = pq.read_table(tmp_path / "step_000001.parquet").to_pylist()
    assert kept["student"] == pytest.approx(before, abs=1e-5) != pytest.approx(moved, abs=1e-3)
    assert kept["advantage"] == [1.0] * 5
