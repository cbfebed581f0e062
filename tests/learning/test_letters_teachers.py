"""Self-distillation and its same-information controls on the letters world, from a policy that can use what it is told.

Random weights cannot read. The fixture's policy has been taught three things: to say one sign and stop (any sign: a plain
attempt is right about one time in four), to repeat a reference, and to correct an attempt after a control phrase. Every
method must carry what the policy can do when told over to the plain prompt, where nothing is told. Seen: 0.33 before,
0.91 to 0.95 after; the margin asks for 0.30 more, so that another CPU's last bits cannot matter.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

import sdgym
from sdgym.algos import algorithms
from sdgym.algos.base import AnnotateContext, Batch
from sdgym.algos.conditioning.frames import section, with_block
from sdgym.algos.conditioning.revision import Cues
from sdgym.algos.losses import NLLLoss
from sdgym.algos.sft_reference import SFTReference
from sdgym.core import LossItem, LossTerm, ScoringView
from sdgym.testing.pages import unexplained
from sdgym.testing_engine import KINDS, LETTERS_ID
from sdgym.testing_policy import random_policy

SETTINGS: dict[str, Any] = {
    "env": LETTERS_ID,
    "tasks_per_step": 8,
    "group_size": 8,
    "sampling": {"max_tokens": 3},
    "optimizer": {"lr": 1e-3},
    "eval": {"every": 0, "tasks": 32, "samples": 4, "test_tasks": 0},
    "checkpoint": {"every": 0},
    "log": {"trajectories_every": 0},
}


class Schooling(SFTReference):
    """Teaches the policy to stop, to read a reference and to follow a control phrase, but not to be right unaided."""

    name = "schooling"

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        chat, cues, items = context.chat, Cues(), []
        for i, task in enumerate(self._tasks):
            right, kinds = task.privileged["answer"], sorted(KINDS)
            said = [KINDS[kinds[int(k)]][0] for k in context.rng.integers(len(kinds), size=2)]
            plain = chat.prompt_ids(list(task.messages))
            told = chat.prompt_ids(with_block(task.messages, [section("reference", task.privileged["reference_solution"])]))
            lessons = [(plain, said[0]), (told, right)]
            for attempt, cue in ((said[1], cues.right if said[1] == right else cues.wrong), (right, cues.right)):
                lessons.append((np.concatenate([plain, chat.encode_text(f"{attempt}\n\n{cue}\n\n")]), right))
            for prefix, answer in lessons:
                tokens = np.append(chat.encode_text(answer), chat.end_ids[0])
                void = np.full(len(tokens), -1, np.int64)
                view = ScoringView(i, prefix, tokens, np.ones(len(tokens), bool), void, provenance="rewritten")
                items.append(LossItem(view, np.ones(len(tokens), np.float32)))
        return [LossTerm("likelihood", NLLLoss(), items)]


algorithms.register("schooling", Schooling)


def train(algo: Any, model: str, out: pathlib.Path, steps: int, **settings: Any) -> list[dict[str, float]]:
    sdgym.train(algo, out=out, model=model, steps=steps, **{**SETTINGS, **settings})
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("schooled")
    random_policy(context=128, scale=0.1).save(folder / "blank")
    train("schooling", str(folder / "blank"), folder / "run", 40, tasks_per_step=12, optimizer={"lr": 2e-3})
    return str(folder / "run" / "model")


@pytest.mark.parametrize(
    ("algo", "steps"),
    [
        ("sft_reference", 12),
        ("star", 12),
        ({"name": "sdft", "skip_first": 0}, 12),
        ({"name": "sd_zero_paper", "collect_steps": 2, "stage_steps": 4}, 18),
        ({"name": "sd_zero_repo", "collect_steps": 2, "stage_steps": 4, "revise_right": True}, 22),
    ],
)
def test_what_the_policy_can_do_when_told_reaches_the_plain_prompt(algo: Any, steps: int, model: str, tmp_path: pathlib.Path) -> None:
    log = train(algo, model, tmp_path / "run", steps)
    assert log[0]["eval/success"] < 0.45
    assert log[-1]["eval/success"] > log[0]["eval/success"] + 0.3


def test_the_self_localisation_of_a_reviser_is_logged_for_right_and_wrong_attempts(model: str, tmp_path: pathlib.Path) -> None:
    """An answer here is a sign and an end token; the sign is where a wrong attempt goes wrong, so the first token carries it."""
    log = train({"name": "sd_zero_paper", "collect_steps": 1, "stage_steps": 3}, model, tmp_path / "run", 5)
    last = log[-1]
    assert min(last[f"teacher/localisation_{side}"] for side in ("right", "wrong")) > 0.8, "seen: 0.95 and more"
    assert last["teacher/lift_wrong"] < last["teacher/lift_right"] - 0.3, "the reviser takes back wrong signs, not right ones"
    assert last["teacher/peak_position"] < 0.3, "0 is the first token"
    assert unexplained(log, "sd_zero") == []


def test_sd_zero_resumes_in_any_phase_as_if_nothing_had_happened(model: str, tmp_path: pathlib.Path) -> None:
    """Collect, two training stages with passes over the pool, two rounds; stopped inside the first stage and inside the first round."""
    algo = {"name": "sd_zero_iterative", "collect_steps": 1, "stage_steps": 2, "round_steps": 2, "pool_batch": 8}
    settings: dict[str, Any] = {"tasks_per_step": 4, "group_size": 4, "checkpoint": {"every": 1, "keep": 9}}
    settings["eval"] = {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 0}
    whole = train(algo, model, tmp_path / "whole", 9, **settings)
    assert [line.get("algo/phase") for line in whole] == [None, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for stop in (2, 6):
        out = tmp_path / f"broken-{stop}"
        shutil.copytree(tmp_path / "whole", out, ignore=shutil.ignore_patterns("model"))
        for step in range(stop + 1, 10):
            shutil.rmtree(out / "checkpoints" / f"step_{step:06d}")
        sdgym.train(out=out, resume=True)
        got = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        volatile = ("seconds", "time/")
        assert [{k: v for k, v in a.items() if not k.startswith(volatile)} for a in got] == [
            {k: v for k, v in a.items() if not k.startswith(volatile)} for a in whole
        ]
