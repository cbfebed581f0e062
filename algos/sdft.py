"""SDFT: self-distillation fine-tuning; a moving average of the policy reads the demonstration and teaches the policy that does not.

Paper: arXiv 2601.19897 ("Self-Distillation Enables Continual Learning").
    L = E_{y~π_θ(·|x)} (1/|y|) Σ_{t>k} D( π_θ(·|x,y_<t), sg π_φ(·|x,demo,y_<t) ),   φ ← aθ + (1−a)φ,   k = 3
D: the paper's theory has the reverse KL; its code runs the forward KL on the full vocabulary.
Status: code-read (in derivatives that keep the trainer: CaOPD @ 46624a0; TRL 1.16; tinker-cookbook @ 9dfcc3a).
Deviations: 1. The frame of the teacher's prompt is ours. 2. A demonstration that does not fit drops the row; the source
cuts the prompt on the left and may lose the question. 3. The demonstration is the task's reference solution. 4. The
skipped tokens are the first of an episode, not of each turn. 5. One sample per prompt in the source; any group size here.
The objective is OPSD's with other settings: with k = 0, a frozen teacher and the same D the two are the same.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt

from sdgym.algos.opsd import OPSD, OPSDConfig
from sdgym.core import Aggregation


class SDFTConfig(OPSDConfig):
    """OPSD's settings with the defaults of the source's code."""

    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon", "mixed"] = "forward_kl"
    support: Literal["full", "student_topk", "teacher_topk", "sampled"] = "full"
    teacher: Literal["live", "frozen", "phase_start", "ema", "periodic", "trust_region", "external"] = "ema"
    teacher_rate: float = Field(default=0.01, ge=0.0, le=1.0)
    teacher_unit: Literal["step", "update"] = "update"
    skip_first: NonNegativeInt = 3
    rollout_correction: Literal["none", "token", "sequence_mean", "sequence_mask"] = "sequence_mean"
    aggregation: Aggregation = "seq_mean_token_mean"
    count_empty: bool = True


class SDFT(OPSD):
    """On-policy learning from demonstrations: no reward, no group."""

    name = "sdft"
    Config = SDFTConfig
