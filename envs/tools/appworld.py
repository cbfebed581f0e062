"""``sdgym/AppWorld-v0``: the original AppWorld (Trivedi et al., 2024), played over its own HTTP server.

Its packages and pins stay in an environment of their own. Install it there with its data, and start one
server per episode that is to run at the same time, since each holds one world::

    appworld serve environment --port 9000 --root ROOT

Importing this module registers the id: ``sdgym.envs.tools.appworld:sdgym/AppWorld-v0`` does both.
"""

from __future__ import annotations

import asyncio
import functools
import json
import pathlib
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium

from sdgym.core import Outcome, Task
from sdgym.errors import ConfigError, DataError, InfraError
from sdgym.text_env import Response, TextEnv
from sdgym.verifiers.code_source import extract

TIMEOUT = 150.0
"""Seconds for one request: the server gives a cell 100 seconds itself."""
LARGEST = 16 * 2**20
RESULT_CHARS = 6_000
SYSTEM_PROMPT = """You carry out tasks in the apps of the person you act for, by writing Python.
Each turn, write one cell in a fenced code block; variables stay for the next one. apis.APP.API(...) calls an API; print what you want to see.
apis.api_docs.show_app_descriptions() lists the apps, apis.api_docs.show_api_descriptions(app_name=...) the APIs of an app, apis.api_docs.show_api_doc(...) \
explains one. apis.supervisor knows who you act for and the passwords. End with apis.supervisor.complete_task(), with answer=... if one is asked for."""
EXPERIMENT = "sdgym"
_busy: set[str] = set()
_lock = threading.Lock()


class AppWorldEnv(TextEnv):
    """Tasks of the original AppWorld, by cells of Python that its own server runs.

    Reward 1 at the end if all of the task's tests pass, else 0. The component ``tests`` is the share of passed
    tests among those that fail when nothing is done, for analysis.

    Args:
        level, split, privileged, render_mode: see :class:`TextEnv`; the splits divide the scenarios of ``tasks``.
        tasks: file with AppWorld's task ids, one a line (``data/datasets/train.txt`` of its root).
        url: where the servers are, separated by commas; an episode takes one for itself.
        turns: cells per episode.

    Raises:
        ConfigError: no file or a wrong URL; at reset, no server answers or none is free.
        DataError: the file cannot be read, or holds no task of the split.
    """

    env_id: ClassVar[str] = "sdgym/AppWorld-v0"
    levels: ClassVar[Sequence[str]] = ("full",)
    reward_keys: ClassVar[Sequence[str]] = ("success", "tests")
    max_action_tokens: ClassVar[Mapping[str, int]] = {"full": 1024}
    system_prompt: ClassVar[str] = SYSTEM_PROMPT

    def __init__(
        self,
        level: str = "full",
        split: str = "train",
        privileged: bool = False,
        render_mode: str | None = None,
        tasks: str = "",
        url: str = "http://127.0.0.1:9000",
        turns: int = 40,
    ) -> None:
        super().__init__(level, split, privileged, render_mode)
        if not tasks:
            raise ConfigError("AppWorld needs tasks=FILE with its task ids, one a line, such as data/datasets/train.txt in its root")
        if turns < 1:
            raise ConfigError(f"turns is the number of cells of an episode, from 1; got {turns}")
        self.urls = [one.strip().rstrip("/") for one in url.split(",") if one.strip()]
        for one in self.urls:
            if urllib.parse.urlsplit(one).scheme not in ("http", "https"):
                raise ConfigError(f"the address of an AppWorld server begins with http://, got {one!r}")
        self.max_turns = turns  # type: ignore[misc]
        self._ids: dict[str, list[str]] = {}
        for task_id in _read_ids(tasks):
            self._ids.setdefault(self.split_of([task_id.rpartition("_")[0]]), []).append(task_id)
        if split not in self._ids:
            raise DataError(f"{tasks} has no task in split {split!r} (tasks per split: { {k: len(v) for k, v in self._ids.items()} })")
        self._server, self._world = "", ""

    # ---- tasks ----------------------------------------------------------------------------------

    def make_task(self, seed: int, split: str) -> Task:
        """Return the task of ``seed``; asks a server what it says. Raises ConfigError if none answers."""
        ids = self._ids.get(split)
        if not ids:
            raise DataError(f"the file of AppWorld tasks has none in split {split!r}")
        name = ids[seed % len(ids)]
        told = self._ask_any(f"/tasks/{urllib.parse.quote(name)}")
        who = told["supervisor"]
        user = (
            f"I am {who['first_name']} {who['last_name']} ({who['email']}, {who['phone_number']}). It is {told['datetime']}.\n"
            f"{told['instruction']}"
        )
        meta = {"family": "appworld", "scenario": name.rpartition("_")[0], "appworld": name}
        return self.finish_task(seed, split, user, [name], {}, meta)

    def _ask_any(self, path: str) -> Mapping[str, Any]:
        try:
            told: Mapping[str, Any] = _fetch(self.urls[0] + path)
            return told
        except InfraError as error:
            raise ConfigError(
                f"{error}; start one with `appworld serve environment --port 9000 --root ROOT` and name it with url="
            ) from error

    # ---- play -----------------------------------------------------------------------------------

    def begin(self, task: Task) -> None:
        """Take a free server and load the task's world there."""
        if not self._server:
            with _lock:
                free = next((one for one in self.urls if one not in _busy), "")
                _busy.update(filter(None, [free]))
            if not free:
                raise ConfigError(
                    f"{len(self.urls)} AppWorld server(s) for more episodes at once: name more with url=A,B or lower max_live to {len(self.urls)}"
                )
            self._server = free
        self._world = str(task.meta["appworld"])
        try:
            _fetch(f"{self._server}/initialize", task_id=self._world, experiment_name=EXPERIMENT, max_interactions=self.max_turns + 1)
        except InfraError as error:
            raise ConfigError(
                f"{error}; start one with `appworld serve environment --port 9000 --root ROOT` and name it with url="
            ) from error

    async def respond(self, action: str) -> Response:
        """Let the server run the cell; at the end let it judge the world."""
        found = extract(action)
        valid, last = found.source is not None, self.turn >= self.max_turns
        output = f"Not understood: {found.problem} Write one cell of Python in a fenced code block."
        if found.source is not None:
            output = str(await asyncio.to_thread(_fetch, f"{self._server}/execute", task_id=self._world, code=found.source))
        done = valid and bool(await asyncio.to_thread(_fetch, f"{self._server}/task_completed", task_id=self._world))
        if done or last:
            return self._judged(
                await asyncio.to_thread(_fetch, f"{self._server}/evaluate", task_id=self._world, suppress_errors=True), done, valid
            )
        shown = output if len(output) <= RESULT_CHARS else f"{output[:RESULT_CHARS]} … ({len(output) - RESULT_CHARS} more characters)"
        return Response(
            f"{shown}\n({self.max_turns - self.turn} turns left)", 0.0, False, Outcome.NONE if valid else Outcome.UNPARSABLE,
            feedback=shown, feedback_kind="runtime", feedback_visible=True, valid_action=valid,
        )  # fmt: skip

    def _judged(self, found: Mapping[str, Any], done: bool, valid: bool) -> Response:
        passes, failures = list(found.get("passes", ())), list(found.get("failures", ()))
        success = bool(found.get("success"))
        paid = [True for test in passes if test.get("label") != "no_op_pass"] + [False for t in failures if t.get("label") != "no_op_pass"]
        failed = " ".join(str(test.get("requirement", "")).strip() for test in failures)[:RESULT_CHARS]
        return Response(
            observation="",
            reward=float(success),
            terminated=done,
            outcome=Outcome.CORRECT if success else Outcome.WRONG if valid else Outcome.UNPARSABLE,
            feedback="Solved." if success else f"Not solved. These requirements fail: {failed}",
            success=success,
            valid_action=valid,
            reward_components={"success": float(success), "tests": sum(paid) / len(paid) if paid else float(success)},
        )

    def close(self) -> None:
        """Give the server back."""
        with _lock:
            _busy.discard(self._server)
        self._server = ""
        super().close()


@functools.cache
def _read_ids(path: str) -> tuple[str, ...]:
    try:
        ids = pathlib.Path(path).expanduser().read_text(encoding="utf-8").split()
    except OSError as error:
        raise DataError(f"the file of AppWorld tasks {path!r} cannot be read: {error.strerror}") from error
    if not ids:
        raise DataError(f"the file of AppWorld tasks {path!r} is empty")
    return tuple(dict.fromkeys(ids))


def _fetch(address: str, **body: Any) -> Any:
    """Return the ``output`` of a request (POST if there is a body). Raises InfraError if the server fails."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            return json.loads(reply.read(LARGEST))["output"]
    except urllib.error.HTTPError as error:
        raise InfraError(f"the AppWorld server refuses {address}: {error.code} {error.read(300).decode('utf-8', 'replace')}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InfraError(f"no AppWorld server answers at {address}: {error}") from error


if AppWorldEnv.env_id not in gymnasium.registry:
    gymnasium.register(id=AppWorldEnv.env_id, entry_point=f"{__name__}:AppWorldEnv", disable_env_checker=True, order_enforce=False)
