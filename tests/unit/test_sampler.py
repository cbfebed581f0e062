import numpy as np
import pytest
import torch

from sdgym.errors import ConfigError, NumericalError, PolicyError
from sdgym.generation.base import Request, SamplingParams
from sdgym.generation.torch_sampler import TorchSampler
from sdgym.packing import score_sequences
from sdgym.testing_policy import random_policy


@pytest.fixture(scope="module")
def policy():
    return random_policy()


def finish(sampler, limit=2000):
    """Run until nothing is pending; return samples in the order given."""
    samples = []
    while sampler.pending:
        samples += sampler.tick()
        limit -= 1
        assert limit, "the sampler does not come to an end"
    return samples


def prompt(seed, length=12):
    return np.random.default_rng(seed).integers(5, 250, length)


def alone(policy, request, slots=1):
    sampler = TorchSampler(policy, slots=slots)
    sampler.submit(request)
    return finish(sampler)[0]


def multi_turn(policy, slots, turns=3, groups=3, members=5, temperature=0.8):
    """Play episodes of several turns; return per session (ids, sampled positions, recorded log-probs)."""
    rng, sampler = np.random.default_rng(7), TorchSampler(policy, slots=slots, end_ids=())
    context, places, logprobs, left, number = {}, {}, {}, {}, 0
    owner = {}

    def submit(session, ids):
        nonlocal number
        context[session] = np.concatenate([context.get(session, np.zeros(0, np.int64)), ids])
        params = SamplingParams(temperature=temperature, max_tokens=int(rng.integers(1, 9)))
        sampler.submit(Request(number, session, ids, 1000 + number, params, keep=left[session] > 1))
        owner[number] = session
        number += 1

    for session in range(groups * members):
        left[session], places[session], logprobs[session] = turns, [], []
        submit(session, prompt(session // members, 6 + 5 * (session // members)))
    while sampler.pending:
        for sample in sampler.tick():
            session = owner[sample.request_id]
            places[session] += range(len(context[session]), len(context[session]) + len(sample.ids))
            context[session] = np.concatenate([context[session], sample.ids])
            logprobs[session] += sample.logprobs.tolist()
            left[session] -= 1
            if left[session]:
                submit(session, rng.integers(5, 250, int(rng.integers(0, 7))))
    return context, places, logprobs, sampler


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("slots", [16, 4])
def test_logprobs_over_turns_equal_a_fresh_forward(architecture, slots):
    policy = random_policy(architecture=architecture)
    context, places, logprobs, sampler = multi_turn(policy, slots)
    fresh = score_sequences(policy, [(context[s], np.array(places[s])) for s in context], temperature=0.8)
    for session, (expected, _) in zip(context, fresh, strict=True):
        np.testing.assert_allclose(logprobs[session], expected, atol=1e-4)
    assert not sampler._sessions and not sampler._prompts and (sampler._cache.page_of == -1).all()


def test_rows_do_not_depend_on_neighbours_slots_or_order(policy):
    requests = [Request(i, i, prompt(i // 3), 77 + i, SamplingParams(max_tokens=3 + i % 11)) for i in range(18)]
    expected = {r.request_id: alone(policy, r) for r in requests}
    for slots, order in ((18, range(18)), (5, range(17, -1, -1)), (3, range(18))):
        sampler = TorchSampler(policy, slots=slots)
        for index in order:
            sampler.submit(requests[index])
        for sample in finish(sampler):
            np.testing.assert_array_equal(sample.ids, expected[sample.request_id].ids)
            np.testing.assert_allclose(sample.logprobs, expected[sample.request_id].logprobs, atol=1e-4)
            assert sample.stop == expected[sample.request_id].stop


def test_the_same_submissions_give_the_same_bits(policy):
    first, second = (multi_turn(policy, 4)[2] for _ in range(2))
    assert first == second


def test_a_groups_prompt_is_prefilled_once(policy):
    sampler = TorchSampler(policy, slots=8)
    before = sampler.prefilled
    for index in range(16):
        sampler.submit(Request(index, index, prompt(0, 30), index, SamplingParams(max_tokens=4)))
    finish(sampler)
    assert sampler.prefilled - before == 30


def test_prompts_that_take_turns_share_too_few_pages(policy):
    """A prompt whose next row waits keeps its page; with one slot another prompt's row waits for that."""
    requests = [Request(i, i, prompt(i % 2), 70 + i, SamplingParams(max_tokens=4)) for i in range(6)]
    sampler = TorchSampler(policy, slots=1)
    for request in requests:
        sampler.submit(request)
    found = {sample.request_id: sample.ids.tolist() for sample in finish(sampler)}
    assert found == {request.request_id: alone(policy, request).ids.tolist() for request in requests}


def test_kept_sessions_prefill_new_tokens_only(policy):
    sampler = TorchSampler(policy, slots=2, end_ids=())
    sampler.submit(Request(0, 9, prompt(0, 30), 1, SamplingParams(max_tokens=3), keep=True))
    finish(sampler)
    before = sampler.prefilled
    sampler.submit(Request(1, 9, prompt(1, 5), 2, SamplingParams(max_tokens=3)))
    finish(sampler)
    assert sampler.prefilled - before == 5 + 1  # the last sampled token was not in the cache yet


def test_finished_rows_stop_costing(policy):
    sampler = TorchSampler(policy, slots=16, end_ids=())
    start = sampler.decoded
    for index in range(16):
        sampler.submit(Request(index, index, prompt(index), index, SamplingParams(max_tokens=41 if index == 15 else 2)))
    finish(sampler)
    assert sampler.decoded - start <= 16 + 40 * 2  # one full step, then an eighth of the slots
    assert sampler._cache.page_of.max() == -1


def test_samples_come_in_submit_order(policy):
    sampler = TorchSampler(policy, slots=4, end_ids=())
    for index in (3, 1, 2, 0):
        sampler.submit(Request(index, index, prompt(index), index, SamplingParams(max_tokens=2)))
    assert [s.request_id for s in finish(sampler)] == [3, 1, 2, 0]


def test_greedy_takes_the_best_token_and_records_its_logprob_at_temperature_one(policy):
    request = Request(0, 0, prompt(3), 5, SamplingParams(temperature=0.0, max_tokens=6))
    sample, ids = alone(policy, request), prompt(3)
    for token, logprob in zip(sample.ids, sample.logprobs, strict=True):
        with torch.no_grad():
            scores = torch.log_softmax(policy.model(input_ids=torch.from_numpy(ids)[None]).logits[0, -1], -1)
        assert int(scores.argmax()) == token
        assert float(scores[token]) == pytest.approx(logprob, abs=1e-4)
        ids = np.append(ids, token)


def test_every_reason_to_stop(policy):
    length = alone(policy, Request(0, 0, prompt(0), 1, SamplingParams(max_tokens=3)))
    assert length.stop == "length" and len(length.ids) == 3
    ends = TorchSampler(policy, slots=1, end_ids=[int(length.ids[1])])
    ends.submit(Request(0, 0, prompt(0), 1, SamplingParams(max_tokens=3)))
    (eos,) = finish(ends)
    assert eos.stop == "eos" and eos.ids.tolist() == length.ids[:2].tolist()
    limit = policy.context_limit
    full = TorchSampler(policy, slots=2, end_ids=())
    full.submit(Request(0, 0, prompt(0, limit - 3), 1, SamplingParams(max_tokens=9)))
    full.submit(Request(1, 1, prompt(1, limit), 1, SamplingParams(max_tokens=9)))
    nothing, three = sorted(finish(full), key=lambda s: len(s.ids))
    assert (three.stop, len(three.ids)) == ("context", 3)
    assert (nothing.stop, len(nothing.ids)) == ("context", 0)


def test_released_sessions_leave_and_others_go_on(policy):
    sampler = TorchSampler(policy, slots=2)
    for index in range(4):
        sampler.submit(Request(index, index, prompt(index), index, SamplingParams(max_tokens=5)))
    sampler.tick()
    sampler.release(0)  # live
    sampler.release(3)  # queued
    sampler.release(99)  # unknown
    assert sampler.pending == 2
    samples = finish(sampler)
    assert [s.request_id for s in samples] == [1, 2]
    np.testing.assert_array_equal(samples[1].ids, alone(policy, Request(2, 2, prompt(2), 2, SamplingParams(max_tokens=5))).ids)


def test_new_weights_are_used_after_sync(policy):
    changed = random_policy(seed=1)
    sampler = TorchSampler(changed, slots=2)
    request = Request(0, 0, prompt(0), 3, SamplingParams(max_tokens=6))
    sampler.submit(request)
    with pytest.raises(PolicyError, match="1 requests are pending"):
        sampler.sync_weights()
    finish(sampler)
    changed.model.load_state_dict(policy.model.state_dict())
    sampler.sync_weights()
    sampler.submit(request)
    np.testing.assert_array_equal(finish(sampler)[0].ids, alone(policy, request).ids)


def test_damaged_weights_stop_the_run_and_leave_nothing_behind(policy):
    damaged, request = random_policy(seed=2), Request(0, 0, prompt(0), 0, SamplingParams(max_tokens=8))
    sampler = TorchSampler(damaged, slots=1)
    sampler.submit(request)
    assert not [*sampler.tick(), *sampler.tick(), *sampler.tick()]
    with torch.no_grad():
        damaged.model.model.embed_tokens.weight[:, 0] = float("nan")  # goes into the cache, beyond what a new session writes first
    with pytest.raises(NumericalError, match="not finite in 1 of 1 rows"):
        sampler.tick()
    damaged.model.load_state_dict(policy.model.state_dict())
    sampler.sync_weights()
    sampler.submit(request)
    np.testing.assert_array_equal(finish(sampler)[0].ids, alone(policy, request).ids)


def test_the_models_own_attention_is_back_after_a_tick(policy):
    alone(policy, Request(0, 0, prompt(0), 0, SamplingParams(max_tokens=2)))
    assert policy.model.config._attn_implementation == "sdpa"


def test_misuse_is_named(policy):
    sampler = TorchSampler(policy, slots=1)
    with pytest.raises(PolicyError, match="at least one prompt token"):
        sampler.submit(Request(0, 0, np.zeros(0, np.int64), 0, SamplingParams()))
    sampler.submit(Request(0, 0, prompt(0), 0, SamplingParams()))
    with pytest.raises(PolicyError, match="still has request 0 pending"):
        sampler.submit(Request(1, 0, prompt(0), 0, SamplingParams()))
    for bad in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"min_p": 1.5}, {"max_tokens": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            sampler.submit(Request(2, 2, prompt(0), 0, SamplingParams(**bad)))
    with pytest.raises(PolicyError, match="at least one slot"):
        TorchSampler(policy, slots=0)
