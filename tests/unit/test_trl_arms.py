"""TRL's trainers as arms: the translation value by value, and a real run of each that leaves our run folder."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest
import yaml

from sdgym.benchmarks.head_to_head.suite import Suite
from sdgym.benchmarks.head_to_head.trials import obstacle
from sdgym.benchmarks.head_to_head.trl_settings import ALWAYS, missing_features, translate
from sdgym.config import make_config
from sdgym.errors import ConfigError


def settings(algo: str, own: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"algo": {"name": algo, **(own or {})}, "tasks_per_step": 4, "group_size": 2, "steps": 10, **more}


def test_sdpo_is_set_to_our_k_divergence_ema_and_rate() -> None:
    own = {"top_k": 7, "divergence": "jensen_shannon", "alpha": 0.3, "teacher_rate": 0.02, "teacher_every": 3, "importance_cap": 1.5}
    config = make_config(settings("sdpo", own, optimizer={"lr": 3e-4, "warmup": 2}))
    found = translate(config, 2, 24)
    a = found.arguments
    assert found.trainer == "sdpo"
    assert (a["distillation_mode"], a["distillation_topk"], a["distillation_add_tail"]) == ("topk_logits", 7, True)
    assert (a["distillation_alpha"], a["distillation_is_clip"], a["distillation_weight"]) == (0.3, 1.5, 1.0)
    assert (a["teacher_model_kind"], a["teacher_update_rate"], a["teacher_sync_steps"]) == ("ema", 0.02, 3)
    assert (a["learning_rate"], a["warmup_steps"], a["num_generations"], a["max_completion_length"]) == (3e-4, 2, 2, 24)
    assert (a["per_device_train_batch_size"], a["max_steps"]) == (8, 10)
    assert translate(config, 2, 24, vocabulary=5).arguments["distillation_topk"] == 5


def test_directions_and_weights() -> None:
    def argument(name: str, **own: Any) -> Any:
        return translate(make_config(settings("sdpo", own)), 2, 8).arguments[name]

    assert argument("distillation_alpha", divergence="reverse_kl") == 1.0, "TRL: alpha 1 is KL(student ‖ teacher)"
    assert argument("distillation_alpha", divergence="forward_kl") == 0.0
    assert argument("teacher_model_kind", teacher="frozen") == "base"
    assert argument("teacher_sync_steps", minibatches=4) == 4, "our EMA moves once per rollout step, TRL counts optimizer steps"
    assert argument("distillation_mode", support="full") == "full_logits"
    hybrid = translate(make_config(settings("sdpo_hybrid")), 2, 8)
    assert hybrid.arguments["distillation_weight"] == pytest.approx(0.1) and hybrid.arguments["epsilon_high"] == 0.28


def test_grpo_and_its_presets() -> None:
    a = translate(make_config(settings("grpo", {"epochs": 2, "minibatches": 2})), 2, 8).arguments
    assert (a["loss_type"], a["scale_rewards"], a["epsilon"], a["epsilon_high"], a["beta"]) == ("grpo", "group", 0.2, 0.2, 0.0)
    assert (a["per_device_train_batch_size"], a["steps_per_generation"], a["num_iterations"], a["max_steps"]) == (4, 2, 2, 40)
    assert translate(make_config(settings("dr_grpo")), 2, 8).arguments["loss_type"] == "dr_grpo"
    assert translate(make_config(settings("gspo")), 2, 8).arguments["importance_sampling_level"] == "sequence"


def test_what_trl_lacks_is_said() -> None:
    assert any("feedback on the student's own attempt" in text for text in missing_features(settings("sdpo")))
    assert not any("feedback" in text for text in missing_features(settings("sdpo_norich")))
    assert "dynamic sampling" in missing_features(settings("dapo")) and "control P2" in missing_features(
        settings("sdpo", {"control": "P2"})
    )
    assert set(ALWAYS) <= set(missing_features(settings("grpo"))) and "dynamic sampling" not in missing_features(settings("grpo"))


def test_what_trl_has_no_trainer_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="knows grpo and sdpo"):
        missing_features(settings("opsd"))
    with pytest.raises(ConfigError, match="do not divide into 3"):
        missing_features(settings("grpo", {"minibatches": 3}))


def test_worlds_of_several_turns_are_left_out() -> None:
    worlds = [{"id": "sdgym/Math-v0", "kwargs": {"level": "tiny"}}, {"id": "sdgym/Sokoban-v0", "kwargs": {"mode": "multi_turn"}}]
    arms = [{"name": "theirs", "algo": "grpo", "engine": "trl"}, {"name": "ours", "algo": "grpo"}]
    suite = Suite.model_validate({"title": "t", "arms": arms, "envs": worlds})
    (theirs, ours), (math, sokoban) = suite.arms, suite.envs
    assert obstacle(suite, theirs, math) is None and obstacle(suite, ours, sokoban) is None
    assert "play one turn" in (obstacle(suite, theirs, sokoban) or "")


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["grpo", "sdpo"])
def test_a_trl_run_leaves_our_run_folder_and_keeps_to_the_budget(algo: str, tmp_path: pathlib.Path) -> None:
    from safetensors.torch import load_file

    from sdgym.model_store import local_path
    from sdgym.report.load import load_run

    tree = settings(
        algo,
        steps=4,
        env={"id": "sdgym/Math-v0", "level": "tiny"},
        model="tiny",
        eval={"every": 1, "tasks": 2, "samples": 1, "test_tasks": 2},
        optimizer={"lr": 1e-3, "warmup": 0},
        sampling={"max_tokens": 6},
        budget={"sampled_tokens": 60},  # 8 rows of at most 6 tokens: two steps
    )
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(tree))
    arguments = ["--config", str(tmp_path / "settings.yaml"), "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", "sdgym.benchmarks.head_to_head.trl_arms", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    tokens = [int(line["ledger/sampled_tokens"]) for line in lines]
    assert len(tokens) == 3 and tokens[1] < 60 <= tokens[2] and lines[-1]["ledger/verifier_calls"] == 16
    run = load_run(tmp_path / "run")
    assert run.finished and [s.step for s in run.curve] == [0, 1, 2] and "test/success" in lines[-1]
    before, after = (load_file(folder / "model.safetensors") for folder in (local_path("tiny"), tmp_path / "run" / "model"))
    moved = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 1e-4 < moved < 1e-2, "two AdamW steps of at most about 1e-3 each"
