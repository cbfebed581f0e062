"""The processes of one run (``accelerate launch``): who does which share, and what they tell each other.

Every process holds the same rows and builds the same objective; rollouts, scoring and micro-batches are shared out,
results come back to all. One process alone is the ordinary case and costs nothing. Messages are Python objects that
the processes of one run pickle for each other; nothing else can send them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sdgym import zero
from sdgym.errors import CheckpointError, ConfigError, SdgymError
from sdgym.ledger import Ledger

WRAPPED = "_checkpoint_wrapped_module."
"""What PyTorch's activation checkpointing puts into the names of a layer that it wraps."""

T = TypeVar("T")


class World:
    """The processes of a run.

    Args:
        rank: this process's number.
        size: W, how many there are.

    Attributes:
        main: whether this process writes the run folder.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size, self.main = rank, size, rank == 0
        self._charged: dict[str, int] = {}

    def gather(self, value: T) -> list[T]:
        """Return every process's ``value``, in order of rank, to all of them."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    def together(self, value: T | None, error: BaseException | None = None) -> list[T]:
        """Like :meth:`gather`, where any process may have failed: then all raise, so that none waits for another."""
        told = self.gather((value, None if error is None else f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        failed = [f"process {rank}: {reason}" for rank, (_, reason) in enumerate(told) if reason is not None]
        if failed:
            raise SdgymError(f"another process of this run failed ({failed[0]})")
        return [value for value, _ in told if value is not None]

    def share(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """Return this process's items and whether each is its own; padded, because all must make the same number of calls."""
        count = -(-len(items) // self.size)
        places = [self.rank + i * self.size for i in range(count)]
        return [(items[place] if place < len(items) else items[0], place < len(items)) for place in places]

    def block(self, count: int) -> slice:
        """Return this process's part of ``count`` things in a row; the parts differ by at most one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def most(self, counts: Sequence[int]) -> list[int]:
        """Return the largest of each count over all processes."""
        return [max(column) for column in zip(*self.gather(list(counts)), strict=True)]

    def settle(self, ledger: Ledger) -> None:
        """Add up what each process has charged since the last call, so that all hold the run's totals."""
        if self.size == 1:
            return
        now, before = ledger.state_dict(), self._charged or dict.fromkeys(ledger.state_dict(), 0)
        fresh = self.gather({name: value - before[name] for name, value in now.items()})
        total = {name: before[name] + sum(part[name] for part in fresh) for name in now}
        ledger.load_state_dict({**total, "parameters": now["parameters"]})
        self.mark(ledger)

    def mark(self, ledger: Ledger) -> None:
        """Take the ledger as what all processes know already."""
        self._charged = ledger.state_dict()


def join(accelerator: Any, recompute: bool = False, grad_clip: float = 0.0) -> World:
    """Return the processes that ``accelerator`` belongs to, with its settings checked and completed.

    Args:
        accelerator: as the launcher's environment made it.
        recompute: whether layers keep only their inputs; where weights are sharded Accelerate has to wrap them.
        grad_clip: largest gradient norm; DeepSpeed clips by itself.

    Raises:
        ConfigError: a DeepSpeed configuration that cannot work here.
    """
    state = accelerator.state
    if state.distributed_type == "MULTI_CPU" and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        from accelerate import FullyShardedDataParallelPlugin
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType

        # Accelerate offers sharding on accelerators only; its code is the same on a CPU with gloo.
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # from where every part of it reads again
    if state.distributed_type == "FSDP":
        if state.fsdp_plugin.fsdp_version != 2:
            raise ConfigError("sharding needs FSDP2: set fsdp_version: 2 in Accelerate's configuration (or --fsdp_version 2)")
        state.fsdp_plugin.activation_checkpointing |= recompute
    if state.distributed_type == "DEEPSPEED":
        zero.complete(state.deepspeed_plugin.deepspeed_config, grad_clip, accelerator.num_processes)
    return World(accelerator.process_index, accelerator.num_processes)


def environment_rank() -> int:
    """Return this process's number as the launcher says it, before anything is initialised."""
    return int(os.environ.get("RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0


def gathered(tensor: Tensor) -> Tensor:
    """Return a tensor whole, where it is sharded over processes (all of them must ask)."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def scatter(target: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded over processes."""
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        whole = distribute_tensor(whole.to(target.device, target.dtype), target.device_mesh, target.placements)
    target.copy_(whole)


def is_sharded(accelerator: Any) -> bool:
    """Whether each process holds only a piece of every weight (FSDP)."""
    return accelerator is not None and accelerator.distributed_type == "FSDP"


def reshard(module: Any) -> None:
    """Give whole weights back that a forward without backward has left behind: parameters are then the pieces again."""
    for part in module.modules():
        if hasattr(part, "reshard"):
            part.reshard()


def named_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return a model's parameters under the names of the bare model: where weights are sharded, recomputed layers are wrapped and renamed."""
    return {name.replace(WRAPPED, ""): parameter for name, parameter in model.named_parameters()}


def training_state(model: nn.Module, optimizer: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the trained weights by name, and the optimizer's moments as ``name/slot``; whole, so that any number of processes can go on."""
    named = named_weights(model)
    if (parted := zero.parted(optimizer)) is not None:
        return zero.training_state(named, parted)
    names = {id(p): name for name, p in named.items()}
    weights = {name: gathered(p.data) for name, p in named.items() if p.requires_grad}
    moments = {
        f"{names[id(p)]}/{slot}": gathered(value)
        for p, state in optimizer.state.items()
        for slot, value in state.items()
        if isinstance(value, Tensor)
    }
    return weights, moments


@torch.no_grad()
def load_training_state(model: nn.Module, optimizer: Any, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
    """Take over :func:`training_state`. Raises :class:`CheckpointError` if the model is another one."""
    own = {name: p for name, p in named_weights(model).items() if p.requires_grad}
    if set(own) != set(weights):
        raise CheckpointError("the checkpoint holds the weights of another model; resume with the original config")
    if (parted := zero.parted(optimizer)) is not None:
        zero.load_training_state(own, parted, weights, moments)
        return
    for name, parameter in own.items():
        scatter(parameter, weights[name])
    for key, value in moments.items():
        name, _, slot = key.rpartition("/")
        state = optimizer.state[own[name]]
        state[slot] = value.clone() if slot == "step" else torch.empty_like(own[name])
        scatter(state[slot], value)
