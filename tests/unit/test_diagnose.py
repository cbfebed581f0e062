"""The alignment probe: a case computed by hand, the projection, the losses' own gradients, and whole runs on a world where success is known."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import torch

import sdgym
from sdgym.algos.conditioning import Reference
from sdgym.cli import execute
from sdgym.commands.diagnose import _models
from sdgym.diagnose import SIGNALS, ProbeSettings, Replayed, State, cosine, groups, ideal_gradient, probe, within
from sdgym.diagnose.branches import REPLAY, Branches, Prefix
from sdgym.diagnose.page import cells, page
from sdgym.diagnose.probe import descent
from sdgym.errors import ConfigError, DataError, EnvError
from sdgym.generation.base import SamplingParams
from sdgym.ledger import Ledger
from sdgym.policy import Policy
from sdgym.report import write_report
from sdgym.report.alignment import alignments
from sdgym.report.load import load_run
from sdgym.rollout import Job, RolloutDriver
from sdgym.session import make_sampler
from sdgym.testing_engine import KINDS, LETTERS_ID, LettersEnv
from sdgym.testing_policy import random_policy


def test_by_hand() -> None:
    """P = (.5, .3, .2), s = (1, 0, .5): mean .6, so g = (.2, −.18, −.02); f = (2, 0, 0) has mean 1 and gradient (.5, −.3, −.2)."""
    p = np.array([0.5, 0.3, 0.2])
    ideal = ideal_gradient(p, np.array([1.0, 0.0, 0.5]))
    np.testing.assert_allclose(ideal, [0.2, -0.18, -0.02], atol=1e-15)
    method = np.array([0.5, -0.3, -0.2])
    assert cosine(ideal, method) == pytest.approx((0.1 + 0.054 + 0.004) / math.sqrt((0.04 + 0.0324 + 0.0004) * (0.25 + 0.09 + 0.04)))
    assert cosine(ideal, ideal) == pytest.approx(1.0) and cosine(ideal, -3 * ideal) == pytest.approx(-1.0)
    assert math.isnan(cosine(ideal, np.zeros(3))) and math.isnan(cosine(np.full(3, np.nan), method))


def test_ideal_is_the_gradient_of_expected_success() -> None:
    z = torch.tensor([0.3, -1.0, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    s = torch.tensor([0.0, 1.0, 0.25, 0.5], dtype=torch.float64)
    (slope,) = torch.autograd.grad((z.softmax(-1) * s).sum(), z)
    np.testing.assert_allclose(ideal_gradient(z.detach().softmax(-1).numpy(), s.numpy()), slope, atol=1e-15)


def test_projection_is_the_gradient_under_the_candidates_own_softmax() -> None:
    """A gradient P(f − f̄) over the vocabulary, seen by the candidates alone, is P̃(f − f̃)."""
    rng = np.random.Generator(np.random.PCG64(0))
    p, f, chosen = rng.dirichlet(np.ones(9)), rng.normal(size=9), np.array([1, 4, 7])
    whole = p * (f - (p * f).sum())
    small = p[chosen] / p[chosen].sum()
    np.testing.assert_allclose(within(whole[chosen], p[chosen]), small * (f[chosen] - (small * f[chosen]).sum()), atol=1e-15)


def test_descent_is_the_losses_own_gradient() -> None:
    student, teacher = (torch.tensor(v, dtype=torch.float64) for v in ([0.4, -0.3, 1.0], [1.0, 0.2, -0.5]))
    p, q = student.softmax(-1), teacher.softmax(-1)
    kl = (p * (p / q).log()).sum()
    np.testing.assert_allclose(descent("forward_kl", student, teacher), q - p, atol=1e-12)
    np.testing.assert_allclose(descent("reverse_kl", student, teacher), -p * ((p / q).log() - kl), atol=1e-12)
    m = (p + q) / 2
    half = 0.5 * p * ((p / m).log() - (p * (p / m).log()).sum())
    np.testing.assert_allclose(descent("jensen_shannon", student, teacher), -half, atol=1e-12)


def state(task: str, correct: bool, outcomes: Any, position: float = 0.5, entropy: float = 1.0, sign: float = 1.0) -> State:
    p, found = np.array([0.4, 0.4]), np.asarray(outcomes, float)
    pull = np.array([0.1, -0.1]) * sign
    return State(task, correct, position, entropy, p, found, dict.fromkeys(SIGNALS, pull))


def test_table() -> None:
    """Six tasks agree, one opposes; flat prefixes and ungraded candidates have no direction and are counted apart."""
    up, flat, lost = [[1, 1], [0, 0]], [[1, 1], [1, 1]], [[math.nan, math.nan], [0, 1]]
    states = [state(f"t{i}", False, up, entropy=2.0) for i in range(6)] + [state("t6", False, up, sign=-1.0, position=0.1)]
    states += [state("t0", True, flat), state("t1", True, lost)]
    table = {group.name: group for group in groups(states)}
    assert table["all"].states == 9 and table["all"].decided == pytest.approx(7 / 9)
    wrong = table["wrong attempts"].aligned["reverse_kl"]
    assert wrong.n == 7 and wrong.mean == pytest.approx((6 - 1) / 7) and wrong.low is not None and wrong.low < wrong.mean
    assert table["wrong attempts"].agreeing["forward_kl"] == pytest.approx(6 / 7) and table["wrong attempts"].reliability == pytest.approx(
        1.0
    )
    assert (
        table["wrong attempts, first third"].aligned["forward_kl"].mean == pytest.approx(-1) and "right attempts, last third" not in table
    )
    assert table["right attempts"].decided == 0 and math.isnan(table["right attempts"].aligned["forward_kl"].mean)
    assert cells(table["right attempts"])[3:] == ["–"] * 4 and table["wrong attempts, unsure tokens"].states == 6


def test_halves_disagree_where_there_is_only_noise() -> None:
    assert state("t", True, [[1, 0], [0, 1]]).reliability() == pytest.approx(-1.0)


def test_the_page_is_offline_and_escapes() -> None:
    text = page(groups([state("t", True, [[1], [0]])]), {"model": "<b>x</b>"})
    assert "&lt;b&gt;" in text and "<b>x" not in text and "Plotly.newPlot" in text
    assert '<script src="http' not in text and "arXiv 2605.10889" in text


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=128)


def run(policy: Policy, settings: ProbeSettings, env: LettersEnv | None = None) -> list[State]:
    world = env or LettersEnv()
    sampler, turns = make_sampler(policy, 64), world.max_turns
    with RolloutDriver(lambda: Replayed(LettersEnv(turns=turns)), policy.chat, sampler, Ledger(), 0, max_live=64) as driver:
        tasks = list(world.tasks("val", 0, 6))
        return probe(policy, policy, world, driver, Reference(), tasks, SamplingParams(max_tokens=2), settings)


def test_a_world_whose_first_sign_decides(policy: Policy) -> None:
    """At the start of an answer a candidate's success is known for certain; after it nothing can change any more."""
    settings = ProbeSettings(samples=2, positions=2, candidates=40, branches=2)
    states = run(policy, settings)
    first, later = [s for s in states if s.position == 0], [s for s in states if s.position > 0]
    assert len(first) >= 6 and later
    kinds = {t.task_id: KINDS[str(t.meta["kind"])] for t in LettersEnv().tasks("val", 0, 6)}
    for s in first:
        size = len(s.probs)
        order = _top(policy, s.task, size)
        known = [float((text := policy.chat.decode_action([int(i)]))[:1] != "" and text[0] in kinds[s.task]) for i in order]
        decided = np.array([policy.chat.decode_action([int(i)]) != "" for i in order])
        np.testing.assert_array_equal(s.outcomes[decided].mean(1), np.array(known)[decided])
    assert any(s.outcomes.mean(1).min() < s.outcomes.mean(1).max() for s in first)
    settled = [s for s in later if s.outcomes.min() == s.outcomes.max()]  # the others began with a token that wrote nothing
    assert len(settled) > len(later) / 2
    for s in settled:
        assert s.outcomes.max() == float(s.correct) and math.isnan(s.alignment("forward_kl"))
    again = run(policy, settings)
    assert all(np.array_equal(a.outcomes, b.outcomes) and np.array_equal(a.probs, b.probs) for a, b in zip(states, again, strict=True))


def _top(policy: Policy, task_id: str, count: int) -> np.ndarray:
    task = next(t for t in LettersEnv().tasks("val", 0, 6) if t.task_id == task_id)
    ids = policy.chat.prompt_ids(list(task.messages))
    with torch.no_grad():
        return policy.model(torch.from_numpy(ids)[None]).logits[0, -1].topk(count).indices.numpy()


def test_several_turns_a_branch_begins_in_the_middle_and_is_played_to_the_end(policy: Policy) -> None:
    """Success is the last turn's: there a candidate at its start decides; in the first turn the rest of the episode does."""
    settings = ProbeSettings(samples=2, positions=3, candidates=3, branches=2)
    states = run(policy, settings, LettersEnv(turns=2))
    tasks = {t.task_id: t for t in LettersEnv().tasks("val", 0, 6)}
    assert {s.task for s in states} <= set(tasks) and len(states) > 20 and all(s.outcomes.shape == (3, 2) for s in states)
    last = [s for s in states if s.position > 0.5 and s.outcomes.min() == s.outcomes.max()]
    assert last and all(s.outcomes.max() == float(s.correct) for s in last if s.position == 1.0)
    first = [s for s in states if s.position == 0]
    assert first and any(0 < s.outcomes.mean() < 1 for s in first), "the second turn is sampled anew in every branch"
    again = run(policy, settings, LettersEnv(turns=2))
    assert all(np.array_equal(a.outcomes, b.outcomes) and np.array_equal(a.probs, b.probs) for a, b in zip(states, again, strict=True))


def test_an_episode_resumes_where_its_actions_have_led() -> None:
    env, task = LettersEnv(turns=3), next(iter(LettersEnv().tasks("val", 0, 1)))
    _, info = env.reset(options={"task": task})
    talk = [*info["messages"]]
    for action in ("a", "7"):
        observation, *_, info = env.step(action)
        talk += [{"role": "assistant", "content": action}, *info["messages"]]
    resumed = Replayed(LettersEnv(turns=3))
    there = dataclasses.replace(task, meta={**task.meta, REPLAY: ("a", "7")})
    seen, told = resumed.reset(options={"task": there})
    assert (seen, list(told["messages"])) == (observation, talk) and resumed.unwrapped.turn == 2
    assert resumed.unwrapped.task == task, "the world sees the task it made"
    assert env.step("b")[:4] == resumed.step("b")[:4]
    assert resumed.reset(options={"task": task})[0] == task.messages[-1]["content"]
    with pytest.raises(EnvError, match="ended earlier"):
        Replayed(LettersEnv(turns=2)).reset(options={"task": there})


def test_the_tokens_of_a_resumed_episode_are_those_of_the_played_one(policy: Policy) -> None:
    """Branching with the very token that was sampled, where it ends the turn, leads to the prompt of the row's next turn."""
    with RolloutDriver(lambda: Replayed(LettersEnv(turns=2)), policy.chat, make_sampler(policy, 64), Ledger(), 0) as driver:
        tasks = list(LettersEnv(turns=2).tasks("val", 0, 12))
        rows = driver.collect(tasks, 2, SamplingParams(max_tokens=2), Job("diagnose", 0, evaluation=True))
        branches = Branches(policy, LettersEnv(turns=2), driver, SamplingParams(max_tokens=2), 1)
        for row in rows:
            (segment,), (first, second) = row.segments, row.segments[0].spans
            nothing = torch.zeros(1)
            prefix = Prefix(row, 0, 0, segment.ids[: first.start], segment.ids[first.start : first.end], np.zeros(0), nothing, nothing)
            after = branches._judge(prefix, prefix.said)
            np.testing.assert_array_equal(branches._prompt(prefix, prefix.said, after), segment.ids[: second.start])
            assert after.success is None and after.observation == row.observations[1]


def test_a_world_that_is_not_a_function_of_the_actions_cannot_be_branched(policy: Policy) -> None:
    class Moody(LettersEnv):
        moods = 0

        async def respond(self, action: str) -> Any:
            self.moods += 1
            found = await super().respond(action)
            return dataclasses.replace(found, observation=f"{found.observation} {self.moods}" if found.observation else "")

    with pytest.raises(EnvError, match="another observation"):
        run(policy, ProbeSettings(samples=2, positions=3, candidates=2, branches=2), Moody(turns=2))


def test_refusals(policy: Policy) -> None:
    with pytest.raises(ConfigError, match="branches must be at least 2"):
        ProbeSettings(branches=1)


def test_command(policy: Policy, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy.save(tmp_path / "model")
    small = ["--tasks", "3", "--samples", "1", "--positions", "1", "--candidates", "3", "--branches", "2", "--device", "cpu"]
    start = ["algos", "diagnose", str(tmp_path / "model"), "--env", LETTERS_ID, *small]
    assert execute([*start, "--out", str(tmp_path)]) == 0
    assert "alignment.html" in capsys.readouterr().out and (tmp_path / "alignment.html").stat().st_size > 1_000_000
    assert execute([*start, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "all"
    assert execute([*start, "--conditioner", "referense"]) == 2
    assert "did you mean 'reference'" in capsys.readouterr().err


def test_any_checkpoint_of_a_run(policy: Policy, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy.save(tmp_path / "model")
    small = {"tasks_per_step": 2, "group_size": 2, "steps": 2, "eval": {"every": 0, "tasks": 1, "samples": 1, "test_tasks": 0}}
    rates = {"optimizer": {"lr": 0.05}, "checkpoint": {"every": 1, "keep": 2}, "log": {"trajectories_every": 0}}
    run = sdgym.train("sharpen", LETTERS_ID, out=tmp_path / "run", model=str(tmp_path / "model"), **small, **rates).folder
    final, first, last = (_models(str(run), step, None, "cpu", 1)[0] for step in (None, 1, 2))
    weights = [torch.cat([p.flatten() for p in found.model.parameters()]) for found in (final, first, last)]
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    small = ["--tasks", "3", "--samples", "1", "--positions", "1", "--candidates", "3", "--branches", "2", "--device", "cpu"]
    assert execute(["algos", "diagnose", str(run), "--env", LETTERS_ID, *small]) == 0 and (run / "alignment.html").is_file()
    text = write_report(run).read_text(encoding="utf-8")
    (probed,) = alignments([load_run(run)])
    assert {line.group for line in probed.lines} & {"all"} and len(probed.lines) % len(SIGNALS) == 0
    assert 'id="alignment"' in text and probed.facts in html.unescape(text) and "conditioner" not in probed.facts
    for line in probed.lines:
        assert math.isnan(line.mean) or f">{line.mean:+.2f}</td>" in text, "the picture shows the probe's own numbers"
    (run / "alignment.json").write_text('{"facts": {}}')
    with pytest.raises(DataError, match="run it again"):
        write_report(run)
    (run / "alignment.json").unlink()
    assert 'id="alignment"' not in write_report(run).read_text(encoding="utf-8")
    capsys.readouterr()
    assert execute(["algos", "diagnose", str(run), "--step", "7"]) == 2 and "steps [1, 2]" in capsys.readouterr().err
    shutil.rmtree(run / "model")
    assert torch.equal(torch.cat([p.flatten() for p in _models(str(run), None, None, "cpu", 1)[0].model.parameters()]), weights[2])
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_text("steps: 1\n")
    assert execute(["algos", "diagnose", str(empty)]) == 2 and "none" in capsys.readouterr().err
