"""The Python interface: ``sdgym.make``, ``train``, ``evaluate``, ``compare``, ``register_env``, ``register_algorithm``."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdgym.config import AlgoConfig, RunConfig, make_config
from sdgym.errors import ConfigError, RunFolderError
from sdgym.files import storage_error
from sdgym.trees import differences, merge, parse_set, read_yaml

if TYPE_CHECKING:
    from sdgym.evaluation import EvalReport
    from sdgym.policy import Policy
    from sdgym.tracking import Progress
    from sdgym.trainer import RunResult


def quiet_threads() -> None:
    """Let idle OpenMP threads sleep instead of spin (12× faster on a busy two-core machine).

    Counts only before torch is imported; a value already in the environment stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


quiet_threads()


def make(env_id: str, **kwargs: Any) -> Any:
    """Make an environment, those of plugins included.

    Raises:
        UnknownNameError: no such environment, level or split, with the nearest name.
        ConfigError: the environment does not take one of ``kwargs``.
    """
    from sdgym.session import make_env

    return make_env(env_id, **kwargs)


def train(
    algo: str | None = None,
    env: str | Mapping[str, Any] | None = None,
    *,
    out: str | pathlib.Path | None = None,
    resume: bool = False,
    config: str | pathlib.Path | None = None,
    set: Sequence[str] = (),
    paper: bool = False,
    progress: Progress | bool = False,
    **settings: Any,
) -> RunResult:
    """Train a policy and leave everything in a run folder.

    Args:
        algo: name of an algorithm or preset.
        env: environment id, or a mapping of `id` and what the environment is made with (`level`, `split` …).
        out: run folder; default ``runs/<algo>-<environment>-s<seed>``.
        resume: continue the run in ``out``; other arguments may be left out but must not contradict it.
        config: YAML file, below every argument.
        set: ``key=value`` overrides with dots, above every argument.
        paper: below everything else, take the optimizer, sampling and batch sizes of the preset's source. They belong
            to large models; without it the defaults suit the embedded policies.
        progress: False tells nobody, True draws a bar, or an object with the methods of ``Progress``.
        **settings: keys of :class:`sdgym.config.RunConfig`, sections as mappings:
            ``steps=50, optimizer={"lr": 1e-3}``.

    Returns:
        The folder, the last metrics and, if a signal ended the run early, which.

    Raises:
        UserError: names, settings or folders that cannot work; ``paper`` for a preset whose source gives no such values.
        NumericalError: a loss or gradient became NaN; the last good checkpoint is kept.
    """
    tree = settings_tree(algo=algo, env=env, config=config, sets=set, **settings)
    if paper:
        tree = above_paper(tree)
    chosen, folder_path = choose_run(tree, out, resume)
    from sdgym.parallel import environment_rank
    from sdgym.tracking import Console, Onlooker, RunFolder, Silent
    from sdgym.trainer import Trainer

    rank = environment_rank()
    told = (Console() if progress and rank == 0 else Silent()) if isinstance(progress, bool) else progress
    folder = RunFolder(folder_path, resume) if rank == 0 else Onlooker(folder_path)
    try:
        return Trainer(chosen, folder, told, resume).run()
    except Exception as error:  # raised again unless it is the disk's
        refused = storage_error(error, folder_path)
        if refused is None:
            raise
        raise refused from error
    finally:
        folder.close()


def settings_tree(
    *,
    algo: str | None = None,
    env: str | Mapping[str, Any] | None = None,
    config: str | pathlib.Path | None = None,
    sets: Sequence[str] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Merge a YAML file, named settings that are not None, and ``key=value`` strings, in this order."""
    tree = read_yaml(config) if config is not None else {}
    named = {"algo": algo, "env": env, **settings}
    tree = merge(tree, {key: value for key, value in named.items() if value is not None})
    for text in sets:
        tree = merge(tree, parse_set(text))
    return tree


def above_paper(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``tree`` over the run settings of its preset's source. Raises :class:`ConfigError` if none are recorded."""
    from sdgym.algos.presets import paper_run

    algo = AlgoConfig.model_validate(tree.get("algo", {}))
    base = paper_run(algo.name)
    if not base:
        raise ConfigError(
            f"no source's run settings are recorded for {algo.name!r} (see `sdgym algos show {algo.name}`); leave --paper out"
        )
    return merge(base, {**tree, "algo": {"name": algo.name, **algo.overrides}})


def choose_run(tree: dict[str, Any], out: str | pathlib.Path | None, resume: bool) -> tuple[RunConfig, pathlib.Path]:
    """Return the config and the folder of a run.

    Raises:
        ConfigError: a setting cannot work.
        RunFolderError: ``resume`` with arguments that contradict the run in ``out``, or without a run.
    """
    fresh = make_config(tree)
    slug = fresh.env.id.rsplit("/", 1)[-1].lower()
    folder = pathlib.Path(out) if out is not None else pathlib.Path("runs") / f"{fresh.algo.name}-{slug}-s{fresh.seed}"
    if not resume:
        return fresh, folder
    stored_file = folder / "config.yaml"
    if not stored_file.is_file():
        raise RunFolderError(f"{str(folder)!r} holds no run to resume (no config.yaml); start one without --resume")
    stored = read_yaml(stored_file)
    asked = make_config(merge(stored, tree))
    conflicts = list(differences(make_config(stored).model_dump(mode="json"), asked.model_dump(mode="json")))
    if conflicts:
        raise RunFolderError(f"--resume continues the run in {str(folder)!r} as it was started, but {conflicts[0]}; leave the argument out")
    return asked, folder


def evaluate(
    model: str | Policy = "tiny",
    env: str = "sdgym/Math-v0",
    *,
    episodes: int = 128,
    samples: int = 4,
    split: str = "test",
    temperature: float = 1.0,
    max_tokens: int | None = None,
    greedy: bool = True,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    max_live: int = 256,
    **env_kwargs: Any,
) -> EvalReport:
    """Measure a policy on held-out tasks.

    Args:
        model: name, Hugging Face id or path, a loaded policy, or an OpenAI-compatible endpoint (``openai:URL`` or
            ``openai:URL#model``; its key in ``$OPENAI_API_KEY``).
        env: environment id; ``env_kwargs`` (``level=`` …) go to it.
        episodes: number of tasks.
        samples: rollouts per task at ``temperature``, besides one greedy rollout.
        split: whose tasks.
        temperature, max_tokens: of sampling; ``max_tokens`` None takes the environment's own limit.
        greedy: whether to take the greedy rollout.
        seed: of tasks and noise.
        device, threads: see :class:`sdgym.config.RunConfig`.
        max_live: episodes in flight at once.

    Returns:
        Per-item records; ``report.metrics()`` has the summary.
    """
    for name, value in (("episodes", episodes), ("samples", samples), ("threads", threads), ("max_live", max_live)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature must be a positive number, got {temperature}; the greedy rollout is separate")
    from sdgym.evaluation import answer_key, eval_tasks, run_evaluation
    from sdgym.generation.base import SamplingParams
    from sdgym.ledger import Ledger
    from sdgym.rollout import RolloutDriver
    from sdgym.session import make_env, turn_limit

    probe = make_env(env, **{"split": split, **env_kwargs})
    chat, sampler, least = _speaker(model, device, threads, max_live)
    limit = max_tokens or max(least, turn_limit(probe, str(getattr(probe.unwrapped, "level", ""))))
    sampling = SamplingParams(temperature=temperature, max_tokens=limit)
    tasks = eval_tasks(probe.unwrapped, split, seed, episodes)
    chat = chat.with_tools(getattr(probe.unwrapped, "tools", None))
    try:
        with RolloutDriver(lambda: make_env(env, **{"split": split, **env_kwargs}), chat, sampler, Ledger(), seed, max_live) as driver:
            key = answer_key(probe.unwrapped)
            return run_evaluation(driver, tasks, samples, sampling, split=split, seed=seed, key=key, greedy=greedy)
    finally:
        probe.close()
        if hasattr(sampler, "close"):
            sampler.close()


def _speaker(model: str | Policy, device: str, threads: int, slots: int) -> tuple[Any, Any, int]:
    """Return the chat format and the sampler of a model or endpoint, and the tokens per turn it should have at least."""
    from sdgym.generation.chat_endpoint import MAX_TOKENS, ByteChat, EndpointSampler, is_endpoint
    from sdgym.policy import Policy
    from sdgym.session import make_sampler, pick_device

    if isinstance(model, str) and is_endpoint(model):
        return ByteChat(), EndpointSampler(model), MAX_TOKENS
    policy = model if isinstance(model, Policy) else Policy.load(model, pick_device(device), "float32", threads)
    return policy.chat, make_sampler(policy, slots), 0


def compare(suite: str = "quick", **settings: Any) -> Any:
    """Run a suite of algorithms × environments × seeds and report; see :func:`sdgym.benchmarks.head_to_head.run_suite`."""
    from sdgym.benchmarks.head_to_head import run_suite

    return run_suite(suite, **settings)


def register_env(env_id: str, target: str) -> None:
    """Register the environment class ``target`` ("package.module:Class") under ``env_id`` ("namespace/Name-v0")."""
    from sdgym.envs import register

    namespace, slash, name = env_id.partition("/")
    if not (slash and namespace and name) or ":" not in target:
        raise ConfigError(f"register_env takes 'namespace/Name-v0' and 'package.module:Class', got {env_id!r} and {target!r}")
    register(env_id, target)


def register_algorithm(name: str, target: Any, *, replace: bool = False) -> None:
    """Register an :class:`sdgym.algos.base.Algorithm` subclass, or ``"package.module:Class"``, under ``name``."""
    from sdgym.algos import algorithms

    algorithms.register(name, target, replace=replace)
