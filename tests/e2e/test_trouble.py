"""What the machine can do to a run besides killing it: one sentence, exit code 2, and the last good state is still there."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sdgym
from sdgym.benchmarks.head_to_head import compare
from sdgym.checkpoint import CheckpointStore
from sdgym.cli import execute
from sdgym.errors import CheckpointError, RunFolderError, StorageError
from sdgym.files import FolderLock, replace_file, storage_error
from sdgym.testing.killing import run_contents
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy
from sdgym.tracking import RunFolder

SETTINGS: dict[str, Any] = {
    "algo": "grpo",
    "steps": 4,
    "tasks_per_step": 2,
    "group_size": 3,
    "max_live": 8,
    "optimizer": {"lr": 2e-3},
    "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 2},
    "checkpoint": {"every": 2, "keep": 2},
    "env": {"id": LETTERS_ID},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    sdgym.train(out=out, model=model, **SETTINGS)
    return out


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end with one sentence and exit code 2, and return the sentence."""
    capsys.readouterr()
    assert execute(arguments) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and told[0].startswith("sdgym: "), told
    return told[0]


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let the kernel refuse every file beyond ``size`` bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def no_override() -> Iterator[None]:
    """Take root's power to ignore permissions (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH) from this thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # linux/capability.h: version 3, this thread
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    before = data[0]
    data[0] &= ~0b110
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = before
        assert libc.capset(header, data) == 0


def test_a_disk_without_room_stops_the_run_and_it_goes_on_later(model: str, whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """No checkpoint fits, and the half that was written is taken away again; with room the run reaches the same bits."""
    out = tmp_path / "run"
    size = max(p.stat().st_size for p in whole.rglob("*.safetensors"))
    with files_up_to(size // 2), pytest.raises(StorageError, match=r"make room and continue with --resume") as caught:
        sdgym.train(out=out, model=model, **SETTINGS)
    assert "\n" not in str(caught.value) and not list((out / "checkpoints").iterdir()), "nothing half written takes the room that is left"
    assert sdgym.train(out=out, resume=True).steps == 4
    assert run_contents(out) == run_contents(whole)


def test_a_log_that_cannot_grow_keeps_the_last_checkpoint(whole: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    """``/dev/full`` answers every write with "no space left"; the checkpoints before it stay readable."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    store = CheckpointStore(out / "checkpoints")
    shutil.rmtree(store.path(4))
    log = (out / "metrics.jsonl").read_bytes()
    (out / "metrics.jsonl").unlink()
    (out / "metrics.jsonl").symlink_to("/dev/full")
    said = complaint(["train", "--out", str(out), "--resume"], capsys)
    assert "shorter than at the checkpoint" in said
    (out / "metrics.jsonl").unlink()
    (out / "metrics.jsonl").write_bytes(log)
    (out / "ledger.json").unlink()
    (out / ".ledger.json.writing").symlink_to("/dev/full")  # opened for writing, it answers ENOSPC
    folder = RunFolder(out, resume=True)
    with pytest.raises(OSError) as caught:
        folder.write_json("ledger.json", {"x": 1})
    folder.close()
    assert caught.value.errno == errno.ENOSPC and "make room" in str(storage_error(caught.value, out))
    assert not (out / ".ledger.json.writing").is_symlink(), "the attempt is cleared away"
    assert store.load(2)[0]["step"] == 2
    sdgym.train(out=out, resume=True)
    assert run_contents(out) == run_contents(whole)


def test_a_folder_that_cannot_be_written_is_named(whole: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    closed = tmp_path / "closed"
    shutil.copytree(whole, closed / "run")
    before = run_contents(closed / "run")
    for path in (closed, closed / "run", closed / "run" / "run.lock"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with no_override():
            assert "cannot be written" in complaint(["train", "--env", LETTERS_ID, "--out", str(closed / "new")], capsys)
            assert "cannot be written" in complaint(["train", "--out", str(closed / "run"), "--resume"], capsys)
            assert "make it writable" in complaint(["report", str(closed / "run")], capsys)
    finally:
        for path in (closed, closed / "run"):
            path.chmod(0o755)
    assert run_contents(closed / "run") == before


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_works(
    damage: str, whole: pathlib.Path, tmp_path: pathlib.Path, capsys: Any
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    file = out / "checkpoints" / "step_000004" / "tensors.safetensors"
    data = file.read_bytes()
    middle = len(data) // 2
    file.write_bytes(
        {"cut": data[:middle], "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "empty": b""}[damage]
    )
    said = complaint(["train", "--out", str(out), "--resume"], capsys)
    assert "step_000004" in said and "delete" in said and "the one before" in said
    shutil.rmtree(file.parent)
    assert execute(["train", "--out", str(out), "--resume"]) == 0
    assert run_contents(out) == run_contents(whole)


def test_a_file_that_runs_code_when_unpickled_is_not_unpickled(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    store = CheckpointStore(tmp_path / "checkpoints")
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    for name in ("tensors.safetensors", "state.json", "manifest.json"):
        (store.path(4) / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="delete it"):
        store.load(4)
    assert not (tmp_path / "exploded").exists()


def test_a_second_trainer_and_a_second_comparison_are_turned_away(whole: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    holder = RunFolder(out, resume=True)
    said = complaint(["train", "--out", str(out), "--resume"], capsys)
    assert "another process is training" in said
    holder.close()
    place = tmp_path / "comparison"
    place.mkdir()
    with FolderLock(place, "comparing"), pytest.raises(RunFolderError, match="another process is comparing"):
        compare.run_suite("quick", algos=["grpo"], envs=["math-tiny"], out=place, resume=True)
    FolderLock(place, "comparing").__exit__(None, None, None)  # free again, and once more
    FolderLock(place, "comparing").__exit__(None, None, None)


def test_a_clock_that_jumps_changes_nothing(model: str, whole: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    """The wall clock leaps by years in both directions, the monotonic one ahead by days, at every single reading."""
    rate = {"now": 0.0, "days": 0.0}

    def wall() -> float:
        rate["now"] = -rate["now"] + 86_400.0 * 365
        return rate["now"]

    real = time.monotonic

    def steady() -> float:
        rate["days"] += 86_400.0
        return real() + rate["days"]

    monkeypatch.setattr(time, "time", wall)
    monkeypatch.setattr("sdgym.trainer.time", type("Clock", (), {"monotonic": staticmethod(steady)}))
    out = tmp_path / "run"
    sdgym.train(out=out, model=model, **SETTINGS)
    assert run_contents(out) == run_contents(whole)
    seconds = [json.loads(line)["seconds"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds) and seconds[-1] > 86_400


def test_what_the_disk_refuses_is_told_from_other_errors(tmp_path: pathlib.Path) -> None:
    assert "make it writable" in str(storage_error(OSError(errno.EROFS, "x", "f"), tmp_path))
    assert "make room" in str(storage_error(type("SafetensorError", (Exception,), {})("I/O error: No space (os error 28)"), tmp_path))
    assert storage_error(OSError(errno.ECONNRESET, "x"), tmp_path) is None and storage_error(ValueError("os error 28"), tmp_path) is None
    (tmp_path / "file").write_text("old")
    with files_up_to(10), pytest.raises(OSError):
        replace_file(tmp_path / "file", "new" * 100)
    assert (tmp_path / "file").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


FULL = """
mount -t tmpfs -o size={small}k tmpfs {disk} || exit 77
{python} -m sdgym train --config {config} --out {disk}/run; echo code=$?
mount -o remount,size=50m {disk}
{python} -m sdgym train --out {disk}/run --resume; echo code=$?
cp -r {disk}/run {kept}
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("small", [330, 450])
def test_a_real_full_file_system(small: int, model: str, whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A tmpfs of a few hundred kilobytes fills up somewhere in the run; given room, the run ends with the same bits."""
    (tmp_path / "config.yaml").write_text(json.dumps(SETTINGS | {"model": model}))
    (tmp_path / "disk").mkdir()
    script = FULL.format(
        small=small, disk=tmp_path / "disk", python=sys.executable, config=tmp_path / "config.yaml", kept=tmp_path / "kept"
    )
    done = subprocess.run(["unshare", "--mount", "--user", "--map-root-user", "sh", "-c", script], capture_output=True, text=True)
    if "code=" not in done.stdout:
        pytest.skip(f"requires unshare: no mount namespace here ({done.stderr.strip()[-100:]})")
    assert done.stdout.count("code=2") == 1 and done.stdout.count("code=0") == 1, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("sdgym:")]
    assert len(told) == 1 and "make room" in told[0] and "Traceback" not in done.stderr
    assert run_contents(tmp_path / "kept") == run_contents(whole)
