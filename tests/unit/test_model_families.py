"""Families of Hugging Face models, small and random: scored and sampled as their own forward pass says, or refused with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sdgym.errors import PolicyError
from sdgym.generation.base import Request, SamplingParams
from sdgym.generation.torch_sampler import TorchSampler
from sdgym.packing import score_sequences
from sdgym.policy import Policy
from sdgym.testing_policy import small_tokenizer

V = len(small_tokenizer())
BASE: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MANY_HEADS = {name: value for name, value in BASE.items() if name != "num_key_value_heads"}
EXACT: dict[str, dict[str, Any]] = {
    "GPT2": {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "bos_token_id": 1, "eos_token_id": 2},
    "GPTNeoX": MANY_HEADS,
    "OPT": MANY_HEADS | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "Mistral": BASE | {"sliding_window": 64},
    "Mixtral": BASE | {"num_local_experts": 4},
    "Gemma3": BASE | {"head_dim": 8, "sliding_window": 64},
    "Phi3": BASE | {"sliding_window": None},
    "Cohere": BASE,
    "Granite": BASE | {"logits_scaling": 4.0, "embedding_multiplier": 2.0},
    "Olmo2": BASE,
    "Qwen3": BASE | {"head_dim": 8},
    "Qwen3Moe": BASE | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1},
    "SmolLM3": BASE,
    "Glm4": BASE | {"head_dim": 8},
}
LATENT = {
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "Gemma2": (BASE | {"head_dim": 8, "sliding_window": 64}, "'softcap' in attention"),
    "StableLm": (BASE, "does not hand on"),
    "DeepseekV3": (
        BASE | LATENT | {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        "different widths",
    ),
    "Lfm2": (BASE | {"layer_types": ["conv", "full_attention"]}, "differs from a plain forward"),
}


def policy_of(family: str, settings: dict[str, Any]) -> Policy:
    """A policy of random weights, large enough that a wrong position or mask shows."""
    import transformers

    config = getattr(transformers, {"Gemma3": "Gemma3TextConfig"}.get(family, f"{family}Config"))(**settings)
    config._attn_implementation = "sdpa"
    model = getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM"))(config).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15, generator=noise)
    return Policy(model, small_tokenizer(), family)


def plain(policy: Policy, ids: np.ndarray, first: int) -> np.ndarray:
    """The log-probs of ``ids[first:]`` by the model's own forward pass of this one sequence."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.from_numpy(ids)[None]).logits[0].double()
    scores: np.ndarray = torch.log_softmax(logits, -1)[np.arange(first - 1, len(ids) - 1), ids[first:]].numpy()
    return scores


@pytest.mark.parametrize("family", EXACT)
def test_a_family_is_scored_and_sampled_as_its_own_forward_says(family: str) -> None:
    policy, rng = policy_of(family, EXACT[family]), np.random.default_rng(0)
    prompts = [rng.integers(5, V - 5, 40) for _ in range(3)]
    prompts.append(np.concatenate([prompts[0][:20], rng.integers(5, V - 5, 15)]))  # shares a prefix: one tree
    for (found, _), ids in zip(score_sequences(policy, [(ids, np.arange(20, len(ids))) for ids in prompts]), prompts, strict=True):
        np.testing.assert_allclose(found, plain(policy, ids, 20), atol=1e-5)
    sampler = TorchSampler(policy, slots=4)
    for number in range(6):
        sampler.submit(Request(number, number, prompts[number % 3][: 20 + number], 7 + number, SamplingParams(max_tokens=12)))
    samples = []
    while sampler.pending:
        samples += sampler.tick()
    for sample in samples:
        start = 20 + sample.request_id
        whole = np.concatenate([prompts[sample.request_id % 3][:start], sample.ids])
        np.testing.assert_allclose(sample.logprobs, plain(policy, whole, start), atol=1e-5)
    assert len(samples) == 6


@pytest.mark.parametrize("family", REFUSED)
def test_what_the_sampler_cannot_do_is_a_sentence(family: str) -> None:
    settings, reason = REFUSED[family]
    with pytest.raises(PolicyError, match=reason):
        TorchSampler(policy_of(family, settings), slots=4)
