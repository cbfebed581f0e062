import numpy as np
import pytest
import torch

from sdgym.errors import ConfigError, PolicyError, UnknownNameError
from sdgym.packing import pack, score_sequences
from sdgym.policy import Policy, hidden_states
from sdgym.testing_policy import random_policy


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def policy(request):
    return random_policy(architecture=request.param)


def family(seed, groups=3, members=4):
    """Groups with a common prompt, equal members, a member that is a prefix of another, and a loner."""
    rng = np.random.default_rng(seed)
    sequences, positions = [], []
    for _ in range(groups):
        prompt = rng.integers(5, 250, 20)
        for member in range(members):
            response = rng.integers(5, 250, 3 + 2 * member)
            sequences.append(np.concatenate([prompt, response]))
            positions.append(np.arange(20, 20 + len(response)))
        sequences += [sequences[-1].copy(), sequences[-1][:24]]
        positions += [positions[-1][::2], np.arange(21, 24)]
    return [*sequences, rng.integers(5, 250, 50), rng.integers(5, 250, 4)], [*positions, np.array([1, 49]), np.zeros(0, np.int64)]


def plain_logprobs(policy, ids, places, temperature=1.0):
    with torch.no_grad():
        logits = policy.model(input_ids=torch.from_numpy(ids)[None]).logits[0].double() / temperature
    scores = torch.log_softmax(logits, -1)
    entropy = -(scores.exp() * scores).sum(-1)
    return scores[places - 1, ids[places]].numpy(), entropy[places - 1].numpy()


@pytest.mark.parametrize("max_tokens", [64, 4096])
def test_packed_scores_equal_separate_forwards(policy, max_tokens):
    sequences, positions = family(0)
    scored = score_sequences(policy, list(zip(sequences, positions, strict=True)), temperature=0.7, max_tokens=max_tokens, chunk=7)
    for ids, places, (logprobs, entropy) in zip(sequences, positions, scored, strict=True):
        expected, expected_entropy = plain_logprobs(policy, ids, places, 0.7)
        np.testing.assert_allclose(logprobs, expected, atol=2e-5)  # float32 of values up to ~20: 1e-6 relative
        np.testing.assert_allclose(entropy, expected_entropy, atol=2e-5)


def test_packed_gradients_equal_separate_backwards(policy):
    sequences, positions = family(1, groups=2)

    def gradient(packed):
        policy.model.zero_grad()
        if packed:
            for batch in pack(sequences, positions, 512):
                hidden = policy.hidden(batch.input_ids, batch.attention_mask, batch.position_ids)[batch.rows, batch.columns]
                torch.log_softmax(policy.logits(hidden), -1).gather(1, batch.targets[:, None]).sum().backward()
        else:
            for ids, places in zip(sequences, positions, strict=True):
                scores = torch.log_softmax(policy.model(input_ids=torch.from_numpy(ids)[None]).logits[0], -1)
                scores[places - 1, ids[places]].sum().backward()
        return torch.cat([p.grad.flatten() for p in policy.model.parameters()])

    ours, theirs = gradient(True), gradient(False)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_shared_prefixes_are_computed_once():
    rng = np.random.default_rng(2)
    prompt = rng.integers(5, 250, 40)
    sequences = [np.concatenate([prompt, rng.integers(5, 250, 10)]) for _ in range(8)]
    positions = [np.arange(40, 50)] * 8
    (batch,) = pack(sequences, positions, 4096)
    first_differ = len({int(s[40]) for s in sequences}) == 8
    assert first_differ and batch.tokens == 40 + 8 * 9  # the last token of each is scored, never input
    assert pack(sequences, positions, 4096, token_cost=0)[0].tokens == 8 * 49
    assert pack(sequences[:1] * 8, positions, 4096)[0].tokens == 49
    assert pack(sequences[:1] * 8, positions, 4096)[0].attention_mask is None


def test_long_responses_do_not_share_where_attention_would_cost_more():
    rng = np.random.default_rng(3)
    prompt = rng.integers(5, 250, 10)
    sequences = [np.concatenate([prompt, rng.integers(5, 250, 200)]) for _ in range(4)]
    batch = pack(sequences, [np.arange(10, 210)] * 4, 4096)[0]
    assert batch.attention_mask is None and batch.input_ids.shape == (4, 209)


def test_every_scored_token_comes_back_once_and_batches_are_bounded():
    sequences, positions = family(4, groups=6)
    batches = pack(sequences, positions, 128)
    seen = sorted(index for batch in batches for index, *_ in batch.sequences)
    assert seen == [i for i, p in enumerate(positions) if len(p)]
    for batch in batches:
        assert batch.input_ids.numel() <= 128
        for index, start, stop in batch.sequences:
            np.testing.assert_array_equal(batch.targets[start:stop].numpy(), sequences[index][positions[index]])


@pytest.mark.parametrize("position", [0, 5, -1])
def test_positions_without_a_predictor_are_refused(position):
    with pytest.raises(ValueError, match=r"must lie in \[1, 5\)"):
        pack([np.arange(5)], [np.array([position])], 64)


def test_saved_policy_loads_with_equal_bits(policy, tmp_path):
    policy.save(tmp_path / "model")
    again = Policy.load(str(tmp_path / "model"))
    assert again.state_hash() == policy.state_hash()
    assert again.chat.end_ids == policy.chat.end_ids and again.context_limit == policy.context_limit
    assert again.model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        next(again.model.parameters()).view(-1)[0] += 1e-3
    assert again.state_hash() != policy.state_hash()


def test_padding_and_explicit_causal_mask_agree(policy):
    ids = torch.arange(5, 29).view(2, 12)
    causal = torch.ones(12, 12, dtype=torch.bool).tril()[None, None].expand(2, 1, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(hidden_states(policy.model, ids, causal), hidden_states(policy.model, ids), atol=1e-5, rtol=1e-5)


def test_user_errors_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="there is no model called 'tinny'"):
        Policy.load("tinny")
    with pytest.raises(UnknownNameError, match="dtype"):
        Policy.load("tiny", dtype="float31")
    with pytest.raises(ConfigError, match="float16 on the CPU"):
        Policy.load("tiny", dtype="float16")
    with pytest.raises(ConfigError, match="device 'warp' cannot be used"):
        Policy.load("tiny", device="warp")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(PolicyError, match="cannot load model"):
        Policy.load(str(tmp_path))


def test_a_model_with_hidden_logit_changes_is_refused(monkeypatch):
    policy = random_policy()
    original = type(policy.model).forward

    def doubled(self, *args, **kwargs):
        output = original(self, *args, **kwargs)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(type(policy.model), "forward", doubled)
    with pytest.raises(PolicyError, match="changes its logits after the head"):
        Policy(policy.model, policy.tokenizer, "x")
