"""Trials on a local Ray cluster of several nodes, one of which is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

import sdgym
from sdgym.benchmarks.head_to_head.ray_engine import NODES, TOKEN, play
from sdgym.cli import execute
from sdgym.testing.killing import run_contents
from sdgym.testing_policy import random_policy

SUITE: dict[str, Any] = {
    "title": "Spread",
    "seeds": 3,
    "lift_tasks": 0,
    "arms": [{"name": "grpo", "algo": "grpo"}],
    "envs": [{"id": "sdgym/Math-v0", "kwargs": {"level": "tiny"}}],
    "settings": {
        "steps": 40,
        "tasks_per_step": 2,
        "group_size": 2,
        "max_live": 4,
        "eval": {"every": 0, "tasks": 2, "samples": 1, "test_tasks": 2},
        "checkpoint": {"every": 2},
    },
}


def write_suite(folder: pathlib.Path, **settings: Any) -> pathlib.Path:
    random_policy(seed=0, hidden=32, layers=1, heads=2, kv_heads=1).save(folder / "policy")
    suite = {**SUITE, "policies": [str(folder / "policy")], "settings": {**SUITE["settings"], **settings}}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    return folder / "suite.yaml"


def wait_for(what: str, condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 900.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        assert process.poll() is None, f"the comparison ended before {what}: {process.communicate()[0][-3000:]}"
        time.sleep(0.1)
    return found


LIMITS = {
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_gcs_server_request_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_worker_niceness": "0",  # 15 by default: beside other work such a worker hardly moves
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""A busy machine needs longer than the half minute that Ray gives its processes to start, and workers that are scheduled like others."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LIMITS.items():
        monkeypatch.setenv(name, value)


def agent_ports() -> dict[str, int]:
    """Free ports for a node's helpers, named beforehand.

    A raylet that is told no ports waits for its helpers, which are Python programs, to write theirs down, and gives up after 15 s that
    nothing can prolong (ray-project/ray#65983); the node's registration then misses its own fixed 30 s.
    """
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in names]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return {name: probe.getsockname()[1] for name, probe in zip(names, probes, strict=True)}


@pytest.fixture
def cluster(patience: None) -> Iterator[Any]:
    pytest.importorskip("ray", reason="requires ray")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **agent_ports()})
    yield made
    made.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_node_dies_and_every_trial_ends_as_it_would_have(cluster: Any, tmp_path: pathlib.Path) -> None:
    nodes = {node.node_id: node for node in (cluster.add_node(wait=False, num_cpus=1, **agent_ports()) for _ in range(2))}
    cluster.wait_for_nodes(timeout=300)
    out, suite = tmp_path / "out", write_suite(tmp_path)
    command = [sys.executable, "-m", "sdgym", "compare", str(suite), "--out", str(out), "--engine", "ray", "--address", cluster.address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:

        def under_way() -> pathlib.Path | None:
            found = [path.parent for path in out.glob(f"trials/**/{NODES}")]
            return next((path for path in found if list(path.glob("run/checkpoints/step_*")) and not (path / "trial.json").exists()), None)

        victim: pathlib.Path = wait_for("a trial with a checkpoint", under_way, process)
        place = json.loads((victim / NODES).read_text().splitlines()[-1])["node"]
        cluster.remove_node(nodes.pop(place), allow_graceful=False)
        printed, _ = process.communicate(timeout=1000)
    finally:
        process.kill()
    assert process.returncode == 0, printed[-3000:]
    assert "3 trials" not in printed.splitlines()[0] and "on a Ray cluster of 3 nodes" in printed
    visited = [json.loads(line)["node"] for line in (victim / NODES).read_text().splitlines()]
    assert visited[0] == place and len(set(visited)) == 2, "it went on elsewhere"
    record = json.loads((out / "comparison.json").read_text())
    assert len(record["trials"]) == record["planned"] == 3
    assert [note for note in record["notes"] if "died under it" in note], record["notes"]
    assert not (out / TOKEN).exists()
    alone = tmp_path / "alone"
    sdgym.train(config=victim / "settings.yaml", out=alone)
    assert run_contents(alone) == run_contents(victim / "run"), "losing a node changed no bit"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cluster_of_its_own_listens_on_loopback_and_the_same_command_reuses_trials(tmp_path: pathlib.Path, capsys: Any) -> None:
    ray = pytest.importorskip("ray", reason="requires ray")
    suite = write_suite(tmp_path, steps=2)
    arguments = ["compare", str(suite), "--out", str(tmp_path / "out"), "--seeds", "1", "--engine", "ray"]
    assert execute(arguments) == 0
    assert not ray.is_initialized(), "what was started is stopped"
    assert execute([*arguments, "--resume"]) == 0 and "(reused)" in capsys.readouterr().out


def test_what_cannot_work_is_one_sentence(tmp_path: pathlib.Path, capsys: Any) -> None:
    suite = write_suite(tmp_path)
    assert execute(["compare", str(suite), "--out", str(tmp_path / "a"), "--engine", "rey"]) == 2
    assert "did you mean 'ray'" in capsys.readouterr().err
    assert execute(["compare", str(suite), "--out", str(tmp_path / "b"), "--address", "auto"]) == 2
    assert "goes with --engine ray" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path: pathlib.Path, capsys: Any) -> None:
    pytest.importorskip("ray", reason="requires ray")
    suite = write_suite(tmp_path)
    assert execute(["compare", str(suite), "--out", str(tmp_path / "c"), "--engine", "ray", "--address", "auto"]) == 2
    assert "there is no Ray cluster at auto" in capsys.readouterr().err


@pytest.mark.slow
def test_a_node_without_the_folder_says_so(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("ray", reason="requires ray")
    from types import SimpleNamespace
    from typing import cast

    from sdgym.benchmarks.head_to_head.trials import Trial

    with pytest.raises(RuntimeError, match="an --out that all nodes share"):
        play(cast(Trial, SimpleNamespace()), tmp_path, "token", "task")


def play_letters(env_id: str, watch: Callable[[int], None] = lambda requests: None, **kwargs: Any) -> list[tuple[Any, ...]]:
    """Play 24 episodes of three turns, eight at a time; ``watch`` hears before each tick how many turns have been asked for."""
    from sdgym.chat import ChatFormat
    from sdgym.generation.base import SamplingParams
    from sdgym.ledger import Ledger
    from sdgym.rollout import Job, RolloutDriver
    from sdgym.session import make_env
    from sdgym.testing_engine import ScriptedSampler
    from sdgym.testing_policy import small_tokenizer

    class Watched(ScriptedSampler):
        def tick(self) -> list[Any]:
            watch(len(self.log))
            return super().tick()

    chat = ChatFormat(small_tokenizer())
    tasks = list(make_env(env_id, **kwargs).unwrapped.tasks("train", 1, 12))
    sampler = Watched(chat.encode_text("aB3!").tolist(), chat.end_ids[0])
    with RolloutDriver(lambda: make_env(env_id, **kwargs), chat, sampler, Ledger(), 0, 8) as driver:
        rows = driver.collect(tasks, 2, SamplingParams(max_tokens=3), Job("t", 0))
    return [(r.task.task_id, r.actions, r.observations, r.turn_rewards, r.feedback, str(r.stop_reason)) for r in rows]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_actors_answer_as_the_world_itself_and_a_lost_worker_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three-turn episodes with pauses, played here and by two actors of which one is killed in their midst: equal rows."""
    ray = pytest.importorskip("ray", reason="requires ray")
    from sdgym.errors import ConfigError, EnvError
    from sdgym.interop import ray_env
    from sdgym.testing_engine import LETTERS_ID

    kwargs: dict[str, Any] = {"turns": 3, "jitter": 0.2}
    remote: dict[str, Any] = {"env_id": "sdgym.interop.ray_env:sdgym/Remote-v0", "world": LETTERS_ID, "workers": 2}
    victims: list[Any] = []

    def kill(requests: int) -> None:
        """Kill a worker when the first eight episodes are past their first turns: it holds half of them."""
        if requests >= 20 and not victims:
            victims.append(ray_env.places(2, None)[0].actor)
            ray.kill(victims[0])

    try:
        there = play_letters(**remote, watch=kill, **kwargs)
        assert victims and ray_env.places(2, None)[0].actor is not victims[0], "another worker stands in its place"
        assert there == play_letters(LETTERS_ID, **kwargs) and len(there) == 24
        with pytest.raises(EnvError, match="a bug in this world"):  # another world, the same workers: two cores are enough
            play_letters(**remote, trouble="bug")
        monkeypatch.setattr(ray_env, "START_S", 5.0)
        crowd = (os.cpu_count() or 1) + 1
        with pytest.raises(ConfigError, match=r"found no core within 5 s: .*take fewer \(env.workers\)"):
            play_letters(**{**remote, "workers": crowd})
    finally:
        ray_env.places.cache_clear()
        ray.shutdown()


def test_a_worker_that_never_saw_an_episode_goes_on_with_it() -> None:
    """What a new worker does with the episodes of a dead one; no Ray is needed to see it."""
    from sdgym.interop.ray_env import Setup, Worker
    from sdgym.session import make_env
    from sdgym.testing_engine import LETTERS_ID

    task = next(iter(make_env(LETTERS_ID).unwrapped.tasks("train", 1, 1)))
    setup, actions = Setup(LETTERS_ID, json.dumps({"turns": 3}), task), ["a", "B", "3"]

    async def both() -> tuple[list[Any], Any]:
        first, second = Worker(), Worker()
        await first.begin("e", setup)
        whole = [await first.act("e", setup, actions[:turn], actions[turn]) for turn in range(3)]
        await first.end("e")
        await first.begin("f", setup)
        assert await first.act("f", setup, [], "a") == whole[0], "an environment that is used again starts afresh"
        return whole, await second.act("e", setup, actions[:2], actions[2])

    whole, last = asyncio.run(both())
    assert last == whole[2] and last != whole[0] and last[2], "the third turn is the last"
