"""What things cost: generation, learning and worlds as a few coefficients each, from arithmetic or fitted to measurements."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Engine:
    """Seconds of one generation replica with continuous batching.

    Attributes:
        tick: a decode step, whoever takes part: reading the weights.
        row: each row of a decode step: arithmetic, and reading its cache.
        token: each prompt or observation token that is read; a group's prompt is read once per replica.
        begin: each episode: its world's reset, its prompt rendered.
        slots: episodes under way at once.
        unit: a step computes a multiple of so many rows (the embedded sampler: an eighth of its slots).
    """

    tick: float
    row: float
    token: float = 0.0
    begin: float = 0.0
    slots: int = 256
    unit: int = 1

    def step(self, live: int) -> float:
        """Seconds of a decode step of ``live`` rows."""
        return self.tick + self.row * min(self.slots, self.unit * math.ceil(live / self.unit))


@dataclasses.dataclass(frozen=True)
class Learner:
    """Seconds of an update.

    Attributes:
        processes: W, which share the tokens.
        base: each update: optimizer, bookkeeping.
        row: each row of the batch, in every process: exchange, advantages, teacher contexts, terms.
        token: each trained token, of one process.
        micro: tokens of a micro-batch; micro-batches are dealt out in turn, so the longest share counts.
        reduce: gradients added over all processes, if there are several: 8·P·(W - 1)/W bytes of float32 over the slowest link.
        push: weights handed to the engines.
    """

    token: float
    processes: int = 1
    base: float = 0.0
    row: float = 0.0
    micro: int = 16_384
    reduce: float = 0.0
    push: float = 0.0

    def update(self, rows: int, tokens: int) -> float:
        """Seconds from the last row to the new weights, without handing them over."""
        share = tokens if self.processes == 1 else min(tokens, self.micro * math.ceil(math.ceil(tokens / self.micro) / self.processes))
        exchange = self.reduce * (self.processes - 1) / self.processes
        return self.base + self.row * rows + self.token * share + exchange


@dataclasses.dataclass(frozen=True)
class Worlds:
    """Machines on which environments and graders answer; an answer takes a lognormal time and one worker.

    Attributes:
        hosts, workers: machines, and answers at once on each.
        mean, sigma: seconds of an answer (mean before the cut) and spread of its logarithm.
        limit: seconds after which an answer counts as failed; its row is masked, its time is spent.
    """

    hosts: int = 1
    workers: int = 1
    mean: float = 0.0
    sigma: float = 0.0
    limit: float = math.inf

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Seconds of ``count`` answers: float64 ``[count]``."""
        if not self.mean:
            return np.zeros(count)
        mu = math.log(self.mean) - self.sigma**2 / 2
        return np.minimum(np.exp(mu + self.sigma * rng.standard_normal(count)), self.limit)


@dataclasses.dataclass(frozen=True)
class Model:
    """A transformer, as far as arithmetic needs it.

    Attributes:
        parameters: P.
        layers, kv_heads, head_dim: of its cache.
        bytes: per parameter and cache entry in generation.
    """

    parameters: float
    layers: int
    kv_heads: int
    head_dim: int
    bytes: int = 2

    @property
    def cache(self) -> int:
        """Bytes of the cache per token: keys and values."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes


@dataclasses.dataclass(frozen=True)
class Device:
    """An accelerator: two lines of a data sheet, and how much of them is reached (assumptions: measure yours).

    Attributes:
        flops, bandwidth: per second, of dense arithmetic and of memory.
        reading, computing, training: shares reached in decoding, reading prompts, and training.
        launch: seconds per decode step that are neither.
        link: bytes per second between processes, of the slowest link.
        storage: bytes per second of the folder through which weights are pushed.
    """

    flops: float
    bandwidth: float
    reading: float = 0.6
    computing: float = 0.5
    training: float = 0.35
    launch: float = 2e-3
    link: float = 40e9
    storage: float = 5e9

    def engine(self, model: Model, context: float, slots: int, begin: float = 0.0) -> Engine:
        """Roofline of decoding: weights are read once per step, each row's cache of ``context`` tokens once per row; 2·P flops per token."""
        reading, computing = self.bandwidth * self.reading, self.flops * self.computing
        per_row = model.cache * context / reading + 2 * model.parameters / computing
        return Engine(self.launch + model.bytes * model.parameters / reading, per_row, 2 * model.parameters / computing, begin, slots)

    def learner(self, model: Model, processes: int, row: float, flops_per_token: float, servers: int, micro: int) -> Learner:
        """``flops_per_token`` in units of P: 6 forward and backward, 8 with recomputed activations, 2 more per teacher.

        Pushed are the weights, written once by the first process and read by ``servers`` engines, all through one folder.
        """
        token = flops_per_token * model.parameters / (self.flops * self.training)
        written = 4 * model.parameters / self.storage
        push = written * (1 + servers)
        return Learner(token, processes, 0.0, row, micro, 8 * model.parameters / self.link, push)


def fit_nonnegative(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> np.ndarray:
    """Return non-negative coefficients ``[K]`` with the smallest relative squared error: every measurement counts the same.

    Args:
        features: ``[n, K]`` how often each cost occurs.
        seconds: ``[n]`` measured, positive.
    """
    from scipy import optimize

    a, b = np.asarray(features, np.float64), np.asarray(seconds, np.float64)
    scale = np.maximum(np.abs(a).max(0), 1e-30)
    solution, _ = optimize.nnls(a / scale / b[:, None], np.ones(len(b)))
    return np.asarray(solution / scale)
