"""SD-Zero: learn to revise one's own answers, then distil the reviser into the policy. No reference, no peer, no group.

Paper: arXiv 2604.12002 (body not read); repository princeton-pli/Self-Distillation-Zero @ fdaeb0b.
    1. collect  y ~ π(·|x), r = verifier(y), y' ~ π(·|x,y,P_r), kept where the verifier accepts y'
    2. train    L_generation = −log π([y,P_r,y']|x),   L_revision = −log π(y'|x,y,P_r)   (jointly, or one stage each)
    3. distil   Σ_t D( π_θ(·|x,y_<t), sg π_rev(·|x,y,P_r,y_<t) ),   y ~ π_θ,   π_rev = the policy after 2
Status: code-read (repository preset), reconstruction (paper preset).
Deviations: 1. Stages last a set number of steps, not of tuples or epochs. 2. All phases share the optimizer's state and the rollout shape.
3. A revision that hits the token limit is dropped; the source trims repeating tails and polite openers, which needs new tokens. 4. Both
losses see the layout of sampling (assistant's turn with a masked prefix); the source's second stage puts x ∥ y ∥ P_r on the user's side.
5. The first copy of y loses its end token. 6. Iterating is ``rounds`` phases, each from the student of its beginning. 7. Wording of P_r.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, CollectContext, Phase, TeacherWeightsSpec, student_views
from sdgym.algos.conditioning.revision import SelfRevision, cut_to
from sdgym.algos.losses import NLLLoss
from sdgym.algos.self_revision import RevisionPool, SDZeroConfig, Stage, attempts, revise
from sdgym.algos.terms import build_items, make_term, skip_first, usable_rows
from sdgym.core import LossTerm, Trajectory
from sdgym.errors import ConfigError, DataError


class SDZero(Algorithm):
    """Self-distillation from one's own reviser: reward only."""

    name, one_turn = "sd_zero", True
    Config = SDZeroConfig
    config: SDZeroConfig

    def __init__(self, config: SDZeroConfig) -> None:
        super().__init__(config)
        self.loss, self.pool = config.distill_loss(), RevisionPool(config.pool_size, config.revision_share)
        self.cues = config.cues()
        self.conditioners = (SelfRevision(self.cues, config.teacher_tokens, control=config.control),)
        self.teacher_weights = TeacherWeightsSpec("phase_start")

    @property
    def phases(self) -> Sequence[Phase]:
        """Collect, train (one stage or two), distil (one round or more)."""
        c = self.config
        stages: tuple[Stage, ...] = ("generation", "revision") if c.training == "sequential" else ("all",)
        rounds = [c.round_steps] * (c.rounds - 1) + [None]
        pool: dict[str, Any] = {"rollouts": False, "steps": c.stage_steps, "on_enter": self._begin_stage}
        return (
            Phase("collect", lambda batch, context: [], steps=c.collect_steps, collect=self.collect),
            *(Phase(stage, functools.partial(self.train_on_pool, stage=stage), **pool) for stage in stages),
            *(c.phase(self.annotate, f"distill-{i}", steps=steps) for i, steps in enumerate(rounds, 1)),
        )

    def collect(self, batch: Batch, context: CollectContext) -> list[Trajectory]:
        """Sample and judge revisions, keep the right ones in the pool."""
        pairs = revise(attempts(batch, self.cues, self.config.revise_right), self.cues, self.config.revisions, context)
        self.pool.add(pairs, self.cues, context.chat.end_ids)
        context.report("revised", sum(self.cues.is_right(row) for _, row in pairs) / max(1, len(pairs)))
        context.report("pool", len(self.pool.entries))
        return [*batch.rows, *(row for _, row in pairs)]

    def _begin_stage(self) -> None:
        if not self.pool.entries:
            raise DataError("sd_zero collected no verified revision to learn from: raise collect_steps, or start from a stronger model")
        self.pool.restart()

    def train_on_pool(self, batch: Batch, context: AnnotateContext, stage: Stage) -> list[LossTerm]:
        """Return the likelihood terms of a training stage on its next ``pool_batch`` tuples."""
        found = self.pool.items(stage, self.config.pool_batch, context.rng)
        return [term for part, items in found.items() for term in make_term(part, NLLLoss(), items, batch, self.config)]

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the distillation term; labels say whose attempts were right (+1) or wrong (−1)."""
        teacher = self.conditioners[0].views(batch, context)
        own = [None if v is None else [cut_to(student_views(batch, i)[0], v[0])] for i, v in enumerate(teacher)]
        weight = skip_first(batch.rows, self.config.skip_first)
        items = build_items(batch, context, usable_rows(batch), views=own, references=[teacher], weight=weight)
        labelled = [dataclasses.replace(item, label=1 if self.cues.is_right(batch.rows[item.view.row]) else -1) for item in items]
        return make_term("distill", self.loss, labelled, batch, self.config)

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse several turns, and a run that ends before it distils."""
        turns, c = int(getattr(env, "max_turns", 1)), self.config
        if turns > 1:
            raise ConfigError(f"sd_zero revises one answer, and {getattr(env, 'env_id', 'this world')} has {turns} turns: use sdpo")
        first = sum(phase.steps or 0 for phase in self.phases)
        if settings.get("steps", first + 1) <= first:
            advice = "lower collect_steps and stage_steps" if c.rounds == 1 else "lower round_steps"
            raise ConfigError(
                f"sd_zero needs {first} steps before its last distillation, so steps={settings['steps']} is too few: {advice}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the pool."""
        return self.pool.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        self.pool.load_state_dict(state)
