"""Teacher lift: does the policy solve more when it reads what its teacher would read? Measured before an arm runs.

A teacher that solves no more than its student has nothing to teach, however good the method. Per task the policy
attempts a group of rollouts; the arm's conditioner tells about one of them what it would tell in training (a peer's
success, the feedback on this failure, the reference …); then the policy plays the task afresh, once plain and once
under that prompt, with the same noise. Comparing with a *fresh* plain attempt matters: the attempt that the feedback
speaks of was selected for having failed. Lift is the mean difference over the tasks that were told something. An
external teacher plays with its own weights.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from sdgym.algos.presets import build_algorithm
from sdgym.benchmarks.head_to_head.machine import Machine, last_words
from sdgym.benchmarks.head_to_head.suite import Arm, Suite
from sdgym.benchmarks.head_to_head.trials import code_hash, obstacle
from sdgym.core import content_hash
from sdgym.report.lifts import Lift, read_lift

if TYPE_CHECKING:
    from sdgym.config import RunConfig

SPLIT = "val"  # the test tasks are read once, at the end
SEED = 500_000  # of tasks and noise, away from those of evaluations
ITEMS = "items.jsonl"


def has_teacher(suite: Suite, arm: Arm) -> bool:
    """Whether ``arm`` is a treatment whose algorithm conditions a teacher on text."""
    return arm.control_of is None and bool(conditioners(suite.trial_settings(arm, suite.envs[0], 0)))


def conditioners(settings: Mapping[str, Any]) -> list[Any]:
    """Return what the algorithm of a resolved run config shows its teachers."""
    algo = settings["algo"]
    return [c for c in build_algorithm(algo["name"], algo["overrides"]).conditioners if hasattr(c, "views")]


def external_teacher(settings: Mapping[str, Any]) -> str:
    """Return the model that teaches in a resolved run config, "" where the policy's own weights do."""
    algo = settings["algo"]
    weights = build_algorithm(algo["name"], algo["overrides"]).teacher_weights
    return weights.model if weights is not None and weights.kind == "external" else ""


def identity(conditioner: Any) -> Any:
    """Return plain data that two conditioners share if and only if they tell the same."""
    own = {k: identity(v) if hasattr(v, "__dict__") else v for k, v in sorted(vars(conditioner).items())}
    return [type(conditioner).__module__, type(conditioner).__qualname__, own]


def lift_key(settings: Mapping[str, Any], tasks: int) -> str:
    """Identify a measurement by policy, environment, sampling, conditioners and code; methods that tell the same share it."""
    told = [identity(conditioner) for conditioner in conditioners(settings)] + [external_teacher(settings)]
    parts = {name: settings[name] for name in ("model", "env", "sampling", "device", "group_size")}
    code = {"code": code_hash(), "lift": pathlib.Path(__file__).read_text(encoding="utf-8")}  # the former leaves benchmarks out
    return content_hash(json.loads(json.dumps({**parts, "told": told, "tasks": tasks, **code}, default=repr)))


def measure_lifts(suite: Suite, folder: pathlib.Path, machine: Machine, notice: Callable[[str], None]) -> list[Lift]:
    """Measure what has not been measured yet, tell each result in one line, and return all of them.

    A measurement that fails is told and left out; it does not stop the comparison.
    """
    wanted = list(_wanted(suite, folder))
    missing = {place: settings for *_, place, settings in wanted if not (place / ITEMS).is_file()}
    if missing:
        notice(f"measuring the lift of {len(missing)} kinds of teacher on {suite.lift_tasks} tasks each")
    jobs = {place: _prepare(place, settings, suite.lift_tasks) for place, settings in missing.items()}
    for left, (place, code) in zip(reversed(range(len(jobs))), machine.run(jobs), strict=True):
        if code:
            notice(f"teacher lift could not be measured: {last_words(place)}; see {place}")
        elif left:
            notice(f"teacher lift: {left} measurements left")
    found = [lift for arm, name, place, _ in wanted if (place / ITEMS).is_file() for lift in read_lift(place / ITEMS, arm.name, name)]
    for lift in found:
        notice(lift.sentence())
    return found


def _wanted(suite: Suite, folder: pathlib.Path) -> Iterator[tuple[Arm, str, pathlib.Path, dict[str, Any]]]:
    for world in suite.envs:
        for policy in suite.policies:
            for arm in suite.arms:
                if suite.lift_tasks and has_teacher(suite, arm) and obstacle(suite, arm, world) is None:
                    settings = suite.trial_settings(arm, world, 0, policy)
                    yield arm, suite.place(world, policy), lift_folder(folder, settings, suite.lift_tasks), settings


def lift_folder(folder: pathlib.Path, settings: Mapping[str, Any], tasks: int) -> pathlib.Path:
    """Return where the measurement for ``settings`` lies below a comparison's folder."""
    return folder / "lifts" / lift_key(settings, tasks)[:16]


def lift_files(suite: Suite, folder: pathlib.Path) -> list[list[str]]:
    """Return ``[arm, place, file relative to folder]`` of every measurement that is there."""
    return [
        [arm.name, name, (place / ITEMS).relative_to(folder).as_posix()]
        for arm, name, place, _ in _wanted(suite, folder)
        if (place / ITEMS).is_file()
    ]


def _prepare(place: pathlib.Path, settings: Mapping[str, Any], tasks: int) -> list[str]:
    """Return the arguments of the measurement, with its settings in ``place``."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "settings.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False), encoding="utf-8")
    return ["-m", "sdgym.benchmarks.head_to_head.lift", str(place), str(tasks)]


def measure(config: RunConfig, folder: pathlib.Path, tasks: int) -> list[dict[str, Any]]:
    """Play it out and return per-item records: task, conditioner, success of student and teacher (None where nothing was told)."""
    from sdgym.algos.base import AnnotateContext, Batch
    from sdgym.evaluation import eval_tasks
    from sdgym.rollout import Job
    from sdgym.seeding import derive, generator
    from sdgym.session import Session

    session = Session(config, folder)
    model = external_teacher(config.model_dump())
    teacher = Session(config.model_copy(update={"model": model}), folder) if model else session
    try:
        group, job = session.group_size, Job("lift-attempts", 0, evaluation=True, seed=derive(SEED, "lift"))
        asked = eval_tasks(session.env.unwrapped, SPLIT, SEED, tasks)
        rows = session.driver.collect(asked, group, session.sampling, job)
        batch = Batch(rows, [list(range(i * group, (i + 1) * group)) for i in range(len(asked))])
        context = AnnotateContext(
            0, session.policy.chat, generator(SEED, "lift"), session.learner.score, True, session.policy.context_limit
        )
        again = dataclasses.replace(job, stream="lift")
        records = []
        for conditioner in [c for c in session.algorithm.conditioners if hasattr(c, "views")]:
            views = conditioner.views(batch, context)
            chosen = [next((i for i in members if views[i] is not None), None) for members in batch.groups]
            prompts = {g: views[i][0].prefix_ids for g, i in enumerate(chosen) if i is not None}
            told = [asked[g] for g in prompts]
            plain = session.driver.collect(told, 1, session.sampling, again) if told else []
            shown = teacher.driver.collect(told, 1, session.sampling, again, list(prompts.values())) if told else []
            pairs = {g: (s.success, t.success) for g, s, t in zip(prompts, plain, shown, strict=True) if s.usable and t.usable}
            for g, task in enumerate(asked):
                first, second = pairs.get(g, (None, None))
                records.append({"kind": conditioner.kind, "task_id": task.task_id, "student": first, "teacher": second})
        return records
    finally:
        session.close()
        if teacher is not session:
            teacher.close()


def main(folder: pathlib.Path, tasks: int) -> None:
    """Measure the settings in ``folder`` and leave the per-item records beside them, all or none."""
    from sdgym.config import make_config
    from sdgym.trees import read_yaml

    records = measure(make_config(read_yaml(folder / "settings.yaml")), folder, tasks)
    partial = folder / (ITEMS + ".part")
    partial.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    partial.replace(folder / ITEMS)


if __name__ == "__main__":
    from sdgym.api import quiet_threads

    quiet_threads()
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
