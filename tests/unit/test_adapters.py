"""LoRA through PEFT: what is trained, who the teacher is, and what plain transformers + peft make of the result."""

from __future__ import annotations

import copy
import importlib.util
import json
import pathlib
import shutil
from typing import Any

import pytest
import torch

import sdgym
from sdgym.adapters import STUDENT, TEACHER, AdapterView, add_lora, plain_weights
from sdgym.config import LoraConfig
from sdgym.errors import ConfigError, PolicyError
from sdgym.generation.torch_sampler import TorchSampler
from sdgym.policy import Policy, hidden_states
from sdgym.teacher import Teacher
from sdgym.testing_engine import LETTERS_ID
from sdgym.testing_policy import random_policy

pytestmark = [
    pytest.mark.slow,  # the extra is not part of the development set
    pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="LoRA needs the package peft"),
]

IDS = torch.tensor([[7, 30, 99, 150, 8]])
SMALL: dict[str, Any] = {
    "env": LETTERS_ID,
    "tasks_per_step": 2,
    "group_size": 2,
    "lora": {"rank": 4},
    "eval": {"every": 0, "tasks": 2, "samples": 2, "test_tasks": 0},
    "checkpoint": {"every": 1},
    "optimizer": {"lr": 0.05, "warmup": 0},
}


@pytest.fixture
def policy() -> Policy:
    found = random_policy(hidden=32, layers=2, heads=2, kv_heads=1)
    add_lora(found, LoraConfig(rank=4, alpha=8), seed=0)
    return found


def disturb(policy: Policy, seed: int = 0) -> None:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.1)


def hidden(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return hidden_states(model, IDS)


def test_a_fresh_adapter_changes_nothing_and_alone_is_trained(policy: Policy) -> None:
    before = random_policy(hidden=32, layers=2, heads=2, kv_heads=1)
    assert torch.equal(hidden(policy.model), hidden(before.model))
    trained = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert trained and all(f".{STUDENT}." in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    other = random_policy(hidden=32, layers=2, heads=2, kv_heads=1)
    add_lora(other, LoraConfig(rank=4, alpha=8), seed=0)
    assert other.state_hash() == policy.state_hash()  # the seed decides, not torch's global generator


def test_the_frozen_teacher_is_the_adapter_off(policy: Policy) -> None:
    count = len(list(policy.model.parameters()))
    teacher, before = Teacher(policy.model, "frozen", adapter=policy.adapter), hidden(policy.model)
    disturb(policy)
    ((view, weight),) = teacher.mixture()
    assert weight == 1.0 and torch.equal(hidden(view), before) and not torch.equal(hidden(policy.model), before)
    assert teacher.model is None and len(list(policy.model.parameters())) == count
    assert teacher.state_dict().keys() == {"count"}


def test_switching_adapters_leaves_gradients_alone(policy: Policy) -> None:
    disturb(policy)
    loss = hidden_states(policy.model, IDS).square().sum()
    flags = {name: p.requires_grad for name, p in policy.model.named_parameters()}
    hidden_states(AdapterView(policy.model, None), IDS)
    assert {name: p.requires_grad for name, p in policy.model.named_parameters()} == flags
    loss.backward()
    got = {name: p.grad.clone() for name, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    hidden_states(policy.model, IDS).square().sum().backward()
    assert got.keys() == {name for name, flag in flags.items() if flag}
    assert all(torch.equal(got[name], p.grad) for name, p in policy.model.named_parameters() if p.grad is not None)


def test_the_averaged_teacher_is_a_second_adapter(policy: Policy) -> None:
    disturb(policy, 1)
    teacher = Teacher(policy.model, "ema", rate=0.25, adapter=policy.adapter)
    start = {name: p.detach().clone() for name, p in policy.model.named_parameters() if p.requires_grad}
    ((view, _),) = teacher.mixture()
    assert torch.equal(hidden(view), hidden(policy.model))
    disturb(policy, 2)
    now = {name: p.detach().clone() for name, p in policy.model.named_parameters() if p.requires_grad}
    teacher.after_step()
    found = {n: p for n, p in policy.model.named_parameters() if f".{TEACHER}." in n}
    assert len(found) == len(start) and not any(p.requires_grad for p in found.values())
    for name, parameter in found.items():
        key = name.replace(f".{TEACHER}.", f".{STUDENT}.")
        torch.testing.assert_close(parameter.detach(), 0.75 * start[key] + 0.25 * now[key], rtol=1e-6, atol=1e-7)
    plain = copy.deepcopy(policy)
    with torch.no_grad():  # the second adapter as a model of its own
        for name, parameter in plain.model.named_parameters():
            if f".{STUDENT}." in name:
                parameter.copy_(found[name.replace(f".{STUDENT}.", f".{TEACHER}.")])
    torch.testing.assert_close(hidden(view), hidden(plain.model), rtol=0, atol=0)


def test_trust_region_mixes_adapter_off_and_on(policy: Policy) -> None:
    disturb(policy)
    (off, a), (on, b) = Teacher(policy.model, "trust_region", rate=0.25, adapter=policy.adapter).mixture()
    assert (a, b) == (0.75, 0.25) and on is policy.model and not torch.equal(hidden(off), hidden(on))


@pytest.mark.parametrize("kind", ["frozen", "ema", "periodic", "phase_start"])
def test_state_survives(policy: Policy, kind: str) -> None:
    teacher = Teacher(policy.model, kind, rate=0.3, adapter=policy.adapter)
    disturb(policy)
    teacher.after_step(), teacher.on_phase_enter()
    other = random_policy(hidden=32, layers=2, heads=2, kv_heads=1)
    add_lora(other, LoraConfig(rank=4, alpha=8), seed=5)
    again = Teacher(other.model, kind, rate=0.3, adapter=other.adapter)
    again.load_state_dict({name: tensor.clone() for name, tensor in teacher.state_dict().items()})
    assert torch.equal(hidden(again.mixture()[0][0]), hidden(teacher.mixture()[0][0]))


def test_plain_weights_compute_the_same_without_adapters(policy: Policy) -> None:
    disturb(policy)
    Teacher(policy.model, "ema", rate=0.1, adapter=policy.adapter)
    plain = random_policy(seed=9, hidden=32, layers=2, heads=2, kv_heads=1).model
    weights = dict(plain_weights(policy.model))
    assert weights.keys() == {name for name, _ in plain.named_parameters()}
    plain.load_state_dict(weights, strict=False)
    torch.testing.assert_close(hidden(plain), hidden(policy.model), rtol=1e-5, atol=1e-5)


def test_the_sampler_speaks_with_the_adapter(policy: Policy) -> None:
    disturb(policy)
    TorchSampler(policy, slots=2)  # it checks its own log-probs against a plain forward
    assert policy.adapter is not None and policy.adapter.active_adapter == STUDENT


@pytest.mark.parametrize("teacher", ["frozen", "ema"])
def test_a_run_trains_resumes_and_its_adapter_loads_in_plain_peft(tmp_path: pathlib.Path, teacher: str) -> None:
    base = tmp_path / "base"
    random_policy(hidden=32, layers=1, heads=2, kv_heads=1, context=512).save(base)
    algo = {"name": "opsd", "teacher": teacher, "teacher_rate": 0.2}
    run = SMALL | {"model": str(base), "algo": algo}
    whole = sdgym.train(out=tmp_path / "whole", steps=3, **run)
    cut = tmp_path / "cut"
    sdgym.train(out=cut, steps=3, **run)
    shutil.rmtree(cut / "checkpoints" / "step_000003")
    again = sdgym.train(out=cut, resume=True)
    same = {"loss/distill", "train/reward", "train/grad_norm"}
    assert {name: whole.metrics[name] for name in same} == {name: again.metrics[name] for name in same}
    folder = tmp_path / "whole" / "model"
    assert (folder / "adapter_model.safetensors").read_bytes() == (cut / "model" / "adapter_model.safetensors").read_bytes()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)

    import peft
    from transformers import AutoModelForCausalLM

    plain = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    off = AutoModelForCausalLM.from_pretrained(base).eval()
    merged = Policy.load(str(folder))
    with torch.no_grad():
        theirs, ours, before = (m(input_ids=IDS).logits for m in (plain, merged.model, off))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert float((theirs - before).abs().max()) > 1e-2  # and it has learnt something


def test_mistakes_are_told_in_one_sentence(tmp_path: pathlib.Path) -> None:
    fresh = random_policy(hidden=32, layers=1, heads=2, kv_heads=1)
    with pytest.raises(ConfigError, match=r"lora\.targets=\['nowhere'\] does not fit"):
        add_lora(fresh, LoraConfig(rank=2, targets=("nowhere",)), seed=0)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(PolicyError, match=r"holds no adapter_model\.safetensors"):
        Policy.load(str(tmp_path))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(PolicyError, match="names no base model"):
        Policy.load(str(tmp_path))
