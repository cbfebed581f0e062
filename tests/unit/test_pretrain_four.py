"""Pre-training on four worlds: a tokenizer and weights that grow, examples of every world, bars over several turns, a restart."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sdgym import model_store
from sdgym.benchmarks.pretrain_tiny import train
from sdgym.benchmarks.pretrain_tiny.bars import Actions, generate, worlds_of
from sdgym.benchmarks.pretrain_tiny.data import MIXTURE, make_example, run_attempt
from sdgym.benchmarks.pretrain_tiny.tokenizer import extend_tokenizer
from sdgym.benchmarks.pretrain_tiny.train import FOUR, Recipe, Stage, grown, named_recipe, new_model, pretrain
from sdgym.chat import ChatFormat
from sdgym.core import Message
from sdgym.errors import PolicyError
from sdgym.generation.base import SamplingParams
from sdgym.generation.torch_sampler import TorchSampler
from sdgym.ledger import Ledger
from sdgym.policy import Policy
from sdgym.rollout import Job, RolloutDriver
from sdgym.seeding import generator
from sdgym.session import make_env
from sdgym.testing_policy import random_policy
from sdgym.verifiers.sandbox import sandbox_available

WORDS = ["def f(v): return sorted(v)", '{"pay.approve":{"id":3}}', "pay", "approve", " return", "def"] * 3
OLD = ["Solve 15 - x = 6 for x. Put the answer in \\boxed{}.", "Push box $ to target . as player @.", "Ünïcödé ☃ 123"]


@pytest.fixture(scope="module")
def tiny() -> Policy:
    return Policy.load("tiny", threads=1)


def extended(policy: Policy) -> PreTrainedTokenizerFast:
    """Return the policy's tokenizer after it has met :data:`WORDS`."""
    assert isinstance(policy.tokenizer, PreTrainedTokenizerFast)
    return extend_tokenizer(policy.tokenizer, WORDS, 800)


@pytest.fixture(scope="module")
def longer(tiny: Policy) -> PreTrainedTokenizerFast:
    return extended(tiny)


def test_an_extended_tokenizer_keeps_every_old_token(tiny: Policy, longer: PreTrainedTokenizerFast) -> None:
    before, after = tiny.tokenizer.get_vocab(), longer.get_vocab()
    assert len(after) > len(before) and {token: after[token] for token in before} == before
    for text in (*OLD, *WORDS):
        old, new = tiny.tokenizer(text).input_ids, longer(text).input_ids
        assert len(new) <= len(old) and longer.decode(new) == text
    assert [len(longer(word).input_ids) for word in ("def", " return", "approve")] == [1, 1, 1]
    assert [len(tiny.tokenizer(word).input_ids) for word in ("def", " return", "approve")] == [2, 4, 5]
    for token_id in range(len(before)):  # what was one token stays one, so the weights that know it are still right
        piece = str(tiny.tokenizer.decode([token_id]))
        if tiny.tokenizer(piece).input_ids == [token_id]:
            assert longer(piece).input_ids == [token_id]
    again = extended(tiny)
    assert again.get_vocab() == after and again.chat_template == tiny.tokenizer.chat_template


def test_grown_weights_say_the_same_of_old_tokens(tiny: Policy, longer: PreTrainedTokenizerFast) -> None:
    model = new_model(FOUR, longer)
    model.load_state_dict(grown(tiny, longer))
    ids = torch.tensor([tiny.tokenizer(OLD[0]).input_ids])
    with torch.no_grad():
        before, after = tiny.model(ids).logits, model(ids).logits
    known = len(tiny.tokenizer)
    torch.testing.assert_close(after[..., :known], before[..., :known], atol=1e-5, rtol=1e-5)  # the same weights, float32
    table, word = model.model.embed_tokens.weight, longer("approve").input_ids[0]
    assert word >= known
    torch.testing.assert_close(table[word], table[tiny.tokenizer("approve").input_ids].mean(0))
    assert model.lm_head.weight is table


@pytest.mark.parametrize("env_id", [env_id for env_id, _, _ in FOUR.envs])
def test_every_kind_of_example_is_made_in_every_world(env_id: str) -> None:
    """References leave what is right; every demonstration fits the policy and reads back as it was written."""
    if env_id == "sdgym/Code-v0" and not sandbox_available()[0]:
        pytest.skip(f"sandbox: {sandbox_available()[1]}")
    env, chat = make_env(env_id, level="tiny", split="pretrain").unwrapped, random_policy().chat
    tasks = itertools.cycle(list(env.tasks("pretrain", 0, 14)))
    made: dict[str, int] = {}
    for number, kind in enumerate([*MIXTURE, "study"] * 2):
        task = next(tasks)
        example = make_example(env, task, lambda: next(tasks), kind, generator(3, env_id, number), chat, draws=4)
        if example is None:  # a novice that never fails gives no feedback
            continue
        made[kind] = made.get(kind, 0) + 1
        assert sum(share for _, _, share in example.continuations) == pytest.approx(1)
        for ids, mask, _ in example.continuations:
            assert len(example.prompt_ids) + len(ids) < 1024 and mask.all(), "a single action, every token of it demonstrated"
            action = chat.decode_action(ids)
            assert np.array_equal(chat.encode_text(action), ids[:-1]) and ids[-1] == chat.end_ids[0]
            if kind in ("reference", "peer", "study"):
                assert run_attempt(env, task, [action])[0], (kind, action)
    assert set(made) == {*MIXTURE, "study"}


@pytest.mark.parametrize("env_id", ["sdgym/TwoTurn-v0", "sdgym/Math-v0"])
def test_attempts_of_the_bars_are_those_of_the_rollout_driver(env_id: str) -> None:
    """Greedy, so that no noise is drawn: the same contexts, turn after turn, must give the same actions."""
    policy, env = random_policy(context=512), make_env(env_id, level="tiny", split="test").unwrapped
    tasks = list(env.tasks("test", 0, 6))
    found = generate(policy, env, tasks, [task.messages for task in tasks], 1, 0.0, 0)
    sampling = SamplingParams(temperature=0.0, max_tokens=24)
    with RolloutDriver(
        lambda: make_env(env_id, level="tiny", split="test"), policy.chat, TorchSampler(policy, slots=8), Ledger(), 0
    ) as driver:
        rows = driver.collect(tasks, 1, sampling, Job("bars", 0))
    assert [list(attempts[0]) for attempts in found] == [row.actions for row in rows]
    assert {len(row.actions) for row in rows} == {env.max_turns}
    noisy: list[list[Actions]] = generate(policy, env, tasks[:2], [task.messages for task in tasks[:2]], 3, 1.0, 0)
    turns = [action for attempts in noisy for actions in attempts for action in actions]
    assert len(set(turns)) == len(turns) == 6 * env.max_turns, "every attempt and every turn has noise of its own"


def small(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Return the four-world recipe cut down to two steps on one world."""
    monkeypatch.setattr(train, "corpus", lambda envs, seed: iter(WORDS))
    settings: dict[str, Any] = {"envs": (("sdgym/Math-v0", {}, 1.0),), "stages": (Stage(2),), "vocab": 776, "batch": 4, "prompts": 2}
    return dataclasses.replace(FOUR, **settings)


def test_an_interrupted_pre_training_goes_on_and_ends_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = small(monkeypatch)
    pretrain(recipe, tmp_path / "whole", tmp_path / "whole.work", save_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_policy", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe, tmp_path / "parts", tmp_path / "parts.work", save_every=1)
    assert torch.load(tmp_path / "parts.work" / "state.pt", weights_only=True)["step"] == 1
    pretrain(recipe, tmp_path / "parts", tmp_path / "parts.work", save_every=1)
    whole, parts = (Policy.load(str(tmp_path / name)) for name in ("whole", "parts"))
    assert whole.state_hash() == parts.state_hash() != Policy.load("tiny").state_hash()
    assert len(whole.tokenizer) == 776 and whole.model.get_input_embeddings().weight.shape == (776, 128)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_the_bars_are_measured_where_a_policy_was_trained(tmp_path: Path) -> None:
    assert named_recipe("tiny-four") is FOUR and FOUR.start == "tiny"
    assert worlds_of("tiny") == ["sdgym/Math-v0", "sdgym/Sokoban-v0"] == worlds_of("somebody/model")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "recipe.json").write_text(json.dumps(dataclasses.asdict(FOUR)))
    assert worlds_of(str(tmp_path)) == [env_id for env_id, _, _ in FOUR.envs]


def test_a_policy_without_weights_here_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model_store, "_ASSETS", tmp_path)
    with pytest.raises(PolicyError, match="'tiny-weak' is missing from this installation; install sdgym again"):
        Policy.load("tiny-weak")


def test_chat_of_the_extended_tokenizer_has_the_same_frames(tiny: Policy, longer: PreTrainedTokenizerFast) -> None:
    chat = [Message(role="user", content="x")]
    assert ChatFormat(longer).prompt_ids(chat).tolist() == tiny.chat.prompt_ids(chat).tolist()
