"""``sdgym eval --model openai:URL`` against a real local server that speaks the protocol."""

from __future__ import annotations

import http.server
import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

import sdgym
from sdgym.cli import execute
from sdgym.core import Task
from sdgym.endpoint import Endpoint
from sdgym.errors import ConfigError, PolicyError
from sdgym.evaluation import eval_tasks
from sdgym.generation.chat_endpoint import EndpointSampler
from sdgym.policy import Policy
from sdgym.testing_engine import KINDS, LETTERS_ID

SECRET = "sk-very-secret-0123456789"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers like an OpenAI-compatible server: it knows a sign of every kind but capital letters, and asks for a key."""

    seen: ClassVar[list[dict[str, Any]]] = []
    failures: ClassVar[list[int]] = []
    models: ClassVar[list[str]] = ["teacher-7b"]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {SECRET}":
            return True
        self.reply(401, {"error": {"message": f"bad key, not {SECRET}"}})
        return False

    def do_GET(self) -> None:
        if self.allowed():
            self.reply(200, {"data": [{"id": name} for name in self.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        if self.failures:
            self.reply(self.failures.pop(), {"error": {"message": "busy"}})
            return
        self.seen.append({"path": self.path, **body})
        question = body["messages"][-1]["content"]
        kind = next(k for k in KINDS if k in question)
        text = "é" if kind == "capital letter" else KINDS[kind][-1]
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self.reply(200, {"choices": [choice], "usage": {"completion_tokens": 1}})


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    Handler.seen, Handler.failures, Handler.models = [], [], ["teacher-7b"]
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def right(tasks: list[Task]) -> float:
    return sum(task.meta["kind"] != "capital letter" for task in tasks) / len(tasks)


def test_an_endpoint_is_evaluated_like_any_policy(url: str) -> None:
    report = sdgym.evaluate(f"openai:{url}", LETTERS_ID, episodes=9, samples=2, turns=2, temperature=0.7)
    env = sdgym.make(LETTERS_ID, split="test")
    assert report.success == report.greedy == right(eval_tasks(env.unwrapped, "test", 0, 9))
    assert len(Handler.seen) == 9 * 3 * 2 and {r["path"] for r in Handler.seen} == {"/v1/chat/completions"}
    assert {r["model"] for r in Handler.seen} == {"teacher-7b"} and {r["temperature"] for r in Handler.seen} == {0.7, 0.0}
    second = [r["messages"] for r in Handler.seen if len(r["messages"]) > 2]
    assert len(second) == 9 * 3 and all(m[-2]["role"] == "assistant" and m[-1]["role"] == "user" for m in second)
    assert len({r["seed"] for r in Handler.seen}) == len(Handler.seen)  # every turn has noise of its own
    assert any("é" in row.actions for row in report.rows)


def test_the_command_prints_and_writes_no_secret(url: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "eval"
    command = ["eval", "--model", f"openai:{url}#other", "--env", LETTERS_ID, "--episodes", "4", "--out", str(out)]
    assert execute(command) == 0
    assert {r["model"] for r in Handler.seen} == {"other"}
    printed = "".join(capsys.readouterr()) + "".join(p.read_text() for p in out.iterdir())
    assert "success" in printed and SECRET not in printed
    assert execute(["eval", "--model", f"openai:http://me:{SECRET}@127.0.0.1:1/v1", "--env", LETTERS_ID]) == 2
    printed = "".join(capsys.readouterr())
    assert SECRET not in printed and "put the key into an environment variable" in printed


def test_passing_failures_are_tried_again_and_lasting_ones_stop(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Endpoint(url, key_env="OPENAI_API_KEY", wait=0.0)
    body = {"messages": [{"role": "user", "content": "digit 1"}]}
    Handler.failures = [503, 429]
    assert server.post("/chat/completions", body)["choices"][0]["message"]["content"] == "9"
    Handler.failures = [503] * 5
    with pytest.raises(PolicyError, match=r"gave no answer \(HTTP 503\)"):
        server.post("/chat/completions", body)
    Handler.failures = [400]
    with pytest.raises(PolicyError, match="HTTP 400"):
        server.post("/chat/completions", body)
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(ConfigError, match="the key is missing or wrong") as refused:
        EndpointSampler(f"openai:{url}")
    assert SECRET not in str(refused.value) and "wrong" in str(refused.value)


def test_what_cannot_work_is_refused(url: str) -> None:
    Handler.models = ["a", "b"]
    with pytest.raises(ConfigError, match=r"serves 2 models \(a, b\): name one with #MODEL"):
        EndpointSampler(f"openai:{url}")
    with pytest.raises(ConfigError, match="needs an address"):
        EndpointSampler("openai:ftp://somewhere")
    with pytest.raises(PolicyError, match="cannot be trained"):
        EndpointSampler(f"openai:{url}#a").sync_weights()
    with pytest.raises(ConfigError, match="cannot be trained"):
        Policy.load("openai:http://localhost:1/v1")
