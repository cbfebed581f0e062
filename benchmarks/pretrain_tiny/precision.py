"""Faster pre-training where the CPU multiplies bfloat16: matrix products in half precision, all else in float32.

Weights, gradients and optimizers stay float32, as in any mixed-precision training (Micikevicius et al. 2018); with bfloat16 the
loss needs no scaling. Attention stays float32 too: torch's bfloat16 kernel for its backward pass is the slower one at these sizes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sdgym.policy import cpu_has_bfloat16

ATTENTION = "sdgym_float32"


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any) -> Any:
    """Scaled dot-product attention in float32, in the interface of Hugging Face models."""
    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)


@contextlib.contextmanager
def half_products(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the forward pass multiplies matrices in bfloat16, if this CPU has instructions for that."""
    if not cpu_has_bfloat16():
        yield
        return
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield
    finally:
        model.config._attn_implementation = before
