"""The nursery: forks behave like processes of their own, and none outlives it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from sdgym.nursery import Child, Nursery

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forking after imports is safe on Linux only")

PROGRAM = """
import json, os, signal, sys, time
print(json.dumps({"pid": os.getpid(), "arguments": sys.argv[1:], "name": __name__, "session": os.getsid(0), "read": sys.stdin.read(),
                  "threads": os.environ["OMP_NUM_THREADS"], "warm": "colorsys" in sys.modules}))
if sys.argv[1] == "wait":
    signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(143)))
    time.sleep(60)
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def nursery(tmp_path, monkeypatch):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    made = Nursery(preload=("colorsys", "no_such_module"))
    yield made
    made.close()


def told(log: pathlib.Path) -> dict:
    deadline = time.monotonic() + 60
    while not (log.is_file() and b"\n" in log.read_bytes()):
        assert time.monotonic() < deadline, "the child printed nothing"
        time.sleep(0.05)
    return json.loads(log.read_text().splitlines()[0])


def run(nursery: Nursery, log: pathlib.Path, *arguments: str) -> Child:
    return nursery.start(["-m", "program", *arguments], log)


def test_a_fork_is_a_process_of_its_own(nursery, tmp_path):
    first, second = (run(nursery, tmp_path / f"{n}.log", "end", str(n)) for n in (0, 7))
    assert (first.wait(60), second.wait(60)) == (0, 7)
    one, two = told(tmp_path / "0.log"), told(tmp_path / "7.log")
    assert one["arguments"] == ["end", "0"] and two["arguments"] == ["end", "7"]
    assert one["pid"] != two["pid"] and one["session"] == one["pid"]
    assert one["name"] == "__main__" and one["read"] == "" and one["threads"] == "1"
    assert one["warm"], "what was preloaded is there"


def test_failures_are_told_in_the_log(nursery, tmp_path):
    log = tmp_path / "log"
    assert nursery.start(["-m", "no_such_module"], log).wait(60) == 1
    assert "No module named no_such_module" in log.read_text()


def test_signals_reach_the_child_alone(nursery, tmp_path):
    first, second = (run(nursery, tmp_path / f"{n}.log", "wait") for n in "ab")
    told(tmp_path / "a.log"), told(tmp_path / "b.log")
    time.sleep(0.2)
    first.terminate()
    assert first.wait(60) == 143 and "saved" in (tmp_path / "a.log").read_text()
    assert second.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.1)
    second.kill()
    assert second.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize("end", [Nursery.close, lambda nursery: nursery._process.kill()], ids=["closed", "killed"])
def test_no_child_outlives_it(nursery, tmp_path, end):
    child = run(nursery, tmp_path / "log", "wait")
    pid = told(tmp_path / "log")["pid"]
    time.sleep(0.2)
    end(nursery)
    deadline = time.monotonic() + 30
    while pathlib.Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not pathlib.Path(f"/proc/{pid}").exists()
    assert "saved" in (tmp_path / "log").read_text()
    if end is not Nursery.close:
        assert child.wait(60) == 1 and not nursery.alive, "a trial that died with its nursery has failed"
        assert run(nursery, tmp_path / "late.log", "end", "0").wait(10) == 1, "an order that nobody takes is no running trial"
