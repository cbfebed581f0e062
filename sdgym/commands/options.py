"""Options that ``train``, ``eval`` and ``compare`` share, and how they become settings of a run."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated, Any

import typer

Model = Annotated[str | None, typer.Option("--model", metavar="M", help="Embedded or fetched policy, Hugging Face id, or folder [tiny].")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps [auto].")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32 or bfloat16 [float32].")]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads [1].")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed [0].")]
Level = Annotated[str | None, typer.Option("--level", help="Level of the environment [tiny].")]
Split = Annotated[str | None, typer.Option("--split", help="Split that tasks come from.")]
Data = Annotated[pathlib.Path | None, typer.Option("--data", metavar="FILE", help="Your own problems: JSON lines or Parquet.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, for example optimizer.lr=1e-3.")]
Config = Annotated[pathlib.Path | None, typer.Option("--config", metavar="FILE", help="YAML file of settings, below every option.")]
Out = Annotated[pathlib.Path | None, typer.Option("--out", metavar="DIR", help="Folder to write into.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what lies in --out.")]


def environment(env: str | None, level: str | None, split: str | None, data: pathlib.Path | None) -> Any:
    """Return the ``env`` section for what was given, or None for nothing."""
    kwargs = {"level": level, "split": split, "data": None if data is None else str(data)}
    section = {"id": env, **kwargs}
    given = {key: value for key, value in section.items() if value is not None}
    return given or None


def allow_local_modules(*names: str | None) -> None:
    """Let ``module:name`` refer to a file in the current folder, which a console script does not look into."""
    if any(name and ":" in name for name in names) and "" not in sys.path:
        sys.path.insert(0, "")
