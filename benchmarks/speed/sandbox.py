"""What judging a submission costs, in starts of a bare interpreter measured in the same run.

``python -m sdgym.benchmarks.speed.sandbox [--rounds N] [--tests K] [--out FILE]``

A round starts the sandboxes' interpreter with an empty program once, judges one submission of K tests in a
fresh sandbox of every tier that holds here, and K tests in one that has started already, alternating; ratios
are of median wall times. The submission is one line, so that what is measured is the sandbox.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sdgym.benchmarks.speed.machine import machine
from sdgym.verifiers.sandbox import AUTO, Session, Tier, choose, interpreter, probes

SOURCE = "def f(x): return 2 * x"


def bare(python: interpreter.Interpreter) -> None:
    """Start the interpreter with an empty program."""
    subprocess.run([python.executable, *interpreter.FLAGS, "-c", ""], env=interpreter.ENVIRONMENT, check=True)


def submission(tier: Tier, tests: int) -> None:
    """Judge one submission in a fresh sandbox."""
    with Session(tier, SOURCE) as session:
        ask(session, tests)


def ask(session: Session, tests: int) -> None:
    """Run tests of the submission."""
    for x in range(tests):
        result = session.call("f", [x])
        if (result.status, result.value) != ("ok", 2 * x):
            raise RuntimeError(f"the sandbox {session.tier.name} gives {result}")


def measure(rounds: int, tests: int, tiers: Sequence[str] = AUTO) -> dict[str, Any]:
    """Return median seconds and their ratios to a bare start: of submissions, and of a single test in a sandbox that runs."""
    held = [choose(probe.name) for probe in probes() if probe.name in tiers and not probe.problem]
    with contextlib.ExitStack() as stack:
        contestants: dict[str, Callable[[], None]] = {"bare": functools.partial(bare, interpreter.usable())}
        contestants |= {tier.name: functools.partial(submission, tier, tests) for tier in held}
        contestants |= {f"warm {t.name}": functools.partial(ask, stack.enter_context(Session(t, SOURCE)), tests) for t in held}
        seconds = _timed(contestants, rounds)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "machine": machine(),
        "rounds": rounds,
        "tests": tests,
        "seconds": seconds,
        "median": median,
        "ratio": {tier.name: median[tier.name] / median["bare"] for tier in held},
        "ratio_per_test": {tier.name: median[f"warm {tier.name}"] / tests / median["bare"] for tier in held},
    }


def _timed(contestants: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()  # warm caches
    for _ in range(rounds):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Measure, print the ratios, write the JSON."""
    parser = argparse.ArgumentParser(description="Judging a submission in a sandbox, in starts of a bare interpreter.")
    parser.add_argument("--rounds", type=int, default=30, help="alternating repetitions (default 30)")
    parser.add_argument("--tests", type=int, default=10, help="tests of the submission (default 10)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("sandbox.json"), help="where the result is written")
    arguments = parser.parse_args()
    result = measure(arguments.rounds, arguments.tests)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"bare start {result['median']['bare'] * 1e3:.1f} ms, load {result['machine']['load_1min']}")
    for name, ratio in result["ratio"].items():
        each = result["ratio_per_test"][name]
        print(
            f"{name}: {result['median'][name] * 1e3:.1f} ms for {result['tests']} tests = {ratio:.2f} starts; once started {each:.2f} a test"
        )


if __name__ == "__main__":
    main()
