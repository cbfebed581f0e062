"""One trial: its settings, its folder, and the proof that a finished one still belongs to this code."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
import json
import pathlib
import shutil
from typing import Any

import yaml

from sdgym.benchmarks.head_to_head.suite import Arm, Suite, World, world_name
from sdgym.core import content_hash

RECORD = "trial.json"


@functools.cache
def code_hash() -> str:
    """Return a hash of everything in the package that can change a result: code, presets, policies."""
    digest = hashlib.sha256()
    root = pathlib.Path(str(importlib.resources.files("sdgym")))
    kept = (".py", ".yaml", ".json", ".jinja", ".safetensors")
    for folder in (root, *(root / name for name in ("envs", "algos", "verifiers"))):  # links, which rglob does not follow
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            if path.suffix in kept and inner.parts[0] not in ("benchmarks", "commands", "report") and path.is_file():
                digest.update(f"{folder.name}/{inner.as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One (arm, environment, seed); compared by identity.

    Attributes:
        arm, world: names.
        settings: the resolved run config as plain data.
        folder: where it runs; ``folder/run`` is an ordinary run folder.
        index: 0 for the first seed of its cell, which runs whatever the budget.
    """

    arm: str
    world: str
    seed: int
    settings: dict[str, Any]
    folder: pathlib.Path
    index: int = 0

    @property
    def cell(self) -> tuple[str, str]:
        """The row of the table this trial belongs to."""
        return self.world, self.arm

    @property
    def run_folder(self) -> pathlib.Path:
        """The run folder."""
        return self.folder / "run"

    @property
    def key(self) -> str:
        """Identifies settings and code; a record with another key does not count."""
        return content_hash({"settings": self.settings, "code": code_hash()})

    def seconds_if_done(self) -> float | None:
        """Return how long the finished trial took, or None if it has to run."""
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return None
        return float(record["seconds"]) if record.get("key") == self.key else None

    def prepare(self) -> list[str]:
        """Write the config and return the arguments of ``sdgym`` that run the trial, resuming where possible."""
        marker = self.folder / "key"
        if not marker.is_file() or marker.read_text(encoding="utf-8") != self.key:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            marker.write_text(self.key, encoding="utf-8")
            (self.folder / "settings.yaml").write_text(yaml.safe_dump(self.settings, sort_keys=False), encoding="utf-8")
        arguments = ["train", "--out", str(self.run_folder)]
        if any((self.run_folder / "checkpoints").glob("step_*")):
            return [*arguments, "--resume"]
        shutil.rmtree(self.run_folder, ignore_errors=True)
        return [*arguments, "--config", str(self.folder / "settings.yaml")]

    def finish(self, seconds: float) -> None:
        """Record success, atomically."""
        partial = self.folder / (RECORD + ".part")
        partial.write_text(
            json.dumps({"key": self.key, "arm": self.arm, "world": self.world, "seed": self.seed, "seconds": round(seconds, 3)})
        )
        partial.replace(self.folder / RECORD)

    def latest(self, name: str) -> float | None:
        """Return metric ``name`` from the last complete line of ``metrics.jsonl`` that has it, or None."""
        try:
            lines = (self.run_folder / "metrics.jsonl").read_bytes()[-60_000:].split(b"\n")[:-1]
        except OSError:
            return None
        for line in reversed(lines):
            try:
                value = json.loads(line).get(name)
            except json.JSONDecodeError:  # the first line of the tail may begin in the middle
                break
            if value is not None:
                return float(value)
        return None


def make_trial(suite: Suite, arm: Arm, world: World, seed: int, out: pathlib.Path, index: int = 0) -> Trial:
    """Build the trial of ``arm`` on ``world`` with ``seed``, below ``out``."""
    name = world_name(world)
    return Trial(arm.name, name, seed, suite.trial_settings(arm, world, seed), out / "trials" / name / arm.name / f"seed-{seed}", index)
