"""The processes of one run (``accelerate launch``): who does which share, and what they tell each other.

Every process holds the same rows and builds the same objective; rollouts, scoring and micro-batches are shared out,
results come back to all. One process alone is the ordinary case and costs nothing. Messages are Python objects that
the processes of one run pickle for each other; nothing else can send them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from sdgym.errors import SdgymError
from sdgym.ledger import Ledger

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


def gathered(tensor: Tensor) -> Tensor:
    """Return a tensor whole, where it is sharded over processes (all of them must ask)."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def scatter(target: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded over processes."""
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        whole = distribute_tensor(whole.to(target.device, target.dtype), target.device_mesh, target.placements)
    target.copy_(whole)
