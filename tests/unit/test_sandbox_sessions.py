"""A submission in its sandbox: what it is told and when, limits, infrastructure that fails, the choice of a tier."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest

import sdgym.verifiers.sandbox as sandbox
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.verifiers.code_judge import CodeJudge
from sdgym.verifiers.code_suite import CallTest, StdioTest, Suite
from sdgym.verifiers.sandbox import Limits, SandboxError, Session, Tier, attacks, choose, docker, sandbox_available
from sdgym.verifiers.sandbox.base import Channel, Started
from sdgym.verifiers.sandbox.process import ProcessChannel
from sdgym.verifiers.sandbox.unsafe import Unsafe


@pytest.fixture
def tier() -> Tier:
    available, said = sandbox_available()
    if not available:
        pytest.skip(f"sandbox: {said}")
    return choose()


SOURCE = """
import sys
state = []
def echo(*args):
    return list(args)
def remember(x):
    state.append(x)
    return state
class Box:
    def twice(self, x):
        return [x, x]
def fail(x):
    return 1 / x
def odd():
    return object()
def seed():
    return [hash("a"), list({"b", "a", "c"})]
def loop():
    while True:
        pass
"""


def test_calls_report_values_and_errors(tier: Tier) -> None:
    with Session(tier, SOURCE, Limits(cpu=1, wall=20.0)) as session:
        assert session.call("echo", [1, (2,), {"a": {3}}]).value == [1, (2,), {"a": frozenset({3})}]
        assert session.call("Box.twice", ["x"]).value == ["x", "x"]
        assert [session.call("remember", [i]).value for i in (1, 2)] == [[1], [2]]  # nothing survives a test
        failed = session.call("fail", [0])
        assert (failed.status, failed.error, failed.line) == ("exception", "ZeroDivisionError", 13)
        assert session.call("nowhere", []).status == "no_entry"
        assert session.call("odd", []).status == "bad_result"
        first = session.call("seed", []).value
        assert session.call("loop", []).status == "timeout"
        assert session.call("echo", [5]).value == [5]
    with Session(tier, SOURCE) as session:
        assert session.call("seed", []).value == first  # one hash seed everywhere


def test_scripts_read_and_print(tier: Tier) -> None:
    fast_input = "import sys\ndata = sys.stdin.buffer.read().split()\nsys.stdout.write(str(sum(map(int, data))))\n"
    with Session(tier, fast_input) as session:
        assert session.run("1 2\n" * 50_000).stdout == "150000"
    threaded = "import threading\nthreading.Thread(target=lambda: print(input())).start()\n"
    with Session(tier, threaded) as session:
        assert session.run("ü\n").stdout == "ü\n"
    with Session(tier, "import sys\nprint(1)\nsys.exit(3)\n") as session:
        assert (session.run("").status, session.run("").error) == ("exception", "SystemExit")
    with Session(tier, "print('x' * 3_000_000)\n") as session:
        assert session.run("").status == "output_limit"


@pytest.mark.parametrize(
    ("source", "line"), [("def f(:\n", 1), ("x = 1\n  y", 2), ("\0", 0), ("(" * 500, 0), ("return 1", 1), ("x = '\ud800'", 0)]
)
def test_what_does_not_compile_is_said(tier: Tier, source: str, line: int) -> None:
    with Session(tier, source) as session:
        result = session.call("f", [])
    assert result.status in ("compile_error", "no_entry")
    assert not line or result.line == line


class Flaky(Unsafe):
    """A tier that starts at the n-th attempt only."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def start(self) -> Started:
        self.failures -= 1
        if self.failures >= 0:
            raise SandboxError("not now")
        return super().start()


def test_a_sandbox_that_does_not_start_is_tried_again_and_then_not_the_programs_fault() -> None:
    with Session(Flaky(2), SOURCE) as session:
        assert session.call("echo", [1]).value == [1]
    with pytest.raises(SandboxError, match="did not start: not now"):
        Session(Flaky(3), SOURCE)


class Once(Unsafe):
    """A tier whose first ``sandboxes`` start; then whatever provides them is gone, and with it those that run."""

    def __init__(self, sandboxes: int = 1) -> None:
        self.left, self.channels = sandboxes, list[ProcessChannel]()

    def start(self) -> Started:
        self.left -= 1
        if self.left < 0:
            raise SandboxError("the engine is gone")
        started = super().start()
        assert isinstance(started.channel, ProcessChannel)
        self.channels.append(started.channel)
        return started


def test_a_sandbox_that_breaks_and_cannot_be_replaced_is_not_the_programs_fault() -> None:
    tier = Once()
    with Session(tier, SOURCE) as session:
        assert session.call("echo", [1]).value == [1]
        tier.channels[0].kill()
        with pytest.raises(SandboxError, match="did not start: the engine is gone"):
            session.call("echo", [2])


def test_nor_is_it_where_a_tests_own_code_waits_for_the_program() -> None:
    tier = Once(2)
    program, checker = Session(tier, SOURCE), Session(tier, "")

    def answer(name: str, arguments: Sequence[object]) -> Mapping[str, object]:
        tier.channels[0].kill()
        return {"value": program.call(name, arguments).value}

    with program, checker, pytest.raises(SandboxError, match="the engine is gone"):
        checker.check("try:\n    echo(1)\nexcept BaseException:\n    pass", ["echo"], "", answer)


def test_a_container_that_cannot_be_removed_is_a_failure_of_the_sandbox() -> None:
    import docker as client

    class Container:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def remove(self, force: bool) -> None:
            raise self.error

    class Answer:
        status_code = 409

    for error in (client.errors.APIError("the disk is full"), ConnectionError("the engine is gone")):
        with pytest.raises(SandboxError, match=f"does not remove a container: .*{error}"):
            docker.DockerChannel(Container(error), socket.socket()).close()
    docker.DockerChannel(Container(client.errors.APIError("in progress", Answer())), socket.socket()).close()


def test_a_submission_has_a_sandbox_of_its_own_and_a_test_a_process_of_its_own(tier: Tier) -> None:
    source = "import os\ndef who():\n    return [os.getpid(), os.getppid()]\n"

    class Counting:
        name: ClassVar[str] = tier.name
        missing, close = tier.missing, tier.close
        channels: ClassVar[list[Channel]] = []

        def start(self) -> Started:
            started = tier.start()
            self.channels.append(started.channel)
            return started

    for submission in (1, 2):
        with Session(Counting(), source) as session:
            seen = [session.call("who", []).value for _ in range(4)]
        assert len({child for child, _ in seen}) == 4 and len({parent for _, parent in seen}) == 1, seen
        assert len(Counting.channels) == submission
    assert Counting.channels[0] is not Counting.channels[1]


def test_what_is_expected_and_what_comes_later_never_enters(tier: Tier) -> None:
    """Every byte that is sent to the sandbox is kept: an input is in it when its test begins, an expected value never."""
    sent: list[bytes] = []

    class Overheard:
        def __init__(self, channel: Channel) -> None:
            self.receive, self.close, self._send = channel.receive, channel.close, channel.send

        def send(self, data: bytes, until: float) -> None:
            sent.append(data)
            self._send(data, until)

    class Listening:
        name: ClassVar[str] = tier.name
        missing, close = tier.missing, tier.close

        def start(self) -> Started:
            started = tier.start()
            return started._replace(channel=Overheard(started.channel))

    suite = Suite(
        (CallTest("solve", ("first input",), "first secret"),),
        (CallTest("solve", ("second input",), "second secret"), StdioTest("third input", "third secret")),
    )
    judge, answers = CodeJudge(), list[int]()
    with Session(Listening(), "def solve(x):\n    return x\n") as session:
        for test in suite.tests:
            judge._run(session, test)
            answers.append(len(sent))
    for word, before in (("first", 0), ("second", answers[0]), ("third", answers[1])):
        at = [i for i, data in enumerate(sent) if f"{word} input".encode() in data]
        assert at and min(at) >= before, word
        assert not any(f"{word} secret".encode() in data for data in sent)


def test_a_program_that_ends_its_sandbox_twice_is_to_blame() -> None:
    source = "import os, signal\ndef f():\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 1\n"
    with Session(Unsafe(), source, Limits(wall=2.0)) as session:
        assert session.call("f", []).status == "killed"


def test_the_self_test_tells_a_tier_that_holds_nothing_back() -> None:
    failed = attacks.breaches(Unsafe())
    assert {"network", "new_process"} <= set(failed) and not any(name.startswith("works") for name in failed)
    assert attacks.verdict(Unsafe()).startswith("does not hold: ")
    assert len(attacks.ATTACKS) >= 12


def test_automatic_choice_refuses_where_nothing_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_probe", lambda name: sandbox.Probe(name, "install it"))
    with pytest.raises(ConfigError, match="bwrap: install it; landlock: install it; docker: install it"):
        choose()
    available, reason = sandbox_available()
    assert not available and "sdgym doctor" in reason
    with pytest.raises(UnknownNameError, match="did you mean 'bwrap'"):
        choose("bwarp")
    assert choose("unsafe").name == "unsafe"


def test_the_first_tier_that_holds_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_probe", lambda name: sandbox.Probe(name, "" if name != "bwrap" else "no"))
    assert choose().name == "landlock"


def test_containers_of_a_process_that_ended_are_recognised() -> None:
    assert docker.alive(docker.owner())
    pid, _, started = docker.owner().partition("-")
    assert not docker.alive(f"{pid}-{int(started) + 1}") and not docker.alive("999999999-1") and not docker.alive("x")
    hardened = docker.settings()
    assert hardened["network_mode"] == "none" and hardened["read_only"] and hardened["cap_drop"] == ["ALL"] and hardened["init"]
    assert "tmpfs" not in hardened and "volumes" not in hardened


def test_time_limits_do_not_depend_on_cooperation(tier: Tier) -> None:
    source = "import time\ndef f():\n    while True:\n        try:\n            time.sleep(60)\n        except BaseException:\n            pass\n"
    started = time.monotonic()
    with Session(tier, source, Limits(wall=0.5)) as session:
        assert session.call("f", []).status == "timeout"
    assert time.monotonic() - started < 20
