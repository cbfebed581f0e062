"""RLTF: learn from text feedback by a second turn, and carry what it taught over to the first (RLTF-SD), or predict the feedback (RLTF-FM).

Paper: arXiv 2602.02482.   x1 = [x0, y0, c0],  y1 ~ π(·|x1)
    SD:  −A_i·Σ_t log π(y1_i,t | x0, y1_i,<t),   A_i = R(y1_i) − mean_j R(y0_j)          (no importance ratio)
    FM:  −λ·Σ_t log π(c0_t | x0, y0, c0_<t)                                              (mean over tokens)
    both: + 0.1·REINFORCE on both turns: turn 0 with r0 + γ·r1 − mean, turn 1 with r1 − mean r1
c0 is the world's feedback, or the policy's own critique. The first-turn baseline is the point: where every revision succeeds
A = 1 − p0, while a baseline of second turns leaves nothing.
Status: reconstruction (notes and third-party code; the paper's body was not available).
Deviations: 1. Feedback comes from the world or the policy itself, in the source from a model of 235 B. 2. FM's weight is not known.
3. A failure about which nothing was said has no second turn and leaves every term. 4. Wording of the second user turn. 5. c0 includes
the frame's wording. ``importance: sequence`` is SD's unbiased form, with the ratio π(y1|x0)/π(y1|x1) of whole answers, which the source
drops for its variance; ``algo/effective`` says how much of the sample it leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat

from sdgym.algos.base import Algorithm, AnnotateContext, Batch, CollectContext, Phase, student_views
from sdgym.algos.conditioning.verdict import gives_feedback
from sdgym.algos.losses import NLLLoss, PolicyGradientLoss
from sdgym.algos.second_turn import SecondTurn, environments_words, judged_item, own_critique, second_turns, turn_advantages
from sdgym.algos.settings import UpdateSettings
from sdgym.algos.terms import build_items, make_term
from sdgym.core import LossItem, LossTerm, Trajectory
from sdgym.errors import ConfigError

MAX_LOG_RATIO = 20.0


class RLTFConfig(UpdateSettings):
    """Settings.

    Attributes:
        critic: who speaks about the first attempt.
        revision_weight: factor on SD's term. critique_weight: λ of FM's. policy_weight: factor on REINFORCE over both turns.
        baseline: whose mean reward SD subtracts.
        discount: γ, the first turn's share in the second turn's reward.
        importance: ``none``, or the whole answer's ratio π(y1|x0)/π(y1|x1) on SD's advantages, taken at the start of the step.
    """

    critic: Literal["environment", "self"] = "environment"
    revision_weight: NonNegativeFloat = 1.0
    critique_weight: NonNegativeFloat = 0.0
    policy_weight: NonNegativeFloat = 0.1
    baseline: Literal["first_turn", "second_turn"] = "first_turn"
    discount: float = Field(default=1.0, ge=0.0, le=1.0)
    importance: Literal["none", "sequence"] = "none"


class RLTF(Algorithm):
    """Text feedback, internalised: the second answer is learnt as the first, or the feedback itself is predicted."""

    name = "rltf"
    Config = RLTFConfig
    supervision = "feedback"
    config: RLTFConfig

    def __init__(self, config: RLTFConfig) -> None:
        super().__init__(config)
        if config.importance != "none" and config.epochs * config.minibatches > 1:
            raise ConfigError("rltf's importance ratios hold for one update per batch: use epochs=1 and minibatches=1")
        self.pairs: list[SecondTurn] = []

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase with a second sampling pass."""
        return (self.config.phase(self.annotate, collect=self.revise),)

    def revise(self, batch: Batch, context: CollectContext) -> list[Trajectory]:
        """Have every attempt talked about and answered again; the second turns follow the first ones."""
        said = environments_words if self.config.critic == "environment" else own_critique
        rows, self.pairs = second_turns(batch, said, context)
        context.report("second_turns", len(rows) / max(1, len(batch.rows)))
        context.report("second_success", sum(row.success for row in rows) / max(1, len(rows)))
        return [*batch.rows, *rows]

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return SD's term, REINFORCE on both turns, and FM's term, each where it has a weight."""
        c, pairs, reinforce = self.config, self.pairs, PolicyGradientLoss("reinforce")
        first, second, distilled = turn_advantages(batch, pairs, c.discount, c.baseline)
        context.report("signal", float(np.mean(distilled != 0)) if pairs else 0.0)
        terms: list[LossTerm] = []
        if c.revision_weight:
            distilled = distilled * (self._ratios(batch, context) if c.importance == "sequence" else 1.0)
            items = [judged_item(pair.single_turn_view(batch), a) for pair, a in zip(pairs, distilled, strict=True)]
            terms += make_term("revision", reinforce, items, batch, c, c.revision_weight)
        if c.policy_weight:
            turns = (("first_turn", first, [p.first for p in pairs]), ("second_turn", second, [p.second for p in pairs]))
            for name, of_turn, rows in turns:
                spread = np.zeros((len(batch.rows), 1))
                spread[rows, 0] = of_turn
                items = build_items(batch, context, rows, advantage=spread, ratios=False)
                terms += make_term(name, reinforce, items, batch, c, c.policy_weight)
        if c.critique_weight:
            views = [view for p in pairs if (view := p.words_view(batch)).loss_mask.any()]
            told = [LossItem(view, np.ones(len(view.token_ids), np.float32)) for view in views]
            terms += make_term("critique", NLLLoss(), told, batch, UpdateSettings(aggregation="token_mean_global"), c.critique_weight)
        return terms

    def _ratios(self, batch: Batch, context: AnnotateContext) -> np.ndarray:
        """Return π(y1|x0)/π(y1|x1) of every second answer, ``[K]``, and report the share of the sample that they leave effective."""
        views = [view for p in self.pairs for view in (p.single_turn_view(batch), *student_views(batch, p.second))]
        sums = np.array([scores.logprobs.sum(dtype=np.float64) for scores in context.score(views)]).reshape(-1, 2)
        ratios: np.ndarray = np.exp(np.clip(sums[:, 0] - sums[:, 1], -MAX_LOG_RATIO, MAX_LOG_RATIO))
        context.report("effective", float(ratios.sum() ** 2 / (len(ratios) * (ratios**2).sum())) if len(ratios) else 0.0)
        return ratios

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse several turns, and a world without words where they are needed."""
        name, turns = getattr(env, "env_id", "this world"), int(getattr(env, "max_turns", 1))
        if turns > 1:
            raise ConfigError(f"rltf adds a second turn to one answer, and {name} has {turns} turns: use sdpo or grpo with credit=turn")
        if self.config.critic == "environment" and not gives_feedback(env):
            raise ConfigError(f"{name} gives no feedback on a wrong answer: use critic=self")
