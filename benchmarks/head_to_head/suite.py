"""What a comparison is: arms, environments, policies, seeds, one shared setting, and a budget."""

from __future__ import annotations

import importlib.resources
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pydantic
import yaml
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from sdgym.config import explain, make_config
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.trees import merge, read_yaml


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


Control = Literal["P0", "P1", "P2", "P3"]


class Arm(_Part):
    """One method of the comparison.

    Attributes:
        name: row title and folder name.
        algo: registry name, preset, or ``pkg.mod:Class``.
        settings: what differs from the suite's shared settings, as in a run's config file.
        engine: ``sdgym``, or ``trl`` to let TRL's own trainer do it, set to this algorithm's settings.
        control_of: the arm that this one is a control of, or None; set by :func:`sdgym.benchmarks.head_to_head.expand.expand`.
        controls: controls of this arm, instead of the suite's.
        against: arms that this one is compared with besides the baseline and its controls.
        tune: dotted key → values that ``--tune`` tries for this arm besides the suite's; the number of trials stays.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.+-]+$")
    algo: str
    settings: dict[str, Any] = Field(default_factory=dict)
    engine: Literal["sdgym", "trl"] = "sdgym"
    control_of: str | None = None
    controls: tuple[Control, ...] | None = None
    against: tuple[str, ...] = ()
    tune: dict[str, tuple[Any, ...]] = Field(default_factory=dict)


class World(_Part):
    """One environment of the comparison: its id and keyword arguments (``level`` …)."""

    id: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)


class Budget(_Part):
    """What every run may spend: it ends with the first step that reaches this many sampled tokens (``steps`` is then a cap)."""

    sampled_tokens: PositiveInt


class Tune(_Part):
    """The search that ``--tune`` gives every arm, on ``val`` and with a seed that no trial of the comparison has.

    Attributes:
        trials: settings tried per arm and world, the arm's own first; the same number for every arm.
        space: dotted key → values.
        seed: of the tuning runs and of the choice of settings.
    """

    trials: PositiveInt = 4
    space: dict[str, tuple[Any, ...]] = Field(default_factory=lambda: {"optimizer.lr": (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3)})
    seed: NonNegativeInt = 1_000_000


class Suite(_Part):
    """A comparison: every arm in every environment from every policy, paired by seed.

    Attributes:
        title: heading of the report.
        policies: checkpoints that trials start from; seeds are crossed over them.
        arms, envs: rows and blocks of the table.
        settings: shared by all trials (``steps``, ``tasks_per_step``, ``eval`` …).
        seeds: most seeds per cell.
        budget: sampled tokens per trial, the primary measure of cost; None leaves the number of steps.
        time_budget: wall-clock seconds for training, for demonstrations; the first seed of every cell always fits,
            if need be with fewer steps, and further seeds run while time lasts. None runs all seeds.
        controls: controls that every arm with privileged text gets as arms of their own.
        baseline: arm that every other one is compared with, where it is present.
        lift_tasks: tasks on which teacher lift is measured before an arm with a teacher runs; 0 skips it.
        tune: what ``--tune`` does.
        tuned: ``world/arm`` → the settings it chose.
        claims: one sentence on what this suite may be quoted for.
    """

    title: str
    policies: tuple[str, ...] = Field(default=("tiny",), min_length=1)
    arms: tuple[Arm, ...] = Field(min_length=1)
    envs: tuple[World, ...] = Field(min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict)
    seeds: PositiveInt = 5
    budget: Budget | None = None
    time_budget: PositiveFloat | None = None
    controls: tuple[Control, ...] = ()
    baseline: str = "grpo"
    lift_tasks: NonNegativeInt = 500
    tune: Tune = Tune()
    tuned: dict[str, dict[str, Any]] = Field(default_factory=dict)
    claims: str = ""

    @pydantic.model_validator(mode="after")
    def _distinct(self) -> Suite:
        for what, names in (
            ("an arm", [a.name for a in self.arms]),
            ("an environment", [world_name(w) for w in self.envs]),
            ("a policy", [policy_name(p) for p in self.policies]),
        ):
            if len(set(names)) < len(names):
                raise ValueError(f"names {what} twice: {', '.join(sorted(names))}")
        if self.budget is not None and self.time_budget is not None:
            raise ValueError("takes either a budget of sampled tokens or a time_budget, not both")
        return self

    def trial_settings(self, arm: Arm, world: World, seed: int, policy: str | None = None) -> dict[str, Any]:
        """Return the resolved run config of one trial as plain data (policy None takes the first). Raises :class:`ConfigError`."""
        own = {
            "algo": {"name": arm.algo},
            "env": {"id": world.id, "kwargs": world.kwargs},
            "model": policy or self.policies[0],
            "seed": seed,
            "threads": 1,
        }
        tree = merge(merge(merge(self.settings, world.settings), own), arm.settings)
        tree = merge(tree, self.tuned.get(f"{world_name(world)}/{arm.name}", {}))
        if self.budget is not None:
            tree = merge(tree, {"budget": {"sampled_tokens": self.budget.sampled_tokens}})
        return make_config(tree).model_dump(mode="json")

    def place(self, world: World, policy: str) -> str:
        """Return what a block of the comparison is called: the world, and the policy where there are several."""
        return world_name(world) if len(self.policies) == 1 else f"{world_name(world)}/{policy_name(policy)}"


def world_name(world: World) -> str:
    """Return a short folder-safe name: id without namespace and version, and the level."""
    base = world.id.rpartition(":")[2].rpartition("/")[2].rpartition("-v")[0] or world.id
    level = world.kwargs.get("level")
    return _folder_safe(f"{base}-{level}" if level else base)


def policy_name(policy: str) -> str:
    """Return a short folder-safe name of a policy: its name, or the last part of its id or path."""
    return _folder_safe(policy.rstrip("/").rpartition("/")[2] or policy)


def _folder_safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).lower()


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
