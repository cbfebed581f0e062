"""Who writes skills: an OpenAI-compatible endpoint (a real local server), the policy, and any text a model may answer."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from sdgym.algos.asking import ask_policy
from sdgym.algos.base import CollectContext
from sdgym.algos.presets import build_algorithm
from sdgym.algos.skills import ChatEndpoint, ModelSummariser, Summary, parse_summary, summary_request
from sdgym.chat import ChatFormat
from sdgym.core import Feedback, Trajectory
from sdgym.errors import ConfigError
from sdgym.generation.base import Sample
from sdgym.testing.objective import BagModel, Interpreter, scripted_row, scripted_task
from sdgym.testing_policy import small_tokenizer

CHAT = ChatFormat(small_tokenizer())
TASK = scripted_task("a", "3+4?", answer="SECRET", solution="WORKED OUT")
GOOD = {"what_worked": "adding", "what_went_wrong": "a sign", "ideal_workflow": "add the digits"}


def rows(count: int = 2) -> list[Trajectory]:
    return [
        dataclasses.replace(
            scripted_row(CHAT, TASK, i, [f"try {i}", "again"], [0.0, 0.0], observations=["hm"]),
            feedback=[Feedback("verifier", "too low", 0), Feedback("verifier", "too high", 1)],
        )
        for i in range(count)
    ]


def context_of(draw: Any = None, max_context: int = 4096) -> tuple[CollectContext, dict[str, float]]:
    reported: dict[str, float] = {}
    plain = Interpreter(BagModel(len(CHAT.tokenizer))).context(CHAT)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    return CollectContext(**fields | {"report": reported.__setitem__, "max_context": max_context}, draw=draw), reported


# ---- what is asked and understood ----------------------------------------------------------------------------------


def test_the_request_holds_the_attempt_and_nothing_privileged() -> None:
    (message,) = summary_request(rows(1)[0])
    text = message["content"]
    assert [text.index(part) for part in ("3+4?", "try 0", "too low", "hm", "again", "too high", "failed", "what_went_wrong")] == sorted(
        text.index(part) for part in ("3+4?", "try 0", "too low", "hm", "again", "too high", "failed", "what_went_wrong")
    )
    assert "SECRET" not in text and "WORKED OUT" not in text


FULL = Summary("adding", "a sign", "add the digits")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (json.dumps(GOOD), FULL),
        (f"Sure, {{here}}:\n```json\n{json.dumps(GOOD, indent=2)}\n```\nbye", FULL),
        (f"<think>{{}} {json.dumps({'what_worked': 'no'})}</think>{json.dumps(GOOD)}", FULL),
        (json.dumps({"what_worked": ["a", 2, {"x": 1}], "ideal_workflow": None}), Summary("a 2")),
        ("just add them", Summary("", "", "just add them")),
        (json.dumps({"other": "x"}), Summary("", "", '{"other": "x"}')),
        (json.dumps({"what_worked": ""}), None),
        ("", None),
        (" \n", None),
        ("<think>nothing after it</think>", None),
    ],
)
def test_answers_are_taken_for_what_they_are_worth(answer: str, expected: Summary | None) -> None:
    assert parse_summary(answer) == expected


@pytest.mark.parametrize(
    "answer", ["{" * 200_000, '{"what_worked":' * 50_000, "[" * 100_000, '{"what_worked": "\\ud800"}', "x" * 1_000_000, "\x00\x1b[31m"]
)
def test_hostile_answers_cost_little_and_are_cut(answer: str) -> None:
    summary = parse_summary(answer)
    assert summary is not None and len(summary.text()) < 4_000
    CHAT.encode_text(summary.text())
    json.dumps(summary.text()).encode()


# ---- the policy ----------------------------------------------------------------------------------------------------


class ScriptedDraws:
    """Answers every prompt with a fixed text; remembers what it was asked."""

    def __init__(self, answer: str) -> None:
        self.answer, self.asked, self.streams = answer, [], []  # type: ignore[var-annotated]

    def generate(self, stream: str, prompts: Sequence[np.ndarray], max_tokens: int | None = None) -> list[Sample]:
        self.streams.append((stream, max_tokens))
        self.asked += [CHAT.tokenizer.decode(p) for p in prompts]
        ids = CHAT.encode_text(self.answer)
        return [Sample(i, ids, np.zeros(len(ids), np.float32), "eos") for i in range(len(prompts))]


def test_the_policy_summarises_its_own_attempts() -> None:
    draws = ScriptedDraws(json.dumps(GOOD))
    context, _ = context_of(draws)
    assert ModelSummariser(ask_policy)(rows(2), context) == [FULL, FULL]
    assert draws.streams == [("asked", 256)] and "try 1" in draws.asked[1] and draws.asked[0].endswith("assistant\n")


def test_an_attempt_too_long_to_be_summarised_is_left_out() -> None:
    short, long = rows(2)
    long = dataclasses.replace(long, actions=["x" * 3000, "again"])
    context, _ = context_of(ScriptedDraws("fine"), max_context=2048)
    assert ModelSummariser(ask_policy)([short, long, short], context) == [Summary("", "", "fine"), None, Summary("", "", "fine")]


# ---- the endpoint --------------------------------------------------------------------------------------------------


class Server:
    """A chat-completions server on a free local port; ``reply(number, request)`` gives status and body."""

    def __init__(self, reply: Callable[[int, dict[str, Any]], tuple[int, Any]]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        lock, outer = threading.Lock(), self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.requests)
                    outer.requests.append({"path": self.path, **body})
                    outer.headers.append(dict(self.headers))
                status, answer = reply(number, body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                if status in (302, 307):
                    self.send_header("Location", data.decode())
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


Start = Callable[[Callable[[int, dict[str, Any]], tuple[int, Any]]], Server]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers: list[Server] = []

    def make(reply: Callable[[int, dict[str, Any]], tuple[int, Any]]) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def completion(text: Any, tokens: int = 7) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": {"completion_tokens": tokens}}


def echo(_: int, request: dict[str, Any]) -> tuple[int, Any]:
    """Answer with the attempt's own number, so that the order shows."""
    said = request["messages"][0]["content"]
    return 200, completion(json.dumps({"what_worked": said[said.index("try ") :].split("\n")[0]}))


def test_endpoint_answers_in_order_and_counts_tokens(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMMARY_KEY", "sesame")
    server = start(echo)
    context, reported = context_of()
    found = ModelSummariser(ChatEndpoint(server.url + "/", "big-model", "SUMMARY_KEY"))(rows(9), context)
    assert found == [Summary(f"try {i}") for i in range(9)]
    assert reported == {"summary_failed": 0.0, "summary_tokens": 63.0}
    assert {(r["path"], r["model"], r["temperature"]) for r in server.requests} == {("/v1/chat/completions", "big-model", 0.0)}
    assert {h["Authorization"] for h in server.headers} == {"Bearer sesame"}


def test_passing_trouble_is_tried_again(start: Start) -> None:
    server = start(lambda n, request: (503, {}) if n == 0 else (429, {}) if n == 1 else echo(n, request))
    context, reported = context_of()
    assert ModelSummariser(ChatEndpoint(server.url, "m", wait=0.01))(rows(1), context) == [Summary("try 0")]
    assert len(server.requests) == 3 and reported["summary_failed"] == 0.0
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("answer", [b"not json", [], {"choices": []}, completion(None), completion([{"type": "text"}]), b"[" * 100_000])
def test_what_is_no_completion_leaves_no_skill_and_a_warning(start: Start, answer: Any) -> None:
    server = start(lambda n, request: (200, answer))
    context, reported = context_of()
    with pytest.warns(UserWarning, match="1 of 1 summaries failed: the summariser at http"):
        assert ModelSummariser(ChatEndpoint(server.url, "m", wait=0.0))(rows(1), context) == [None]
    assert reported["summary_failed"] == 1.0


def test_one_failure_costs_one_skill(start: Start) -> None:
    server = start(lambda n, request: (500, {}) if "try 1" in request["messages"][0]["content"] else echo(n, request))
    context, _ = context_of()
    with pytest.warns(UserWarning, match="1 of 3 summaries failed: .*HTTP 500"):
        assert ModelSummariser(ChatEndpoint(server.url, "m", wait=0.0))(rows(3), context) == [Summary("try 0"), None, Summary("try 2")]


def test_nobody_listening_is_a_warning(start: Start) -> None:
    server = start(echo)
    server.http.server_close()
    context, _ = context_of()
    with pytest.warns(UserWarning, match="summaries failed"):
        assert ChatEndpoint(server.url, "m", wait=0.0, timeout=1.0)([summary_request(rows(1)[0])], context) == [None]


@pytest.mark.parametrize(("status", "why"), [(401, "the key is missing or wrong"), (404, "no such path or model")])
def test_what_will_never_work_stops_the_run(start: Start, status: int, why: str) -> None:
    server = start(lambda n, request: (status, {"error": "no"}))
    context, _ = context_of()
    with pytest.raises(ConfigError, match=f"answered {status}: .*{why}"):
        ChatEndpoint(server.url, "m")([summary_request(rows(1)[0])], context)
    assert len(server.requests) == 1


def test_a_refused_request_is_not_repeated(start: Start) -> None:
    server = start(lambda n, request: (400, {"error": "too long"}))
    context, _ = context_of()
    with pytest.warns(UserWarning, match="HTTP 400"):
        assert ChatEndpoint(server.url, "m", wait=0.0)([summary_request(rows(1)[0])], context) == [None]
    assert len(server.requests) == 1


def test_the_key_is_not_carried_to_another_host(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMMARY_KEY", "sesame")
    other = start(echo)
    server = start(lambda n, request: (302, (other.url + "/chat/completions").encode()))
    context, _ = context_of()
    with pytest.warns(UserWarning, match="HTTP 302"):
        ChatEndpoint(server.url, "m", "SUMMARY_KEY", wait=0.0)([summary_request(rows(1)[0])], context)
    assert other.requests == []


def test_the_key_is_in_no_config_and_in_no_state(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUMMARY_KEY", "sesame")
    settings = {"summariser": "endpoint", "summariser_url": start(echo).url, "summariser_model": "m", "summariser_key_env": "SUMMARY_KEY"}
    algorithm = build_algorithm("skill_sd", settings)
    assert "sesame" not in str(algorithm.config) and "sesame" not in str(algorithm.state_dict())
    monkeypatch.delenv("SUMMARY_KEY")
    with pytest.raises(ConfigError, match="SUMMARY_KEY for the key of the summariser is empty: set it, or name none"):
        build_algorithm("skill_sd", settings)
