"""The worker pool under attack: deadlines, kills, crashes, forks, threads, loops, exit."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from sdgym.core import Outcome, Verdict
from sdgym.errors import ConfigError, InfraError
from sdgym.verifiers.math_answer import MathGrader, judge
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_pool import Pool, Reply, shared_pool

GOLD = Gold(r"\frac{\pi}{7}")
ANSWERS = (pathlib.Path(__file__).parents[1] / "data" / "math_pathological.txt").read_text().splitlines()
HANGING = (r"e^{e^{e^{e^{e}}}}", r"((((10!)!)!)!)", r"\tan(10^{10^{10}})")
SLACK = 0.5
"""Seconds past the deadline: one scheduling delay on a busy two-core machine."""


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """The process-wide pool: starting one costs two seconds of processor time, so tests share it."""
    shared = shared_pool()
    monkeypatch.setattr(shared, "deadline", 10.0)
    assert shared.submit([("1", "1")]).result(120.0).results == ("equal",)
    return shared


def _children(pool: Pool) -> list[psutil.Process]:
    assert pool._zygote is not None
    return psutil.Process(pool._zygote.process.pid).children()


def test_the_list_is_long_enough() -> None:
    assert len(set(ANSWERS)) >= 60


def test_hopeless_answers_are_refused_on_sight() -> None:
    refused = [answer for answer in ANSWERS if isinstance(judge(GOLD, answer), Verdict)]
    started = time.perf_counter()
    verdicts = [judge(GOLD, answer) for answer in refused]
    assert time.perf_counter() - started < 0.5  # microseconds each; half a second allows for a busy machine
    assert len(refused) >= 35
    assert all(isinstance(verdict, Verdict) and verdict.score == 0.0 for verdict in verdicts)


def test_deadline_is_held_and_the_worker_replaced(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> list[Reply]:
        return await asyncio.gather(*(pool.compare([("5", answer)]) for answer in HANGING))

    killed = pool.killed
    monkeypatch.setattr(pool, "deadline", 2.0)
    hung = asyncio.run(ask())
    monkeypatch.setattr(pool, "deadline", 10.0)
    assert [reply.status for reply in hung] == ["timeout"] * len(HANGING)
    assert max(reply.seconds for reply in hung) < 2.0 + SLACK
    assert pool.submit([("5", r"\sqrt{25}")]).result(30.0).results == ("equal",)
    assert pool.killed - killed == len(HANGING)


@pytest.mark.slow
@pytest.mark.parametrize("checked", [True, False])
def test_every_pathological_answer_meets_the_deadline(checked: bool) -> None:
    """With the checks that refuse on sight, and (workers alone) without them."""

    async def ask(pool: Pool) -> list[tuple[float | None, float]]:
        if checked:
            grader = MathGrader(pool)
            verdicts = await asyncio.gather(*(grader.grade(GOLD, f"\\boxed{{{answer}}}") for answer in ANSWERS))
            return [(verdict.score, verdict.seconds) for verdict in verdicts]
        replies = await asyncio.gather(*(pool.compare([(GOLD.text, answer)]) for answer in ANSWERS))
        return [(float("equal" in reply.results), reply.seconds) for reply in replies]

    with Pool(workers=2) as pool:
        results = asyncio.run(ask(pool))
    assert {score for score, _ in results} == {0.0}
    assert max(seconds for _, seconds in results) < 2.0 + SLACK


def test_kills_leave_no_process_behind(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "deadline", 0.05)
    jobs = [pool.submit([("5", HANGING[0])]) for _ in range(24)]
    assert {job.result(60.0).status for job in jobs} == {"timeout"}
    deadline = time.monotonic() + 30.0
    while _children(pool) and time.monotonic() < deadline:  # every worker hung, so every worker goes
        time.sleep(0.01)
    assert _children(pool) == []


def test_workers_are_recycled(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "recycle", 1)
    seen = set()
    for _ in range(4):
        assert pool.submit([(r"\sqrt{4}", "2")]).result(30.0).results == ("equal",)
        seen |= {child.pid for child in _children(pool)}
    assert len(seen) >= 2


def test_a_killed_worker_is_retried_and_a_second_death_is_a_crash(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill_the_busy_one() -> None:
        burnt: dict[int, float] = {}
        deadline = time.monotonic() + 50.0
        while time.monotonic() < deadline:
            for child in _children(pool):
                with contextlib.suppress(psutil.NoSuchProcess):  # the last one killed may not have gone yet
                    spent = sum(child.cpu_times()[:2])
                    if spent - burnt.setdefault(child.pid, spent) > 0.3:  # only the one at work goes on burning time
                        child.kill()
                        child.wait(10.0)
                        return
            time.sleep(0.01)
        raise AssertionError("no worker was busy")

    monkeypatch.setattr(pool, "deadline", 60.0)
    job = pool.submit([("5", HANGING[0])])
    kill_the_busy_one()
    assert not job.done()
    kill_the_busy_one()
    assert job.result(30.0).status == "crashed"
    assert pool.submit([("1", "2")]).result(30.0).results == ("different",)


def test_a_dead_zygote_is_restarted(pool: Pool) -> None:
    first = pool._zygote
    assert first is not None
    first.process.kill()
    first.process.wait()
    assert pool.submit([("1", "1")]).result(120.0).results == ("equal",)
    assert pool._zygote is not first


def test_failure_to_start_is_an_infrastructure_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Pool(workers=1) as pool, pytest.raises(InfraError, match="worker process"):
        pool.submit([("1", "1")]).result(30.0)


def test_closed_and_misconfigured_pools_say_so() -> None:
    pool = Pool(workers=1)
    pool.close()
    pool.close()
    with pytest.raises(InfraError, match="closed"):
        pool.submit([("1", "1")])
    with pytest.raises(ConfigError, match="workers >= 1"):
        Pool(workers=0)


def test_full_backlog_is_an_infrastructure_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    pool = Pool(workers=1, backlog=1)
    with pool._lock, pytest.raises(InfraError, match="wait for the math grader"):  # the lock holds the worker's start back
        for _ in range(8):
            pool.submit([("1", "1")])
    pool.close()


def test_one_pool_serves_many_threads_and_loops(pool: Pool) -> None:
    results: list[str] = []

    async def ask(grader: MathGrader, size: int) -> None:
        verdicts = await asyncio.gather(*(grader.grade(Gold(f"\\sqrt{{{4 * n}}}"), f"\\boxed{{2\\sqrt{{{n}}}}}") for n in range(2, size)))
        results.extend(verdict.outcome for verdict in verdicts)

    grader = MathGrader(pool, cache_size=0)
    threads = [threading.Thread(target=lambda: asyncio.run(ask(grader, 7))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [Outcome.CORRECT] * 20


def _in_child(queue: multiprocessing.Queue[str]) -> None:
    queue.put(shared_pool().submit([(r"\sqrt{4}", "2")]).result(120.0).results[0])


def test_a_forked_child_gets_its_own_pool(pool: Pool) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=120.0) == "equal"
    child.join()
    assert pool.submit([("1", "2")]).result(30.0).results == ("different",)


_SCRIPT = """
import os, signal, sys, time
from sdgym.verifiers.math_pool import shared_pool
pool = shared_pool()
pool.submit([("1", "1")]).result(120)
pool.submit([("5", "e^{e^{e^{e^{e}}}}")])
print(pool._zygote.process.pid, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["exit", pytest.param("killed", marks=pytest.mark.slow)])
def test_nothing_survives_the_trainer(end: str) -> None:
    run = subprocess.run([sys.executable, "-c", _SCRIPT, end], capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == (-signal.SIGKILL if end == "killed" else 0), run.stderr
    zygote, deadline = int(run.stdout), time.monotonic() + 30.0
    while _session(zygote) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert _session(zygote) == []


def _session(leader: int) -> list[int]:
    """Return the living processes of the session that ``leader`` opened (the zygote and its workers)."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_text_is_never_evaluated(pool: Pool) -> None:
    attack = r"__import__('os').system('touch /tmp/sdgym-was-here')"
    pathlib.Path("/tmp/sdgym-was-here").unlink(missing_ok=True)
    words = [pool.submit([("1", text)]).result(30.0).results[0] for text in (attack, f"\\text{{{attack}}}", "1;import os", "eval(1)")]
    assert "equal" not in words
    assert not pathlib.Path("/tmp/sdgym-was-here").exists()
