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

from sdgym.algos.presets import build_algorithm
from sdgym.benchmarks.head_to_head.suite import Arm, Suite, World
from sdgym.config import RunConfig, make_config
from sdgym.core import content_hash
from sdgym.errors import ConfigError
from sdgym.files import replace_file
from sdgym.session import DEFAULT_GROUP_SIZE, make_env, turn_limit

RECORD = "trial.json"


@functools.cache
def code_hash() -> str:
    """Return a hash of everything in the package that can change a result (code, presets, policies), however it is started or shown."""
    digest = hashlib.sha256()
    root = pathlib.Path(str(importlib.resources.files("sdgym")))
    kept = (".py", ".yaml", ".json", ".jinja", ".safetensors")
    for folder in (root, *(root / name for name in ("envs", "algos", "verifiers"))):  # links, which rglob does not follow
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            if path.suffix in kept and inner.parts[0] not in ("benchmarks", "commands", "report", "nursery.py") and path.is_file():
                digest.update(f"{folder.name}/{inner.as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def adapter_hash() -> str:
    """Return a hash of the code that plays a trial with TRL's trainers; :func:`code_hash` leaves benchmarks out."""
    here = importlib.resources.files("sdgym.benchmarks.head_to_head")
    return content_hash({entry.name: entry.read_text(encoding="utf-8") for entry in here.iterdir() if entry.name.startswith("trl_")})


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One (arm, place, seed); compared by identity.

    Attributes:
        arm, place: names; a place is an environment, and a policy where there are several.
        settings: the resolved run config as plain data.
        folder: where it runs; ``folder/run`` is an ordinary run folder.
        index: 0 for the first seed of its cell, which runs whatever the budget.
        engine: what trains, see :class:`sdgym.benchmarks.head_to_head.suite.Arm`.
    """

    arm: str
    place: str
    seed: int
    settings: dict[str, Any]
    folder: pathlib.Path
    index: int = 0
    engine: str = "sdgym"

    @property
    def cell(self) -> tuple[str, str]:
        """The row of the table this trial belongs to."""
        return self.place, self.arm

    @property
    def run_folder(self) -> pathlib.Path:
        """The run folder."""
        return self.folder / "run"

    @property
    def key(self) -> str:
        """Identifies settings and code; a record with another key does not count."""
        engine = {} if self.engine == "sdgym" else {"engine": self.engine, "adapter": adapter_hash()}
        return content_hash({"settings": self.settings, "code": code_hash(), **engine})

    @property
    def name(self) -> str:
        """For messages: ``place/arm/seed-N``."""
        return f"{self.place}/{self.arm}/seed-{self.seed}"

    def seconds_if_done(self) -> float | None:
        """Return how long the finished trial took, or None if it has to run."""
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            record = {}
        if record.get("key") == self.key:
            return float(record["seconds"])
        return self._seconds_if_unrecorded()

    def _seconds_if_unrecorded(self) -> float | None:
        """The same for a run that ended while nobody was left to record it: a run writes ``model/`` last and at once."""
        if not (self.run_folder / "model").is_dir() or not self._is_marked():
            return None
        seconds = self.latest("seconds")
        if seconds is not None:
            self.finish(seconds)
        return seconds

    def _is_marked(self) -> bool:
        marker = self.folder / "key"
        return marker.is_file() and marker.read_text(encoding="utf-8") == self.key

    def prepare(self) -> list[str]:
        """Write the config and return the arguments of ``python`` that run the trial, resuming where possible."""
        marker = self.folder / "key"
        if not self._is_marked():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            (self.folder / "settings.yaml").write_text(yaml.safe_dump(self.settings, sort_keys=False), encoding="utf-8")
            replace_file(marker, self.key)  # last: where it is, the settings are
        config = ["--config", str(self.folder / "settings.yaml")]
        if self.engine == "trl":
            shutil.rmtree(self.run_folder, ignore_errors=True)  # TRL's checkpoints lack the rollout buffer: start over
            return ["-m", "sdgym.benchmarks.head_to_head.trl_arms", *config, "--out", str(self.run_folder)]
        arguments = ["-m", "sdgym", "train", "--out", str(self.run_folder)]
        if any((self.run_folder / "checkpoints").glob("step_*")):
            return [*arguments, "--resume"]
        shutil.rmtree(self.run_folder, ignore_errors=True)
        return [*arguments, *config]

    def finish(self, seconds: float) -> None:
        """Record success, atomically."""
        record = {"key": self.key, "arm": self.arm, "place": self.place, "seed": self.seed, "seconds": round(seconds, 3)}
        replace_file(self.folder / RECORD, json.dumps(record))

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


def make_trial(suite: Suite, arm: Arm, world: World, policy: str, seed: int, out: pathlib.Path, index: int = 0) -> Trial:
    """Build the trial of ``arm`` on ``world`` from ``policy`` with ``seed``, below ``out``."""
    place = suite.place(world, policy)
    settings = suite.trial_settings(arm, world, seed, policy)
    return Trial(arm.name, place, seed, settings, out / "trials" / place / arm.name / f"seed-{seed}", index, arm.engine)


def make_plan(suite: Suite, first_seed: int, out: pathlib.Path) -> list[Trial]:
    """Return all trials that can be played, seeds outermost: whatever is cut short has about equally many seeds everywhere."""
    return [
        make_trial(suite, arm, world, policy, first_seed + index, out, index)
        for index in range(suite.seeds)
        for world in suite.envs
        for policy in suite.policies
        for arm in suite.arms
        if obstacle(suite, arm, world) is None
    ]


def obstacle(suite: Suite, arm: Arm, world: World) -> str | None:
    """Return why ``arm`` cannot be run in ``world`` (an algorithm's own check, or TRL's single turns), or None."""
    settings = suite.trial_settings(arm, world, 0)
    return _obstacle(json.dumps({name: settings[name] for name in CHECKED}, sort_keys=True), arm.engine)


CHECKED = ("algo", "env", "steps", "tasks_per_step", "group_size", "sampling")


@functools.cache
def _obstacle(settings: str, engine: str) -> str | None:
    config = make_config(json.loads(settings))
    env = make_env(config.env.id, **config.env.kwargs)
    try:
        if engine == "trl" and env.unwrapped.max_turns > 1:
            return f"TRL's trainers play one turn, and {config.env.id} has up to {env.unwrapped.max_turns}"
        check_fit(build_algorithm(config.algo.name, config.algo.overrides), env, config)
    except ConfigError as error:
        return str(error)
    finally:
        env.close()
    return None


def check_fit(algorithm: Any, env: Any, config: RunConfig) -> None:
    """Raise :class:`ConfigError` where an algorithm refuses an environment, as a run would before its first rollout."""
    limit = config.sampling.max_tokens or turn_limit(env, str(getattr(env.unwrapped, "level", "")))
    group = config.group_size or algorithm.group_size or DEFAULT_GROUP_SIZE
    sampling = {**config.sampling.model_dump(), "max_tokens": limit}
    settings = {"group_size": group, "tasks_per_step": config.tasks_per_step, "sampling": sampling, "steps": config.steps}
    algorithm.check(env.unwrapped, settings)
