"""OpenEnv (package ``openenv``, read against 0.10): serve any of our worlds, and play any OpenEnv server as one of ours.

``serve("sdgym/Sokoban-v0", level="tiny")`` listens on the loopback interface; ``app(...)`` is the FastAPI application for a
server of your own.
``sdgym.make("sdgym.interop.openenv_bridge:sdgym/OpenEnv-v0", url="http://127.0.0.1:8000", field="action")`` is the other direction.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import pydantic

from sdgym.core import Outcome, Task
from sdgym.errors import ConfigError, InfraError
from sdgym.session import make_env
from sdgym.text_env import Response, TextEnv

SHOWN = ("feedback", "feedback_kind", "reveals_answer", "feedback_visible", "outcome", "success", "valid_action", "turn", "task_id")
"""Parts of ``info`` that a client sees; ``privileged`` is never among them."""


def _need() -> None:
    try:
        import openenv.core.env_server  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"this needs the package openenv, which cannot be imported here ({error}): pip install openenv") from None


def app(env_id: str, max_sessions: int = 64, **kwargs: Any) -> Any:
    """Return a FastAPI application that serves ``env_id``, one instance per session; ``kwargs`` go to the environment.

    Actions are ``{"text": …}``; observations ``{"text": …, "messages": […], "info": {…}}`` with reward and done beside them.
    ``reset`` takes ``seed`` or ``task_id``.

    Raises:
        ConfigError: OpenEnv is not installed.
    """
    _need()
    make_env(env_id, **kwargs).close()  # a wrong name is told before anything listens
    from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app

    class TextAction(Action):  # type: ignore[misc]
        text: str

    class TextObservation(Observation):  # type: ignore[misc]
        text: str = ""
        messages: list[dict[str, Any]] = pydantic.Field(default_factory=list)
        info: dict[str, Any] = pydantic.Field(default_factory=dict)
        truncated: bool = False

    class World(Environment[TextAction, TextObservation, State]):  # type: ignore[misc]
        SUPPORTS_CONCURRENT_SESSIONS = True

        def __init__(self) -> None:
            super().__init__()
            self._env = make_env(env_id, **kwargs)
            self._turn, self._episode = 0, ""

        def reset(self, seed: int | None = None, episode_id: str | None = None, **more: Any) -> TextObservation:
            options = {"task_id": str(more["task_id"])} if more.get("task_id") else {}
            text, info = self._env.reset(seed=seed, options=options)
            self._turn, self._episode = 0, episode_id or str(info["task_id"])
            return TextObservation(text=text, messages=[dict(m) for m in info["messages"]], info=_shown(info))

        def step(self, action: TextAction, timeout_s: float | None = None, **_: Any) -> TextObservation:
            text, reward, terminated, truncated, info = self._env.step(action.text)
            self._turn += 1
            messages = [dict(m) for m in info["messages"]]
            return TextObservation(
                text=text, messages=messages, info=_shown(info), reward=reward, done=terminated or truncated, truncated=truncated
            )

        @property
        def state(self) -> State:
            return State(episode_id=self._episode, step_count=self._turn)

        def close(self) -> None:
            self._env.close()

    return create_fastapi_app(World, TextAction, TextObservation, max_concurrent_envs=max_sessions, env_name=env_id)


def _shown(info: Mapping[str, Any]) -> dict[str, Any]:
    return {name: info[name] for name in SHOWN}


def serve(env_id: str, port: int = 8000, host: str = "127.0.0.1", **kwargs: Any) -> None:
    """Serve ``env_id`` until interrupted; on the loopback interface unless another ``host`` is named."""
    _need()
    import uvicorn

    uvicorn.run(app(env_id, **kwargs), host=host, port=port, log_level="warning")


class OpenEnvWorld(TextEnv):
    """An OpenEnv server as a text world.

    Its tasks are its seeds. The model's whole message goes into one field of the server's action; the observation's text is
    one of its fields, or the observation as JSON. A server that does not answer is an infrastructure error, never a reward of 0.

    Args:
        url: of the server.
        field: of the action that takes the text.
        text_field: of the observation that is shown.
        solved_at: least reward that counts as a success.
        max_turns: longest episode.
        system_prompt: tells the model what to write.
        **settings: see :class:`sdgym.text_env.TextEnv`.
    """

    env_id: ClassVar[str] = "sdgym/OpenEnv-v0"
    levels: ClassVar[Sequence[str]] = ("tiny",)
    max_action_tokens: ClassVar[Mapping[str, int]] = {"tiny": 256}

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        field: str = "text",
        text_field: str = "text",
        solved_at: float = 1.0,
        max_turns: int = 10,
        system_prompt: str = "",
        **settings: Any,
    ) -> None:
        _need()
        super().__init__(**settings)
        self.url, self.field, self.text_field, self.solved_at = url, field, text_field, solved_at
        self.max_turns, self.system_prompt = max_turns, system_prompt  # type: ignore[misc]
        self._client: Any = None

    def _connected(self) -> Any:
        if self._client is None:
            from openenv.core.generic_client import GenericEnvClient

            self._client = GenericEnvClient(base_url=self.url).sync()
        return self._client

    def make_task(self, seed: int, split: str) -> Task:
        """Ask the server for the episode of ``seed``; splits differ in their seeds. Raises :class:`InfraError` if it does not answer."""
        number = (seed * 5 + ("pretrain", "train", "val", "test", "heldout").index(split)) % 2**31
        try:
            text = self._text(self._connected().reset(seed=number).observation)
        except (OSError, RuntimeError, TimeoutError) as error:
            raise InfraError(f"the OpenEnv server at {self.url} does not answer: {error}") from None
        return self.finish_task(seed, split, text, [self.url, number], {}, {"number": number})

    def begin(self, task: Task) -> None:
        """Start the task's episode on the server."""
        self._connected().reset(seed=int(task.meta["number"]))

    async def respond(self, action: str) -> Response:
        """Send the action. Raises :class:`InfraError` if the server fails."""
        try:
            result = await asyncio.to_thread(self._connected().step, {self.field: action})
        except (OSError, RuntimeError, TimeoutError) as error:
            raise InfraError(f"the OpenEnv server at {self.url} failed: {error}") from None
        reward = float(result.reward or 0.0)
        info = result.observation.get("info") or {}
        success = bool(info.get("success", reward >= self.solved_at))
        return Response(
            observation="" if result.done else self._text(result.observation),
            reward=reward,
            terminated=bool(result.done),
            outcome=Outcome.CORRECT if success else Outcome.WRONG,
            feedback=str(info.get("feedback", "")),
            success=success,
            reward_components={"success": float(success)},
        )

    def _text(self, observation: Mapping[str, Any]) -> str:
        found = observation.get(self.text_field)
        return found if isinstance(found, str) else json.dumps(dict(observation), ensure_ascii=False, sort_keys=True)

    def close(self) -> None:
        """Leave the server."""
        if self._client is not None:
            self._client.close()
            self._client = None


gymnasium.register(
    id="sdgym/OpenEnv-v0", entry_point="sdgym.interop.openenv_bridge:OpenEnvWorld", disable_env_checker=True, order_enforce=False
)
