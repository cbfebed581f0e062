"""The pieces of the sandboxes: the filter's instructions, and plain values across the boundary."""

from __future__ import annotations

import errno
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdgym.verifiers.sandbox import seccomp
from sdgym.verifiers.sandbox.fence import rights
from sdgym.verifiers.sandbox.runner import Encoder, Unplain
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


def test_what_the_oldest_landlock_lacks_is_refused_by_number() -> None:
    """By the kernel's table for x86-64, not by ours."""
    processes = {"kill": 62, "tkill": 200, "tgkill": 234, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311}
    descriptors = {"pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438}
    sockets = {"socket": 41, "connect": 42, "bind": 49, "listen": 50, "sendmsg": 46}
    files = {"truncate": 76, "chmod": 90, "chown": 92, "utimensat": 280, "io_uring_setup": 425}
    allowed = [name for name, number in {**processes, **descriptors, **sockets, **files}.items() if verdict(number) == ALLOWED]
    assert allowed == []


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
