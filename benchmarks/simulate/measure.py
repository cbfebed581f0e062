"""Measuring: real steps of this machine, one after another, and the costs that explain them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sdgym.benchmarks.simulate.costs import Engine, Learner, fit_nonnegative
from sdgym.benchmarks.simulate.lengths import Group, Lengths, Row, groups_of
from sdgym.config import RunConfig
from sdgym.errors import DataError
from sdgym.files import replace_file


@dataclasses.dataclass(frozen=True)
class Measured:
    """One step as it was.

    Attributes:
        tasks, group: P and G.
        rollout, update: processor seconds of this process, all threads: other work on the machine does not count.
        rollout_wall, update_wall: the same on the wall.
        inputs: tokens that the update put through the model.
        groups: the rollouts' lengths.
    """

    tasks: int
    group: int
    rollout: float
    update: float
    rollout_wall: float
    update_wall: float
    inputs: int
    groups: list[Group]


@dataclasses.dataclass(frozen=True)
class Record:
    """Measured steps, what they were measured on, and what the simulation must know about the engine."""

    source: str
    machine: dict[str, Any]
    limit: int
    slots: int
    steps: list[Measured]

    def sizes(self) -> list[int]:
        """Return the numbers of tasks per step that occur."""
        return sorted({step.tasks for step in self.steps})

    def of_sizes(self, sizes: Sequence[int]) -> list[Measured]:
        """Return the steps with so many tasks."""
        return [step for step in self.steps if step.tasks in sizes]

    def save(self, path: pathlib.Path) -> None:
        """Write JSON, one step per line."""
        head = {"source": self.source, "machine": self.machine, "limit": self.limit, "slots": self.slots}
        lines = [json.dumps({**_flat(step), "groups": [_pack(group) for group in step.groups]}) for step in self.steps]
        replace_file(path, json.dumps(head)[:-1] + ',\n"steps": [\n' + ",\n".join(lines) + "\n]}\n")

    @classmethod
    def load(cls, path: pathlib.Path) -> Record:
        """Read what :meth:`save` wrote. Raises :class:`DataError`."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            steps = [Measured(**{**line, "groups": [_unpack(group) for group in line["groups"]]}) for line in record["steps"]]
            return cls(record["source"], record["machine"], record["limit"], record["slots"], steps)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{str(path)!r} holds no measured steps: {error}") from None


def _flat(step: Measured) -> dict[str, Any]:
    return {field.name: getattr(step, field.name) for field in dataclasses.fields(step) if field.name != "groups"}


def _pack(group: Group) -> list[Any]:
    return [group[0].prompt, *([row.turns, row.observed] if row.observed else row.turns for row in group)]


def _unpack(packed: Sequence[Any]) -> Group:
    def row(found: list[Any]) -> Row:
        return Row(packed[0], *map(tuple, found)) if isinstance(found[0], list) else Row(packed[0], tuple(found))

    return [row(found) for found in packed[1:]]


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A source that gives one batch again and again."""

    batch: list[Group]

    def draw(self, rng: np.random.Generator, tasks: int, group: int) -> list[Group]:
        """See :class:`sdgym.benchmarks.simulate.lengths.Source`."""
        return self.batch


# ---- measuring ---------------------------------------------------------------------------------------------------------------------


def draw_lengths(config: RunConfig, folder: pathlib.Path) -> Lengths:
    """Play one batch without training."""
    from sdgym.rollout import Job
    from sdgym.session import Session

    session = Session(config, folder)
    try:
        tasks = list(session.env.unwrapped.tasks(session.split, config.seed, config.tasks_per_step))
        rows = session.driver.collect(tasks, session.group_size, session.sampling, Job("lengths", 0))
    finally:
        session.close()
    what = f"{config.model} on {config.env.id}, level {config.env.kwargs.get('level', 'tiny')}, {len(rows)} rollouts"
    return Lengths(tuple(map(tuple, groups_of(rows))), session.sampling.max_tokens, what)


def measure_steps(config: RunConfig, folder: pathlib.Path, steps: int) -> tuple[list[Measured], int]:
    """Train and clock each step; return them (a first one that warms up is left out) and the most tokens of a turn."""
    from sdgym.algos.base import AnnotateContext, Batch
    from sdgym.rollout import Job
    from sdgym.seeding import generator
    from sdgym.session import Session

    session, found = Session(config, folder), list[Measured]()
    try:
        for step in range(steps + 1):
            tasks = list(session.env.unwrapped.tasks(session.split, step, config.tasks_per_step))

            def play(tasks: Any = tasks, step: int = step) -> Any:
                return session.driver.collect(tasks, session.group_size, session.sampling, Job("train", step))

            rows, *rollout = clocked(play)
            before = session.ledger.train_inputs + session.ledger.score_inputs
            groups = [list(range(i, i + session.group_size)) for i in range(0, len(rows), session.group_size)]
            rng = generator(config.seed, "measure", step)
            context = AnnotateContext(step, session.policy.chat, rng, session.learner.score, True, session.policy.context_limit)

            def update(rows: Any = rows, groups: Any = groups, context: Any = context) -> None:
                terms = session.algorithm.annotate(Batch(rows, groups), context)
                session.learner.update(terms, rows, [list(range(len(rows)))])
                session.teacher.after_step()
                session.sampler.sync_weights()

            _, *updated = clocked(update)
            inputs = session.ledger.train_inputs + session.ledger.score_inputs - before
            lengths = groups_of(rows)
            if step:
                found.append(Measured(len(tasks), session.group_size, rollout[0], updated[0], rollout[1], updated[1], inputs, lengths))
    finally:
        session.close()
    return found, session.sampling.max_tokens


def clocked(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what ``work`` returns, its processor seconds, its seconds on the wall."""
    wall, cpu = time.monotonic(), time.process_time()
    result = work()
    return result, round(time.process_time() - cpu, 4), round(time.monotonic() - wall, 4)


# ---- fitting -----------------------------------------------------------------------------------------------------------------------


def calibrate(steps: Sequence[Measured], slots: int) -> tuple[Engine, Learner, float]:
    """Return the engine and learner that explain measured steps, and the share of tokens that packing saves.

    Seconds are linear in the costs, so what each costs per unit is had by simulating the very batch with that cost alone.
    """
    rollouts = fit_nonnegative([_occurrences(step, slots) for step in steps], [step.rollout for step in steps])
    tick, row, token, begin = map(float, rollouts)
    updates = fit_nonnegative([(1.0, len(step.groups) * step.group, step.inputs) for step in steps], [step.update for step in steps])
    base, per_row, per_token = map(float, updates)
    read, whole = sum(step.inputs for step in steps), sum(_tokens(step) for step in steps)
    learner = Learner(per_token, base=base, row=per_row, micro=1024)
    return Engine(tick, row, token, begin, slots, max(1, slots // 8)), learner, 1 - read / whole


def _tokens(step: Measured) -> int:
    from sdgym.benchmarks.simulate.simulation import trained_tokens

    return trained_tokens(step.groups)


def _occurrences(step: Measured, slots: int) -> list[float]:
    """Return how often each cost of an :class:`Engine` occurs in the step: decode steps, rows of them, tokens read, episodes."""
    from sdgym.benchmarks.simulate.simulation import Plan, Simulation

    found = []
    for name in ("tick", "row", "token", "begin"):
        only = Engine(**{"tick": 0.0, "row": 0.0, name: 1.0}, slots=slots, unit=max(1, slots // 8))
        plan = Plan(Fixed(step.groups), step.tasks, step.group, only, Learner(0.0))
        found.append(Simulation(plan).run(1)[0].rollout)
    return found


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Measured against simulated seconds per step, of a batch size that was not used for the fit."""

    tasks: int
    rollout: float
    rollout_simulated: float
    update: float
    update_simulated: float

    @property
    def error(self) -> float:
        """Relative error of the whole step."""
        return (self.rollout_simulated + self.update_simulated) / (self.rollout + self.update) - 1


def check(record: Record, simulated_steps: int = 30) -> Iterator[Comparison]:
    """Leave out one batch size after another: fit costs and the law of lengths to the others, simulate, compare with the one left out."""
    from sdgym.benchmarks.simulate.simulation import Plan, Simulation

    for size in record.sizes():
        others = record.of_sizes([s for s in record.sizes() if s != size])
        engine, learner, repeated = calibrate(others, record.slots)
        lengths = Lengths(tuple(tuple(g) for step in others for g in step.groups), record.limit, record.source)
        left_out = record.of_sizes([size])
        plan = Plan(lengths, size, left_out[0].group, engine, learner, repeated=repeated)
        simulated = Simulation(plan).run(simulated_steps)
        yield Comparison(
            size,
            float(np.mean([step.rollout for step in left_out])),
            float(np.mean([step.rollout for step in simulated])),
            float(np.mean([step.update for step in left_out])),
            float(np.mean([step.update for step in simulated])),
        )
