"""Ninety programs that cheat or reach out: each beats a naive judge, none beats a sandbox, and none leaves anything behind."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import docker
import psutil
import pytest

from sdgym.benchmarks.speed import sandbox as sandbox_speed
from sdgym.verifiers.code_suite import Behaviour, CallTest, passes
from sdgym.verifiers.sandbox import AUTO, Limits, Session, Tier, choose, interpreter, probes, sandbox_available
from sdgym.verifiers.sandbox.base import Started
from sdgym.verifiers.sandbox.docker import LABEL, Docker, owner
from sdgym.verifiers.sandbox.landlock import Landlock, kernel_abi

DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
LIMITS = Limits(cpu=1, wall=2.0)
STRANGER = 54321
"""An ordinary user that nobody is."""
MASKS = (1, 2, 4, 7)
QUICK = 10
"""The fast lane runs every tenth program, the slow one all."""
SLOWER, GRACE = 3.0, 2.0
"""An honest program may take this many times what it took before an attack, and seconds more: what a busy machine does to any program.
What an attack leaves running takes its whole processor time (``LIMITS``) or lasts; what it leaves locked, lasts."""
CONTAINED = 3
"""In containers, whose start takes a quarter of a second, the lane of the system packages runs every third."""


@dataclasses.dataclass(frozen=True)
class Attack:
    """One program of the suite; see the head of ``attacks.txt``."""

    name: str
    kind: str
    source: str


def _attacks() -> tuple[Attack, ...]:
    parts = re.split(r"^== (\w+): (\w+)\n", (DATA / "attacks.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return tuple(Attack(name, kind, source) for name, kind, source in zip(parts[::3], parts[1::3], parts[2::3], strict=True))


ATTACKS = _attacks()
SLOW = [attack for i, attack in enumerate(ATTACKS) if i % QUICK]
FAST = [attack for i, attack in enumerate(ATTACKS) if not i % QUICK]
BOTH_LANES = [*(pytest.param(a, id=a.name) for a in FAST), *(pytest.param(a, id=a.name, marks=pytest.mark.slow) for a in SLOW)]


def test_the_suite_is_as_large_as_it_says() -> None:
    assert len(ATTACKS) == len({attack.name for attack in ATTACKS}) == 90
    assert {attack.kind for attack in ATTACKS} == {"cheat", "reach", "crash"}


# ---- positive control -------------------------------------------------------------------------------


def _restrain() -> None:
    """Bound a throwaway judge: these programs are let loose in it."""
    for which, value in (
        (resource.RLIMIT_AS, 3 << 30),
        (resource.RLIMIT_CPU, 10),
        (resource.RLIMIT_FSIZE, 64 << 20),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(which, (value, value))


def _naive_verdict(attack: Attack, folder: pathlib.Path) -> int:
    """Return the exit status of the naive judge, run in a process of its own."""
    secret = "secret-" + secrets.token_hex(8) if attack.kind == "cheat" else "breached"
    (folder / "job.json").write_text(json.dumps({"source": attack.source, "argument": 3, "expected": secret}))
    (folder / "expected.json").write_text(json.dumps(secret))
    (folder / "judge.py").write_text((DATA / "naive_judge.py").read_text())
    process = subprocess.Popen(
        [sys.executable, "judge.py", secret],
        cwd=folder,
        env=os.environ | {"JUDGE_EXPECTED": secret},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_restrain,
        start_new_session=True,
    )
    process.communicate((json.dumps(secret) + "\n").encode(), timeout=60)
    return process.returncode


@pytest.mark.parametrize("attack", BOTH_LANES)
def test_each_program_beats_a_naive_judge(attack: Attack, tmp_path: pathlib.Path) -> None:
    status = _naive_verdict(attack, tmp_path)
    assert status < 0 if attack.kind == "crash" else status == 0


def test_the_naive_judge_is_a_judge(tmp_path: pathlib.Path) -> None:
    right = Attack("right", "reach", "def solve(x):\n    return 'breached'\n")
    wrong = Attack("wrong", "reach", "def solve(x):\n    return x\n")
    assert _naive_verdict(right, tmp_path) == 0
    assert _naive_verdict(wrong, tmp_path) == 1


# ---- in a sandbox -----------------------------------------------------------------------------------


def _usable(name: str) -> Tier:
    if name.startswith("landlock-"):
        abi = int(name.rpartition("-")[2])
        if kernel_abi() < abi:
            pytest.skip(f"landlock: this kernel has interface {kernel_abi()}")
        tier: Tier = Landlock(abi)
        if tier.missing():
            pytest.skip(f"landlock: {tier.missing()}")
        return tier
    problem = next(probe.problem for probe in probes() if probe.name == name)
    if problem:
        pytest.skip(f"{name}: {problem}")
    return choose(name)


@pytest.fixture
def automatic() -> Tier:
    """The tier that is chosen here."""
    available, said = sandbox_available()
    if not available:
        pytest.skip(f"sandbox: {said}")
    return choose()


def honest(tier: Tier, before: str) -> tuple[str, float]:
    """Judge an honest program; return what is wrong with its result, or nothing, and the seconds it took from start to end."""
    started = time.monotonic()
    with Session(tier, "def solve(x):\n    return x + 1\n", LIMITS) as session:
        result = session.call("solve", (3,))
    fair = (result.status, result.value) == ("ok", 4)
    return "" if fair else f"{before} an honest program gets {result}", time.monotonic() - started


def outcome(tier: Tier, attack: Attack) -> str:
    """Return what is wrong after ``attack`` was judged in ``tier``, or nothing: it passes, or the next program suffers or waits for it."""
    problem, usual = honest(tier, f"before {attack.name}")
    if problem:
        return problem
    secret = "secret-" + secrets.token_hex(8) if attack.kind == "cheat" else "breached"
    test = CallTest("solve", (3,), secret)
    with Session(tier, attack.source, LIMITS) as session:
        for which in ("first", "second"):
            result = session.call("solve", (3,))
            if passes(test, Behaviour(result.status, result.value)):
                return f"{attack.name} passes its {which} test"
    problem, seconds = honest(tier, f"after {attack.name}")
    slow = f"after {attack.name} an honest program takes {seconds:.1f} s instead of {usual:.1f} s"
    return problem or (slow if seconds > SLOWER * usual + GRACE else "")


def _traces() -> dict[str, Any]:
    """Return what an attack could leave behind on this machine."""
    folders = {tempfile.gettempdir(), "/dev/shm", "/", os.getcwd()}
    files = {p for folder in folders for p in map(str, pathlib.Path(folder).glob("sdgym-attack*"))}
    return {"children": _children(), "files": files, "mounts": _mounts(), "containers": _containers()}


def _mounts() -> list[str]:
    """Return this machine's mounts but the root and network of a container, which go with it."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if "/overlay2/" not in line and "/netns/" not in line]


def _containers() -> int:
    """Return how many containers of ours there are, if containers are used at all; one may wait for its submission."""
    if any(probe.problem for probe in probes() if probe.name == "docker"):
        return 0
    client = docker.from_env()
    try:
        return len(client.containers.list(all=True, filters={"label": f"{LABEL}={owner()}"}, ignore_removed=True))
    finally:
        client.close()


def _children() -> set[int]:
    """Return our living descendants, and as root the sandbox user's processes of ours that lost their parent."""
    found = {child.pid for child in psutil.Process().children(recursive=True) if child.is_running()}
    if os.geteuid() == 0:
        found |= {
            p.pid
            for p in psutil.process_iter(["uids", "ppid"])
            if p.info["uids"] and p.info["uids"].real == STRANGER and p.info["ppid"] == 1
        }
    return found


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fail if a process, file or mount outlives the test."""
    before = _traces()
    yield
    until = time.monotonic() + 10
    while _children() - before["children"] and time.monotonic() < until:
        time.sleep(0.05)
    after = _traces()
    assert not after["children"] - before["children"], "a process is left"
    assert not after["files"] - before["files"], "a file is left"
    assert after["mounts"] == before["mounts"], "a mount is left"
    assert after["containers"] <= 1, "a container is left"


@pytest.mark.parametrize("attack", [pytest.param(a, id=a.name) for a in FAST])
def test_no_program_beats_the_chosen_sandbox(attack: Attack, automatic: Tier, nothing_left: None) -> None:
    assert outcome(automatic, attack) == ""


@pytest.mark.slow
@pytest.mark.parametrize("attack", [pytest.param(a, id=a.name) for a in ATTACKS])
@pytest.mark.parametrize("name", ["bwrap", *(f"landlock-{abi}" for abi in MASKS), "docker"])
def test_no_program_beats_any_sandbox(name: str, attack: Attack, nothing_left: None) -> None:
    assert outcome(_usable(name), attack) == ""


@pytest.mark.system
@pytest.mark.parametrize("attack", [pytest.param(a, id=a.name) for a in ATTACKS[::CONTAINED]])
def test_no_program_beats_a_container(attack: Attack, nothing_left: None) -> None:
    assert outcome(_usable("docker"), attack) == ""


class Held:
    """A tier whose third sandbox waits: the honest program and the attack before it start at once. :func:`outcome` must notice."""

    name = "held"

    def __init__(self, tier: Tier) -> None:
        self.tier = tier
        self.starts: list[float] = []

    def missing(self) -> str:
        return self.tier.missing()

    def start(self) -> Started:
        self.starts.append(time.monotonic())
        if len(self.starts) == 3:
            time.sleep(SLOWER * (self.starts[1] - self.starts[0]) + GRACE)  # from start to start is no less than what the first one took
        return self.tier.start()

    def close(self) -> None:
        self.tier.close()


def test_a_program_that_slows_the_next_one_is_noticed(automatic: Tier) -> None:
    wrong = Attack("nothing", "reach", "def solve(x):\n    return x\n")
    assert outcome(automatic, wrong) == ""
    assert re.fullmatch(r"after nothing an honest program takes [\d.]+ s instead of [\d.]+ s", outcome(Held(automatic), wrong))


ORPHAN = """
import os
from sdgym.verifiers.sandbox import Session, choose
from sdgym.verifiers.sandbox.docker import owner
session = Session(choose("docker"), "def f(): return 1")
print(session.call("f", []).value, owner(), flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.system
def test_the_next_process_removes_what_a_killed_one_left() -> None:
    _usable("docker")
    client = docker.from_env()

    def left(name: str) -> list[str]:
        found = client.containers.list(all=True, filters={"label": f"{LABEL}={name}"}, ignore_removed=True)
        return [container.id for container in found]

    def kill() -> str:
        killed = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, timeout=120)
        value, name = killed.stdout.split()
        assert (killed.returncode, value) == (-9, "1"), killed.stderr
        return name

    try:
        # Tests that run beside this one may tidy up first: try again then.
        killed = next((name for name in (kill() for _ in range(5)) if left(name)), None)
        assert killed, "nothing was left to remove"
        until = time.monotonic() + 60
        while left(killed) and time.monotonic() < until:  # the engine may still be creating what the killed one asked for last
            tier = Docker()
            with Session(tier, "def f(): return 2") as session:
                assert session.call("f", []).value == 2
            tier.close()
        assert left(killed) == []
    finally:
        client.close()


@pytest.mark.slow  # beside other tests it measures what they take
@pytest.mark.system
def test_a_test_in_a_container_that_runs_costs_less_than_a_start_of_an_interpreter() -> None:
    _usable("docker")
    seconds = sandbox_speed.measure(rounds=15, tests=10, tiers=("docker",))["seconds"]
    assert min(seconds["warm docker"]) / 10 <= min(seconds["bare"])  # the least is what it costs; the rest is what else the machine does


@pytest.mark.slow
def test_a_submission_of_ten_tests_costs_five_starts_of_an_interpreter() -> None:
    _usable("bwrap")
    seconds = sandbox_speed.measure(rounds=40, tests=10, tiers=("bwrap",))["seconds"]
    assert min(seconds["bwrap"]) <= 5 * min(seconds["bare"])  # the least is what it costs; the rest is what else the machine does


def _as_stranger(names: tuple[str, ...], attacks: tuple[Attack, ...]) -> list[str]:
    """Fork, become an ordinary user for good, run ``attacks`` in the tiers ``names``, return what is wrong."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(STRANGER, STRANGER, STRANGER)
            os.setresuid(STRANGER, STRANGER, STRANGER)
            os.chdir("/")
            interpreter.find.cache_clear()
            wrong = [said for name in names for said in _verdicts(name, attacks) if said]
            os.write(write, json.dumps(wrong).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the ordinary user's process failed"
    return list(json.loads(said))


def _verdicts(name: str, attacks: tuple[Attack, ...]) -> list[str]:
    from sdgym.verifiers.sandbox.attacks import verdict
    from sdgym.verifiers.sandbox.bwrap import Bwrap

    tier: Tier = Bwrap() if name == "bwrap" else Landlock(int(name.rpartition("-")[2]))
    problem = verdict(tier)
    return [f"{name}: {problem}"] if problem else [f"{name}: {said}" for a in attacks if (said := outcome(tier, a))]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="root: only root can become another user")


@needs_root
def test_an_ordinary_user_is_confined_alike(nothing_left: None) -> None:
    for name in ("bwrap", "landlock-7"):
        _usable(name)
    assert _as_stranger(("bwrap", "landlock-7"), tuple(FAST[:2])) == []


@pytest.mark.slow
@needs_root
@pytest.mark.parametrize("name", ["bwrap", *(f"landlock-{abi}" for abi in MASKS)])
def test_no_program_beats_any_sandbox_of_an_ordinary_user(name: str, nothing_left: None) -> None:
    _usable(name)
    assert _as_stranger((name,), ATTACKS) == []


def test_the_order_of_tiers_never_includes_the_unsafe_one() -> None:
    assert AUTO == ("bwrap", "landlock", "docker")
