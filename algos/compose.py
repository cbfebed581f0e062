"""A point of the family: GRPO and a teacher's opinion of the same tokens, combined along named axes. No algorithm of its own.

    L = (1/N) Σ_i Σ_t m_it·[ b_it·ℓ_RL(i, t; A_i·g_it) + d_it·ω_i·u_it·ℓ_D(i, t) ]       (algorithms-wider §0)
Which contexts the teacher reads, whose weights it has, how several views become one, what is done with it (a divergence, an
advantage, a factor of one), which tokens and rows count how much, and how it joins GRPO are settings; docs/composition.md shows
the presets as a table and builds a new one.
Status: that of each preset. Deviations that all share: 1. Frames of privileged texts are ours. 2. A text that does not fit drops
the row. 3. Teachers of signals that are advantages, and entropies for token weights, are scored once per batch before its first
optimizer step. 4. λ counts rollout steps. 5. An item is a segment: where a template rewrites history a row has several sequences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, CollectContext, Phase, student_views
from sdgym.algos.composition import assembly
from sdgym.algos.composition.rewards import with_cosine_reward
from sdgym.algos.composition.rewriting import with_confidence
from sdgym.algos.composition.sample_weights import routed
from sdgym.algos.composition.settings import CompositionConfig
from sdgym.algos.composition.validation import check_world
from sdgym.algos.conditioning.answers import WrongPeer
from sdgym.algos.grpo import GRPO
from sdgym.algos.losses import HingeLoss
from sdgym.algos.terms import Views, build_items, make_term, usable_rows
from sdgym.core import LossTerm, Trajectory


class Composed(Algorithm):
    """Self-distillation and reward learning, composed: every preset of the wider family is one of these."""

    name = "compose"
    Config = CompositionConfig
    config: CompositionConfig

    def __init__(self, config: CompositionConfig) -> None:
        super().__init__(config)
        config.refuse_conflicts()
        self.policy, self.conditioners = GRPO(config.policy), config.conditioners()
        self.loss = config.target_loss() if config.signal == "target" else config.policy.loss()
        self.bad = WrongPeer(**config.conditioner_arguments())
        self.teacher_weights = config.teacher_weights()
        used = {config.uses_reward() and "reward", *(conditioner.needs for conditioner in self.conditioners)}
        self.supervision = next((kind for kind in ("reference", "feedback", "reward") if kind in used), "none")

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase, under the configured schedule."""
        return (self.config.phase(self.annotate, collect=self.rewrite if self.config.rewrite != "none" else None),)

    def rewrite(self, batch: Batch, context: CollectContext) -> Sequence[Trajectory]:
        """Return the rows with the group's pass rate stated."""
        return with_confidence(batch, context.chat)

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return GRPO's term, the teacher's, both, or one that holds both, as ``combine`` says."""
        c = self.config
        batch = with_cosine_reward(batch) if c.reward == "cosine" else batch
        policy = [] if c.combine == "replace" else self.policy.annotate(batch, context)
        strength = c.strength.at(context.step)
        context.report("strength", strength)
        if not strength:
            return policy
        views: list[Views] = [conditioner.views(batch, context) for conditioner in self.conditioners]
        z = routed(batch.rows, c.route)
        rows = [i for i in usable_rows(batch) if z[i] and all(column[i] is not None for column in views)]
        context.report("routed", len(rows) / len(batch.rows))
        if c.combine == "modulate":
            return [part for term in policy for part in assembly.modulated(term, views, rows, context, c, strength)]
        distil = self._distil(batch, context, rows, views, strength)
        return assembly.one_denominator(policy, distil) if c.combine == "shared" else policy + distil

    def _distil(
        self, batch: Batch, context: AnnotateContext, rows: Sequence[int], views: Sequence[Views], strength: float
    ) -> list[LossTerm]:
        c = self.config
        own = None
        if c.rewrite != "none":
            own = [[dataclasses.replace(v, provenance="rewritten") for v in student_views(batch, i)] for i in range(len(batch.rows))]
        items = build_items(batch, context, rows, views=own, references=views)
        if c.signal == "policy_gradient":
            items = assembly.as_advantages(items, batch, context, c)
        terms = make_term("distill", self.loss, assembly.weighted(items, batch, context, c), batch, c, strength)
        if c.mixture == "sum":
            terms = [part for term in terms for part in assembly.one_term_per_view(term, batch, c.context_weights == "failure")]
        return terms + self._hinge(batch, context, rows, views)

    def _hinge(self, batch: Batch, context: AnnotateContext, rows: Sequence[int], views: Sequence[Views]) -> list[LossTerm]:
        if not self.config.hinge.weight:
            return []
        bad = self.bad.views(batch, context)
        told = [i for i in rows if bad[i] is not None]
        items = build_items(batch, context, told, references=[views[0], bad], ratios=False)
        return make_term("hinge", HingeLoss(self.config.hinge.margin), items, batch, self.config, self.config.hinge.weight)

    def accept_group(self, rows: Sequence[Trajectory]) -> bool:
        """Return what the policy's dynamic sampling says, where there is a policy term."""
        return self.config.combine == "replace" or self.policy.accept_group(rows)

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a world that lacks what the teacher reads, and groups too small for what is compared in them."""
        if self.config.combine != "replace":
            self.policy.validate(env, settings)
        check_world(self.config, self.conditioners, env, settings)
