"""Named, independent random streams derived from one run seed; the global generators are never touched.

A stream is named by a path of strings and integers. The same path gives the same numbers on every
machine and in every process (SHA-256, not ``hash()``, which is salted per process).
"""

from __future__ import annotations

import hashlib

import numpy as np

Part = str | int


def derive(seed: int, *path: Part) -> int:
    """Return a 64-bit seed for the stream ``path`` of the run ``seed``.

    Strings and integers of the same spelling name different streams: ``derive(0, 1) != derive(0, "1")``.
    """
    parts = [f"i{seed}"] + [f"i{p}" if isinstance(p, int) else f"s{len(p)}:{p}" for p in path]
    return int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:8], "little")


def generator(seed: int, *path: Part) -> np.random.Generator:
    """Return an independent NumPy generator (PCG64) for the stream ``path`` of the run ``seed``."""
    return np.random.Generator(np.random.PCG64(derive(seed, *path)))


_M1, _M2, _GOLDEN = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)


def counter_uniform(keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """Counter-based uniforms in the open interval (0, 1): a pure function of (key, counter).

    Row noise for sampling: the number a row gets does not depend on which other rows are live.
    SplitMix64 (Steele, Lea & Flood 2014) of ``key + golden·(counter+1)``, finalised twice.

    Args:
        keys: uint64 ``[N]``, one key per row (from :func:`derive`).
        counters: integers ``[N]`` (broadcastable), for example the token index.

    Returns:
        float64 ``[N]``, never exactly 0 or 1.
    """
    with np.errstate(over="ignore"):
        x = keys.astype(np.uint64) + _GOLDEN * (np.asarray(counters).astype(np.uint64) + np.uint64(1))
        for _ in range(2):
            x = (x ^ (x >> np.uint64(30))) * _M1
            x = (x ^ (x >> np.uint64(27))) * _M2
            x = x ^ (x >> np.uint64(31))
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
