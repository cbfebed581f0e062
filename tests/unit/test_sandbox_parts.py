"""The pieces of the sandboxes: the filter's instructions, plain values across the boundary, the runner's limits, the choice of a tier."""

from __future__ import annotations

import errno
import math
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdgym.verifiers.sandbox as sandbox
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.verifiers.sandbox import Limits, SandboxError, Session, Tier, attacks, choose, docker, sandbox_available, seccomp
from sdgym.verifiers.sandbox.base import Started
from sdgym.verifiers.sandbox.fence import rights
from sdgym.verifiers.sandbox.runner import Encoder, Unplain
from sdgym.verifiers.sandbox.unsafe import Unsafe
from sdgym.verifiers.sandbox.values import decode, loads, same, same_output

# ---- the filter -------------------------------------------------------------------------------------

ALLOWED, REFUSED, UNKNOWN, KILLED = seccomp.ALLOW, seccomp.ERRNO | errno.EPERM, seccomp.ERRNO | errno.ENOSYS, seccomp.KILL


def verdict(number: int, *arguments: int, machine: str = "x86_64", audit: int | None = None) -> int:
    """Interpret the assembled filter as the kernel does, on one system call."""
    code = list(struct.iter_unpack("=HBBI", seccomp.assemble(machine)))
    words = [number, seccomp.ARCHITECTURES[machine][0] if audit is None else audit, 0, 0]
    for value in (*arguments, *[0] * (6 - len(arguments))):
        words += [value & 0xFFFFFFFF, value >> 32]
    at, value = 0, 0
    for _ in range(len(code)):
        operation, yes, no, k = code[at]
        at += 1
        if operation == seccomp.RETURN:
            return int(k)
        if operation == seccomp.LOAD:
            value = words[k // 4]
        elif operation == seccomp.AND:
            value &= k
        else:
            holds = {seccomp.JUMP_EQUAL: value == k, seccomp.JUMP_AT_LEAST: value >= k, seccomp.JUMP_ANY_BIT: bool(value & k)}[operation]
            at += yes if holds else no
    raise AssertionError("no verdict")


@pytest.mark.parametrize("machine", sorted(seccomp.ARCHITECTURES))
def test_the_filter_refuses_exactly_its_list(machine: str) -> None:
    column = seccomp.ARCHITECTURES[machine][1]
    conditional = {number for number, _ in seccomp._conditions(column)}
    listed = set(seccomp.denied(machine).values())
    for number in range(seccomp.NEWEST + 1):
        if number not in conditional:
            assert verdict(number, machine=machine) == (REFUSED if number in listed else ALLOWED), number


def test_the_filter_refuses_what_it_does_not_know() -> None:
    assert verdict(seccomp.NEWEST + 1) == UNKNOWN
    assert verdict(seccomp.X32_BIT | 1) == REFUSED
    assert verdict(1, audit=0x40000003) == KILLED  # the 32-bit interface has other numbers


@pytest.mark.parametrize(
    ("name", "number", "arguments", "wanted"),
    [
        ("a thread", 56, (0x3D0F00,), ALLOWED),
        ("a process", 56, (0x01200011,), REFUSED),
        ("clone3", 435, (), UNKNOWN),
        ("own limits", 302, (0,), ALLOWED),
        ("another's limits", 302, (1,), REFUSED),
        ("a stream pair", 53, (1, 1 | 0o2000000), ALLOWED),
        ("a datagram pair", 53, (1, 2), REFUSED),
        ("a pair of the internet", 53, (2, 1), REFUSED),
        ("reading", 257, (0, 0, 0), ALLOWED),
        ("writing", 257, (0, 0, 0o1101), ALLOWED),
        ("truncating without writing", 257, (0, 0, 0o1000), REFUSED),
        ("truncating for both", 257, (0, 0, 0o1002), ALLOWED),
        ("truncating with mode three", 2, (0, 0o1003), REFUSED),
        ("a signal's owner", 72, (0, 8), REFUSED),
        ("descriptor flags", 72, (0, 2), ALLOWED),
        ("a terminal's input", 16, (0, 0x5412), REFUSED),
        ("a terminal's size", 16, (0, 0x5413), ALLOWED),
        ("outliving its zygote", 157, (1,), REFUSED),
        ("its name", 157, (15,), ALLOWED),
    ],
)
def test_arguments_decide(name: str, number: int, arguments: tuple[int, ...], wanted: int) -> None:
    assert verdict(number, *arguments) == wanted, name


def test_landlock_rights_follow_the_kernels_interface() -> None:
    assert rights(1) == (0x1FFF, 0, 0)
    assert rights(2)[0] == 0x3FFF
    assert rights(3) == (0x7FFF, 0, 0)
    assert rights(4) == (0x7FFF, 3, 0)
    assert rights(5)[0] == 0xFFFF
    assert rights(7) == (0xFFFF, 3, 3)


# ---- values -----------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
HASHABLE = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
    ),
    max_leaves=20,
)


def crossed(value: object) -> object:
    return decode(loads(Encoder().text(value)))


@given(VALUES)
def test_plain_values_cross_the_boundary_unchanged(value: object) -> None:
    got = crossed(value)
    assert got == value and type(got) is type(value)
    assert same(value, got)


def test_large_and_odd_numbers_cross() -> None:
    assert crossed(10**5000) == 10**5000 and crossed(-(2**1025)) == -(2**1025)
    assert crossed([math.inf, -math.inf]) == [math.inf, -math.inf] and math.isnan(crossed(math.nan))  # type: ignore[arg-type]
    assert crossed(1 - 2j) == 1 - 2j and crossed("\ud800") == "\ud800" and crossed({1, 2}) == frozenset({1, 2})


@pytest.mark.parametrize("value", [object(), print, iter(()), type])
def test_what_is_not_plain_is_refused(value: object) -> None:
    with pytest.raises(Unplain):
        Encoder().text([value])


def test_depth_and_size_are_bounded() -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    wide: list[object] = [1]
    for _ in range(30):
        wide = [wide, wide]
    for value in (deep, wide):
        with pytest.raises(Unplain):
            Encoder().text(value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "9" * 5000, '["l"]', '["z",1]', '["s",[["d",[]]]]', "{}", '["i","zz"]', '["d",[[1]]]', '["f",[]]', "[[],1]"]
)
def test_forged_values_are_errors_and_nothing_else(text: str) -> None:
    with pytest.raises(ValueError):
        decode(loads(text))


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        (1, True, False),
        (True, 1, False),
        (0, False, False),
        ([1, 2], (1, 2), True),
        ([[1], (2,)], ((1,), [2]), True),
        ([1], [1, 2], False),
        (0.1 + 0.2, 0.3, True),
        (1.0, 1, True),
        (1e-3, 1.001e-3, False),
        (10**400, 1.5, False),
        (math.nan, math.nan, True),
        ("a", b"a", False),
        ({"a": [1]}, {"a": (1,)}, True),
        ({1: 2}, {1: 2, 3: 4}, False),
        ({(1, 2)}, frozenset({(1, 2)}), True),
        ({1}, [1], False),
        (None, False, False),
        (2j, 2j, True),
    ],
)
def test_equality_is_of_plain_types(expected: object, got: object, equal: bool) -> None:
    assert same(expected, got) is equal


def test_printed_text_is_compared_by_lines_or_words() -> None:
    assert same_output("1 2\n3\n", "1 2  \n3")
    assert same_output("1 2\n3\n", "1\n2\n3")
    assert not same_output("Yes", "yes")
    assert not same_output("1.0", "1.00")
    assert not same_output("", "x")


# ---- sessions and tiers -----------------------------------------------------------------------------


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
