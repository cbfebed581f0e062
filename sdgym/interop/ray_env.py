"""Worlds and their sandboxes on other machines: the episodes of any environment played by Ray actors.

``--env sdgym.interop.ray_env:sdgym/Remote-v0 --set env.world=sdgym/Code-v0 --set env.workers=32`` trains as ``--env sdgym/Code-v0``
would, bit for bit; tasks are made here, while actions are answered (programs run, answers graded) wherever Ray puts the workers.
A worker holds many episodes at once, of any world. When it or its node dies, a new one takes its place, and each episode is set up
there by repeating its actions, which needs what every sdgym environment promises: equal actions, equal answers.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium

from sdgym.core import Task
from sdgym.errors import ConfigError, InfraError
from sdgym.session import make_env

RETRIES = 5
"""Times that an answer may lose its worker."""
START_S = 300.0
"""Seconds within which a worker must have found a core and come up; a cluster that grows on demand needs minutes."""
_KEYS = itertools.count()
Answer = tuple[str, float, bool, bool, dict[str, Any]]


class Setup(NamedTuple):
    """All that an episode starts from: the world's id, its settings as JSON, the task."""

    world: str
    settings: str
    task: Task


class Worker:
    """An actor: plays the episodes it is given, all at once, in one event loop."""

    def __init__(self) -> None:
        self._playing: dict[str, tuple[tuple[str, str], Any]] = {}
        self._free: dict[tuple[str, str], list[Any]] = {}

    async def ready(self) -> None:
        """Answer as soon as the worker is up."""

    async def begin(self, key: str, setup: Setup) -> tuple[str, dict[str, Any]]:
        """Start the episode ``key``."""
        await self.end(key)
        kind = (setup.world, setup.settings)
        free = self._free.setdefault(kind, [])
        env = free.pop() if free else make_env(setup.world, **json.loads(setup.settings))
        self._playing[key] = (kind, env)
        observation, info = env.reset(options={"task": setup.task})
        return str(observation), dict(info)

    async def act(self, key: str, setup: Setup, past: list[str], action: str) -> Answer:
        """Answer an action. An episode that another worker took to its grave is set up again from its task and past actions."""
        if key not in self._playing:
            await self.begin(key, setup)
            for earlier in past:
                await self._playing[key][1].unwrapped.astep(earlier)
        answer: Answer = await self._playing[key][1].unwrapped.astep(action)
        return answer

    async def end(self, key: str) -> None:
        """Keep the environment for another episode."""
        if key in self._playing:
            kind, env = self._playing.pop(key)
            self._free[kind].append(env)


class Place:
    """One worker after another: the next is started when the last has died.

    Ray could restart the actor itself, but then a call may reach it while it is neither dead nor alive, and a cluster without room
    would keep it, and whoever waits for it, waiting forever. So a call goes to one process or fails, and a new worker has ``START_S``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost: str | None = None
        self.actor = _start()

    def after(self, dead: Any) -> None:
        """Replace the worker ``dead``, once: many episodes learn of one death. Raises :class:`ConfigError` if there is no room."""
        with self._lock:
            if self._lost is not None:
                raise ConfigError(self._lost)
            if self.actor is not dead:
                return
            _ray().kill(dead)  # it may only be out of reach, and then it must not play on
            self.actor = _start()
            try:
                _await_ready([self.actor])
            except ConfigError as error:
                self._lost = str(error)
                raise


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("playing on Ray needs the package ray: pip install 'sdgym-rl[ray]'") from None
    return ray


def _start() -> Any:
    return _ray().remote(Worker).options(num_cpus=1, max_concurrency=1000, scheduling_strategy="SPREAD").remote()


def _await_ready(actors: list[Any]) -> None:
    ray = _ray()
    waiting = ray.wait([actor.ready.remote() for actor in actors], num_returns=len(actors), timeout=START_S)[1]
    if waiting:
        cores = int(ray.cluster_resources().get("CPU", 0))
        raise ConfigError(
            f"{len(waiting)} of {len(actors)} Ray workers found no core within {START_S:g} s: the cluster has {cores} in all and each worker "
            "takes one; take fewer (env.workers), or free or add nodes"
        )


@functools.cache
def places(count: int, address: str | None) -> list[Place]:
    """Return ``count`` places where episodes of any world are played; they live as long as this process.

    Raises:
        ConfigError: Ray is not installed, nothing answers at ``address``, or the cluster has no room.
    """
    ray = _ray()
    if not ray.is_initialized():
        alone = {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "num_cpus": max(count, os.cpu_count() or 1)}
        own: dict[str, Any] = alone if address is None else {"address": address}
        try:
            ray.init(**own, log_to_driver=False)
        except Exception as error:  # Ray raises it bare where a node does not come up in time
            raise ConfigError(f"there is no Ray cluster at {address or 'this machine'}: {error}") from None
    made = [Place() for _ in range(count)]
    try:
        _await_ready([place.actor for place in made])
    except ConfigError:
        for place in made:
            ray.kill(place.actor)
        raise
    return made


class RemoteEnv(gymnasium.Env[str, str]):
    """An environment whose episodes are played by :class:`Worker` actors.

    Args:
        world: id of the environment that is played.
        workers: actors, each on one core; environments that name the same number and address share them.
        address: of the Ray cluster; None uses a connected one, or starts one on this machine.
        **kwargs: go to ``world``.
    """

    def __init__(self, world: str, workers: int = 2, address: str | None = None, **kwargs: Any) -> None:
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, got {workers}")
        self.local = make_env(world, **kwargs).unwrapped  # makes tasks and says what the world is like; plays nothing
        self.observation_space, self.action_space = self.local.observation_space, self.local.action_space
        self._world, self._settings, self._workers = world, json.dumps(kwargs, sort_keys=True), (workers, address)
        self._number = next(_KEYS)
        self._key = f"{os.getpid()}-{self._number}"
        self._setup: Setup | None = None
        self._past: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "local":
            raise AttributeError(name)
        return getattr(self.local, name)

    @property
    def _place(self) -> Place:
        found = places(*self._workers)
        return found[self._number % len(found)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; the task is chosen here, as the local environment would."""
        options = dict(options or {})
        if "task" not in options:
            self.local.reset(seed=seed, options=options)
            options["task"] = self.local.task
        setup = self._setup = Setup(self._world, self._settings, options["task"])
        self._past = []
        begun = self._insist(lambda worker: worker.begin.remote(self._key, setup))
        observation, info = asyncio.run(begun) if not _in_loop() else _elsewhere(begun)
        return str(observation), dict(info)

    async def astep(self, action: str) -> Answer:
        """Answer an action. Raises :class:`InfraError` if the worker was lost too often."""
        answer: Answer = await self._insist(lambda worker: worker.act.remote(self._key, self._setup, self._past, action))
        self._past = [*self._past, action]
        return answer

    def step(self, action: str) -> Answer:
        """Answer an action, synchronously."""
        return asyncio.run(self.astep(action)) if not _in_loop() else _elsewhere(self.astep(action))

    async def _insist(self, ask: Callable[[Any], Any]) -> Any:
        from ray.exceptions import RayActorError, RayTaskError

        for _ in range(RETRIES + 1):
            worker = self._place.actor
            try:
                return await ask(worker)
            except RayTaskError as error:  # the environment's own error, as it would have been raised here
                raise error.cause from None
            except RayActorError:
                await asyncio.to_thread(self._place.after, worker)
        raise InfraError(f"the worker of {self._world} was lost {RETRIES + 1} times in a row")

    def close(self) -> None:
        """Give the episode's place back."""
        if self._setup is not None:
            self._place.actor.end.remote(self._key)
            self._setup = None
        self.local.close()


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _elsewhere(coroutine: Any) -> Any:
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


gymnasium.register(id="sdgym/Remote-v0", entry_point="sdgym.interop.ray_env:RemoteEnv", disable_env_checker=True, order_enforce=False)
