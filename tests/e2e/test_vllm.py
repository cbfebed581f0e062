"""vLLM as the generation back end, on the CPU: the engine in this process, a whole run, a server. Own lane: ``make test-full``."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sdgym.adapters import plain_weights
from sdgym.config import make_config
from sdgym.core import Message
from sdgym.errors import ConfigError
from sdgym.generation.base import Request, Sample, SamplingParams
from sdgym.generation.torch_sampler import TorchSampler
from sdgym.model_store import local_path
from sdgym.packing import score_sequences
from sdgym.policy import Policy
from sdgym.session import corrected

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed (docs/scale.md)")
slow = pytest.mark.slow
QUESTIONS = ("12 + 30 = ?", "7 * 8 = ?", "91 - 19 = ?")
GREEDY = SamplingParams(temperature=0.0, max_tokens=12)


def prompts(policy: Policy) -> list[np.ndarray]:
    return [policy.chat.prompt_ids([Message(role="user", content=text)]) for text in QUESTIONS]


def play(sampler: Any, policy: Policy, sampling: SamplingParams, keep: bool = False, first: int = 0) -> list[Sample]:
    for i, ids in enumerate(prompts(policy)):
        sampler.submit(Request(first + i, first + i, ids, 1000 + i, sampling, keep=keep))
    return wait(sampler, len(QUESTIONS))


def wait(sampler: Any, count: int) -> list[Sample]:
    found: list[Sample] = []
    while len(found) < count:
        found += sampler.tick()
    return sorted(found, key=lambda sample: sample.request_id)


def disturb(policy: Policy) -> None:
    """Turn the policy into another one whose answers are others."""
    noise = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * parameter.std(), alpha=0.3)


def check_back_end(policy: Policy, sampler: Any, tolerance: float) -> None:
    """What holds for every vLLM back end: its tokens are scored as it says, and a push changes what it generates."""
    before = play(sampler, policy, GREEDY)
    reference = play(TorchSampler(policy, slots=4), policy, GREEDY)
    assert [s.ids.tolist() for s in before] == [s.ids.tolist() for s in reference]
    assert [s.stop for s in before] == [s.stop for s in reference]
    warm = SamplingParams(temperature=0.8, max_tokens=12)
    first = play(sampler, policy, warm, keep=True)
    assert [s.ids.tolist() for s in play(sampler, policy, warm, first=100)] == [s.ids.tolist() for s in first]  # seeded by request
    more = np.array([9, 11, 10], np.int64)
    for sample in first:  # a second turn goes on from the tokens of the first
        sampler.submit(Request(10 + sample.request_id, sample.request_id, more, 77, warm))
    second = wait(sampler, len(first))
    for ids, one, two in zip(prompts(policy), first, second, strict=True):
        whole = np.concatenate([ids, one.ids, more, two.ids])
        places = np.concatenate([len(ids) + np.arange(len(one.ids)), len(whole) - len(two.ids) + np.arange(len(two.ids))])
        ((expected, _),) = score_sequences(policy, [(whole, places)], warm.temperature, False)
        assert float(np.abs(np.concatenate([one.logprobs, two.logprobs]) - expected).max()) < tolerance
    disturb(policy)
    assert [s.ids.tolist() for s in play(sampler, policy, GREEDY)] == [s.ids.tolist() for s in before]  # it has its own weights
    sampler.sync_weights()
    after, expected_after = play(sampler, policy, GREEDY), play(TorchSampler(policy, slots=4), policy, GREEDY)
    assert [s.ids.tolist() for s in after] == [s.ids.tolist() for s in expected_after]
    assert [s.ids.tolist() for s in after] != [s.ids.tolist() for s in before]
    for new, reference_new in zip(after, expected_after, strict=True):
        np.testing.assert_allclose(new.logprobs, reference_new.logprobs, atol=tolerance)
    sampler.submit(Request(50, 50, np.full(policy.context_limit, 9, np.int64), 1, GREEDY))
    assert [(s.stop, len(s.ids)) for s in wait(sampler, 1)] == [("context", 0)]
    with pytest.raises(ConfigError, match="log-probs after truncation"):
        sampler.submit(Request(51, 51, more, 1, SamplingParams(top_p=0.9)))


def run_script(function: Callable[..., None], *arguments: str, timeout: float = 1500) -> None:
    """Run a function of this file in a process of its own: an engine cannot be taken down completely."""
    code = f"import importlib.util as u; s = u.spec_from_file_location('t', {__file__!r}); m = u.module_from_spec(s); s.loader.exec_module(m); "
    code += f"m.{function.__name__}(*{list(arguments)!r})"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def in_process(model: str) -> None:
    from sdgym.generation.vllm import VLLMSampler

    policy = Policy.load(model)
    check_back_end(policy, VLLMSampler(policy, lambda: plain_weights(policy.model), slots=8), 1e-3)


def whole_run(folder: str) -> None:
    import sdgym

    settings = {"every": 0, "tasks": 4, "samples": 2, "test_tasks": 0}
    run = {"model": "tiny", "steps": 3, "tasks_per_step": 4, "group_size": 4, "max_live": 16, "eval": settings, "optimizer": {"lr": 3e-3}}
    sdgym.train("grpo", "sdgym/Math-v0", out=folder, generation={"engine": "vllm"}, checkpoint={"every": 1}, **run)


@slow
@needs_vllm
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["tiny", "smollm2-135m"])
def test_the_engine_in_this_process(model: str) -> None:
    if local_path(model) is None:
        pytest.skip(f"the model {model} is not here (sdgym model fetch {model})")
    run_script(in_process, model)


@slow
@needs_vllm
@pytest.mark.timeout(1800)
def test_a_whole_run_measures_the_gap_after_every_push(tmp_path: pathlib.Path) -> None:
    run_script(whole_run, str(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    gaps = [line["train/logprob_gap"] for line in lines[1:]]
    moved = [line["train/update_kl"] for line in lines[1:]]
    assert len(gaps) == 3 and max(gaps) < 1e-4  # float32 on both sides
    assert max(moved) > 1e-4  # without a push the gap at steps 2 and 3 would be of the order of sqrt(2·KL)


def untied(name: str, folder: pathlib.Path) -> str:
    """A copy of a model whose head is a weight of its own: a CPU server packs a tied head once and for all."""
    policy = Policy.load(name)
    config = copy.deepcopy(policy.model.config)
    config.tie_word_embeddings = False
    twin = type(policy.model)(config)
    weights = policy.model.state_dict()
    twin.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    Policy(twin.eval(), policy.tokenizer, "untied").save(folder)
    return str(folder)


@contextlib.contextmanager
def serving(model: str, tmp_path: pathlib.Path) -> Iterator[str]:
    """A real server of a model's copy in ``tmp_path / "model"``; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = untied(model, tmp_path / "model")
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        folder,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    command += ["--dtype", "float32", "--max-model-len", "1024", "--logprobs-mode", "processed_logprobs", "--enforce-eager"]
    env = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(1200):
            if process.poll() is not None:
                pytest.fail((tmp_path / "server.log").read_text()[-5000:])
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@slow
@needs_vllm
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["tiny", "smollm2-135m"])
def test_a_server_takes_weights_from_a_folder(model: str, tmp_path: pathlib.Path) -> None:
    from sdgym.generation.vllm import VLLMServerSampler

    if local_path(model) is None:
        pytest.skip(f"the model {model} is not here (sdgym model fetch {model})")
    with serving(model, tmp_path) as url:
        policy = Policy.load(str(tmp_path / "model"))
        check_back_end(policy, VLLMServerSampler(policy, lambda: plain_weights(policy.model), url, tmp_path / "weights", slots=8), 1e-3)


def cached_tokens(url: str) -> int:
    """Prompt tokens that the server says it found in its prefix cache so far."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:prefix_cache_hits_total")))


@slow
@needs_vllm
@pytest.mark.timeout(1800)
def test_a_second_turn_finds_the_first_in_the_cache(tmp_path: pathlib.Path) -> None:
    from sdgym.generation.vllm import VLLMServerSampler

    with serving("tiny", tmp_path) as url:
        policy = Policy.load(str(tmp_path / "model"))
        sampler = VLLMServerSampler(policy, lambda: plain_weights(policy.model), url, tmp_path / "weights", slots=8)
        ids = np.arange(9, 9 + 512, dtype=np.int64)
        sampler.submit(Request(0, 0, ids, 1, GREEDY, keep=True))
        (first,) = wait(sampler, 1)
        assert cached_tokens(url) == 0
        sampler.submit(Request(1, 0, ids[:8], 2, GREEDY, keep=True))
        (second,) = wait(sampler, 1)
        assert 384 <= cached_tokens(url) <= 512 + len(first.ids)  # whole blocks (of at most 128 tokens) of what the first turn was
        whole = np.concatenate([ids, first.ids, ids[:8], second.ids])
        places = len(whole) - len(second.ids) + np.arange(len(second.ids))
        ((expected, _),) = score_sequences(policy, [(whole, places)], 1.0, False)
        np.testing.assert_allclose(second.logprobs, expected, atol=1e-3)  # what was cached says the same as what is computed
        found = cached_tokens(url)
        sampler.release(0)
        sampler.sync_weights()
        sampler.submit(Request(2, 2, ids, 1, GREEDY))
        wait(sampler, 1)
        assert cached_tokens(url) == found  # new weights: nothing of the old ones is used


@slow
@needs_vllm
@pytest.mark.timeout(1800)
def test_the_server_as_an_endpoint_is_measured_as_the_policy_itself(tmp_path: pathlib.Path) -> None:
    import sdgym

    with serving("tiny", tmp_path) as url:
        there = sdgym.evaluate(f"openai:{url}/v1", "sdgym/Math-v0", episodes=24, samples=1, max_tokens=24)
    here = sdgym.evaluate("tiny", "sdgym/Math-v0", episodes=24, samples=1, max_tokens=24)
    greedy = [[(row.task.task_id, row.actions) for row in report.rows[24:]] for report in (there, here)]
    assert len(greedy[0]) == 24 and greedy[0] == greedy[1]  # the same template, the same texts
    assert there.greedy == here.greedy > 0
    assert [row.actions for row in there.rows[:24]] != [row.actions for row in there.rows[24:]]  # the others are sampled


def test_the_mismatch_is_corrected_where_nobody_says_otherwise() -> None:
    def settings(engine: str, **algo: Any) -> dict[str, Any]:
        return corrected(make_config({"algo": {"name": "grpo", **algo}, "generation": {"engine": engine}}))

    assert settings("torch") == {}
    assert settings("vllm") == {"rollout_correction": "token"}
    assert settings("vllm", rollout_correction="none") == {"rollout_correction": "none"}
    sequence = corrected(make_config({"algo": "sdft", "generation": {"engine": "vllm"}}))
    assert sequence == {}  # it has a correction of its own
    assert corrected(make_config({"algo": "sharpen", "generation": {"engine": "vllm"}})) == {}
