"""Scenarios: a YAML file that says which machines, which policy, which worlds, and how many of each."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import pydantic
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from sdgym.benchmarks.simulate.costs import Device, Model, Worlds
from sdgym.benchmarks.simulate.lengths import Lengths, Source
from sdgym.benchmarks.simulate.simulation import Driver, Mode, Plan, Simulation, StepTime
from sdgym.config import Section, explain
from sdgym.errors import ConfigError
from sdgym.trees import merge, nest, parse_set, read_yaml

SCENARIOS = pathlib.Path(__file__).with_name("scenarios")


class LengthsConfig(Section):
    """How long turns are.

    Attributes:
        like: measured lengths, by name or file: their spread and correlation, and with ``mean`` None the lengths themselves.
        mean: tokens of a turn before the cut, on average; stretches the law of ``like``.
        limit, prompt, turns, observed: see :class:`sdgym.benchmarks.simulate.lengths.Lognormal`; None takes those of ``like``.
        sigma, correlation: in place of those of ``like``.
    """

    like: str
    mean: PositiveFloat | None = None
    sigma: NonNegativeFloat | None = None
    correlation: float | None = Field(default=None, ge=0, lt=1)
    limit: PositiveInt | None = None
    prompt: int | None = None
    turns: PositiveInt | None = None
    observed: int | None = None

    def source(self) -> Source:
        """Return measured lengths as they are, or a law."""
        measured = Lengths.load(self.like)
        given = self.model_dump(exclude={"like", "mean"}, exclude_none=True)
        if self.mean is None and not given:
            return measured
        law = dataclasses.replace(measured.fit(), **given)
        return law if self.mean is None else dataclasses.replace(law, mu=math.log(self.mean) - law.sigma**2 / 2)


class GenerationConfig(Section):
    """The engines: how many, how fast. Speeds come from ``model`` and ``device`` unless they are given."""

    replicas: PositiveInt = 1
    driver: Driver = "lockstep"
    slots: PositiveInt = 256
    unit: PositiveInt = 1
    begin: NonNegativeFloat = 0.0
    tick: NonNegativeFloat | None = None
    row: NonNegativeFloat | None = None
    token: NonNegativeFloat | None = None


class LearnerConfig(Section):
    """The learner; ``flops`` per token in units of the number of parameters. ``token``, ``reduce`` and ``push`` come from arithmetic unless given."""

    processes: PositiveInt = 1
    row: NonNegativeFloat = 0.0
    base: NonNegativeFloat = 0.0
    micro: PositiveInt = 16_384
    flops: PositiveFloat = 6.0
    token: NonNegativeFloat | None = None
    reduce: NonNegativeFloat | None = None
    push: NonNegativeFloat | None = None


class WorldsConfig(Section):
    """See :class:`sdgym.benchmarks.simulate.costs.Worlds`."""

    hosts: PositiveInt = 1
    workers: PositiveInt = 1
    mean: NonNegativeFloat = 0.0
    sigma: NonNegativeFloat = 0.0
    limit: PositiveFloat = math.inf


class ModelConfig(Section):
    """See :class:`sdgym.benchmarks.simulate.costs.Model`."""

    parameters: PositiveFloat
    layers: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    bytes: PositiveInt = 2


class DeviceConfig(Section):
    """See :class:`sdgym.benchmarks.simulate.costs.Device`."""

    flops: PositiveFloat
    bandwidth: PositiveFloat
    reading: float = Field(default=0.6, gt=0, le=1)
    computing: float = Field(default=0.5, gt=0, le=1)
    training: float = Field(default=0.35, gt=0, le=1)
    launch: NonNegativeFloat = 2e-3
    link: PositiveFloat = 40e9
    storage: PositiveFloat = 5e9


class Scenario(Section):
    """Everything that decides a simulation.

    Attributes:
        title: one line.
        tasks, group: P and G.
        mode: ``synchronous`` or ``one_step_off``.
    """

    title: str
    tasks: PositiveInt
    group: PositiveInt
    mode: Mode = "synchronous"
    lengths: LengthsConfig
    generation: GenerationConfig = GenerationConfig()
    learner: LearnerConfig = LearnerConfig()
    worlds: WorldsConfig = WorldsConfig()
    model: ModelConfig
    device: DeviceConfig

    def plan(self) -> Plan:
        """Return what is simulated."""
        source, model, device = self.lengths.source(), Model(**self.model.model_dump()), Device(**self.device.model_dump())
        g, u = self.generation, self.learner
        engine = device.engine(model, mean_context(source), g.slots, g.begin)
        learner = device.learner(model, u.processes, u.row, u.flops, g.replicas, u.micro)
        given = {name: value for name in ("tick", "row", "token") if (value := getattr(g, name)) is not None}
        told = {name: value for name in ("token", "reduce", "push") if (value := getattr(u, name)) is not None}
        return Plan(
            source,
            self.tasks,
            self.group,
            dataclasses.replace(engine, unit=g.unit, **given),
            dataclasses.replace(learner, base=u.base, **told),
            Worlds(**self.worlds.model_dump()),
            g.replicas,
            g.driver,
            self.mode,
        )


def mean_context(source: Source) -> float:
    """Return the cached tokens of a row, averaged over its decode steps, in 64 groups of 8 drawn from ``source``."""
    from sdgym.seeding import generator

    read = steps = 0.0
    for group in source.draw(generator(0, "context"), 64, 8):
        for row in group:
            context = float(row.prompt)
            for tokens, seen in zip(row.turns, (*row.observed, 0), strict=True):
                read += tokens * (context + tokens / 2)
                steps += tokens
                context += tokens + seen
    return read / steps


def load_scenario(name: str, sets: Sequence[str] = ()) -> Scenario:
    """Read a scenario by name or file and change it. Raises :class:`ConfigError` with one sentence."""
    path = pathlib.Path(name) if pathlib.Path(name).suffix else SCENARIOS / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in SCENARIOS.glob("*.yaml")))
        raise ConfigError(f"there is no scenario {name!r}; there are {known}, or give a .yaml file")
    tree = read_yaml(path)
    for text in sets:
        tree = merge(tree, parse_set(text))
    try:
        return Scenario.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(explain(error, Scenario)) from None


@dataclasses.dataclass(frozen=True)
class Summary:
    """Means over simulated steps.

    Attributes:
        changed: what a sweep set, ``key=value``.
        steps: the steps.
    """

    changed: str
    steps: Sequence[StepTime]

    def mean(self, name: str) -> float:
        """Mean of a field of :class:`StepTime`."""
        return sum(float(getattr(step, name)) for step in self.steps) / len(self.steps)

    def record(self) -> dict[str, Any]:
        """Return plain data."""
        fields = {field.name: self.mean(field.name) for field in dataclasses.fields(StepTime)}
        return {"changed": self.changed, **fields, "slowest": max(step.seconds for step in self.steps)}

    @staticmethod
    def head() -> str:
        """Return the table's head."""
        return f"{'':44}{'step':>9}{'rollout':>9}{'update':>8}{'push':>7}{'tokens/s':>10}{'generating':>12}{'waiting':>9}{'tail':>6}"

    def line(self) -> str:
        """Return a line of the table."""
        m = self.mean
        seconds = f"{m('seconds'):8.1f}s{m('rollout'):8.1f}s{m('update'):7.1f}s{m('push'):6.1f}s{m('tokens') / m('seconds'):10,.0f}"
        return f"{self.changed:44}{seconds}{m('generating'):12.0%}{m('waiting'):9.0%}{m('tail'):6.0%}"


def summarise(name: str, sets: Sequence[str], sweeps: Sequence[tuple[str, Sequence[Any]]], steps: int, seed: int) -> list[Summary]:
    """Simulate a scenario, once per combination of the values in ``sweeps``."""
    found = []
    base = load_scenario(name, sets)
    for values in itertools.product(*(values for _, values in sweeps)):
        changes = dict(zip((key for key, _ in sweeps), values, strict=True))
        tree: dict[str, Any] = base.model_dump()
        for key, value in changes.items():
            tree = merge(tree, nest(key.split("."), value))
        try:
            scenario = Scenario.model_validate(tree)
        except pydantic.ValidationError as error:
            raise ConfigError(explain(error, Scenario)) from None
        told = " ".join(f"{key}={value}" for key, value in changes.items())
        found.append(Summary(told, Simulation(scenario.plan(), seed).run(steps)))
    return found
