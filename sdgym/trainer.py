"""The training loop: rollouts, terms, updates, evaluation, checkpoints. It knows no algorithm and no world by name."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sdgym.algos.base import AnnotateContext, Batch, CollectContext, Phase, UpdateSchedule
from sdgym.buffer import RolloutBuffer
from sdgym.checkpoint import CheckpointStore, circumstances_now
from sdgym.config import OptimizerConfig, RunConfig, dump_config
from sdgym.core import LossTerm, Outcome, Task, Trajectory
from sdgym.evaluation import EvalReport, answer_key, eval_tasks, retained, run_evaluation, weighted_vote
from sdgym.files import unfinished
from sdgym.generation.base import SamplingParams
from sdgym.policy import Policy
from sdgym.recording import Recorder
from sdgym.rollout import Job, RolloutDriver
from sdgym.seeding import derive, generator
from sdgym.session import SecondPass, Session, turn_limit
from sdgym.tracking import Interrupt, Progress, RunFolder, Silent, tracker_metrics


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        folder: the run folder.
        steps: steps completed, over all resumptions.
        metrics: the last line of the metric log.
        signal: the signal that ended the run early, after saving; or 0.
    """

    folder: pathlib.Path
    steps: int
    metrics: dict[str, float]
    signal: int = 0

    @property
    def exit_code(self) -> int:
        """0, or 130 / 143 after SIGINT / SIGTERM."""
        return 128 + self.signal if self.signal else 0


class Trainer:
    """One run in one folder.

    Args:
        config: what to do.
        folder: an open run folder.
        progress: told about every step.
        resume: continue from the newest checkpoint (from the start, if there is none).
    """

    def __init__(self, config: RunConfig, folder: RunFolder, progress: Progress | None = None, resume: bool = False) -> None:
        self.config, self.folder, self.progress = config, folder, progress or Silent()
        self.session = Session(config, folder.path)
        self.store = CheckpointStore(folder.path / "checkpoints", config.checkpoint.keep)
        self.phases: list[Phase] = list(self.session.algorithm.phases)
        planned = [phase.steps for phase in self.phases if phase.steps is not None]
        self.total = min(config.steps, sum(planned)) if len(planned) == len(self.phases) else config.steps
        self.step = self._spent = 0
        self._clock = time.monotonic()
        self._last: dict[str, float] = {}
        if resume:
            self._restore()
        else:
            folder.write_text("config.yaml", dump_config(config))

    # ---- the loop -------------------------------------------------------------------------------

    def run(self) -> RunResult:
        """Train to the last step, or to the end of the step in which a signal arrives."""
        self.progress.start(self.folder.path.name, self.session.header(), self.step, self.total)
        self._start_trackers()
        try:
            with Interrupt() as interrupt:
                if self.step == 0:
                    self._log(self._evaluate_if_due())
                stop = self._agreed(interrupt.signal)
                while self.step < self.total and not stop:
                    metrics = self._train_step()
                    self.step += 1
                    self.session.world.settle(self.session.ledger)
                    self._end_if_spent()
                    self._log({**metrics, **self._evaluate_if_due(), **self._test_if_over()})
                    stop = self._agreed(interrupt.signal)
                    if self._is_due(self.config.checkpoint.every) or stop:
                        self._save()
                if self.step == self.total and self.session.world.main:
                    save_model(self.session.whole_policy, self.folder.path)
            return RunResult(self.folder.path, self.step, self._last, stop)
        finally:
            self.progress.finish()
            self.session.close()

    def _agreed(self, signal: int) -> int:
        """Return a signal that any process of the run has got: all stop after the same step."""
        return max(self.session.world.gather(signal))

    def _is_due(self, every: int) -> bool:
        return self.step == self.total or (every > 0 and self.step % every == 0)

    def _end_if_spent(self) -> None:
        """Make this step the last one if the budget is spent and the next one would sample more."""
        budget, (phase, _) = self.config.budget.sampled_tokens, self._place()
        if budget is not None and phase.samples and self.session.ledger.sampled_tokens >= budget:
            self.total = self.step

    def _place(self) -> tuple[Phase, int]:
        """Return the phase of the current step and the step's number in it."""
        start = 0
        for phase in self.phases:
            if phase.steps is None or self.step < start + phase.steps:
                break
            start += phase.steps
        return phase, self.step - start

    def _phase(self) -> tuple[Phase, int]:
        """Return the same, and enter the phase in its first step."""
        phase, number = self._place()
        if number == 0:
            if phase.on_enter is not None:
                phase.on_enter()
            self.session.teacher.on_phase_enter()
        return phase, number

    def _train_step(self) -> dict[str, float]:
        """One batch of rollouts and the updates made from it."""
        s, started = self.session, time.monotonic()
        phase, number = self._phase()
        self._spent = s.ledger.sampled_tokens
        kept, drawn = self._collect() if phase.rollouts else ([], [])
        reported = {"phase": float(self.phases.index(phase))} if len(self.phases) > 1 else {}
        context = self._context(reported)
        buffer = RolloutBuffer(kept)
        if phase.collect is not None and (kept or not phase.rollouts):
            buffer = RolloutBuffer(phase.collect(Batch(buffer.rows, buffer.groups()), self._collect_context(context)))
        sampled = time.monotonic()
        every = self.config.log.trajectories_every
        keep = bool(len(buffer) and every and self.step % every == 0)
        s.learner.recorder = recorder = Recorder(buffer.rows) if keep and s.world.size == 1 else None  # each process sees a share
        metrics = self._update(phase, number, buffer, context) if len(buffer) or not phase.rollouts else {"train/updates": 0.0}
        s.teacher.after_step()
        if metrics["train/updates"]:
            s.sampler.sync_weights()
        if keep and s.world.main:
            name = f"step_{self.step + 1:06d}.parquet"
            (self.folder.path / "trajectories").mkdir(exist_ok=True)
            buffer.save(self.folder.path / "trajectories" / name)
        if recorder is not None:
            recorder.save(self.folder.path / "tokens" / name, s.policy.chat)
        ended = time.monotonic()
        times = {"time/rollout": sampled - started, "time/update": ended - sampled}
        return {**rollout_metrics(drawn), **metrics, **{f"algo/{name}": value for name, value in reported.items()}, **times}

    def _update(self, phase: Phase, number: int, buffer: RolloutBuffer, context: AnnotateContext) -> dict[str, float]:
        """Build every objective that is due from the weights that made the rollouts, then take their optimizer steps in order."""
        batch = Batch(buffer.rows, buffer.groups())
        due = [extra for extra in phase.interleaved if extra.is_due(number)]
        context = dataclasses.replace(context, on_policy=phase.schedule.on_policy and not due)
        plans = [("", phase.annotate(batch, context), phase.schedule)]
        for extra in reversed(due):
            own = dataclasses.replace(context, rng=generator(self.config.seed, "annotate", self.step, extra.name))
            plans.insert(0, (extra.name, extra.annotate(batch, own), extra.schedule))
        metrics: dict[str, float] = {}
        updates = 0.0
        for name, terms, schedule in plans:
            parts = self._parts(buffer, terms, schedule)
            found = self.session.learner.update(terms, buffer.rows, parts, self._learning_rate)
            updates += found["train/updates"]
            metrics |= {key if not name or key.startswith("loss/") else f"{name}/{key}": value for key, value in found.items()}
        return {**metrics, "train/updates": updates}

    def _context(self, reported: dict[str, float]) -> AnnotateContext:
        s = self.session
        return AnnotateContext(
            step=self.step,
            chat=s.policy.chat,
            rng=generator(self.config.seed, "annotate", self.step),
            score=s.learner.score,
            on_policy=True,
            max_context=s.policy.context_limit,
            report=reported.__setitem__,
        )

    def _collect_context(self, context: AnnotateContext) -> CollectContext:
        s, here = self.session, self.session.training(self.step)
        draw = SecondPass(here.driver, here.sampling, self.step, s.learner.updates, lambda: self._tasks(self.config.tasks_per_step))
        fields = {field.name: getattr(context, field.name) for field in dataclasses.fields(context)}
        return CollectContext(**fields | {"rng": generator(self.config.seed, "collect", self.step)}, draw=draw)

    def _tasks(self, count: int, attempt: int = 0) -> list[Task]:
        """Draw the tasks of this step; each further ``attempt`` draws others."""
        seed, here = derive(self.config.seed, "tasks", self.step, attempt) >> 16, self.session.training(self.step)
        return list(here.env.unwrapped.tasks(here.split, seed, count))

    def _collect(self) -> tuple[list[Trajectory], list[Trajectory]]:
        """Return the rows of accepted groups and all rows drawn; rejected groups are drawn again, a bounded number of times."""
        s, wanted, here = self.session, self.config.tasks_per_step, self.session.training(self.step)
        kept: list[Trajectory] = []
        drawn: list[Trajectory] = []
        for attempt in range(1 + self.config.max_resamples):
            missing = wanted - len(kept) // s.group_size
            if not missing:
                break
            tasks = self._tasks(missing, attempt)
            job = Job("train", self.step, first_group=attempt * wanted, policy_version=s.learner.updates)
            rows = here.driver.collect(tasks, s.group_size, here.sampling, job)
            drawn += rows
            for start in range(0, len(rows), s.group_size):
                group = rows[start : start + s.group_size]
                if s.algorithm.accept_group(group):
                    kept += group
                else:
                    s.ledger.discarded_tokens += sum(row.action_length for row in group) * s.world.main
        return kept, drawn

    def _parts(self, buffer: RolloutBuffer, terms: Sequence[LossTerm], schedule: UpdateSchedule) -> list[list[int]]:
        """Cut the batch into optimizer steps: whole groups (without any, the rows of the terms), in a new order for each epoch."""
        rng = None if schedule.on_policy else generator(self.config.seed, "minibatches", self.step)
        if len(buffer):
            return [part for _ in range(schedule.epochs) for part in buffer.batches(schedule.minibatches, rng)]
        rows = np.array(sorted({item.view.row for term in terms for item in term.items}), np.int64)
        orders = [rows if rng is None else rng.permutation(rows) for _ in range(schedule.epochs)]
        return [part.tolist() for order in orders for part in np.array_split(order, schedule.minibatches) if len(part)]

    def _learning_rate(self, updates: int) -> float:
        """Return the rate after so many updates; it decays over the budget as spent before this step, or over the steps."""
        budget = self.config.budget.sampled_tokens if self._place()[0].samples else None
        done, end = (self.step, self.total) if budget is None else (self._spent, budget)
        return learning_rate(self.config.optimizer, updates, min(done, end), end)

    # ---- evaluation and logs --------------------------------------------------------------------

    def _evaluate_if_due(self) -> dict[str, float]:
        if not self._is_due(self.config.eval.every) and self.step != 0:
            return {}
        return self._evaluate(self.config.eval.split, self.config.eval.tasks, "eval")

    def _test_if_over(self) -> dict[str, float]:
        if self.step < self.total or not self.config.eval.test_tasks:
            return {}
        return {**self._evaluate("test", self.config.eval.test_tasks, "test"), **self._retention()}

    def _evaluate(self, split: str, count: int, prefix: str) -> dict[str, float]:
        s, started = self.session, time.monotonic()
        report = self._play(s.env.unwrapped, s.driver, s.sampling.max_tokens, split, count)
        self.folder.append("eval.jsonl", report.records(step=self.step))
        return {**report.metrics(prefix), **self._vote(report, prefix), f"time/{prefix}": time.monotonic() - started}

    def _vote(self, report: EvalReport, prefix: str) -> dict[str, float]:
        """Return vote@k where the algorithm has a vote of its own (:meth:`sdgym.algos.base.Algorithm.confidence`); charged to nobody."""
        s, samples = self.session, self.config.eval.samples
        rows = report.rows[: len(report.items) * samples]
        context = dataclasses.replace(self._context({}), score=lambda views: s.learner.score(views, charge=False))
        weights = s.algorithm.confidence(rows, context)
        if weights is None:
            return {}
        return {f"{prefix}/vote@{samples}": weighted_vote(rows, samples, answer_key(s.env.unwrapped), weights)}

    def _retention(self) -> dict[str, float]:
        """Return success on the ``test`` tasks of the worlds that this run was not trained in."""
        found: dict[str, float] = {}
        started = time.monotonic()
        for world in self.config.untrained:
            with self.session.elsewhere(world) as (env, driver):
                limit = turn_limit(env, str(getattr(env.unwrapped, "level", "")))
                report = retained(self._play(env.unwrapped, driver, limit, "test", self.config.eval.test_tasks), world.label)
            self.folder.append("eval.jsonl", report.records(step=self.step))
            found[f"eval/retention/{world.label}"] = report.success
        return {**found, "time/retention": time.monotonic() - started} if found else {}

    def _play(self, world: Any, driver: RolloutDriver, max_tokens: int, split: str, count: int) -> EvalReport:
        """Evaluate the policy as it is on ``count`` tasks of ``split`` of ``world``; charged as evaluation."""
        c = self.config.eval
        report: EvalReport = run_evaluation(
            driver,
            eval_tasks(world, split, c.seed, count),
            c.samples,
            SamplingParams(temperature=c.temperature, max_tokens=max_tokens),
            split=split,
            seed=c.seed,
            key=answer_key(world),
            policy_version=self.session.learner.updates,
        )
        self.session.world.settle(self.session.ledger)
        return report

    def _log(self, metrics: Mapping[str, float]) -> None:
        """Write one line of the metric log, the ledger, and tell trackers and progress."""
        seconds = time.monotonic() - self._clock
        line = {"step": self.step, "seconds": seconds, **metrics, **self.session.ledger.metrics()}
        self._last = {key: float(value) for key, value in line.items()}
        self.folder.append("metrics.jsonl", [line])
        self.folder.write_json("ledger.json", self.session.ledger.summary())
        if self.config.log.trackers:
            self.session.accelerator.log(tracker_metrics(line, self.config.log.trackers), step=self.step)
        self.progress.advance(self.step, self._last)

    def _start_trackers(self) -> None:
        if self.config.log.trackers:
            flat = {"config": dump_config(self.config)}
            self.session.accelerator.init_trackers("sdgym", config=flat)

    # ---- checkpoints ----------------------------------------------------------------------------

    def _save(self) -> None:
        """Write a checkpoint. Between steps no rollout is pending, so the buffer is empty and episodes need no state."""
        s = self.session
        tree = {
            "step": self.step,
            "seconds": time.monotonic() - self._clock,
            "learner": s.learner.state_dict(),
            "algorithm": s.algorithm.state_dict(),
            "ledger": s.ledger.state_dict(),
            "logs": self.folder.sizes(),
            "metrics": self._last,
        }
        if s.world.main:
            self.store.save(self.step, tree, self._circumstances())

    def _restore(self) -> None:
        """Take over the newest checkpoint and bring the logs back to it."""
        self.store.clean()
        steps = self.store.steps()
        if not steps:
            self.folder.rewind(0, {})
            return
        tree, circumstances = self.store.load(steps[-1])
        self.store.prune()  # a process that died between saving and dropping has left one too many
        now = {**circumstances_now(), **self._circumstances()}
        changed = [f"{key}: {circumstances.get(key)} then, {now[key]} now" for key in now if circumstances.get(key) != now[key]]
        if changed:
            warnings.warn(f"resuming under other circumstances, so equal bits are not promised ({'; '.join(changed)})", stacklevel=2)
        s = self.session
        s.learner.load_state_dict(tree["learner"])
        s.algorithm.load_state_dict(tree["algorithm"])
        s.ledger.load_state_dict(tree["ledger"])
        s.world.mark(s.ledger)
        s.sampler.sync_weights()
        self.step, self._last = tree["step"], tree["metrics"]
        self._clock = time.monotonic() - tree["seconds"]
        self._end_if_spent()
        self.folder.rewind(self.step, tree["logs"])

    def _circumstances(self) -> dict[str, Any]:
        processes = self.session.world.size
        several = {"processes": processes} if processes > 1 else {}
        return {"device": self.session.device, "threads": self.config.threads, **several}


def save_model(policy: Policy, folder: pathlib.Path) -> None:
    """Write ``model/``, the last thing that a run does: where it is there, it is whole and the run is over."""
    final = folder / "model"
    temporary = unfinished(final)
    shutil.rmtree(temporary, ignore_errors=True)
    policy.save(temporary)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)


def learning_rate(config: OptimizerConfig, updates: int, step: int, total: int) -> float:
    """Return the rate of the next update: linear warm-up over ``config.warmup`` updates, then a decay over the run's steps."""
    warm = min(1.0, (updates + 1) / config.warmup) if config.warmup else 1.0
    done = step / max(1, total)
    decay = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[config.schedule]
    return config.lr * warm * decay


def rollout_metrics(rows: Sequence[Trajectory]) -> dict[str, float]:
    """Return ``train/*`` of everything that was drawn, rejected groups included; errored rows count only as errored."""
    if not rows:
        return {}
    usable = [row for row in rows if row.usable]
    out = {
        "train/errored": 1.0 - len(usable) / len(rows),
        "limits_fired": float(sum(row.outcome is Outcome.TIMEOUT for row in rows)),
    }
    if usable:
        out |= {
            "train/reward": float(np.mean([row.reward for row in usable])),
            "train/success": float(np.mean([row.success for row in usable])),
            "train/solved_groups": len({row.group_id for row in usable if row.success}) / len({row.group_id for row in usable}),
            "train/length": float(np.mean([row.action_length for row in usable])),
            "train/turns": float(np.mean([len(row.actions) for row in usable])),
            "train/truncated": float(np.mean([row.truncated_tokens for row in usable])),
        }
    return out
