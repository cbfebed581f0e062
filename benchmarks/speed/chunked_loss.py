"""Memory and time of a distillation loss at a large vocabulary: the chunked head against a dense one.

    python -m sdgym.benchmarks.speed.chunked_loss --out chunked_loss.json

T tokens of a one-layer model with V = 151,936 are distilled from a frozen copy, forward and backward, through the
very module that training uses (:class:`sdgym.scoring.ScoringModule`). ``dense`` keeps all logits for the backward
pass, ``chunked`` a block of :data:`LOGIT_ELEMENTS` of them. Each runs in a process of its own, so that peak memory
(above what the process held before the forward) is its own; the gradients must agree.
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
    scores.features[0]["divergence"].mean().backward()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    torch.save(module.student.get_input_embeddings().weight.grad, gradient)
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu_seconds, 2), "peak_mib": round(peak_mib() - before, 1)}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, default=4096, help=f"T, a multiple of {SEQUENCE}; dense needs about 5 MiB per token")
    parser.add_argument("--support", default="student_topk", choices=["student_topk", "teacher_topk", "full"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("MODE", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one[0], options.tokens, options.support, Path(options.one[1]))))
        return
    import torch

    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("chunked", "dense"):
            command = [sys.executable, "-m", "sdgym.benchmarks.speed.chunked_loss", "--tokens", str(options.tokens)]
            command += ["--support", options.support, "--one", mode, f"{folder}/{mode}.pt"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[mode] = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{mode:8s} {results[mode]['seconds']:7.2f} s  {results[mode]['cpu_seconds']:7.2f} CPU s  {results[mode]['peak_mib']:10.1f} MiB",
                flush=True,
            )
        one, other = (torch.load(f"{folder}/{mode}.pt", weights_only=True) for mode in ("chunked", "dense"))
    gap = float((one - other).abs().max() / other.abs().max())
    memory = results["dense"]["peak_mib"] / max(results["chunked"]["peak_mib"], 1.0)
    slower, work = (results["chunked"][name] / results["dense"][name] for name in ("seconds", "cpu_seconds"))
    print(f"memory 1/{memory:.1f} of dense, time x{slower:.2f}, CPU time x{work:.2f}, gradients differ by {gap:.1e} of the largest")
    assert math.isfinite(gap) and gap < 1e-5
    if options.out:
        report = {"benchmark": "chunked_loss", "tokens": options.tokens, "vocabulary": VOCABULARY, "support": options.support}
        report |= {
            "memory_ratio": round(memory, 2),
            "time_ratio": round(slower, 3),
            "cpu_time_ratio": round(work, 3),
            "gradient_gap": gap,
            "results": results,
        }
        options.out.write_text(json.dumps({**report, "machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
