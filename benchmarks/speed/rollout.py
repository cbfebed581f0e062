"""Rollout speed: the embedded sampler against ``transformers.generate`` at its best settings.

    python -m sdgym.benchmarks.speed.rollout --out rollout.json

Pinned workload (``rollout_lengths.json``): 32 prompts of 64 tokens × 8 samples, forced lengths with mean 48
and maximum 192, so that every contender produces the same number of tokens. The baseline may choose batch
size, threads and cache; the sampler may choose threads. Contenders are measured in turn, ``--repeats`` times
over, and each one's best time counts. The sampler records log-probs, the baseline does not have to.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdgym.benchmarks.speed.machine import machine
from sdgym.generation.torch_sampler import TorchSampler
from sdgym.policy import Policy
from sdgym.seeding import derive, generator

WORKLOAD = Path(__file__).with_name("rollout_lengths.json")


def workload(vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prompts ``[P, 64]`` and forced lengths ``[P, G]``."""
    spec = json.loads(WORKLOAD.read_text())
    lengths = np.array(spec["lengths"]).reshape(spec["prompts"], spec["group"])
    prompts = generator(0, "benchmark", "rollout", "prompts").integers(5, vocab_size, (spec["prompts"], spec["prompt_length"]))
    return prompts, lengths


def run_sampler(sampler: TorchSampler, prompts: np.ndarray, lengths: np.ndarray) -> int:
    """Generate with the embedded sampler, as a step of training does: from an empty cache; return the number of tokens."""
    from sdgym.generation.base import Request, SamplingParams

    sampler.sync_weights()
    group = lengths.shape[1]
    for index, length in enumerate(lengths.ravel().tolist()):
        params = SamplingParams(max_tokens=length)
        sampler.submit(Request(index, index, prompts[index // group], derive(0, "benchmark", index), params))
    produced = 0
    while sampler.pending:
        produced += sum(len(sample.ids) for sample in sampler.tick())
    return produced


def run_generate(policy: Policy, prompts: np.ndarray, lengths: np.ndarray, batch: int, cache: str) -> int:
    """Generate with ``transformers.generate``; a row stops at its forced length. Returns the number of tokens."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Forced(StoppingCriteria):
        """Row i is done after its own number of tokens."""

        def __init__(self, limits: torch.Tensor, start: int) -> None:
            self.limits, self.start = limits, start

        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            return input_ids.shape[1] - self.start >= self.limits

    generate: Any = policy.model.generate
    rows, limits, produced = np.repeat(prompts, lengths.shape[1], axis=0), lengths.ravel(), 0
    for first in range(0, len(rows), batch):
        ids, wanted = torch.from_numpy(rows[first : first + batch]), torch.from_numpy(limits[first : first + batch])
        options: dict[str, Any] = {"cache_implementation": "static"} if cache == "static" else {}
        with torch.no_grad():
            output = generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=int(wanted.max()),
                eos_token_id=None,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([Forced(wanted, ids.shape[1])]),
                **options,
            )
        assert output.shape[1] == ids.shape[1] + int(wanted.max())
        produced += int(wanted.sum())
    return produced


def run_continuous(policy: Policy, prompts: np.ndarray, lengths: np.ndarray) -> int:
    """Generate with transformers' continuous batching (sizes given, since it can only ask a GPU for them)."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    settings = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, eos_token_id=-1, pad_token_id=0, max_new_tokens=1)
    sizes = ContinuousBatchingConfig(num_blocks=2 * lengths.size, page_size=256, max_batch_tokens=2048)
    rows, produced = np.repeat(prompts, lengths.shape[1], axis=0), 0
    model: Any = policy.model
    implementation = model.config._attn_implementation
    try:
        with model.continuous_batching_context_manager(settings, continuous_batching_config=sizes, warmup=False) as manager:
            for index, (ids, length) in enumerate(zip(rows.tolist(), lengths.ravel().tolist(), strict=True)):
                manager.add_request(ids, request_id=str(index), max_new_tokens=length)
            for _ in range(lengths.size):
                result = manager.get_result(timeout=600)
                if result is None:
                    raise TimeoutError("continuous batching gave no result within 600 s")
                produced += len(result.generated_tokens)
    finally:
        model.set_attn_implementation(implementation)
    return produced


def measure(contenders: dict[str, tuple[int, Callable[[], int]]], repeats: int, expected: int) -> dict[str, dict[str, float]]:
    """Run every contender in turn, ``repeats`` times; return the best wall seconds and its CPU seconds and rate."""
    results: dict[str, dict[str, float]] = {}
    for _ in range(repeats):
        for name, (threads, run) in contenders.items():
            torch.set_num_threads(threads)
            wall, cpu = time.perf_counter(), time.process_time()
            produced = run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            assert produced == expected, f"{name} made {produced} tokens instead of {expected}"
            if name not in results or wall < results[name]["seconds"]:
                results[name] = {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3), "tokens_per_second": round(produced / wall, 1)}
            print(f"{name:40s} {wall:8.2f} s wall {cpu:8.2f} s cpu {produced / wall:10.0f} tokens/s", flush=True)
    return results


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="tiny", help="embedded policy or folder")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--slots", type=int, nargs="+", default=[256])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--continuous", action="store_true", help="measure transformers' continuous batching too (slow on a CPU)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    policy = Policy.load(options.model)
    prompts, lengths = workload(policy.vocab_size)
    ours: dict[str, tuple[int, Callable[[], int]]] = {
        f"sdgym slots={slots} threads={threads}": (
            threads,
            functools.partial(run_sampler, TorchSampler(policy, slots=slots, end_ids=()), prompts, lengths),
        )
        for slots in options.slots
        for threads in options.threads
    }
    theirs: dict[str, tuple[int, Callable[[], int]]] = {
        f"generate batch={batch} cache={cache} threads={threads}": (
            threads,
            functools.partial(run_generate, policy, prompts, lengths, batch, cache),
        )
        for batch in (64, 256)
        for cache in ("dynamic", "static")
        for threads in options.threads
    }
    if options.continuous:
        theirs["generate_batch threads=1"] = (1, lambda: run_continuous(policy, prompts, lengths))
    results = measure(ours | theirs, options.repeats, int(lengths.sum()))
    best = {side: min((results[n]["seconds"], n) for n in names) for side, names in (("sdgym", ours), ("transformers", theirs))}
    ratio = best["transformers"][0] / best["sdgym"][0]
    report = {
        "benchmark": "rollout",
        "model": options.model,
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "tokens": int(lengths.sum()),
        "ratio": round(ratio, 3),
        "target": 3.0,
        "best": {side: name for side, (_, name) in best.items()},
        "results": results,
        "machine": machine(),
    }
    print(f"ratio {ratio:.2f} ({best['sdgym'][1]} against {best['transformers'][1]})")
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
