"""Phases: the collect hook's second sampling pass, interleaved objectives, and both under resume."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import sdgym
from sdgym.algos import algorithms
from sdgym.algos.base import Algorithm, AnnotateContext, Batch, CollectContext, Interleaved, Phase, TeacherWeightsSpec, UpdateSchedule
from sdgym.algos.losses import NLLLoss
from sdgym.algos.terms import build_items
from sdgym.buffer import RolloutBuffer
from sdgym.config import make_config
from sdgym.core import LossTerm, Trajectory
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy
from sdgym.tracking import RunFolder
from sdgym.trainer import Trainer

SMALL: dict[str, Any] = {
    "tasks_per_step": 2,
    "group_size": 2,
    "steps": 5,
    "env": LETTERS_ID,
    "eval": {"every": 0, "tasks": 2, "samples": 2, "test_tasks": 0},
    "checkpoint": {"every": 1, "keep": 9},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=64).save(folder)
    return str(folder)


def lines(out: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def start(algo: str, model: str, out: pathlib.Path, **settings: Any) -> Trainer:
    return Trainer(make_config({**SMALL, "algo": algo, "model": model, **settings}), RunFolder(out))


def likelihood(name: str, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
    return [LossTerm(name, NLLLoss(), build_items(batch, context, range(len(batch.rows)), ratios=False))]


class Retry(Algorithm):
    """Every row is played again from its own tokens and a phrase; both generations are trained."""

    name = "retry"

    @property
    def phases(self) -> list[Phase]:
        return [Phase("train", self.annotate, collect=self.collect)]

    def collect(self, batch: Batch, context: CollectContext) -> Sequence[Trajectory]:
        self.seen = list(batch.rows)
        self.prompts = [np.append(row.segments[0].ids[:-1], context.chat.encode_text("no, ")) for row in batch.rows]
        tasks = [row.task for row in batch.rows]
        self.first = context.draw.play("retry", tasks, self.prompts, samples=2)
        self.again = context.draw.play("retry", tasks, self.prompts)
        self.notes = context.draw.generate("notes", [*self.prompts, np.zeros(64, np.int64)], max_tokens=5)
        self.step_tasks = context.draw.tasks()
        context.report("retries", len(self.first))
        return [*batch.rows, *self.first]

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        context.report("rows", len(batch.rows))
        return likelihood("both", batch, context)


class Alternate(Algorithm):
    """Phase one plain; phase two with an objective every other step before the main one."""

    name = "alternate"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.calls: list[tuple[str, int, bool, float]] = []

    @property
    def phases(self) -> list[Phase]:
        extra = Interleaved("extra", self.extra, every=2, schedule=UpdateSchedule(minibatches=2))
        return [Phase("first", self.annotate, steps=2), Phase("second", self.annotate, interleaved=(extra,))]

    def record(self, name: str, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        term = likelihood(name, batch, context)
        logprob = float(np.concatenate([s.logprobs for s in context.score([item.view for item in term[0].items])]).sum())
        self.calls.append((name, context.step, context.on_policy, logprob))
        return term

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        return self.record("main", batch, context)

    def extra(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        return self.record("side", batch, context)


class OwnRollouts(Algorithm):
    """A phase that samples for itself, and trains one row of all in every second step."""

    name = "own_rollouts"

    @property
    def phases(self) -> list[Phase]:
        return [Phase("train", self.annotate, rollouts=False, collect=self.collect)]

    @property
    def teacher_weights(self) -> TeacherWeightsSpec:
        return TeacherWeightsSpec("periodic", every=2, unit="step")

    def collect(self, batch: Batch, context: CollectContext) -> Sequence[Trajectory]:
        tasks = context.draw.tasks()
        return context.draw.play("own", tasks, [context.chat.prompt_ids(list(task.messages)) for task in tasks], samples=2)

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        chosen = [1] if context.step % 2 else []
        items = build_items(batch, context, chosen, ratios=False)
        counted: dict[str, Any] = {"count_empty": True, "rows": len(batch.rows)}
        return [LossTerm("first", NLLLoss(), items, aggregation="seq_mean_token_mean", **counted)] if chosen else []


for _class in (Retry, Alternate, OwnRollouts):
    algorithms.register(_class.name, _class)


def test_a_second_pass_starts_from_the_given_tokens_and_is_charged(model: str, tmp_path: pathlib.Path) -> None:
    trainer = start("retry", model, tmp_path / "run", steps=1)
    trainer.run()
    algorithm = trainer.session.algorithm
    assert [row.key[-2:] for row in algorithm.first] == [(i, k) for i in range(4) for k in range(2)]
    for i, row in enumerate(algorithm.first):
        segment = row.segments[0]
        np.testing.assert_array_equal(segment.ids[: segment.prompt_length], algorithm.prompts[i // 2])
        assert row.task == algorithm.seen[i // 2].task
        judged = row.actions[0][:1] != "" and row.reward is not None  # the environment read the new tokens, not the prompt
        assert judged and row.success == (row.reward == 1.0)
    assert [row.task for row in algorithm.seen[::2]] == algorithm.step_tasks
    sampled = [*algorithm.seen, *algorithm.first, *algorithm.again]
    noted = sum(len(sample.ids) for sample in algorithm.notes)
    ledger = trainer.session.ledger
    assert ledger.sampled_tokens == sum(row.action_length for row in sampled) + noted
    assert ledger.second_pass_tokens == ledger.sampled_tokens - sum(row.action_length for row in algorithm.seen)
    assert ledger.episodes == ledger.verifier_calls == len(sampled) == 4 + 8 + 4
    last = lines(tmp_path / "run")[-1]
    assert last["algo/retries"] == 8 and last["algo/rows"] == 12
    assert last["train/length"] == np.mean([row.action_length for row in algorithm.seen]), "train/* speaks of the rollouts alone"
    assert len(RolloutBuffer.load(tmp_path / "run" / "trajectories" / "step_000001.parquet")) == 12


def test_draws_of_a_stream_never_share_noise(model: str, tmp_path: pathlib.Path) -> None:
    trainer = start("retry", model, tmp_path / "run", steps=1)
    trainer.run()
    algorithm = trainer.session.algorithm
    keys = [row.key for row in [*algorithm.seen, *algorithm.first, *algorithm.again]]
    assert len(set(keys)) == len(keys)
    texts = [row.action_ids().tolist() for row in algorithm.first[::2]]
    assert texts != [row.action_ids().tolist() for row in algorithm.again]


def test_free_generation_obeys_its_limit_and_a_full_context(model: str, tmp_path: pathlib.Path) -> None:
    trainer = start("retry", model, tmp_path / "run", steps=1)
    trainer.run()
    *notes, full = trainer.session.algorithm.notes
    assert all(0 < len(note.ids) <= 5 and (note.stop == "eos" or len(note.ids) == 5) for note in notes)
    assert max(len(note.ids) for note in notes) > 2, "the turn's own limit (2 tokens) is not that of free text"
    assert full.stop == "context" and not len(full.ids)


def test_an_interleaved_objective_has_its_own_updates_on_the_same_rollouts(model: str, tmp_path: pathlib.Path) -> None:
    trainer = start("alternate", model, tmp_path / "run")
    trainer.run()
    calls = trainer.session.algorithm.calls
    assert [(name, step) for name, step, _, _ in calls] == [
        ("main", 0), ("main", 1), ("main", 2), ("side", 2), ("main", 3), ("main", 4), ("side", 4)
    ]  # fmt: skip
    assert [on_policy for _, _, on_policy, _ in calls] == [True, True, False, False, True, False, False]
    by_call = {(name, step): logprob for name, step, _, logprob in calls}
    assert by_call["main", 2] == by_call["side", 2], "both objectives are built from the weights that made the rollouts"
    metrics = lines(tmp_path / "run")[1:]
    assert [line["train/updates"] for line in metrics] == [1, 1, 3, 1, 3]
    assert [("loss/side" in line, "extra/train/grad_norm" in line) for line in metrics] == [
        (due, due) for due in (False, False, True, False, True)
    ]
    assert [line["algo/phase"] for line in metrics] == [0, 0, 1, 1, 1]
    assert all("loss/main" in line and "train/grad_norm" in line for line in metrics)
    assert metrics[2]["train/grad_norm"] != metrics[2]["extra/train/grad_norm"]


@pytest.mark.parametrize("algo", ["retry", "alternate"])
def test_resume_changes_nothing(algo: str, model: str, tmp_path: pathlib.Path) -> None:
    whole = sdgym.train(algo, out=tmp_path / "whole", model=model, **SMALL)
    broken = start(algo, model, tmp_path / "broken")
    steps = iter(range(3))
    train_step = broken._train_step

    def step_or_break() -> dict[str, float]:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return train_step()

    broken._train_step = step_or_break  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    broken.folder.close()
    resumed = sdgym.train(out=tmp_path / "broken", resume=True)
    volatile = ("seconds", "time/")
    expected, got = ([{k: v for k, v in line.items() if not k.startswith(volatile)} for line in lines(r.folder)] for r in (whole, resumed))
    assert got == expected


def test_rows_that_a_phase_sampled_itself_count_as_rollouts_do(model: str, tmp_path: pathlib.Path) -> None:
    """A batch of four rows, one with an item: with empty rows counted the objective is a quarter of that row's."""
    trainer = start("own_rollouts", model, tmp_path / "run", steps=4)
    update, found = trainer.session.learner.update, []

    def watched(terms: Sequence[LossTerm], rows: Sequence[Trajectory], parts: Any, lr: Any) -> dict[str, float]:
        parts = list(parts)
        found.append(([sorted(part) for part in parts], len(rows)))
        if terms:
            (item,) = terms[0].items
            alone = -float(trainer.session.learner.score([item.view])[0].logprobs.mean())
            metrics = update(terms, rows, parts, lr)
            assert metrics["loss/first"] == pytest.approx(alone / 4, rel=1e-4)
            return metrics
        return update(terms, rows, parts, lr)

    trainer.session.learner.update = watched  # type: ignore[method-assign]
    trainer.run()
    assert found == [([[0, 1, 2, 3]], 4)] * 4


def test_a_teachers_steps_are_rollout_steps(model: str, tmp_path: pathlib.Path) -> None:
    """Two of four steps train nothing; a teacher renewed every second step is renewed twice all the same."""
    trainer = start("own_rollouts", model, tmp_path / "run", steps=4)
    teacher, renewed = trainer.session.teacher, []
    copy = teacher._copy_student
    teacher._copy_student = lambda: (renewed.append(trainer.step), copy())  # type: ignore[func-returns-value,method-assign]
    trainer.run()
    assert [line["train/updates"] for line in lines(tmp_path / "run")[1:]] == [0, 1, 0, 1]
    assert renewed == [1, 3]
