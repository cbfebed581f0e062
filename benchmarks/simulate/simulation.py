"""The simulation: engines, worlds and a learner as SimPy processes in virtual seconds."""

from __future__ import annotations

import dataclasses
import heapq
from collections import deque
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from sdgym.benchmarks.simulate.costs import Engine, Learner, Worlds
from sdgym.benchmarks.simulate.lengths import Group, Row, Source
from sdgym.errors import ConfigError
from sdgym.seeding import generator

if TYPE_CHECKING:
    import simpy

Driver = Literal["lockstep", "batched", "overlapped"]
Mode = Literal["synchronous", "one_step_off"]
Process: TypeAlias = "Generator[simpy.Event, Any, Any]"
_ROUNDING = 1e-9  # of a decode step


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        lengths: where batches come from.
        tasks, group: P and G.
        engine, replicas: of generation; each replica plays a block of the rows.
        learner, worlds: see there.
        driver: who waits for a world's answer. ``lockstep``: the engine itself (the embedded sampler: equal bits);
            ``batched``: rows that ended together wait for each other while the engine goes on (a server); ``overlapped``: nobody.
        mode: ``synchronous``, or ``one_step_off``: batch k + 1 is drawn while the learner works on batch k.
        shared_prompts: the learner computes a group's prompt once.
        repeated: share of the tokens that packing saves beyond that (equal answers).
    """

    lengths: Source
    tasks: int
    group: int
    engine: Engine
    learner: Learner
    worlds: Worlds = dataclasses.field(default_factory=Worlds)
    replicas: int = 1
    driver: Driver = "lockstep"
    mode: Mode = "synchronous"
    shared_prompts: bool = True
    repeated: float = 0.0


@dataclasses.dataclass(frozen=True)
class StepTime:
    """One step.

    Attributes:
        seconds, rollout, update, push: of the whole step (in ``one_step_off`` rollout and update overlap) and its parts.
        tokens: sampled.
        generating, waiting: shares of the replicas' rollout time spent on the model, and stopped for a world's answer.
        tail: share of the rollout after nine rows of ten have ended.
    """

    seconds: float
    rollout: float
    update: float
    push: float
    tokens: int
    generating: float
    waiting: float
    tail: float


@dataclasses.dataclass
class _Episode:
    """A row under way: the turn it is in, and the seconds that its worlds will take."""

    order: int
    task: int
    row: Row
    answers: Sequence[float]
    turn: int = 0

    @property
    def last(self) -> bool:
        return self.turn + 1 == len(self.row.turns)


class _Replica:
    """An engine that plays a block of episodes; ``play`` is its process.

    Decode steps are virtual time: a row that starts at step k ends at k + its tokens, so between two events the engine runs at one
    speed and only events are simulated, not steps.
    """

    def __init__(self, env: simpy.Environment, plan: Plan, hosts: simpy.Resource, episodes: Sequence[_Episode]) -> None:
        self.env, self.plan, self.hosts = env, plan, hosts
        self.waiting = deque(episodes)
        self.unfinished, self.under_way = len(episodes), 0
        self.live: list[tuple[float, int, _Episode]] = []  # (step at which the turn ends, order, episode)
        self.step = 0.0
        self.read: set[int] = set()
        self.answered: deque[_Episode] = deque()
        self.ended: list[_Episode] = []
        self.grading: list[simpy.Event] = []
        self.ends: list[float] = []
        self.generating = self.stopped = 0.0
        self.wake, self.something_ended = env.event(), env.event()

    def play(self) -> Process:
        """Generate until every row's last turn is sampled, then wait for what is still being graded."""
        if self.plan.driver == "batched":
            self.env.process(self._collect())
        while self.unfinished:
            cost = self._admit()
            if cost:
                yield self.env.timeout(cost)
                self.generating += cost
            elif self.live:
                yield from self._decode()
            else:
                since = self.env.now
                self.wake = self.env.event()
                yield self.wake
                self.stopped += self.env.now - since
        yield self.env.all_of(self.grading)

    def _admit(self) -> float:
        """Let answered and waiting episodes begin their turns; return the seconds for what must be read first."""
        engine, cost = self.plan.engine, 0.0
        while self.answered:
            episode = self.answered.popleft()
            cost += engine.token * episode.row.observed[episode.turn - 1]
            self._start(episode)
        while self.waiting and self.under_way < engine.slots:
            episode = self.waiting.popleft()
            cost += engine.begin + (0.0 if episode.task in self.read else engine.token * episode.row.prompt)
            self.read.add(episode.task)
            self.under_way += 1
            self._start(episode)
        return cost

    def _start(self, episode: _Episode) -> None:
        heapq.heappush(self.live, (self.step + episode.row.turns[episode.turn], episode.order, episode))

    def _decode(self) -> Process:
        """Run to the end of the next turn, or to the next answer, whichever comes first."""
        seconds, since = self.plan.engine.step(len(self.live)), self.env.now
        ahead = self.live[0][0] - self.step
        timer = self.env.timeout(ahead * seconds)
        if self.plan.driver == "lockstep":
            yield timer
        else:
            self.wake = self.env.event()
            yield timer | self.wake
        spent = self.env.now - since
        self.generating += spent
        self.step += ahead if timer.processed or not seconds else spent / seconds  # whole steps stay whole: rounding must not reorder rows
        finished = []
        while self.live and self.live[0][0] <= self.step + _ROUNDING:
            finished.append(heapq.heappop(self.live)[2])
        finished.sort(key=lambda episode: episode.order)
        yield from self._hand_over(finished)

    def _hand_over(self, finished: Sequence[_Episode]) -> Process:
        """Give finished turns to the worlds; after an episode's last turn nobody but the rollout's end waits for the answer."""
        going_on = [episode for episode in finished if not episode.last]
        for episode in finished:
            if episode.last:
                self.unfinished -= 1
                self.under_way -= 1
                self.grading.append(self.env.process(self._grade(episode)))
        if self.plan.driver == "lockstep":
            since = self.env.now
            yield self.env.all_of([self.env.process(self._act(episode)) for episode in going_on])
            self.stopped += self.env.now - since
            self._return(going_on)
        elif self.plan.driver == "batched":
            self.ended += going_on
            if going_on and not self.something_ended.triggered:
                self.something_ended.succeed()
        else:
            for episode in going_on:
                self.env.process(self._act_alone(episode))

    def _return(self, episodes: Sequence[_Episode]) -> None:
        for episode in episodes:
            episode.turn += 1
        self.answered.extend(episodes)
        if not self.wake.triggered:
            self.wake.succeed()

    def _collect(self) -> Process:
        """The driver of a server: takes what has ended, waits for all their answers, sends them on."""
        while self.unfinished:
            if not self.ended:
                self.something_ended = self.env.event()
                yield self.something_ended
            batch, self.ended = self.ended, []
            yield self.env.all_of([self.env.process(self._act(episode)) for episode in batch])
            self._return(batch)

    def _act(self, episode: _Episode) -> Process:
        with self.hosts.request() as worker:
            yield worker
            yield self.env.timeout(episode.answers[episode.turn])

    def _act_alone(self, episode: _Episode) -> Process:
        yield from self._act(episode)
        self._return([episode])

    def _grade(self, episode: _Episode) -> Process:
        yield from self._act(episode)
        self.ends.append(self.env.now)


class Simulation:
    """Steps of a run in virtual time.

    Args:
        plan: what to simulate.
        seed: of lengths and answers; a batch's draws depend on the seed and its number alone, so two plans that differ
            in machines see the same batches.

    Raises:
        ConfigError: SimPy is not installed.
    """

    def __init__(self, plan: Plan, seed: int = 0) -> None:
        try:
            import simpy
        except ImportError:
            raise ConfigError("the simulator needs SimPy: pip install 'sdgym-rl[simulate]'") from None
        self.plan, self.seed = plan, seed
        self.env = simpy.Environment()
        self.hosts = simpy.Resource(self.env, plan.worlds.hosts * plan.worlds.workers)
        self.steps: list[StepTime] = []

    def run(self, steps: int) -> list[StepTime]:
        """Simulate ``steps`` further steps and return all so far."""
        play = self._synchronous if self.plan.mode == "synchronous" else self._one_step_off
        self.env.run(self.env.process(play(len(self.steps), steps)))
        return self.steps

    def _synchronous(self, first: int, steps: int) -> Process:
        for number in range(first, first + steps):
            began = self.env.now
            rollout = _Rollout(self, number)
            yield self.env.process(rollout.play())
            yield self.env.process(self._update(rollout))
            yield self.env.timeout(self.plan.learner.push)
            self._record(began, rollout)

    def _one_step_off(self, first: int, steps: int) -> Process:
        rollout = _Rollout(self, first)
        yield self.env.process(rollout.play())
        for number in range(first, first + steps):
            began, following = self.env.now, _Rollout(self, number + 1)
            yield self.env.all_of([self.env.process(following.play()), self.env.process(self._update(rollout))])
            yield self.env.timeout(self.plan.learner.push)
            self._record(began, rollout)
            rollout = following

    def _update(self, rollout: _Rollout) -> Process:
        yield self.env.timeout(self._update_seconds(rollout.batch))

    def _update_seconds(self, batch: Sequence[Group]) -> float:
        return self.plan.learner.update(sum(map(len, batch)), trained_tokens(batch, self.plan.shared_prompts, self.plan.repeated))

    def _record(self, began: float, rollout: _Rollout) -> None:
        update, push = self._update_seconds(rollout.batch), self.plan.learner.push
        self.steps.append(StepTime(self.env.now - began, rollout.seconds, update, push, rollout.tokens, *rollout.shares()))


class _Rollout:
    """One batch on all replicas."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.env, self.plan = simulation.env, simulation.plan
        plan, rng = self.plan, generator(simulation.seed, "simulate", number)
        self.batch = plan.lengths.draw(rng, plan.tasks, plan.group)
        self.seconds = 0.0
        self.tokens = sum(row.sampled for group in self.batch for row in group)
        flat = [(task, row) for task, group in enumerate(self.batch) for row in group]
        answers = np.split(
            plan.worlds.draw(rng, sum(len(row.turns) for _, row in flat)), np.cumsum([len(row.turns) for _, row in flat])[:-1]
        )
        episodes = [_Episode(i, task, row, times.tolist()) for i, ((task, row), times) in enumerate(zip(flat, answers, strict=True))]
        blocks = np.array_split(np.arange(len(episodes)), plan.replicas)
        self.replicas = [_Replica(self.env, plan, simulation.hosts, [episodes[i] for i in block]) for block in blocks]

    def play(self) -> Process:
        """Run all replicas to their ends."""
        self.began = self.env.now
        yield self.env.all_of([self.env.process(replica.play()) for replica in self.replicas])
        self.seconds = self.env.now - self.began

    def shares(self) -> tuple[float, float, float]:
        """Return generating, waiting and tail of :class:`StepTime`."""
        whole = self.seconds * len(self.replicas) or 1.0
        ends = sorted(end - self.began for replica in self.replicas for end in replica.ends)
        most = ends[-(-9 * len(ends) // 10) - 1]
        generating, waiting = (sum(getattr(r, name) for r in self.replicas) / whole for name in ("generating", "stopped"))
        return generating, waiting, 1 - most / self.seconds if self.seconds else 0.0


def trained_tokens(batch: Sequence[Group], shared_prompts: bool = True, repeated: float = 0.0) -> int:
    """Return the tokens that an update reads: prompts, actions and observations."""
    rows = [row for group in batch for row in group]
    prompts = sum(group[0].prompt for group in batch) if shared_prompts else sum(row.prompt for row in rows)
    return round((1 - repeated) * (prompts + sum(row.sampled + sum(row.observed) for row in rows)))
