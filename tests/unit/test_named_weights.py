"""Weights keep the names of the bare model where layers are wrapped to be recomputed."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from sdgym.adapters import plain_weights
from sdgym.parallel import load_training_state, named_weights, training_state


def test_a_wrapped_model_saves_and_loads_as_the_bare_one() -> None:
    bare = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    wrapped = copy.deepcopy(bare)
    wrapped[1] = checkpoint_wrapper(wrapped[1])
    assert dict(wrapped.named_parameters()).keys() != dict(bare.named_parameters()).keys(), "there is nothing to undo"
    assert named_weights(wrapped).keys() == dict(bare.named_parameters()).keys() == dict(plain_weights(wrapped)).keys()

    optimizers = [torch.optim.Adam(model.parameters()) for model in (bare, wrapped)]
    wrapped(torch.ones(1, 2)).sum().backward()
    optimizers[1].step()
    load_training_state(bare, optimizers[0], *training_state(wrapped, optimizers[1]))
    assert all(torch.equal(named_weights(wrapped)[name], mine) for name, mine in bare.named_parameters())
    assert training_state(bare, optimizers[0])[1].keys() == training_state(wrapped, optimizers[1])[1].keys()
