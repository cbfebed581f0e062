"""Named streams: stable over processes, independent, and counter-based noise that is really uniform."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from sdgym.seeding import counter_uniform, derive, generator


def test_a_path_names_one_stream_on_every_machine() -> None:
    """Pinned: recorded runs depend on it."""
    assert derive(0) == DERIVED[0] and derive(7, "tasks", "train", 3) == DERIVED[1]
    program = "from sdgym.seeding import derive; print(derive(7, 'tasks', 'train', 3))"
    for salt in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": salt}
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        assert int(done.stdout) == DERIVED[1]


DERIVED = (15613141438796652964, 14209272647041624411)


def test_different_paths_are_different_streams() -> None:
    paths = [(0,), (0, 1), (0, "1"), (0, "a", "b"), (0, "a/b"), (0, "ab"), (0, "a", 1), (0, "a1"), (1,), (0, 1, 0), (0, "i1"), (-1,)]
    assert len({derive(*path) for path in paths}) == len(paths)
    assert all(0 <= derive(*path) < 2**64 for path in paths)


def test_generators_are_independent_of_each_other_and_of_the_global_one() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    a, b = generator(0, "a").random(10_000), generator(0, "b").random(10_000)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05, "five standard errors of a correlation of 10,000 pairs"
    assert np.array_equal(a, generator(0, "a").random(10_000))
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


def test_counter_noise_is_a_pure_function_of_key_and_counter() -> None:
    keys = np.array([derive(0, i) for i in range(64)], np.uint64)
    table = np.stack([counter_uniform(keys, np.full(64, t)) for t in range(8)])
    assert np.array_equal(counter_uniform(keys[5:6], np.array([3])), table[3, 5:6]), "other rows do not matter"
    assert np.array_equal(counter_uniform(keys[::-1], np.full(64, 2)), table[2, ::-1])


def test_counter_noise_is_uniform_and_uncorrelated() -> None:
    """χ² with 63 degrees of freedom: its 99.99 % point is 112; correlations of 64,000 pairs: five standard errors are .02."""
    keys = np.array([derive(1, i) for i in range(1_000)], np.uint64)
    noise = np.stack([counter_uniform(keys, np.full(1_000, t)) for t in range(64)])
    assert noise.min() > 0.0 and noise.max() < 1.0
    counts = np.histogram(noise, bins=64, range=(0, 1))[0]
    assert float(((counts - 1_000) ** 2 / 1_000).sum()) < 112
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.02, "successive tokens"
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.02, "neighbouring rows"
    consecutive = counter_uniform(np.arange(64_000, dtype=np.uint64), np.zeros(64_000, np.uint64))
    assert abs(np.corrcoef(consecutive[:-1], consecutive[1:])[0, 1]) < 0.02, "keys that differ by one"
