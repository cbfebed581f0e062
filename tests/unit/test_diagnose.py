"""The alignment probe: a case computed by hand, the projection, the losses' own gradients, and whole runs on a world where success is known."""

from __future__ import annotations

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
from sdgym.diagnose import SIGNALS, ProbeSettings, State, cosine, groups, ideal_gradient, probe, within
from sdgym.diagnose.page import cells, page
from sdgym.diagnose.probe import descent
from sdgym.errors import ConfigError
from sdgym.generation.base import SamplingParams
from sdgym.ledger import Ledger
from sdgym.policy import Policy
from sdgym.rollout import RolloutDriver
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
    from sdgym.session import make_env

    world = env or LettersEnv()
    sampler = make_sampler(policy, 64)
    with RolloutDriver(lambda: make_env(LETTERS_ID), policy.chat, sampler, Ledger(), 0, max_live=64) as driver:
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


def test_refusals(policy: Policy) -> None:
    with pytest.raises(ConfigError, match="2 turns"):
        run(policy, ProbeSettings(), LettersEnv(turns=2))
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
    assert execute(["algos", "diagnose", str(run), "--step", "7"]) == 2 and "steps [1, 2]" in capsys.readouterr().err
    shutil.rmtree(run / "model")
    assert torch.equal(torch.cat([p.flatten() for p in _models(str(run), None, None, "cpu", 1)[0].model.parameters()]), weights[2])
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.yaml").write_text("steps: 1\n")
    assert execute(["algos", "diagnose", str(empty)]) == 2 and "none" in capsys.readouterr().err
