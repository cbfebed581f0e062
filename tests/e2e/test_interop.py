"""Both ways with other people's libraries, each against the real package."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

import sdgym
from sdgym.errors import ConfigError, EnvError, PolicyError
from sdgym.interop.trl_bridge import TrlBridge, pack
from sdgym.ledger import Ledger
from sdgym.rollout import Job, RolloutDriver, SamplingParams
from sdgym.session import make_env
from sdgym.testing_engine import KINDS, LETTERS_ID, ScriptedSampler

OPENENV = "sdgym.interop.openenv_bridge:sdgym/OpenEnv-v0"


def test_reward_function_pays_the_oracle_and_nobody_else() -> None:
    bridge = TrlBridge("sdgym/Math-v0", 4, level="tiny")
    right = [bridge.env.unwrapped.oracle(task)[0] for task in bridge.tasks]
    names = [task.task_id for task in bridge.tasks]
    assert bridge.reward([[{"role": "assistant", "content": text}] for text in right], task_id=names) == [1.0] * 4
    assert bridge.reward(["no idea"] * 4, task_id=names) == [0.0] * 4
    assert bridge.reward(right, task_id=names) == [1.0] * 4, "plain text completions"
    with pytest.raises(ConfigError, match="use rollout_func"):
        TrlBridge(LETTERS_ID, 2, turns=2).reward(["a"], task_id=["x"])


def test_environment_factory_is_one_tool_with_its_own_reward() -> None:
    bridge = TrlBridge(LETTERS_ID, 3, turns=2)
    world, task = bridge.environment(), bridge.tasks[0]
    assert world.reset(task_id=task.task_id) is None, "the prompt is in the data set"
    right = bridge.env.unwrapped.oracle(task)
    assert world.act(right[0]).startswith("good")
    assert world.act("\u0000") == "The episode is over." == world.act("again") and world.get_reward() == 1.0
    assert isinstance(bridge.environment().reset(), str), "without a prompt the world brings its own"
    other = TrlBridge(LETTERS_ID, 3, trouble="infra")
    failing = next(t for t in other.tasks if t.meta["number"] % 3 == 0)
    broken = other.environment()
    broken.reset(task_id=failing.task_id)
    broken.act("a")
    assert broken.get_reward() is None, "a world that failed is no reward of 0"


def test_rollouts_keep_sampled_ids_and_mask_observations() -> None:
    from sdgym.chat import ChatFormat
    from sdgym.testing_policy import small_tokenizer

    chat = ChatFormat(small_tokenizer())
    bridge = TrlBridge(LETTERS_ID, 3, turns=2)
    sampler = ScriptedSampler(chat.encode_text("aB3!").tolist(), chat.end_ids[0])
    with RolloutDriver(lambda: make_env(LETTERS_ID, turns=2), chat, sampler, Ledger(), 0, 8) as driver:
        rows = driver.collect(bridge.tasks, 2, SamplingParams(max_tokens=4), Job("t", 0))
    packed = pack(rows)
    for i, row in enumerate(rows):
        mask = np.array(packed["env_mask"][i], bool)
        ids = np.array(packed["completion_ids"][i])
        assert ids[mask].tolist() == row.action_ids().tolist() and not mask.all() and mask[0]
        assert packed["prompt_ids"][i] + packed["completion_ids"][i] == row.segments[0].ids.tolist()
        assert len(packed["logprobs"][i]) == len(ids) and packed["env_reward"][i] == row.reward
    rows[0].segments.append(rows[0].segments[0])
    with pytest.raises(PolicyError, match="one sequence per episode"):
        pack(rows)
    with pytest.raises(EnvError, match="train on its own dataset"):
        bridge.rollout([[{"role": "user", "content": "somebody else's"}]], trainer=None)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["reward function", "rollout function"])
def test_trl_trains_with_it(way: str, tmp_path: Any) -> None:
    """Two optimizer steps of the real GRPOTrainer on ``tiny``: its rewards are the environment's, and its weights move."""
    trl = pytest.importorskip("trl", reason="requires trl")
    from sdgym.policy import Policy

    policy = Policy.load("tiny")
    policy.tokenizer.padding_side = "left"
    single = way == "reward function"
    bridge = TrlBridge("sdgym/Math-v0", 8, level="tiny") if single else TrlBridge("sdgym/Sokoban-v0", 8, level="tiny")
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        per_device_train_batch_size=16,
        num_generations=8,
        max_completion_length=24 if single else 96,
        max_steps=2,
        learning_rate=1e-3,
        seed=0,
    )
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    more: dict[str, Any] = {"reward_funcs": [bridge.reward]} if single else {"reward_funcs": [bridge.rollout_reward]}
    more |= {} if single else {"rollout_func": bridge.rollout}
    trainer = trl.GRPOTrainer(model=policy.model, args=arguments, train_dataset=bridge.dataset, processing_class=policy.tokenizer, **more)
    trainer.train()
    name = "rewards/environment/mean" if single else "rewards/rollout_reward/mean"
    logged = [line[name] for line in trainer.state.log_history if name in line]
    assert len(logged) == 2 and all(0.0 <= value <= 1.0 for value in logged) and max(logged) > 0.0, logged
    moved = max(float((tensor - before[key]).abs().max()) for key, tensor in policy.model.state_dict().items())
    assert 1e-4 < moved < 1e-2, "two AdamW steps of at most about 1e-3 each"


@pytest.mark.slow
def test_trl_trains_with_an_environment_factory(tmp_path: Any) -> None:
    """The real trainer calls ``act``, shows what the world answers, and takes its reward from the episode.

    The policy knows nothing; whole tool calls are tokens of its own and it may say nothing else, so it plays from the first step.
    """
    trl = pytest.importorskip("trl", reason="requires trl")
    from sdgym.testing_policy import random_policy, small_tokenizer

    template = pathlib.Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja"
    if not template.is_file():
        pytest.skip("requires trl with its chat template qwen2_5")
    tokenizer = small_tokenizer(template.read_text(encoding="utf-8"))
    calls = [f'<tool_call>\n{{"name": "act", "arguments": {{"action": "{sign}"}}}}\n</tool_call>' for sign in "aA0!"]
    tokenizer.add_tokens(calls)
    tokenizer.padding_side = "left"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=2048, vocab_size=len(tokenizer), scale=0.05).model
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=400,
        max_tool_calling_iterations=2,
        generation_kwargs={"suppress_tokens": sorted({*range(len(tokenizer))} - {end, *tokenizer.convert_tokens_to_ids(calls)})},
        max_steps=2,
        learning_rate=1e-3,
        seed=0,
    )
    bridge = TrlBridge(LETTERS_ID, 4, turns=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = trl.GRPOTrainer(
        model=model, args=arguments, train_dataset=bridge.dataset, processing_class=tokenizer, environment_factory=bridge.environment
    )
    trainer.train()
    logged = [line for line in trainer.state.log_history if "rewards/TrlEnvironment/mean" in line]
    assert len(logged) == 2 and all(line["tools/call_frequency"] > 0.5 and line["tools/failure_frequency"] == 0.0 for line in logged)
    rewards = [line["rewards/TrlEnvironment/mean"] for line in logged]
    assert all(0.0 <= reward <= 2.0 for reward in rewards) and max(rewards) > 0.0, "two turns of which each pays 1"
    moved = max(float((tensor - before[key]).abs().max()) for key, tensor in model.state_dict().items())
    assert 1e-4 < moved < 1e-2, "two AdamW steps of at most about 1e-3 each"


def test_hugging_face_data_sets_go_in_and_come_out(tmp_path: Any, made: Any) -> None:
    import datasets

    from sdgym.buffer import RolloutBuffer

    problems = {"problem": [f"What is {i} + {i}?" for i in range(40)], "answer": [str(2 * i) for i in range(40)]}
    datasets.Dataset.from_dict(problems).to_parquet(tmp_path / "problems.parquet")
    bridge = TrlBridge("sdgym/Math-v0", 5, data=str(tmp_path / "problems.parquet"))
    table = bridge.dataset
    assert table.column_names == ["prompt", "task_id"] and len(table) == 5
    asked = [prompt[-1]["content"] for prompt in table["prompt"]]
    answers = {question: str(2 * int(question.split()[2])) for question in problems["problem"]}
    found = [next(answer for question, answer in answers.items() if question in text) for text in asked]
    assert bridge.reward([f"\\boxed{{{answer}}}" for answer in found], task_id=list(table["task_id"])) == [1.0] * 5
    RolloutBuffer([made.episode(i, i == 1) for i in range(3)]).save(tmp_path / "rows.parquet")
    rows = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    assert rows["reward"][:] == [0.0, 1.0, 0.0] and sum(rows["segments"][0][0]["action_mask"]) == 3


# ---- OpenEnv -------------------------------------------------------------------------------------


@pytest.fixture
def served() -> Iterator[str]:
    """A real server of Letters with two turns, on a free port of the loopback interface."""
    pytest.importorskip("openenv.core.env_server", exc_type=ImportError, reason="requires openenv")
    import uvicorn

    from sdgym.interop.openenv_bridge import app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app(LETTERS_ID, turns=2), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=20)


@pytest.mark.slow
def test_their_client_plays_our_world(served: str) -> None:
    from openenv.core.generic_client import GenericEnvClient

    ours = sdgym.make(LETTERS_ID, turns=2)
    text, info = ours.reset(seed=5)
    right = ours.unwrapped.oracle(ours.unwrapped.task)[0]
    with GenericEnvClient(base_url=served).sync() as theirs:
        result = theirs.reset(seed=5)
        assert result.observation["text"] == text and result.observation["info"]["task_id"] == info["task_id"]
        assert "privileged" not in result.observation["info"] and not result.done
        for action in (right, "\u00e9"):
            observation, reward, terminated, _, told = ours.step(action)
            result = theirs.step({"text": action})
            assert (result.observation["text"], result.reward, result.done) == (observation, reward, terminated)
            assert result.observation["info"]["feedback"] == told["feedback"]
        assert theirs.reset(task_id=info["task_id"]).observation["text"] == text


@pytest.mark.slow
def test_our_driver_plays_their_server(served: str) -> None:
    """Letters behind a real server give the rewards that the same answers earn on the spot; a dead server is an infrastructure error."""
    world = sdgym.make(OPENENV, url=served, max_turns=2)
    tasks = list(world.unwrapped.tasks("train", 3, 4))
    assert len({task.task_id for task in tasks}) == 4
    for task in tasks:
        text, _ = world.reset(options={"task": task})
        kind = text.rpartition(" ")[0]
        answer = {"small letter": "a", "capital letter": "A", "digit": "0", "other sign": "!"}[kind]
        _, first, over, _, info = world.step(answer)
        assert (first, over, info["success"]) == (1.0, False, 1.0)
        _, second, over, _, info = world.step("\u00e9")
        assert (second, over, info["success"]) == (0.0, True, 0.0) and kind in info["feedback"]
    lost = sdgym.make(OPENENV, url="http://127.0.0.1:9", max_turns=2)
    lost.unwrapped.task, lost.unwrapped._over = tasks[0], False
    _, reward, _, truncated, info = asyncio.run(lost.unwrapped.astep("a"))
    assert (reward, truncated, info["outcome"]) == (0.0, True, "infra_error")
    world.close()


def test_without_openenv_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openenv", None)
    with pytest.raises(ConfigError, match="pip install openenv"):
        sdgym.make(OPENENV)


# ---- verifiers -----------------------------------------------------------------------------------


class TalkingServer(http.server.BaseHTTPRequestHandler):
    """Speaks OpenAI's chat protocol: knows a sign of every kind but capital letters, and wants the right key."""

    heard: ClassVar[list[list[dict[str, Any]]]] = []

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        allowed = self.headers["Authorization"] == "Bearer sk-of-the-test" and self.path == "/v1/chat/completions"
        self.heard.append(body["messages"])
        head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
        said = {"role": "assistant", "content": answer(body["messages"][-1]["content"])}
        parts = [{"index": 0, "delta": said, "finish_reason": None}, {"index": 0, "delta": {}, "finish_reason": "stop"}]
        lines = [json.dumps({**head, "choices": [part]}) for part in parts]
        assert body["stream"] is True, "their program reads a stream"
        data = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def answer(question: str) -> str:
    kind = next(kind for kind in KINDS if kind in question)
    return "\u00e9" if kind == "capital letter" else KINDS[kind][0]


@pytest.fixture
def talking() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TalkingServer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    TalkingServer.heard = []
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def vf_eval(folder: pathlib.Path, url: str, **kwargs: Any) -> list[dict[str, Any]]:
    """Run their command line on Letters with their own agent (``null``: a chat program in a process of its own); return the traces.

    Their runtime installs that program's packages with ``uv``; here they are installed already, so ``uv`` is a script that says where.
    """
    uv = folder / ".local" / "bin" / "uv"
    uv.parent.mkdir(parents=True)
    uv.write_text(f'#!/bin/sh\ncase "$*" in *--help*) echo "--script";; "python find"*) echo {sys.executable};; esac\n')
    uv.chmod(0o755)
    settings = {
        "model": "letters",
        "push": False,
        "output_dir": str(folder),
        "run": {"dir": "run"},
        "client": {"base_url": url, "api_key_var": "LETTERS_KEY"},
        "env": {"taskset": {"id": "sdgym-verifiers", "env_id": LETTERS_ID, "split": "train", "count": 3, "kwargs": kwargs}},
    }
    (folder / "eval.json").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-P",
        "-c",
        "from verifiers.v1.cli.eval.main import main; main()",
        "@",
        str(folder / "eval.json"),
        "--no-rich",
    ]
    env = {**os.environ, "HOME": str(folder), "LETTERS_KEY": "sk-of-the-test", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads(line) for line in next((folder / "run").rglob("traces.jsonl")).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_their_agent_plays_our_world(talking: str, tmp_path: pathlib.Path) -> None:
    """``vf-eval sdgym-verifiers`` end to end: its agent, its interception server and its client talk to a model server; the rewards are ours.

    Where our world fails the episode is an error and earns nothing, not 0.
    """
    pytest.importorskip("verifiers", reason="requires verifiers", exc_type=ImportError)  # our own folder of that name refuses
    seen = set()
    for episode in vf_eval(tmp_path, talking, turns=2, trouble="infra"):
        (trace,), question = episode["traces"], episode["task"]["data"]["prompt"]
        kind, _, number = question.rpartition(" ")
        if int(number) % 3 == 0:  # this world cannot grade such a task
            assert not episode["ok"] and "could not judge" in episode["errors"][0]["message"] and not trace["rewards"]
            seen.add("failed")
            continue
        right = float(kind != "capital letter")
        assert episode["ok"] and trace["agent"]["name"] == "player" and trace["agent"]["config"]["harness"]["id"] == "null"
        assert trace["rewards"]["environment"]["score"] == 2 * right and trace["info"]["success"] == right
        assert trace["info"]["outcome"] == ("correct" if right else "wrong") and bool(trace["info"]["feedback"]) is not bool(right)
        told = next(messages for messages in TalkingServer.heard if messages[0]["content"] == question and len(messages) == 3)
        assert [m["role"] for m in told] == ["user", "assistant", "user"] and told[1]["content"] == answer(question)
        assert told[2]["content"] == f"{'good' if right else 'bad'} {kind} 1", "the world answers in the conversation"
        seen.add(right)
    assert seen == {"failed", 0.0, 1.0}, seen


@pytest.mark.slow
def test_a_taskset_of_verifiers_holds_our_tasks() -> None:
    pytest.importorskip("verifiers", reason="requires verifiers", exc_type=ImportError)  # our own folder of that name refuses
    import verifiers.v1 as vf  # noqa: TID251  theirs

    from sdgym.interop.verifiers_bridge import Config, Taskset

    taskset = Taskset(Config(env_id=LETTERS_ID, kwargs={"turns": 2}, split="train", count=3))
    tasks = list(taskset)
    assert isinstance(taskset, vf.Taskset) and [task.data.idx for task in tasks] == [0, 1, 2] and taskset.bounded
    assert len({task.key for task in tasks}) == 3 and [t.key for t in taskset] == [t.key for t in tasks], "the same tasks every time"
    assert "privileged" not in tasks[0].data.model_dump_json()
    world = make_env(LETTERS_ID, turns=2, split="train").unwrapped
    assert [task.data.prompt for task in tasks] == [world.task_from_id(t.data.info["task_id"]).messages[-1]["content"] for t in tasks]
