"""What a comparison is: arms, environments, one shared setting, and a budget of seconds."""

from __future__ import annotations

import importlib.resources
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import pydantic
import yaml
from pydantic import Field, PositiveFloat, PositiveInt

from sdgym.config import explain, make_config, merge, read_yaml
from sdgym.errors import ConfigError, UnknownNameError


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Arm(_Part):
    """One method of the comparison.

    Attributes:
        name: row title and folder name.
        algo: registry name or preset.
        settings: what differs from the suite's shared settings, as in a run's config file.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.+-]+$")
    algo: str
    settings: dict[str, Any] = Field(default_factory=dict)


class World(_Part):
    """One environment of the comparison: its id and keyword arguments (``level`` …)."""

    id: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)


class Suite(_Part):
    """A comparison: every arm on every environment, paired by seed.

    Attributes:
        title: heading of the report.
        model: the policy that every trial starts from.
        arms, envs: rows and blocks of the table.
        settings: shared by all trials (``steps``, ``tasks_per_step``, ``eval`` …).
        seeds: most seeds per cell.
        time_budget: wall-clock seconds for training; the first seed of every cell always fits, if need be
            with fewer steps, and further seeds run while time lasts. None runs all seeds.
    """

    title: str
    model: str = "tiny"
    arms: tuple[Arm, ...] = Field(min_length=1)
    envs: tuple[World, ...] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    seeds: PositiveInt = 5
    time_budget: PositiveFloat | None = None

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> Suite:
        for what, names in (("arm", [a.name for a in self.arms]), ("environment", [world_name(w) for w in self.envs])):
            if len(set(names)) < len(names):
                raise ValueError(f"names an {what} twice: {', '.join(sorted(names))}")
        return self

    def trial_settings(self, arm: Arm, world: World, seed: int) -> dict[str, Any]:
        """Return the resolved run config of one trial as plain data. Raises :class:`ConfigError`."""
        own = {"algo": {"name": arm.algo}, "env": {"id": world.id, "kwargs": world.kwargs}, "model": self.model, "seed": seed, "threads": 1}
        tree = merge(merge(merge(self.settings, world.settings), own), arm.settings)
        return make_config(tree).model_dump(mode="json")


def world_name(world: World) -> str:
    """Return a short folder-safe name: id without namespace and version, and the level."""
    base = world.id.rpartition(":")[2].rpartition("/")[2].rpartition("-v")[0] or world.id
    level = world.kwargs.get("level")
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in (f"{base}-{level}" if level else base)).lower()


def suite_names() -> list[str]:
    """Return the names of the suites that come with sdgym."""
    folder = importlib.resources.files("sdgym.benchmarks") / "suites"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_suite(name: str) -> Suite:
    """Read a suite by name or from a YAML file. Raises :class:`UnknownNameError` or :class:`ConfigError`."""
    if name in suite_names():
        tree = yaml.safe_load((importlib.resources.files("sdgym.benchmarks") / "suites" / f"{name}.yaml").read_text(encoding="utf-8"))
    elif pathlib.Path(name).suffix in (".yaml", ".yml"):
        tree = read_yaml(name)
    else:
        raise UnknownNameError("suite", name, suite_names())
    try:
        return Suite.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(f"suite {name!r}: {explain(error, Suite)}") from None


def choose(kind: str, items: Iterable[Any], wanted: Sequence[str] | None, names: Any) -> tuple[Any, ...]:
    """Return the ``items`` one of whose ``names(item)`` is in ``wanted``, in the suite's order; all for None.

    Raises:
        UnknownNameError: an entry of ``wanted`` is in none of them.
    """
    pool = list(items)
    if wanted is None:
        return tuple(pool)
    known = [name for item in pool for name in names(item)]
    for name in wanted:
        if name not in known:
            raise UnknownNameError(kind, name, known)
    return tuple(item for item in pool if set(names(item)) & set(wanted))
