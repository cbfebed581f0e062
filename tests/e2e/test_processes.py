"""Several processes of one run (gloo): an update equals that of one process, whole runs train and resume."""

from __future__ import annotations

import json
import math
import os
import pathlib
import shutil
import socket
import subprocess
import sys
from typing import Any

import pytest
from safetensors.torch import load_file

import sdgym
from sdgym.errors import ConfigError
from sdgym.ledger import Ledger
from sdgym.parallel import World, environment_rank
from sdgym.policy import Policy
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy
from sdgym.zero import complete

pytestmark = pytest.mark.timeout(1800)
UNDER = pathlib.Path(__file__).parents[1] / "data" / "with_deepspeed.py"
SCRIPT = pathlib.Path(__file__).parents[1] / "data" / "one_update.py"
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu"}
"""DeepSpeed without a GPU: its own CPU accelerator, and gloo between processes."""
ALGORITHMS: dict[str, Any] = {
    "grpo": {"name": "grpo", "kl_beta": 0.1},
    "opsd": {"name": "opsd", "teacher": "ema", "teacher_rate": 0.3, "support": "student_topk", "top_k": 8},
    "sdpo": {"name": "sdpo", "context": "outcome", "teacher": "live", "policy_weight": 0.5},
}
# A large eps makes the update proportional to the gradient: with Adam's own, noise of 1e-9 in a gradient near 0 would count.
CONFIG: dict[str, Any] = {
    "env": {"id": LETTERS_ID, "turns": 2},
    "tasks_per_step": 3,
    "group_size": 3,
    "steps": 1,
    "optimizer": {"lr": 3.0, "eps": 1.0, "warmup": 0, "grad_clip": 0.5},
    "update": {"micro_tokens": 256},
    "eval": {"every": 0, "tasks": 2, "samples": 2, "test_tasks": 0},
}


def start(command: list[str], rank: int, size: int, port: int, extra: dict[str, str]) -> subprocess.Popen[str]:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}
    env = {**os.environ, **(place | here if size > 1 else {}), **extra}
    return subprocess.Popen([sys.executable, *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def launch(command: list[str], size: int, extra: dict[str, str] | None = None) -> None:
    """Run ``command`` in ``size`` processes that know of each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(command, rank, size, port, extra or {}) for rank in range(size)]
    try:
        told = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(told)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], pathlib.Path]:
    """A model and the buffer that a run with it recorded."""
    folder = tmp_path_factory.mktemp("recorded")
    random_policy(hidden=32, layers=2, heads=2, kv_heads=1, context=512, architecture="qwen2").save(folder / "model")
    config = CONFIG | {"model": str(folder / "model")}
    sdgym.train(out=folder / "run", **config | {"steps": 1})
    return config, folder / "run" / "trajectories" / "step_000001.parquet"


def update(folder: pathlib.Path, recorded: tuple[dict[str, Any], pathlib.Path], algorithms: list[str], size: int, **extra: Any) -> Any:
    """Make one update (of two optimizer steps) per algorithm in ``size`` processes; return weights and what is known of them."""
    folder.mkdir()
    config = recorded[0] | extra.pop("config", {})
    chosen = {name: ALGORITHMS[name] for name in algorithms}
    request = {"config": config, "algorithms": chosen, "buffer": str(recorded[1]), "out": str(folder)}
    (folder / "request.json").write_text(json.dumps(request))
    launch([*extra.get("under", ()), str(SCRIPT), str(folder / "request.json")], size, extra.get("environment"))

    def saved(name: str) -> Any:
        weights, teacher = (load_file(folder / f"{name}{kind}.safetensors") for kind in ("", ".teacher"))
        return weights, teacher, json.loads((folder / f"{name}.json").read_text())

    return {name: saved(name) for name in algorithms}


def check_equal(one: Any, many: Any, start_from: dict[str, Any], tolerance: float = 1e-5) -> None:
    for name in one:
        for mine, theirs in zip(one[name][:2], many[name][:2], strict=True):
            assert mine.keys() == theirs.keys()
            assert all(float((mine[k] - theirs[k]).abs().max()) <= tolerance for k in mine)
        assert max(float((one[name][0][k] - start_from[k]).abs().max()) for k in start_from) > 1e-2  # it was an update
        (a, b) = one[name][2], many[name][2]
        assert a["ledger"] == b["ledger"] and a["metrics"].keys() == b["metrics"].keys()
        assert a["metrics"] == pytest.approx(b["metrics"], rel=1e-3, abs=1e-5, nan_ok=True)


def begun(recorded: tuple[dict[str, Any], pathlib.Path]) -> dict[str, Any]:
    return load_file(pathlib.Path(recorded[0]["model"]) / "model.safetensors")


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(tmp_path: pathlib.Path, recorded: tuple[dict[str, Any], pathlib.Path]) -> None:
    one = update(tmp_path / "one", recorded, ["opsd"], 1)
    two = update(tmp_path / "two", recorded, ["opsd"], 2)
    assert two["opsd"][2]["kind"].endswith("MULTI_CPU") and two["opsd"][2]["processes"] == 2
    check_equal(one, two, begun(recorded))


@pytest.mark.slow
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["MULTI_CPU", "FSDP"])
def test_every_way_of_sharing_makes_the_same_update(
    tmp_path: pathlib.Path, recorded: tuple[dict[str, Any], pathlib.Path], kind: str, recompute: bool
) -> None:
    one = update(tmp_path / "one", recorded, list(ALGORITHMS), 1)
    config = {"update": {"micro_tokens": 128, "logit_elements": 2000, "recompute": recompute}}
    two = update(tmp_path / "two", recorded, list(ALGORITHMS), 2, config=config, environment=FSDP if kind == "FSDP" else {})
    assert all(two[name][2]["kind"].endswith(kind) for name in two)
    for name in one:  # more micro-batches: the tokens read differ, the gradient does not
        for key in ("train_inputs", "score_inputs"):
            one[name][2]["ledger"][key] = two[name][2]["ledger"][key]
    check_equal(one, two, begun(recorded))


@pytest.mark.slow
def test_bfloat16_is_the_same_update_more_coarsely(tmp_path: pathlib.Path, recorded: tuple[dict[str, Any], pathlib.Path]) -> None:
    fine = update(tmp_path / "fine", recorded, ["opsd"], 1)["opsd"]
    coarse = update(tmp_path / "coarse", recorded, ["opsd"], 2, config={"dtype": "bfloat16"})["opsd"]
    assert coarse[2]["metrics"]["loss/distill"] == pytest.approx(fine[2]["metrics"]["loss/distill"], rel=0.1)
    moved = [float((coarse[0][k] - fine[0][k]).abs().max()) for k in fine[0]]
    assert 0 < max(moved) < 0.2 and all(v.dtype.is_floating_point and v.element_size() == 4 for v in coarse[0].values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["MULTI_CPU", "FSDP"])
def test_a_whole_run_under_accelerate_trains_and_resumes(
    tmp_path: pathlib.Path, recorded: tuple[dict[str, Any], pathlib.Path], kind: str
) -> None:
    settings = {"steps": 3, "algo": ALGORITHMS["opsd"], "checkpoint": {"every": 1, "keep": 3}}
    config = {**recorded[0], **settings, "optimizer": {"lr": 1e-3}, "eval": CONFIG["eval"] | {"test_tasks": 3}}
    (tmp_path / "run.yaml").write_text(json.dumps(config))

    def accelerate(*arguments: str) -> None:
        if kind == "FSDP":  # the launcher has it for accelerators only
            launch(["-m", "sdgym", "train", *arguments], 2, FSDP)
            return
        accelerate_launch(*arguments)

    run = tmp_path / "two"
    accelerate("--config", str(tmp_path / "run.yaml"), "--out", str(run))
    one = sdgym.train(config=tmp_path / "run.yaml", out=tmp_path / "one")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = {k: v for k, v in lines[-1].items() if not k.startswith("time/") and k != "seconds" and v is not None}
    assert last == pytest.approx({k: one.metrics[k] for k in last}, rel=1e-2, abs=1e-3)  # the same tokens, the same ledger
    whole = load_file(run / "model" / "model.safetensors")
    for step in (2, 3):
        shutil.rmtree(run / "checkpoints" / f"step_{step:06d}")
    accelerate("--out", str(run), "--resume")
    again = load_file(run / "model" / "model.safetensors")
    assert all(float((whole[k] - again[k]).abs().max()) <= 1e-6 for k in whole)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4 and sorted(p.name for p in run.glob("trajectories/*"))[-1:]


def accelerate_launch(*arguments: str, nodes: int = 1) -> None:
    """Run ``sdgym train`` in two gloo processes, as a user would: on one node, or on two that know each other's address.

    With ``--cpu`` the launcher starts several processes through MPI only, and one process where no hosts are named: without a word.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = ["--multi_gpu", "--num_processes", "2", "--num_machines", str(nodes), "--main_process_port", port, "--mixed_precision", "no"]
    place += ["--main_process_ip", "127.0.0.1"] if nodes > 1 else []
    command = [sys.executable, "-m", "accelerate.commands.launch", *place]
    train = ["-m", "sdgym", "train", *arguments]
    settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    settings["env"] = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    launchers = [subprocess.Popen([*command, "--machine_rank", str(rank), *train], **settings) for rank in range(nodes)]
    try:
        told = [launcher.communicate(timeout=900)[0] for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.terminate()  # it ends what it started
    assert all(launcher.returncode == 0 for launcher in launchers), "\n".join(told)
    assert "device cpu" in told[0] and ", 2 processes; " in told[0], told[0]


@pytest.mark.slow
def test_two_nodes_train_one_run(tmp_path: pathlib.Path, recorded: tuple[dict[str, Any], pathlib.Path]) -> None:
    """One process on each, through the launcher's own meeting point: the numbers are those of one process."""
    config = {**recorded[0], "steps": 2, "algo": ALGORITHMS["grpo"], "optimizer": {"lr": 1e-3}}
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    accelerate_launch("--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "two"), nodes=2)
    one = sdgym.train(config=tmp_path / "run.yaml", out=tmp_path / "one")
    last = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[-1])
    same = {k: v for k, v in last.items() if not k.startswith("time/") and k != "seconds" and v is not None}
    assert last["step"] == 2 and same == pytest.approx({k: one.metrics[k] for k in same}, rel=1e-2, abs=1e-3)


@pytest.mark.slow
def test_tiny_trains_in_two_processes_with_everything_that_saves_memory_and_resumes(tmp_path: pathlib.Path) -> None:
    """bf16, activation checkpointing and gradient accumulation at once, under the launcher; interrupted, it ends as if it had not been."""
    settings = ["tasks_per_step=4", "group_size=4", "dtype=bfloat16", "update.recompute=true", "update.micro_tokens=64", "max_live=16"]
    settings += ["eval.every=0", "eval.tasks=4", "eval.samples=2", "eval.test_tasks=0", "checkpoint.every=1", "checkpoint.keep=4"]
    arguments = ["--algo", "sdpo", "--env", "sdgym/Math-v0", "--level", "tiny", *(word for text in settings for word in ("--set", text))]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    accelerate_launch(*arguments, "--steps", "3", "--out", str(whole))
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "model")
    for step in (2, 3):
        shutil.rmtree(cut / "checkpoints" / f"step_{step:06d}")
    accelerate_launch("--out", str(cut), "--resume")

    def lines(run: pathlib.Path) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "seconds" and not k.startswith("time/")} for line in found]

    def weights(run: pathlib.Path) -> dict[str, Any]:
        return load_file(run / "model" / "model.safetensors")

    assert lines(whole) == lines(cut) and len(lines(whole)) == 4
    assert all(bool((value == weights(cut)[name]).all()) for name, value in weights(whole).items())
    first, last = lines(whole)[0], lines(whole)[-1]
    assert last["ledger/trained_tokens"] > 3 * 64 > first["ledger/trained_tokens"] == 0  # more than one micro-batch a step
    start = Policy.load("tiny").model.state_dict()
    assert max(float((value - start[name]).abs().max()) for name, value in weights(whole).items() if name in start) > 1e-5
    assert all(math.isfinite(line["train/grad_norm"]) and line["train/grad_norm"] > 0 for line in lines(whole)[1:])


def test_shares_cover_everything_once_and_have_one_length() -> None:
    for size in (1, 2, 3):
        for count in range(1, 8):
            shares = [World(rank, size).share(list(range(count))) for rank in range(size)]
            assert sorted(item for share in shares for item, own in share if own) == list(range(count))
            assert len({len(share) for share in shares}) == 1
            blocks = [list(range(count))[World(rank, size).block(count)] for rank in range(size)]
            assert [item for block in blocks for item in block] == list(range(count))


def test_one_process_settles_nothing() -> None:
    ledger = Ledger(parameters=5, sampled_tokens=7)
    World().settle(ledger)
    assert ledger == Ledger(parameters=5, sampled_tokens=7)


def test_only_a_launcher_makes_a_process_one_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, size, expected in (("3", "4", 3), ("3", "1", 0), ("3", None, 0), (None, "4", 0)):
        for name, value in (("RANK", rank), ("WORLD_SIZE", size)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        assert environment_rank() == expected


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_zero_makes_the_update_of_one_process(tmp_path: pathlib.Path, recorded: tuple[dict[str, Any], pathlib.Path], stage: int) -> None:
    """Real DeepSpeed engines: several micro-batches per optimizer step, clipping, teacher, and state that goes through a checkpoint."""
    pytest.importorskip("deepspeed", reason="requires deepspeed")
    one = update(tmp_path / "one", recorded, list(ALGORITHMS), 1, config={"update": {"micro_tokens": 128}})
    settings = ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    two = update(
        tmp_path / "two", recorded, list(ALGORITHMS), 2, config={"update": {"micro_tokens": 128}}, environment=settings, under=[str(UNDER)]
    )
    assert all(two[name][2]["kind"].endswith("DEEPSPEED") and two[name][2]["processes"] == 2 for name in two)
    assert all(one[name][2]["ledger"]["train_inputs"] > 2 * 128 for name in one), "more than one micro-batch"
    for name in one:  # two processes pack other micro-batches: the tokens read differ, the gradient does not
        for key in ("train_inputs", "score_inputs"):
            one[name][2]["ledger"][key] = two[name][2]["ledger"][key]
    check_equal(one, two, begun(recorded))


def test_deepspeed_configurations() -> None:
    """As Accelerate itself makes them, from options and from a file, with its own word for what it leaves open."""
    from accelerate.utils import DeepSpeedPlugin

    written = {"zero_optimization": {"stage": 1}, "bf16": {"enabled": "auto"}, "gradient_clipping": "auto", "train_batch_size": "auto"}
    for plugin in (DeepSpeedPlugin(zero_stage=2), DeepSpeedPlugin(hf_ds_config=written)):
        plugin.set_mixed_precision("bf16")
        made = plugin.deepspeed_config
        complete(made, 0.5)
        assert (made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"], made["gradient_clipping"]) == (1, 1, 0.5)
        assert made["bf16"] == {"enabled": True, "check_grad_overflow": True}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"zero_optimization": {"stage": 3}}, "use zero stage 1 or 2, or FSDP2"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, "part the weights"),
        ({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme"}}}, "part the weights"),
        ({"zero_optimization": {"stage": 0}}, "shares nothing out"),
        ({"fp16": {"enabled": True}}, "use bf16"),
        ({"gradient_accumulation_steps": 4}, r"update\.micro_tokens"),
        ({"train_batch_size": 64}, "must be auto"),
        ({"gradient_clipping": 1.0}, r"must be auto or 0\.5"),
        ({"optimizer": {"type": "AdamW"}}, "take 'optimizer' out"),
    ]
    for config, sentence in bad:
        with pytest.raises(ConfigError, match=sentence):
            complete(DeepSpeedPlugin(hf_ds_config={"zero_optimization": {"stage": 2}} | config).deepspeed_config, 0.5)


def test_deepspeed_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    from sdgym.tracking import make_accelerator

    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr("accelerate.utils.is_deepspeed_available", lambda: False)
    with pytest.raises(ConfigError, match="pip install deepspeed"):
        make_accelerator("cpu", "float32", tmp_path, [])
