"""What every sandbox tier offers: limits, results, and the protocol between the trainer and a sandbox."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from sdgym.errors import InfraError

Status = str
"""``ok``; ``exception``, ``compile_error``, ``no_entry``, ``bad_result``, ``failed`` (an assertion of a test) and
``memory`` from inside; ``timeout``, ``output_limit``, ``killed``, ``no_result`` as seen from outside."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What one test may use.

    Attributes:
        cpu: processor seconds, whole: the limit that decides, because it does not depend on the machine's load.
        wall: seconds on the clock, a fuse against sleeping.
        memory: bytes of address space.
        output: bytes of standard output and result together.
        threads: how many threads a submission may start (processes: none).
        questions: how often a test's own code may call the submission.
    """

    cpu: int = 2
    wall: float = 10.0
    memory: int = 512 * 2**20
    output: int = 2**20
    threads: int = 16
    questions: int = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What one test gave.

    Attributes:
        status: see :data:`Status`.
        value: what the function returned, in plain types (tuples stay tuples, sets are frozen).
        stdout: what a script printed.
        error, said, line: type, message and line (in the submission, from 1; 0 unknown) of an exception.
        cpu, wall: seconds; telemetry, never part of a verdict.
        rss: peak resident bytes.
    """

    status: Status
    value: Any = None
    stdout: str = ""
    error: str = ""
    said: str = ""
    line: int = 0
    cpu: float = 0.0
    wall: float = 0.0
    rss: int = 0


class SandboxError(InfraError):
    """A sandbox did not start or did not answer: never the submission's fault."""


class Channel(Protocol):
    """A started sandbox process: a pair of byte streams and a way to end it."""

    def send(self, data: bytes, until: float) -> None:
        """Write all of ``data`` before the monotonic time ``until``. Raises SandboxError."""

    def receive(self, size: int, until: float) -> bytes:
        """Return exactly ``size`` bytes. Raises SandboxError at the end of the stream, TimeoutError at ``until``."""

    def close(self) -> None:
        """End the sandbox and everything in it, and wait until it is gone. Idempotent. Raises SandboxError if it cannot be ended."""


class Started(NamedTuple):
    """A fresh sandbox.

    Attributes:
        channel: the way to talk to it.
        runner: the program to send first, as marshal.
        inner: what the runner must do to itself before it takes a submission (``uid``, ``landlock``, ``seccomp`` …);
            ``others``: threads that its user has elsewhere, or None where they cannot be counted.
    """

    channel: Channel
    runner: bytes
    inner: Mapping[str, Any]


class Tier(Protocol):
    """One way to confine a process."""

    name: ClassVar[str]

    def missing(self) -> str:
        """Return why this tier cannot be used here and what to do about it, or nothing."""

    def start(self) -> Started:
        """Start an empty sandbox. Raises SandboxError."""

    def close(self) -> None:
        """Give back what the tier holds between sandboxes. Idempotent."""


Answer = Callable[[str, Sequence[Any]], Mapping[str, Any]]
"""How a test's question ``(function, arguments)`` is answered: ``{"value": …}`` or ``{"error": type, "said": text}``."""
