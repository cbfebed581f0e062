"""One submission in one fresh sandbox: tests go in one by one, plain values come out."""

from __future__ import annotations

import contextlib
import json
import marshal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.verifiers.sandbox.base import Answer, Limits, Result, SandboxError, Tier
from sdgym.verifiers.sandbox.interpreter import confined_uid
from sdgym.verifiers.sandbox.values import decode, loads

START, GRACE = 60.0, 20.0
"""Seconds to start, and beyond a test's own wall limit, on a machine however busy, before the sandbox counts as broken."""
STARTS = 3
"""How often a sandbox that does not start is tried."""


class NotStartedError(SandboxError):
    """No sandbox starts: whatever runs in it later, nothing of it has run."""


class Session:
    """A started sandbox that holds ``source`` and nothing else.

    The trainer keeps what must not be known inside: expected values never enter, an input enters when its
    test begins, in a forked child that ends with the test. Use as a context manager.

    Args:
        tier: how to confine.
        source: the submission.
        limits: per test.

    Raises:
        NotStartedError: the sandbox did not start in three attempts.
    """

    def __init__(self, tier: Tier, source: str, limits: Limits | None = None) -> None:
        self.tier, self.limits = tier, limits or Limits()
        self._source = source.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        self._fresh, self._open = True, False
        self._start()

    def _start(self) -> None:
        """Start a fresh sandbox. Raises NotStartedError after :data:`STARTS` attempts."""
        for attempt in range(STARTS):
            try:
                self._try_start()
                return
            except (SandboxError, TimeoutError) as error:
                self._abandon()
                if attempt == STARTS - 1:
                    raise NotStartedError(f"the sandbox {self.tier.name!r} did not start: {error or 'no answer'}") from error

    def _try_start(self) -> None:
        until = time.monotonic() + START
        self._channel, runner, inner = self.tier.start()
        self._open, self._fresh = True, True
        limits = {"cpu": self.limits.cpu, "wall": self.limits.wall, "memory": self.limits.memory}
        limits |= {"output": self.limits.output, "questions": self.limits.questions}
        config: dict[str, Any] = {
            "limits": limits,
            "uid": confined_uid(),
            "landlock": -1,
            "confined": True,
            "seccomp": b"",
            "threads": self.limits.threads,
        }
        config |= inner
        config["threads"] = -1 if config["others"] is None else config["threads"] + config["others"]
        self._write(runner, until)
        self._send(config, until)
        said = self._receive(until)
        if "ready" not in said:
            raise SandboxError(f"confinement failed inside: {said.get('failed', said)}")

    # ---- tests ----------------------------------------------------------------------------------

    def call(self, entry: str, arguments: Sequence[Any]) -> Result:
        """Call ``entry`` ("function" or "Class.method") with plain ``arguments``."""
        return self._test({"kind": "call", "entry": entry, "args": list(arguments)})

    def run(self, stdin: str) -> Result:
        """Run the submission as a script that reads ``stdin``."""
        return self._test({"kind": "run", "stdin": stdin.encode()})

    def check(self, code: str, names: Sequence[str], entry: str, answer: Answer) -> Result:
        """Run a test's own ``code`` here; its calls of ``names`` are answered by ``answer`` (from another session).

        ``entry`` names a function of ``code`` to be called with the first of ``names``; empty if the code itself is the test.
        """
        return self._test({"kind": "check", "code": code, "names": list(names), "entry": entry}, answer)

    def _test(self, job: dict[str, Any], answer: Answer | None = None) -> Result:
        """Run one test. A sandbox that breaks under it is replaced and the test tried once more; then the submission is to blame.

        Raises:
            NotStartedError: there is no other sandbox, be it for this test or for the calls that it asks to be answered.
        """
        for attempt in range(2):
            until = time.monotonic() + self.limits.wall + GRACE
            try:
                if not self._open:
                    self._start()
                self._send({**job, "source": self._source} if self._fresh else job, until)
                self._fresh = False
                said = self._receive(until)
                while "question" in said:
                    until = time.monotonic() + self.limits.wall + GRACE
                    self._send(dict(answered(said["question"], answer)), until)
                    said = self._receive(until)
                return _result(said)
            except NotStartedError:
                raise
            except (SandboxError, TimeoutError):
                self._abandon()
                if attempt:
                    return Result("killed", said="the sandbox ended")
        raise AssertionError("two attempts return or raise")

    # ---- frames ---------------------------------------------------------------------------------

    def _send(self, frame: Mapping[str, Any], until: float) -> None:
        self._write(marshal.dumps(dict(frame), 2), until)

    def _write(self, data: bytes, until: float) -> None:
        self._channel.send(len(data).to_bytes(4, "big") + data, until)

    def _receive(self, until: float) -> dict[str, Any]:
        size = int.from_bytes(self._channel.receive(4, until), "big")
        if size > 12 * self.limits.output + 65536:  # text grows sixfold at most when JSON escapes it, twice
            raise SandboxError("an oversized answer")
        said = json.loads(self._channel.receive(size, until))
        assert isinstance(said, dict)
        return said

    def _abandon(self) -> None:
        """End a sandbox that broke, as far as it can be ended."""
        with contextlib.suppress(SandboxError):
            self.close()

    def close(self) -> None:
        """End the sandbox. Idempotent. Raises SandboxError if it cannot be ended."""
        if self._open:
            self._open = False
            self._channel.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answered(question: str, answer: Answer | None) -> Mapping[str, Any]:
    """Return the frame that answers a question from inside; what cannot be read is answered with an error."""
    try:
        asked = loads(question)
        arguments = decode(asked["args"])
        assert answer is not None
        return answer(str(asked["ask"]), arguments)
    except (ValueError, TypeError, KeyError) as error:
        return {"error": "TypeError", "said": f"not a plain argument: {error}"}


def _result(said: Mapping[str, Any]) -> Result:
    """Turn the zygote's record into a result; everything that came from the judged child is taken as a claim, not as a fact."""
    used = {name: float(said[name]) for name in ("cpu", "wall")}
    common: dict[str, Any] = {"stdout": said["stdout"], **used, "rss": int(said["rss"])}
    if said["ended"]:
        return Result(said["ended"], said=f"signal {-said['exit']}" if said["exit"] < 0 else "", **common)
    if not said["said"]:
        return Result("no_result", said=f"exit code {said['exit']}", **common)
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        claim = loads(said["said"])
        status = claim["status"]
        if status == "ok":
            return Result("ok", value=decode(claim.get("value")), **common)
        if status in ("exception", "compile_error", "no_entry", "bad_result", "failed", "memory"):
            error, said_, line = str(claim.get("error", ""))[:200], str(claim.get("said", ""))[:1000], claim.get("line", 0)
            return Result(status, error=error, said=said_, line=line if isinstance(line, int) and line > 0 else 0, **common)
    return Result("bad_result", said="an unreadable result", **common)
