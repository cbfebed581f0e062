from __future__ import annotations

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch

from sdgym.checkpoint import CheckpointStore, circumstances_now
from sdgym.errors import CheckpointError, RunFolderError
from sdgym.tracking import RunFolder

TREE: dict[str, Any] = {
    "weights": {"a.b": torch.arange(6.0).reshape(2, 3), "bf": torch.ones(2, dtype=torch.bfloat16), "scalar": torch.tensor(3.5)},
    "pool": {"task": [[{"ids": np.array([1, 2**40]), "mask": np.array([True, False]), "none": np.zeros((0, 2), np.float32)}]]},
    "order": [("t", 1), ("u", 2)],
    "plain": {"i": 3, "f": 0.1, "s": "é", "n": None, "b": True, "np": np.float64(0.5)},
    "empty": {},
}


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | torch.Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_a_tree_survives(tmp_path: pathlib.Path) -> None:
    store = CheckpointStore(tmp_path / "c")
    folder = store.save(12, TREE, {"threads": 1})
    tree, circumstances = store.load(12)
    assert equal(tree, TREE)
    assert circumstances == {**circumstances_now(), "threads": 1}
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "state.json", "tensors.safetensors"]


def test_the_newest_are_kept(tmp_path: pathlib.Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (5, 10, 9, 100):
        store.save(step, {"step": step})
    assert store.steps() == [10, 100] and store.load(100)[0] == {"step": 100}


def test_what_a_dead_process_left_is_cleared_away(tmp_path: pathlib.Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for step in (1, 2, 3):
        store.save(step, {"step": step})
    (tmp_path / ".writing-000004").mkdir()
    (tmp_path / ".writing-old-step_000000").mkdir()
    fewer = CheckpointStore(tmp_path, keep=2)
    fewer.clean()
    fewer.prune()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000002", "step_000003"]


def test_a_step_can_be_written_again(tmp_path: pathlib.Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, {"x": 1})
    store.save(1, {"x": 2})
    assert store.load(1)[0] == {"x": 2} and store.steps() == [1]


@pytest.mark.parametrize("damage", ["tensors.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
def test_damage_is_an_error_that_says_what_to_do(tmp_path: pathlib.Path, damage: str, how: str) -> None:
    store = CheckpointStore(tmp_path)
    file = store.save(1, TREE) / damage
    data = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if how == "cut" else b"\x00" + data[1:])
    with pytest.raises(CheckpointError, match="delete"):
        store.load(1)


def test_another_format_is_refused(tmp_path: pathlib.Path) -> None:
    store = CheckpointStore(tmp_path)
    manifest = store.save(1, {"x": 1}) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        store.load(1)


@pytest.mark.parametrize("bad", [{"x": object()}, {"x": {1: 2}}, {"x": [{1, 2}]}])
def test_what_is_no_plain_data_is_refused_and_leaves_nothing(tmp_path: pathlib.Path, bad: dict[str, Any]) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(CheckpointError, match=r"state\.x"):
        store.save(1, bad)
    assert store.steps() == []


WRITER = """
import sys, numpy as np
from sdgym.checkpoint import CheckpointStore
store = CheckpointStore(sys.argv[1], keep=2)
for step in range(1, 10_000):
    store.save(step, {"x": np.full(200_000, step), "step": step})
    print(step, flush=True)
"""


def test_killed_while_writing_the_last_one_is_whole(tmp_path: pathlib.Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(4):
        process.stdout.readline()
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = CheckpointStore(tmp_path)
    newest = store.steps()[-1]
    tree, _ = store.load(newest)
    assert newest >= 3 and tree["step"] == newest and (tree["x"] == newest).all()
    store.save(newest + 1, {"step": newest + 1})
    assert not list(tmp_path.glob(".writing-*"))


# ---- the run folder ------------------------------------------------------------------------------


def test_two_trainers_cannot_share_a_folder(tmp_path: pathlib.Path) -> None:
    first = RunFolder(tmp_path / "run")
    with pytest.raises(RunFolderError, match="another process is training"):
        RunFolder(tmp_path / "run")
    first.close()
    RunFolder(tmp_path / "run").close()


def test_a_used_folder_needs_resume_and_an_unused_one_refuses_it(tmp_path: pathlib.Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.write_text("config.yaml", "steps: 3")
    folder.close()
    with pytest.raises(RunFolderError, match="not empty; add --resume"):
        RunFolder(tmp_path / "run")
    RunFolder(tmp_path / "run", resume=True).close()
    with pytest.raises(RunFolderError, match="no run to resume"):
        RunFolder(tmp_path / "other", resume=True)
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "file")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run")


def test_logs_are_cut_to_the_checkpoint(tmp_path: pathlib.Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append("metrics.jsonl", [{"step": 1, "x": float("nan")}])
    sizes = folder.sizes()
    folder.append("metrics.jsonl", [{"step": 2}, {"step": 3}])
    folder.append("eval.jsonl", [{"step": 3}])
    for kind, step in itertools.product(("trajectories", "tokens"), (1, 2, 3)):
        (tmp_path / kind).mkdir(exist_ok=True)
        (tmp_path / kind / f"step_{step:06d}.parquet").write_text("")
    folder.rewind(1, sizes)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [{"step": 1, "x": None}]
    assert (tmp_path / "eval.jsonl").read_text() == ""
    assert os.listdir(tmp_path / "trajectories") == os.listdir(tmp_path / "tokens") == ["step_000001.parquet"]
    os.truncate(tmp_path / "metrics.jsonl", 3)
    with pytest.raises(CheckpointError, match="shorter than at the checkpoint"):
        folder.rewind(1, sizes)
