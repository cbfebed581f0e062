"""A small random policy for tests: real architecture, real tokenizer, weights that know nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sdgym.policy import Policy

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|end|>")


def small_tokenizer(
    chat_template: str = CHATML, special: Sequence[str] = SPECIAL, eos: str = "<|im_end|>", bos: str | None = None
) -> PreTrainedTokenizerBase:
    """Return a byte-level tokenizer (256 bytes and ``special``) that can spell any text; by default with ChatML's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*special, *alphabet])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=special[0],
        eos_token=eos,
        bos_token=bos,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def random_policy(
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 256,
    architecture: str = "llama",
    vocab_size: int | None = None,
    scale: float = 0.3,
) -> Policy:
    """Build a small causal LM with random weights.

    Args:
        seed: of the weights; the global generator is left as it was.
        hidden: D.
        layers: number of layers.
        heads: attention heads.
        kv_heads: heads of keys and values.
        context: positions.
        architecture: ``llama`` or ``qwen2`` (biases in attention, tied head).
        vocab_size: V, at least the tokenizer's 261; None means exactly that.
        scale: standard deviation of the weights; 0.3 gives a distribution far from uniform.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from sdgym.policy import Policy

    tokenizer = small_tokenizer()
    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
    config_class, model_class = kinds[architecture]
    config = config_class(
        vocab_size=vocab_size or len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        initializer_range=scale,
        tie_word_embeddings=architecture == "qwen2",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class._from_config(config, attn_implementation="sdpa")
    return Policy(model.eval(), tokenizer, f"random-{architecture}")
