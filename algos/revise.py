"""ReVISE: learn when to stop, then how to correct oneself: first a verdict after one's answer, then a second answer behind it.

Paper: arXiv 2502.14565 (notes).   After y the policy says a phrase [refine], or ends its turn.
    stage 1, verify:   y wrong: [refine] ≻ end;   y right: end ≻ [refine]
    stage 2, correct:  behind x ∥ y_wrong ∥ [refine]:  a right answer ≻ a wrong one
    L = −log π(preferred) + .1·DPO(preferred ≻ other),  reference = the policy at the end of the stage before
    inference: of N answers, refined where the policy wanted it, the one with the largest Σ π(end) / (π(end) + π([refine])) wins
Status: reconstruction. Deviations: 1. [refine] is a phrase, not a new token. 2. Pairs come from the batch's own rollouts: the right and
the wrong answer of stage 2 are siblings of y. 3. Stages last a set number of steps; stage 1's pairs stay in stage 2, so that the policy
does not forget to stop. 4. The vote is over the samples of an evaluation; the notes give no formula for the confidence. 5. β of DPO
is not known.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, Phase, TeacherWeightsSpec
from sdgym.algos.losses import NLLLoss, PolicyGradientLoss
from sdgym.algos.pairs import Pair, preference_items
from sdgym.algos.settings import UpdateSettings
from sdgym.algos.stopping import confidences, continuation, refine_ids, said, stop_or_refine
from sdgym.algos.terms import make_term, usable_rows
from sdgym.core import LossItem, LossTerm, Trajectory
from sdgym.errors import ConfigError


class ReviseConfig(UpdateSettings):
    """Settings.

    Attributes:
        stage_steps: steps of stage 1. phrase: [refine]. preference_weight, beta: factor on DPO, and its β.
    """

    stage_steps: PositiveInt = 20
    phrase: str = "That was wrong. Let me fix it."
    preference_weight: NonNegativeFloat = 0.1
    beta: PositiveFloat = 0.1


class Revise(Algorithm):
    """Self-verification, then self-correction, from preference pairs of one's own rollouts."""

    name = "revise"
    Config = ReviseConfig
    config: ReviseConfig

    def __init__(self, config: ReviseConfig) -> None:
        super().__init__(config)
        if config.epochs * config.minibatches > 1:
            raise ConfigError("revise's preference weights hold for one update per batch: use epochs=1 and minibatches=1")
        self.teacher_weights = TeacherWeightsSpec("phase_start")

    @property
    def phases(self) -> Sequence[Phase]:
        """Verify for a set number of steps, then correct as well."""
        first, second = (functools.partial(self.annotate, correct=correct) for correct in (False, True))
        return (self.config.phase(first, "verify", steps=self.config.stage_steps), self.config.phase(second, "correct"))

    def annotate(self, batch: Batch, context: AnnotateContext, correct: bool = True) -> list[LossTerm]:
        """Return likelihood of the preferred side and DPO over the stage's pairs."""
        pairs = {"verify": self.verdicts(batch, context), "correct": self.corrections(batch, context) if correct else []}
        terms: list[LossTerm] = []
        for name, found in pairs.items():
            good = [LossItem(view, np.ones(int(view.loss_mask.sum()), np.float32)) for view, _ in found]
            terms += make_term(name, NLLLoss(), good, batch, self.config)
            if found and self.config.preference_weight:
                items, margins = preference_items(found, context, self.config.beta)
                context.report(f"{name}_margin", float(margins.mean()))
                factor = 2 * self.config.preference_weight  # a mean over pairs, each of two sequences
                terms.append(LossTerm(f"{name}_preference", PolicyGradientLoss("reinforce"), items, factor, "seq_mean_token_sum"))
        return terms

    def verdicts(self, batch: Batch, context: AnnotateContext) -> list[Pair]:
        """Return stage 1's pairs: what should follow each answer, against what should not."""
        pairs: list[Pair] = []
        for i in self._single(batch):
            if found := stop_or_refine(i, batch.rows[i], self.config.phrase, context):
                pairs.append(found if batch.rows[i].success else found[::-1])
        return pairs

    def corrections(self, batch: Batch, context: AnnotateContext) -> list[Pair]:
        """Return stage 2's pairs: behind a wrong answer and [refine], the group's first right answer against another wrong one."""
        pairs, refine, usable = [], refine_ids(self.config.phrase, context), set(self._single(batch))
        for group in batch.groups:
            right = [i for i in group if i in usable and batch.rows[i].success]
            wrong = [i for i in group if i in usable and not batch.rows[i].success]
            for k, i in enumerate(wrong if right and len(wrong) > 1 else []):
                prefix = np.concatenate([said(batch.rows[i], context), refine])
                sides = [continuation(i, prefix, batch.rows[j].action_ids()) for j in (right[0], wrong[(k + 1) % len(wrong)])]
                if max(len(view.sequence()[0]) for view in sides) <= context.max_context:
                    pairs.append((sides[0], sides[1]))
        return pairs

    def _single(self, batch: Batch) -> list[int]:
        return [i for i in usable_rows(batch, drop_truncated=True) if len(batch.rows[i].actions) == 1]

    def confidence(self, rows: Sequence[Trajectory], context: AnnotateContext) -> np.ndarray:
        """Return the weight of each answer's vote: how sure the policy is that it may stop there, ``[N]``."""
        return confidences(rows, self.config.phrase, context)

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse several turns, and a run that ends before it corrects."""
        turns, steps = int(getattr(env, "max_turns", 1)), self.config.stage_steps
        if turns > 1:
            raise ConfigError(f"revise adds a second answer to one turn, and {env.env_id} has {turns} turns: use grpo")
        if settings.get("steps", steps + 1) <= steps:
            raise ConfigError(f"revise verifies for stage_steps={steps} steps first, so steps={settings['steps']} is too few")
