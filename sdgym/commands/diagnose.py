"""``sdgym algos diagnose``: does a teacher's gradient point where the reward does?"""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdgym.commands import options as o

if TYPE_CHECKING:
    from sdgym.diagnose import Group, ProbeSettings, State
    from sdgym.policy import Policy

Model = Annotated[str, typer.Argument(help="Run folder, or a model: embedded, fetched, Hugging Face id, folder.", metavar="RUN")]


def diagnose(
    run: Model,
    env: Annotated[str, typer.Option("--env", help="Environment id.")] = "sdgym/Math-v0",
    conditioner: Annotated[str, typer.Option("--conditioner", help="What the teacher reads.", metavar="C")] = "reference",
    control: Annotated[str, typer.Option("--control", help="none, or P0 to P3 instead of the real text.")] = "none",
    step: Annotated[int | None, typer.Option("--step", help="A checkpoint of the run instead of its final model.")] = None,
    teacher: Annotated[str | None, typer.Option("--teacher", help="Model whose weights the teacher has [RUN's own].", metavar="M")] = None,
    tasks: Annotated[int, typer.Option("--tasks", help="Tasks.")] = 24,
    samples: Annotated[int, typer.Option("--samples", help="Rollouts per task.")] = 4,
    positions: Annotated[int, typer.Option("--positions", help="Prefixes per rollout.")] = 4,
    candidates: Annotated[int, typer.Option("--candidates", help="Tokens forced at each prefix.")] = 4,
    branches: Annotated[int, typer.Option("--branches", help="Continuations of each.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON and write no page.")] = False,
    device: o.Device = None,
    threads: o.Threads = None,
    seed: o.Seed = None,
    level: o.Level = None,
    split: o.Split = None,
    data: o.Data = None,
    out: o.Out = None,
) -> None:
    """Measure where a distillation gradient agrees with the reward's, by forcing tokens and finishing the answers."""
    from sdgym.diagnose import ProbeSettings, groups
    from sdgym.errors import ConfigError

    if tasks < 1:
        raise ConfigError(f"--tasks must be at least 1, got {tasks}")
    if step is not None and not (pathlib.Path(run) / "config.yaml").is_file():
        raise ConfigError(f"--step chooses a checkpoint of a run, and {run!r} is no run folder: leave --step out")
    settings = ProbeSettings(samples, positions, candidates, branches, seed or 0)
    o.allow_local_modules(env)
    kwargs = {"level": level, "data": None if data is None else str(data), "split": split or "val"}
    policy, other = _models(run, step, teacher, device, threads)
    states = _measure(policy, other, env, conditioner, control, tasks, settings, {k: v for k, v in kwargs.items() if v is not None})
    table = groups(states)
    if as_json:
        typer.echo(json.dumps([_record(group) for group in table], indent=2))
        return
    _show(table)
    facts = {
        "model": run if step is None else f"{run} at step {step}",
        "world": env,
        "teacher reads": f"{conditioner}{'' if control == 'none' else f' ({control})'}",
    }
    facts |= {"teacher weights": teacher or "the same", "tasks": str(tasks), "branches": str(branches), "seed": str(settings.seed)}
    typer.echo(f"page: {_write(table, facts, run, out)}")


def _models(run: str, step: int | None, teacher: str | None, device: str | None, threads: int | None) -> tuple[Policy, Policy]:
    from sdgym.policy import Policy
    from sdgym.session import pick_device

    place = pick_device(device or "auto")
    folder = pathlib.Path(run)
    is_run = (folder / "config.yaml").is_file()
    policy = _policy_of_run(folder, step, place, threads or 1) if is_run else Policy.load(run, place, "float32", threads or 1)
    if teacher is None:
        return policy, policy
    other = Policy.load(teacher, place, "float32", threads or 1)
    _same_tokens(policy, other, teacher)
    return policy, other


def _policy_of_run(folder: pathlib.Path, step: int | None, device: str, threads: int) -> Policy:
    """Return the final model of a run, or the policy of one of its checkpoints."""
    import torch

    from sdgym.checkpoint import CheckpointStore
    from sdgym.config import make_config
    from sdgym.errors import RunFolderError
    from sdgym.policy import Policy
    from sdgym.trees import read_yaml

    if step is None and (folder / "model").is_dir():
        return Policy.load(str(folder / "model"), device, "float32", threads)
    store = CheckpointStore(folder / "checkpoints")
    steps = store.steps()
    chosen = steps[-1] if step is None and steps else step
    if chosen not in steps or chosen is None:
        raise RunFolderError(f"the run in {str(folder)!r} has no such model: its checkpoints are of the steps {steps or 'none'}")
    policy = Policy.load(make_config(read_yaml(folder / "config.yaml")).model, device, "float32", threads)
    weights, own = store.load(chosen)[0]["learner"]["weights"], dict(policy.model.named_parameters())
    if set(weights) != set(own):
        raise RunFolderError(f"the checkpoints in {str(folder)!r} hold an adapter, not a whole model; use the model of the finished run")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    return policy


def _same_tokens(policy: Policy, other: Policy, name: str) -> None:
    from sdgym.errors import ConfigError

    if policy.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise ConfigError(f"the teacher {name!r} has another tokenizer than the policy, so their tokens cannot be compared")


def _measure(
    policy: Policy, teacher: Policy, env: str, conditioner: str, control: str, tasks: int, settings: ProbeSettings, kwargs: dict[str, Any]
) -> list[State]:
    from sdgym.algos.conditioning import conditioners
    from sdgym.diagnose import Replayed, probe
    from sdgym.errors import DataError
    from sdgym.evaluation import eval_tasks
    from sdgym.generation.base import SamplingParams
    from sdgym.ledger import Ledger
    from sdgym.rollout import RolloutDriver
    from sdgym.session import make_env, make_sampler, turn_limit

    told = conditioners.get(conditioner)(control=control)  # type: ignore[arg-type]
    world = make_env(env, **kwargs).unwrapped
    sampling = SamplingParams(max_tokens=turn_limit(world, str(getattr(world, "level", ""))))
    chosen = eval_tasks(world, str(kwargs["split"]), settings.seed, tasks)
    sampler = make_sampler(policy, 256)
    policy.chat = policy.chat.with_tools(getattr(world, "tools", None))
    with RolloutDriver(lambda: Replayed(make_env(env, **kwargs)), policy.chat, sampler, Ledger(), settings.seed) as driver:
        states = probe(policy, teacher, world, driver, told, chosen, sampling, settings)
    world.close()
    if not states:
        raise DataError(f"the conditioner {conditioner!r} has nothing to tell about {tasks} tasks of {env}: choose another, or more tasks")
    return states


def _show(table: list[Group]) -> None:
    from rich.console import Console
    from rich.table import Table

    from sdgym.diagnose.page import HEAD, cells

    shown = Table(*HEAD, box=None, header_style="bold")
    for group in table:
        shown.add_row(*cells(group))
    console = Console()
    (Console(width=140) if console.width < 120 else console).print(shown)


def _write(table: list[Group], facts: dict[str, str], run: str, out: pathlib.Path | None) -> pathlib.Path:
    from sdgym.diagnose.page import page

    folder = out or (pathlib.Path(run) if (pathlib.Path(run) / "config.yaml").is_file() else pathlib.Path("."))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "alignment.html"
    path.write_text(page(table, facts), encoding="utf-8")
    records = {"facts": facts, "groups": [_record(group) for group in table]}
    path.with_suffix(".json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")  # the report of a run shows it
    return path


def _record(group: Group) -> dict[str, Any]:
    import dataclasses
    import math

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return dict(plain(dataclasses.asdict(group)))
