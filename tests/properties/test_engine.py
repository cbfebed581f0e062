"""Laws of the engine: nothing depends on the wall clock, and batching is invisible."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdgym.algos.losses import NLLLoss
from sdgym.chat import ChatFormat
from sdgym.core import LossItem, LossTerm, ScoringView, Trajectory
from sdgym.denominators import Denominators
from sdgym.generation.base import SamplingParams
from sdgym.ledger import Ledger
from sdgym.rollout import Job, RolloutDriver
from sdgym.testing_engine import LETTERS_ID, LettersEnv, ScriptedSampler
from sdgym.testing_policy import random_policy, small_tokenizer

CHAT = ChatFormat(small_tokenizer())


def play(sampler: Any, *, jitter: float, turns: int, max_live: int, seed: int) -> list[Trajectory]:
    tasks = list(LettersEnv().tasks("train", seed, 4))
    with RolloutDriver(lambda: gymnasium.make(LETTERS_ID, turns=turns, jitter=jitter), CHAT, sampler, Ledger(), seed, max_live) as driver:
        return driver.collect(tasks, 3, SamplingParams(max_tokens=4), Job("train", 0))


def bits(rows: list[Trajectory]) -> list[tuple[Any, ...]]:
    def of(row: Trajectory) -> tuple[Any, ...]:
        segments = [(s.ids.tobytes(), s.action_mask.tobytes(), s.logprobs.tobytes(), s.spans) for s in row.segments]
        return row.group_id, row.member, *row.actions, *row.turn_rewards, row.stop_reason, row.key, *segments

    return [of(row) for row in rows]


def scripted() -> ScriptedSampler:
    return ScriptedSampler([int(CHAT.encode_text(c)[0]) for c in "abcXYZ019+-"], CHAT.end_ids[0], slots=5)


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(0, 1000))
def test_random_pauses_in_the_environment_change_no_bit(turns: int, max_live: int, seed: int) -> None:
    quiet = scripted()
    calm = bits(play(quiet, jitter=0.0, turns=turns, max_live=max_live, seed=seed))
    for _ in range(2):
        sampler = scripted()
        assert bits(play(sampler, jitter=0.01, turns=turns, max_live=max_live, seed=seed)) == calm
        assert [request.noise_key for request in sampler.log] == [request.noise_key for request in quiet.log]  # the very order too


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_how_many_episodes_are_in_flight_changes_no_scripted_row(turns: int, few: int, many: int, seed: int) -> None:
    assert bits(play(scripted(), jitter=0, turns=turns, max_live=few, seed=seed)) == bits(
        play(scripted(), jitter=0, turns=turns, max_live=many, seed=seed)
    )


def test_random_pauses_change_no_bit_of_a_real_policy() -> None:
    from sdgym.generation.torch_sampler import TorchSampler

    policy = random_policy(hidden=32, layers=1, heads=2, kv_heads=1)
    runs = [bits(play(TorchSampler(policy, slots=6), jitter=jitter, turns=2, max_live=6, seed=3)) for jitter in (0.0, 0.02, 0.02)]
    assert runs[0] == runs[1] == runs[2]


@st.composite
def weights(draw: Any) -> list[np.ndarray]:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    return [np.array(draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n)), np.float32) for n in lengths]


def item(row: int, weight: np.ndarray) -> LossItem:
    tokens = np.arange(len(weight)) + 5
    return LossItem(ScoringView(row, np.array([1]), tokens, np.ones(len(weight), bool), np.arange(len(weight))), weight)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(weights(), st.data())
def test_terms_that_share_a_key_divide_as_one_term_however_rows_are_routed(all_weights: list[np.ndarray], data: Any) -> None:
    items = [item(row, weight) for row, weight in enumerate(all_weights)]
    route = data.draw(st.lists(st.integers(0, 2), min_size=len(items), max_size=len(items)))
    for aggregation in ("token_mean_global", "seq_mean_token_mean"):
        one = LossTerm("all", NLLLoss(), items, aggregation=aggregation)  # type: ignore[arg-type]
        parts = [
            dataclasses.replace(one, name=str(k), items=[i for i, r in zip(items, route, strict=True) if r == k], normaliser_key="key")
            for k in range(3)
        ]
        whole = Denominators([one], [(0, i) for i in items]).of(0)
        routed = Denominators(parts, [(k, i) for k, part in enumerate(parts) for i in part.items])
        assert [routed.of(k) for k in range(3)] == [whole] * 3


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_row_that_several_terms_train_counts_once_under_a_shared_key(copies: int) -> None:
    items = [item(0, np.array([1.0, 0.0, 2.0], np.float32)), item(1, np.array([0.0, 0.0], np.float32))]
    for aggregation, expected in (("token_mean_global", 2.0), ("seq_mean_token_sum", 1.0)):
        terms = [LossTerm(str(k), NLLLoss(), items, aggregation=aggregation, normaliser_key="key") for k in range(copies)]  # type: ignore[arg-type]
        found = Denominators(terms, [(k, i) for k in range(copies) for i in items])
        assert [found.of(k) for k in range(copies)] == [expected] * copies
