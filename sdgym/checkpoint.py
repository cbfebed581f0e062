"""Checkpoints: plain trees of numbers, text and arrays as JSON + safetensors, written atomically.

No pickle: loading a checkpoint never runs code. A checkpoint appears under its final name only when every
byte of it is on disk, so a process killed at any moment leaves the previous one intact.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import platform
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from sdgym.errors import CheckpointError

FORMAT = 1
_STATE, _TENSORS, _MANIFEST = "state.json", "tensors.safetensors", "manifest.json"


class CheckpointStore:
    """The folder ``checkpoints/`` of a run.

    Args:
        folder: where ``step_000123`` folders lie.
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: str | pathlib.Path, keep: int = 2) -> None:
        self.folder, self.keep = pathlib.Path(folder), keep

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, ascending."""
        return sorted(int(p.name.removeprefix("step_")) for p in self.folder.glob("step_*") if p.name.removeprefix("step_").isdigit())

    def path(self, step: int) -> pathlib.Path:
        """Return the folder of ``step``."""
        return self.folder / f"step_{step:06d}"

    def save(self, step: int, tree: Mapping[str, Any], circumstances: Mapping[str, Any] | None = None) -> pathlib.Path:
        """Write ``tree`` as the checkpoint of ``step`` and drop the oldest beyond ``keep``.

        Args:
            step: rollout steps completed.
            tree: nested dicts (string keys), lists and tuples of plain data, NumPy arrays and tensors.
            circumstances: what the promise of equal bits depends on, beside this machine and these versions.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        final, temporary = self.path(step), self.folder / f".writing-{step:06d}"
        self.clean()
        structure, tensors = encode(tree)
        try:
            self._write(temporary, step, structure, tensors, circumstances or {})
        except OSError:
            self.clean()  # a full disk gets its room back
            raise
        if final.exists():
            self._drop(final)
        os.replace(temporary, final)
        _sync_folder(self.folder)
        self.prune()
        return final

    def prune(self) -> None:
        """Drop all but the newest ``keep``."""
        for old in self.steps()[: -self.keep]:
            self._drop(self.path(old))

    def clean(self) -> None:
        """Delete what a process that died while saving has left."""
        for stale in self.folder.glob(".writing-*"):
            shutil.rmtree(stale, ignore_errors=True)

    def _drop(self, path: pathlib.Path) -> None:
        """Delete a checkpoint; killed on the way, no half of it remains under its name."""
        gone = self.folder / f".writing-old-{path.name}"
        os.replace(path, gone)
        shutil.rmtree(gone)

    @staticmethod
    def _write(temporary: pathlib.Path, step: int, structure: Any, tensors: Mapping[str, Any], circumstances: Mapping[str, Any]) -> None:
        temporary.mkdir()
        _write_file(temporary / _TENSORS, _safetensors_bytes(tensors))
        _write_file(temporary / _STATE, json.dumps(structure).encode())
        files = {name: _digest(temporary / name) for name in (_TENSORS, _STATE)}
        manifest = {"format": FORMAT, "step": step, "files": files, "circumstances": {**circumstances_now(), **circumstances}}
        _write_file(temporary / _MANIFEST, json.dumps(manifest, indent=1).encode())
        _sync_folder(temporary)

    def load(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return ``(tree, circumstances)`` of a checkpoint.

        Raises:
            CheckpointError: it is missing, truncated or of another format.
        """
        folder = self.path(step)
        try:
            manifest = json.loads((folder / _MANIFEST).read_bytes())
            if manifest["format"] != FORMAT:
                raise CheckpointError(f"{folder} has checkpoint format {manifest['format']}, this version reads {FORMAT}")
            for name, digest in manifest["files"].items():
                if _digest(folder / name) != digest:
                    raise CheckpointError(
                        f"{folder / name} is damaged (its checksum differs); delete {folder.name} to resume from the one before"
                    )
            structure = json.loads((folder / _STATE).read_bytes())
            from safetensors.torch import load_file

            return decode(structure, load_file(folder / _TENSORS)), manifest["circumstances"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{folder} is not a readable checkpoint ({error}); delete it to resume from the one before") from error


def circumstances_now() -> dict[str, Any]:
    """Return what equal bits depend on: processor and versions."""
    import torch
    import transformers

    import sdgym

    return {
        "processor": f"{platform.machine()} {_processor()}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "sdgym": sdgym.__version__,
    }


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def encode(tree: Any) -> tuple[Any, dict[str, Any]]:
    """Split a tree into JSON-ready structure and named tensors. Raises :class:`CheckpointError` for anything else."""
    tensors: dict[str, Any] = {}
    return _encode(tree, tensors, "state"), tensors


def _encode(value: Any, tensors: dict[str, Any], path: str) -> Any:
    import torch

    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | torch.Tensor):
        name = f"{len(tensors):06d}"
        is_array = isinstance(value, np.ndarray)
        tensors[name] = torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value.detach()
        return {"$": "array" if is_array else "tensor", "name": name}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise CheckpointError(f"{path}: a saved mapping must have string keys")
        return {"$": "dict", "items": {key: _encode(item, tensors, f"{path}.{key}") for key, item in value.items()}}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {"$": kind, "items": [_encode(item, tensors, f"{path}[{i}]") for i, item in enumerate(value)]}
    raise CheckpointError(f"{path}: a {type(value).__name__} cannot be saved; state is plain data and arrays")


def decode(structure: Any, tensors: Mapping[str, Any]) -> Any:
    """Inverse of :func:`encode`."""
    if not isinstance(structure, dict):
        return structure
    kind = structure["$"]
    if kind in ("array", "tensor"):
        tensor = tensors[structure["name"]]
        return tensor.numpy().copy() if kind == "array" else tensor
    if kind == "dict":
        return {key: decode(item, tensors) for key, item in structure["items"].items()}
    items = [decode(item, tensors) for item in structure["items"]]
    return items if kind == "list" else tuple(items)


def _safetensors_bytes(tensors: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()})


def _write_file(path: pathlib.Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
