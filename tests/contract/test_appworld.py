"""The original AppWorld's protocol, against a small server on the loopback that speaks it (requests and replies as in appworld 0.1.3)."""

from __future__ import annotations

import http.server
import json
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest

from sdgym.envs.tools.appworld import AppWorldEnv
from sdgym.errors import ConfigError, DataError

WHO = {"first_name": "Ada", "last_name": "Ito", "email": "ada@x.example", "phone_number": "555"}


class Server(http.server.ThreadingHTTPServer):
    """One world at a time, as the original: tasks ask for a number, and ``complete_task(answer=…)`` ends them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.world: dict[str, Any] = {}
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.broken = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.answer(task(self.path.rpartition("/")[2]) if self.path.startswith("/tasks/") else None)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body))
        world = self.server.world
        if self.server.broken or (self.path != "/initialize" and world.get("id") != body["task_id"]):
            return self.answer(None)
        if self.path == "/initialize":
            self.server.world = {"id": body["task_id"], "answer": None, "done": False}
            return self.answer(task(body["task_id"]))
        if self.path == "/execute":
            found = re.search(r"complete_task\(answer=(\d+)\)", body["code"])
            world |= {"answer": int(found[1]), "done": True} if found else {}
            return self.answer("Execution successful." if found else f"ran {len(body['code'])} characters")
        if self.path == "/task_completed":
            return self.answer(world["done"])
        right = world["answer"] == int(body["task_id"].rpartition("_")[2])
        test = {"requirement": "assert answers match.", "label": "no_op_fail"}
        idle = {"requirement": "assert no model changes.", "label": "no_op_pass"}
        failures = [] if right else [{**test, "trace": ""}]
        self.answer({"success": right, "difficulty": 1, "num_tests": 2, "passes": [idle, *([test] if right else [])], "failures": failures})

    def answer(self, output: Any) -> None:
        body = json.dumps({"output": output} if output is not None else {"detail": "no"}).encode()
        self.send_response(200 if output is not None else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def task(name: str) -> dict[str, Any]:
    instruction = f"Report the number {name.rpartition('_')[2]}."
    return {"task_id": name, "instruction": instruction, "supervisor": WHO, "datetime": "2023-05-18T12:00:00"}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def ids(tmp_path: pathlib.Path) -> str:
    file = tmp_path / "train.txt"
    file.write_text("\n".join(f"{scenario:07x}_{n}" for scenario in range(40) for n in (1, 2, 3)))
    return str(file)


def test_an_episode_over_http(server: Server, ids: str) -> None:
    env = gymnasium.make("sdgym.envs.tools.appworld:sdgym/AppWorld-v0", tasks=ids, url=server.url, turns=3, render_mode="ansi")
    observation, info = env.reset(seed=1)
    number = env.unwrapped.task.meta["appworld"].rpartition("_")[2]  # type: ignore[attr-defined]
    assert observation == f"I am Ada Ito (ada@x.example, 555). It is 2023-05-18T12:00:00.\nReport the number {number}."
    assert "complete_task" in info["messages"][0]["content"]
    observation, reward, terminated, truncated, info = env.step("```python\nprint(1)\n```")
    assert (observation, reward, terminated, truncated) == ("ran 8 characters\n(2 turns left)", 0.0, False, False)
    *_, info = env.step("<think>")
    assert info["valid_action"] == 0.0 and info["feedback"].startswith("Not understood: The reasoning is not closed.")
    _, reward, terminated, _, info = env.step(f"apis.supervisor.complete_task(answer={number})")
    assert (reward, terminated, info["success"], info["feedback"]) == (1.0, True, 1.0, "Solved.")
    shown = env.unwrapped.render()
    assert (
        shown.startswith("[user] I am Ada Ito") and "[user] ran 8 characters" in shown and shown.endswith(f"complete_task(answer={number})")
    )
    assert server.seen[0] == ("/initialize", {"task_id": server.world["id"], "experiment_name": "sdgym", "max_interactions": 4})
    env.close()


def test_a_wrong_end_names_the_requirements_and_pays_nothing(server: Server, ids: str) -> None:
    env = AppWorldEnv(tasks=ids, url=server.url, turns=2)
    env.reset(seed=1)
    _, reward, terminated, _, info = env.step("apis.supervisor.complete_task(answer=99)")
    assert (reward, terminated, info["feedback"]) == (0.0, True, "Not solved. These requirements fail: assert answers match.")
    assert info["reward_components"] == {"success": 0.0, "tests": 0.0}
    env.reset(seed=1)
    env.step("x = 1")
    _, reward, terminated, truncated, info = env.step("x = 2")
    assert (reward, terminated, truncated, info["outcome"]) == (0.0, False, True, "wrong")
    env.close()


def test_each_episode_has_a_server_of_its_own(server: Server, ids: str) -> None:
    one, two = AppWorldEnv(tasks=ids, url=server.url), AppWorldEnv(tasks=ids, url=server.url)
    one.reset(seed=1)
    with pytest.raises(ConfigError, match="for more episodes at once"):
        two.reset(seed=2)
    one.close()
    two.reset(seed=2)
    two.close()


def test_a_server_that_breaks_masks_the_row(server: Server, ids: str) -> None:
    env = AppWorldEnv(tasks=ids, url=server.url)
    env.reset(seed=1)
    server.broken = True
    _, reward, terminated, truncated, info = env.step("print(1)")
    assert (reward, terminated, truncated, info["outcome"]) == (0.0, False, True, "infra_error")
    env.close()


def test_splits_keep_scenarios_together_and_mistakes_are_one_sentence(server: Server, ids: str, tmp_path: pathlib.Path) -> None:
    env = AppWorldEnv(tasks=ids, url=server.url)
    owner: dict[str, str] = {}
    for split in ("pretrain", "train"):
        for made in env.tasks(split, 0, 12):
            assert owner.setdefault(str(made.meta["scenario"]), split) == split
    with pytest.raises(ConfigError, match="needs tasks=FILE"):
        AppWorldEnv()
    with pytest.raises(ConfigError, match="begins with http"):
        AppWorldEnv(tasks=ids, url="localhost:9000")
    with pytest.raises(DataError, match="cannot be read"):
        AppWorldEnv(tasks=str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match="appworld serve environment"):
        AppWorldEnv(tasks=ids, url="http://127.0.0.1:9").reset(seed=0)
