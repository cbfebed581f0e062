"""Worlds and their sandboxes on other machines: the episodes of any environment played by Ray actors.

``--env sdgym.interop.ray_env:sdgym/Remote-v0 --set env.world=sdgym/Code-v0 --set env.workers=32`` trains as ``--env sdgym/Code-v0``
would, bit for bit; tasks are made here, while actions are answered (programs run, answers graded) wherever Ray puts the workers.
A worker holds many episodes at once. When its node dies, Ray starts it again elsewhere, and each episode is set up there by
repeating its actions, which needs what every sdgym environment promises: equal actions, equal answers.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import gymnasium

from sdgym.core import Task
from sdgym.errors import ConfigError, InfraError
from sdgym.session import make_env

RETRIES = 5
"""Times that an episode may lose its worker."""
_KEYS = itertools.count()
Answer = tuple[str, float, bool, bool, dict[str, Any]]


class Worker:
    """An actor: plays the episodes it is given, all at once, in one event loop."""

    def __init__(self, world: str, kwargs: Mapping[str, Any]) -> None:
        self._world, self._kwargs = world, dict(kwargs)
        self._playing: dict[str, _Episode] = {}
        self._free: list[Any] = []

    async def begin(self, key: str, task: Task) -> tuple[str, dict[str, Any]]:
        """Start the episode ``key``."""
        await self.end(key)
        env = self._free.pop() if self._free else make_env(self._world, **self._kwargs)
        self._playing[key] = _Episode(env)
        observation, info = env.reset(options={"task": task})
        return str(observation), dict(info)

    async def act(self, key: str, past: list[str], task: Task, action: str) -> Answer:
        """Answer an action.

        An episode that this worker has lost is set up again from its task and past actions; one that has answered this very
        action already (the answer was lost on its way) gives the same answer.
        """
        if key not in self._playing:
            await self.begin(key, task)
            for earlier in past:
                await self._playing[key].act(earlier)
        episode = self._playing[key]
        return episode.last if episode.last is not None and episode.turns == len(past) + 1 else await episode.act(action)

    async def end(self, key: str) -> None:
        """Keep the environment for another episode."""
        if key in self._playing:
            self._free.append(self._playing.pop(key).env)


class _Episode:
    """One environment in play, and what it answered last."""

    def __init__(self, env: Any) -> None:
        self.env, self.turns = env, 0
        self.last: Answer | None = None

    async def act(self, action: str) -> Answer:
        self.last = await self.env.unwrapped.astep(action)
        self.turns += 1
        assert self.last is not None
        return self.last


@functools.cache
def workers(world: str, kwargs: str, count: int, address: str | None) -> list[Any]:
    """Return the actors that play ``world``, started once per process; Ray restarts them for as long as the process lives.

    Raises:
        ConfigError: Ray is not installed, or nothing answers at ``address``.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError("playing on Ray needs the package ray: pip install 'sdgym-rl[ray]'") from None
    module: Any = ray
    if not module.is_initialized():
        own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address is None else {"address": address}
        try:
            module.init(**own, log_to_driver=False)
        except Exception as error:  # Ray raises it bare where a node does not come up in time
            raise ConfigError(f"there is no Ray cluster at {address or 'this machine'}: {error}") from None
    actor = module.remote(Worker).options(num_cpus=1, max_restarts=-1, max_concurrency=1000, scheduling_strategy="SPREAD")
    return [actor.remote(world, json.loads(kwargs)) for _ in range(count)]


class RemoteEnv(gymnasium.Env[str, str]):
    """An environment whose episodes are played by :class:`Worker` actors.

    Args:
        world: id of the environment that is played.
        workers: actors, each on one core.
        address: of the Ray cluster; None uses a connected one, or starts one on this machine.
        **kwargs: go to ``world``.
    """

    def __init__(self, world: str, workers: int = 2, address: str | None = None, **kwargs: Any) -> None:
        if workers < 1:
            raise ConfigError(f"workers must be at least 1, got {workers}")
        self.local = make_env(world, **kwargs).unwrapped  # makes tasks and says what the world is like; plays nothing
        self.observation_space, self.action_space = self.local.observation_space, self.local.action_space
        self._where = (world, json.dumps(kwargs, sort_keys=True), workers, address)
        self._number = next(_KEYS)
        self._key = f"{os.getpid()}-{self._number}"
        self._task: Task | None = None
        self._past: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "local":
            raise AttributeError(name)
        return getattr(self.local, name)

    @property
    def _worker(self) -> Any:
        found = workers(*self._where)
        return found[self._number % len(found)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; the task is chosen here, as the local environment would."""
        import ray

        options = dict(options or {})
        if "task" not in options:
            self.local.reset(seed=seed, options=options)
            options["task"] = self.local.task
        self._task, self._past = options["task"], []

        async def begin() -> tuple[str, dict[str, Any]]:
            observation, info = await asyncio.to_thread(ray.get, self._worker.begin.remote(self._key, self._task))
            return str(observation), dict(info)

        observation, info = asyncio.run(self._insist(begin)) if not _in_loop() else _elsewhere(self._insist(begin))
        return str(observation), dict(info)

    async def astep(self, action: str) -> Answer:
        """Answer an action. Raises :class:`InfraError` if the worker was lost too often."""

        async def act() -> Answer:
            found: Answer = await self._worker.act.remote(self._key, self._past, self._task, action)
            return found

        answer: Answer = await self._insist(act)
        self._past = [*self._past, action]
        return answer

    def step(self, action: str) -> Answer:
        """Answer an action, synchronously."""
        return asyncio.run(self.astep(action)) if not _in_loop() else _elsewhere(self.astep(action))

    async def _insist(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        from ray.exceptions import RayActorError, RayTaskError

        for attempt in range(RETRIES + 1):
            try:
                return await ask()
            except RayTaskError as error:  # the environment's own error, as it would have been raised here
                raise error.cause from None
            except RayActorError:
                await asyncio.sleep(0.2 * 2**attempt)
        raise InfraError(f"the worker of {self._where[0]} was lost {RETRIES + 1} times in a row")

    def close(self) -> None:
        """Give the episode's place back."""
        if self._task is not None:
            self._worker.end.remote(self._key)
            self._task = None
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
