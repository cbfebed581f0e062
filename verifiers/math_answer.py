r"""Grade a mathematical answer: strict extraction, exact fast path, computer algebra in killable workers.

>>> import asyncio
>>> asyncio.run(grade(Gold("85", "int"), "so \\boxed{75}")).feedback
'75 is wrong in the tens digit.'
"""

from __future__ import annotations

import collections
import dataclasses
import threading
import warnings
from collections.abc import Callable

from sdgym.core import Outcome, Verdict
from sdgym.verifiers import math_compound, math_quick
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_pool import Pool, Reply, shared_pool
from sdgym.verifiers.math_quick import Job, prepare, unparsable
from sdgym.verifiers.math_text import MAX_ANSWER, extract, latex, shown

ALARM_AFTER, ALARM_SHARE = 100, 0.01
"""Timeouts are reported above this share, once this many answers needed a worker."""

_JUDGES: dict[str, Callable[[Gold, str, str, str], Verdict | Job]] = {
    "int": math_quick.number,
    "rational": math_quick.number,
    "decimal": math_quick.approximate,
    "percent": math_quick.approximate,
    "choice": math_quick.choice,
    "text": math_quick.text_equal,
    "expr": math_quick.expression,
    "tuple": math_compound.entries,
    "set": math_compound.elements,
    "interval": math_compound.spans,
    "matrix": math_compound.matrix,
}


def judge(gold: Gold, answer: str) -> Verdict | Job:
    """Judge the raw content of a box; a :class:`Job` where computer algebra is needed. Never raises."""
    if len(answer) > MAX_ANSWER:
        return unparsable(f"The answer is longer than {MAX_ANSWER} characters.")
    return _JUDGES[gold.type](gold, *prepare(gold, answer))


def judge_response(gold: Gold, response: str) -> Verdict | Job:
    """Judge a whole response; a :class:`Job` where computer algebra is needed. Never raises."""
    found = extract(response)
    if found.answer is None:
        return Verdict(Outcome.UNPARSABLE if found.ambiguous else Outcome.NO_ANSWER, 0.0, found.problem)
    return judge(gold, found.answer)


class MathGrader:
    """Grades responses; safe to share between threads and event loops.

    Args:
        pool: workers for what the fast path cannot decide; default the process-wide pool.
        cache_size: verdicts of the slow path kept, least recently used out first; 0 switches the cache off.
    """

    def __init__(self, pool: Pool | None = None, cache_size: int = 50_000) -> None:
        self._pool, self._cache_size = pool, cache_size
        self._cache: collections.OrderedDict[tuple[Gold, str], Verdict] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.counts: collections.Counter[str] = collections.Counter()
        """Verdicts by outcome; ``slow``: how many needed a worker (cache hits excluded), ``killed``: at the deadline."""
        self._alarmed = False

    async def grade(self, gold: Gold, response: str) -> Verdict:
        """Judge a whole response.

        Raises:
            InfraError: the workers could not be started or went away.
        """
        verdict = judge_response(gold, response)
        if isinstance(verdict, Job):
            verdict = await self._settle(gold, verdict, extract(response).answer or "")
        with self._lock:
            self.counts[verdict.outcome] += 1
        return verdict

    async def _settle(self, gold: Gold, job: Job, answer: str) -> Verdict:
        key = (gold, shown(answer, MAX_ANSWER))
        with self._lock:
            cached = self._cache.get(key)
            if cached is not None:
                self._cache.move_to_end(key)
                return cached
            self.counts["slow"] += 1
        reply = await (self._pool or shared_pool()).compare([(latex(right), latex(tried)) for right, tried in job.pairs])
        verdict = conclude(job, reply, shown(answer))
        self._watch(reply)
        if reply.status == "done" and self._cache_size:
            with self._lock:
                self._cache[key] = dataclasses.replace(verdict, seconds=0.0)
                while len(self._cache) > self._cache_size:
                    self._cache.popitem(last=False)
        return verdict

    def _watch(self, reply: Reply) -> None:
        """Warn once if timeouts are frequent: each may be a right answer scored 0."""
        with self._lock:
            self.counts["killed"] += reply.status == "timeout"
            slow, killed = self.counts["slow"], self.counts["killed"]
            alarm = not self._alarmed and slow >= ALARM_AFTER and killed > ALARM_SHARE * slow
            self._alarmed = self._alarmed or alarm
        if alarm:
            message = f"{killed} of {slow} answers that needed computer algebra ran into the grader's deadline and scored 0; is the machine overloaded?"
            warnings.warn(message, RuntimeWarning, stacklevel=2)


def conclude(job: Job, reply: Reply, attempt: str) -> Verdict:
    """Turn a worker's reply into the verdict."""
    if reply.status == "timeout":
        return Verdict(Outcome.TIMEOUT, 0.0, f"{attempt} takes too long to evaluate.", reply.seconds)
    if reply.status == "crashed":
        return Verdict(Outcome.CRASHED, 0.0, f"{attempt} is too large to evaluate.", reply.seconds)
    return dataclasses.replace(job.finish(reply.results), seconds=reply.seconds)


_default = MathGrader()


async def grade(gold: Gold, response: str) -> Verdict:
    """Judge a whole response with the process-wide grader. Raises :class:`sdgym.errors.InfraError`."""
    return await _default.grade(gold, response)
