"""Math grading against in-process math-verify on a committed corpus.

``python -m sdgym.benchmarks.speed.math_grading [--rounds N] [--out FILE]``

Ours: :class:`sdgym.verifiers.math_answer.MathGrader` with two workers, the verdict cache off, started and
warm. Baselines: math-verify called in this process on the whole response (as its documentation shows) with
its default alarms and with timeouts off, and, as its best case, only on the boxed text with the LaTeX
extractor alone, timeouts off and every problem's gold parsed once. All in one run, alternating; the ratio
is of median times. Every verdict that differs from math-verify is listed with the reason, and judged by how
the corpus was made: an accepted wrong answer is a false accept.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import logging
import pathlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from sdgym.benchmarks.speed.machine import machine
from sdgym.benchmarks.speed.math_corpus import PATH
from sdgym.core import Outcome, Verdict
from sdgym.verifiers.math_answer import MathGrader, judge_response
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_pool import Pool
from sdgym.verifiers.math_quick import Job

WORKERS = 2
WARM_UP = 160
Record = dict[str, Any]


def load() -> list[Record]:
    """Return the corpus."""
    return [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]


def ours(corpus: Sequence[Record], grader: MathGrader) -> list[Verdict]:
    """Grade everything, all answers in flight at once, as a rollout driver does."""

    async def run() -> list[Verdict]:
        return await asyncio.gather(*(grader.grade(Gold(r["gold"], r["type"]), r["response"]) for r in corpus))

    return asyncio.run(run())


def naive(timeout: int | None) -> Callable[[Sequence[Record]], list[bool]]:
    """Return the baseline that parses gold and whole response for every answer."""
    from math_verify import parse, verify

    def run(corpus: Sequence[Record]) -> list[bool]:
        verdicts = []
        for record in corpus:
            gold = parse(f"\\boxed{{{record['gold']}}}", parsing_timeout=timeout)
            answer = parse(record["response"].rsplit("</think>", 1)[-1], parsing_timeout=timeout)
            verdicts.append(bool(verify(gold, answer, timeout_seconds=timeout)))
        return verdicts

    return run


def best_case(corpus: Sequence[Record]) -> list[bool]:
    """The baseline at its best: boxed text only, LaTeX extractor only, golds parsed once, timeouts off."""
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig(boxed_match_priority=0)]
    golds: dict[str, Any] = {}
    verdicts = []
    for record in corpus:
        if record["gold"] not in golds:
            golds[record["gold"]] = parse(f"\\boxed{{{record['gold']}}}", config, parsing_timeout=None)
        answer = parse(f"\\boxed{{{record['answer']}}}", config, parsing_timeout=None)
        verdicts.append(bool(verify(golds[record["gold"]], answer, timeout_seconds=None)))
    return verdicts


def differences(corpus: Sequence[Record], verdicts: Sequence[Verdict], theirs: Sequence[bool]) -> list[dict[str, Any]]:
    """List every answer on which the two disagree: who is right by construction, and our reason."""
    listed = []
    for record, verdict, accepted in zip(corpus, verdicts, theirs, strict=True):
        mine = verdict.outcome is Outcome.CORRECT
        if mine != accepted:
            listed.append(
                {
                    "gold": record["gold"],
                    "type": record["type"],
                    "answer": record["answer"],
                    "right": record["right"],
                    "ours": mine,
                    "math_verify": accepted,
                    "why": verdict.feedback if not mine else "math-verify does not see the equality",
                }
            )
    return listed


def processor_seconds() -> float:
    """Return the processor time used so far by this process and by the living workers."""
    import psutil

    workers = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(worker.cpu_times()[:2]) for worker in workers)


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result of ``run``, its wall time and the processor time that it cost in all processes."""
    wall, processor = time.perf_counter(), processor_seconds()
    result = run()
    return result, time.perf_counter() - wall, processor_seconds() - processor


def measure(rounds: int, corpus: Sequence[Record]) -> dict[str, Any]:
    """Run all contestants ``rounds`` times, alternating, and return times, ratios and verdict counts.

    ``ratio`` is of median wall times; ``processor_ratio`` of processor times summed over all processes (what
    the pool saves per answer, whatever else the machine is doing; a second worker does not count in it).
    """
    logging.disable(logging.CRITICAL)  # math-verify warns that its timeouts are off and about every text it cannot read
    jobs = sum(isinstance(judge_response(Gold(r["gold"], r["type"]), r["response"]), Job) for r in corpus)
    baselines = {"default": naive(5), "no_timeouts": naive(None), "best_case": best_case}
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *baselines)}
    processor: dict[str, list[float]] = {name: [] for name in seconds}
    results: dict[str, Any] = {}
    with Pool(workers=WORKERS, deadline=10.0) as pool:
        grader = MathGrader(pool, cache_size=0)
        contestants: dict[str, Callable[[Sequence[Record]], Any]] = {"ours": functools.partial(ours, grader=grader), **baselines}
        for run in contestants.values():
            run(corpus[:WARM_UP])  # workers started, parser tables filled
        for _ in range(rounds):
            for name, run in contestants.items():
                results[name], wall, used = timed(functools.partial(run, corpus))
                seconds[name].append(wall)
                processor[name].append(used)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    used_median = {name: statistics.median(times) for name, times in processor.items()}
    verdicts = results["ours"]
    accepted = [verdict.outcome is Outcome.CORRECT for verdict in verdicts]
    listed = differences(corpus, verdicts, results["no_timeouts"])
    return {
        "machine": machine() | {name: version(name) for name in ("math-verify", "sympy")},
        "answers": len(corpus),
        "workers": WORKERS,
        "rounds": rounds,
        "fast_path_share": 1 - jobs / len(corpus),
        "seconds": seconds,
        "processor_seconds": processor,
        "answers_per_second": {name: len(corpus) / value for name, value in median.items()},
        "ratio": {name: median[name] / median["ours"] for name in baselines},
        "processor_ratio": {name: used_median[name] / used_median["ours"] for name in baselines},
        "outcomes": dict(Counter(str(verdict.outcome) for verdict in verdicts)),
        "false_accepts": sum(a and not r["right"] for a, r in zip(accepted, corpus, strict=True)),
        "false_rejects": sum(r["right"] and not a for a, r in zip(accepted, corpus, strict=True)),
        "math_verify_false_accepts": sum(a and not r["right"] for a, r in zip(results["no_timeouts"], corpus, strict=True)),
        "math_verify_false_rejects": sum(r["right"] and not a for a, r in zip(results["no_timeouts"], corpus, strict=True)),
        "differences": listed,
    }


def main() -> None:
    """Measure, print the ratios, write the JSON."""
    parser = argparse.ArgumentParser(description="Math grading: answers per second against in-process math-verify.")
    parser.add_argument("--rounds", type=int, default=3, help="alternating repetitions (default 3)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("math_grading.json"), help="where the result is written")
    arguments = parser.parse_args()
    result = measure(arguments.rounds, load())
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, ratio in result["ratio"].items():
        print(
            f"{ratio:5.2f}x math-verify {name} ({result['processor_ratio'][name]:.2f}x by processor time, {result['answers_per_second'][name]:.0f} answers/s)"
        )
    print(
        f"ours: {result['answers_per_second']['ours']:.0f} answers/s at {WORKERS} workers; decided without one: {result['fast_path_share']:.0%}"
    )
    print(f"false accepts {result['false_accepts']} (math-verify {result['math_verify_false_accepts']}), "
          f"false rejects {result['false_rejects']} ({result['math_verify_false_rejects']}); verdicts that differ: {len(result['differences'])}")  # fmt: skip


if __name__ == "__main__":
    main()
