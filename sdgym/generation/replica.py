"""The embedded sampler on whole weights of its own, for a policy whose weights are shared out among processes (FSDP)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sdgym.generation.base import Request, Sample
from sdgym.generation.torch_sampler import TorchSampler
from sdgym.policy import Policy

Weights = Callable[[], Iterable[tuple[str, Tensor]]]
"""Gives the policy's current weights by name, whole and without adapters; every process must ask at the same time."""


class ReplicaSampler:
    """A sampler (see :class:`sdgym.generation.base.Sampler`) that copies the policy's weights at every synchronisation.

    Args:
        policy: copied now, while its weights are still whole.
        slots: see :class:`TorchSampler`.
        weights: see :data:`Weights`.

    Attributes:
        policy: the copy.
    """

    def __init__(self, policy: Policy, slots: int, weights: Weights) -> None:
        model = copy.deepcopy(policy.model) if policy.adapter is None else copy.deepcopy(policy.adapter).merge_and_unload()
        self.policy, self._weights = (
            Policy(model.requires_grad_(False), policy.tokenizer, policy.name, policy.chat.enable_thinking),
            weights,
        )
        self._sampler = TorchSampler(self.policy, slots=slots)
        self.context_limit = self._sampler.context_limit

    def submit(self, request: Request) -> None:
        """See :meth:`TorchSampler.submit`."""
        self._sampler.submit(request)

    def tick(self) -> list[Sample]:
        """See :meth:`TorchSampler.tick`."""
        return self._sampler.tick()

    def release(self, session: int) -> None:
        """See :meth:`TorchSampler.release`."""
        self._sampler.release(session)

    @property
    def pending(self) -> int:
        """Requests submitted and not yet returned."""
        return self._sampler.pending

    @torch.no_grad()
    def sync_weights(self) -> None:
        """Copy the policy's weights and drop every session."""
        own = dict(self.policy.model.named_parameters())
        for name, tensor in self._weights():
            own[name].copy_(tensor)
        self._sampler.sync_weights()
