"""One GRPO step, rollouts and update: sdgym's trainer against TRL's ``GRPOTrainer`` on the same work.

    python -m sdgym.benchmarks.speed.grpo_step --out grpo_step.json

Both train the same embedded policy on the same 32 Math problems per step with 8 rollouts each, up to 24 tokens,
judged by the same grader, with one optimizer step per batch. Lengths are those that the policy samples, so both
draw them from the same distribution; the mean length of each side is in the result. TRL may choose its number of
threads; sdgym has one, as by default. Contenders run in turn, ``--repeats`` times; each one's best median counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from sdgym.benchmarks.speed.machine import machine

TASKS, GROUP, MAX_TOKENS, RATE = 32, 8, 24, 5e-4


def run_sdgym(model: str, steps: int, threads: int) -> dict[str, float]:
    """Return the median seconds of a step after the first, and the mean length of rollouts."""
    import torch

    from sdgym.api import train

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        train(
            "grpo",
            "sdgym/Math-v0",
            out=out,
            model=model,
            device="cpu",
            threads=threads,
            steps=steps,
            tasks_per_step=TASKS,
            group_size=GROUP,
            sampling={"max_tokens": MAX_TOKENS},
            optimizer={"lr": RATE, "warmup": 0},
            eval={"tasks": 1, "samples": 1, "every": 0, "test_tasks": 0},
            checkpoint={"every": 0},
            log={"trajectories_every": 0},
        )
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = [line for line in lines if "time/rollout" in line][1:]
    seconds = [line["time/rollout"] + line["time/update"] for line in kept]
    return {"seconds": statistics.median(seconds), "length": statistics.fmean(line["train/length"] for line in kept)}


def run_trl(model: str, steps: int, threads: int) -> dict[str, float]:
    """Return the same of TRL's trainer."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from sdgym.envs.mathematics.env import gold_of
    from sdgym.policy import Policy
    from sdgym.session import make_env
    from sdgym.verifiers.math_answer import judge_response
    from sdgym.verifiers.math_quick import Job

    torch.set_num_threads(threads)
    policy = Policy.load(model, "cpu", "float32", threads)
    tasks = list(make_env("sdgym/Math-v0", level="tiny", split="train").unwrapped.tasks("train", 0, TASKS * steps))
    golds = [gold_of(task) for task in tasks]
    lengths: list[int] = []

    def reward(completions: list[Any], completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float | None]:
        lengths.extend(len(ids) for ids in completion_ids)
        verdicts = [judge_response(golds[n], text[0]["content"]) for n, text in zip(number, completions, strict=True)]
        return [float((v.finish(["different"] * len(v.pairs)) if isinstance(v, Job) else v).score or 0.0) for v in verdicts]

    class Clock(TrainerCallback):
        """Notes when each step ends."""

        def __init__(self) -> None:
            self.marks: list[float] = []

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.marks.append(time.perf_counter())

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=TASKS * GROUP,
            num_generations=GROUP,
            max_completion_length=MAX_TOKENS,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            beta=0.0,
            max_steps=steps,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            logging_strategy="no",
        )
        rows = [{"prompt": list(task.messages), "number": number} for number, task in enumerate(tasks)]
        GRPOTrainer(
            policy.model, reward, settings, train_dataset=Dataset.from_list(rows), processing_class=policy.tokenizer, callbacks=[clock]
        ).train()
    seconds = [b - a for a, b in zip(clock.marks, clock.marks[1:], strict=False)]
    return {"seconds": statistics.median(seconds), "length": statistics.fmean(lengths)}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="tiny", help="embedded policy or folder")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="what TRL may choose from")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for _ in range(options.repeats):
        for name, run, threads in [("sdgym threads=1", run_sdgym, 1), *((f"trl threads={n}", run_trl, n) for n in options.threads)]:
            found = run(options.model, options.steps, threads)
            if name not in results or found["seconds"] < results[name]["seconds"]:
                results[name] = found
            print(f"{name:20s} {found['seconds']:7.3f} s per step, {found['length']:.1f} tokens per rollout", flush=True)
    best = min((found["seconds"], name) for name, found in results.items() if name.startswith("trl"))
    ratio = best[0] / results["sdgym threads=1"]["seconds"]
    print(f"ratio {ratio:.2f} (against {best[1]})")
    report = {"benchmark": "grpo_step", "model": options.model, "ratio": round(ratio, 3), "target": 2.0, "results": results}
    if options.out:
        options.out.write_text(json.dumps({**report, "machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
