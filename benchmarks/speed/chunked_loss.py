"""Memory and time of a distillation loss at a large vocabulary: the chunked head against a dense one.

    python -m sdgym.benchmarks.speed.chunked_loss --out chunked_loss.json

T tokens of a one-layer model with V = 151,936 are distilled from a frozen copy, forward and backward, through the
very module that training uses (:class:`sdgym.scoring.ScoringModule`). ``dense`` keeps all logits for the backward
pass, ``chunked`` a block of :data:`LOGIT_ELEMENTS` of them. Each runs in a process of its own, so that peak memory
(above what the process held before the forward) is its own; the gradients must agree.

Dense needs some 13 GiB at T = 4,096. Above ``--dense-tokens`` it is not run: its peak is computed, on the straight line
through two sizes that are, and times and gradients are compared at the larger of these.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from sdgym.benchmarks.speed.machine import machine

VOCABULARY, HIDDEN, SEQUENCE = 151_936, 64, 512
LOGIT_ELEMENTS = 1 << 24  # the default of UpdateConfig


def peak_mib() -> float:
    """Return the largest resident size this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build(tokens: int, logit_elements: int) -> tuple[Any, Any, list[Any]]:
    """Return the scoring module, the packed batch and the reference views."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from sdgym.core import ScoringView
    from sdgym.packing import pack
    from sdgym.scoring import ScoringModule
    from sdgym.seeding import generator
    from sdgym.teacher import Teacher

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=SEQUENCE + 8,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = LlamaForCausalLM(config)
    teacher = Teacher(student, "frozen")
    assert teacher.model is not None
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.02)
    views = []
    for row in range(tokens // SEQUENCE):
        ids = generator(0, "chunked", row).integers(0, VOCABULARY, SEQUENCE + 1)
        views.append(ScoringView(row, ids[:1], ids[1:], np.ones(SEQUENCE, bool), np.arange(SEQUENCE), weights="teacher", grad=False))
    sequences, positions = zip(*(view.sequence() for view in views), strict=True)
    (batch,) = pack(sequences, positions, max_tokens=2 * tokens, token_cost=0)
    return ScoringModule(student, teacher, logit_elements=logit_elements, micro_tokens=2 * tokens), batch, views


def run(mode: str, tokens: int, support: str, gradient: Path) -> dict[str, float]:
    """Do one forward and backward; save the head's gradient; return seconds and peak memory."""
    import torch

    from sdgym.algos.losses import DistillLoss
    from sdgym.scoring import Fused

    torch.set_num_threads(2)
    module, batch, views = build(tokens, LOGIT_ELEMENTS if mode == "chunked" else tokens * VOCABULARY)
    loss: Any = DistillLoss(divergence="reverse_kl", support=support)  # type: ignore[arg-type]
    before, started, worked = peak_mib(), time.perf_counter(), time.process_time()
    index = torch.arange(tokens)
    order = [i for i, _, _ in batch.sequences]
    scores = module(batch, "policy", [Fused(loss, index, [[views[i] for i in order]])])
    divergence = scores.features[0]["divergence"].mean()
    del scores  # as the learner does: kept log-probs would keep each chunk's recomputed logits
    divergence.backward()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    torch.save(module.student.get_input_embeddings().weight.grad, gradient)
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2), "peak_mib": round(peak_mib() - before, 1)}


def in_process(mode: str, tokens: int, support: str, gradient: Path) -> dict[str, float]:
    """Return what :func:`run` does, from a process of its own, and print it."""
    command = [sys.executable, "-m", "sdgym.benchmarks.speed.chunked_loss", "--tokens", str(tokens), "--support", support]
    done = subprocess.run([*command, "--one", mode, str(gradient)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    told = f"{found['seconds']:7.2f} s  {found['cpu_seconds']:7.2f} CPU s  {found['peak_mib']:10.1f} MiB"
    print(f"{mode:8s} T={tokens:<5d} {told}", flush=True)
    return found


def compare(tokens: int, dense_tokens: int, support: str) -> dict[str, Any]:
    """Run both modes and return the report."""
    import torch

    both = min(tokens, dense_tokens)
    sizes = [("chunked", tokens), ("chunked", both), ("dense", both)] + ([("dense", both // 2)] if both < tokens else [])
    with tempfile.TemporaryDirectory() as folder:
        names = {size: Path(folder) / f"{size[0]}-{size[1]}.pt" for size in sizes}
        results = {size: in_process(*size, support, names[size]) for size in names}
        one, other = (torch.load(names[mode, both], weights_only=True) for mode in ("chunked", "dense"))
    chunked, dense = results["chunked", both], results["dense", both]
    peak = dense["peak_mib"]
    if both < tokens:
        peak += (peak - results["dense", both // 2]["peak_mib"]) / (both - both // 2) * (tokens - both)
    return {
        "memory_ratio": round(peak / max(results["chunked", tokens]["peak_mib"], 1.0), 2),
        "dense_peak_mib": round(peak, 1),
        "dense_peak_is": "measured" if both == tokens else f"computed, a line through T={both // 2} and T={both}",
        "chunked_peak_mib": {str(size): results["chunked", size]["peak_mib"] for size in sorted({both, tokens})},
        "compared_at": both,
        "time_ratio": round(chunked["seconds"] / dense["seconds"], 3),
        "cpu_time_ratio": round(chunked["cpu_seconds"] / dense["cpu_seconds"], 3),
        "gradient_gap": float((one - other).abs().max() / other.abs().max()),
        "results": [{"mode": mode, "tokens": size, **found} for (mode, size), found in results.items()],
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, default=4096, help=f"T, a multiple of {SEQUENCE}")
    parser.add_argument("--dense-tokens", type=int, default=1024, help="the most tokens that dense is run with, about 3 MiB each")
    parser.add_argument("--support", default="student_topk", choices=["student_topk", "teacher_topk", "full"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("MODE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one[0], options.tokens, options.support, Path(options.one[1]))))
        return
    found = compare(options.tokens, options.dense_tokens, options.support)
    print(
        f"memory 1/{found['memory_ratio']:.1f} of dense ({found['dense_peak_mib']:.0f} MiB, {found['dense_peak_is']}); at T={found['compared_at']} "
        f"time x{found['time_ratio']:.2f}, CPU time x{found['cpu_time_ratio']:.2f}, gradients differ by {found['gradient_gap']:.1e} of the largest"
    )
    assert math.isfinite(found["gradient_gap"]) and found["gradient_gap"] < 1e-5
    if options.out:
        head = {"benchmark": "chunked_loss", "tokens": options.tokens, "vocabulary": VOCABULARY, "support": options.support}
        options.out.write_text(json.dumps({**head, **found, "machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
