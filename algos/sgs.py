"""SGS-style self-play on arithmetic: the policy makes up problems, solves them, and is paid for problems at the edge of what it can.

Paper: arXiv 2604.20209 (Alg. 1; repository LukeBailey181/sgs @ 64d2de4). There: Lean theorems, an untied conjecturer, a frozen judge.
    conjecturer: R = R_solve·R_guide,  R_solve = (1 − s)·1[s > 0, s in the lowest 70 %],  min–max over the batch;  s: solve rate of k tries
    solver: REINFORCE on right answers to problems with s ≤ .5;  answers in the last fifth of the limit cost up to 1
Status: reconstruction, on ``sdgym/Math-v0`` only. Deviations: 1. Problems are integer arithmetic, whose answers are computed exactly; in
the source a proof is its own check. 2. One policy plays both parts. 3. The guide is a rule with 8 points. 4. Conjecturer advantages are
centred over the batch. 5. A problem that cannot be read earns 0 and is not tried. 6. The step's own tasks are solved as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from sdgym.algos.advantages import overlong_penalty
from sdgym.algos.base import Algorithm, AnnotateContext, Batch, CollectContext, Phase, student_views
from sdgym.algos.conjecture import conjecturer_rewards, read, request
from sdgym.algos.losses import PolicyGradientLoss
from sdgym.algos.second_turn import judged_item
from sdgym.algos.settings import UpdateSettings
from sdgym.algos.terms import make_term, usable_rows
from sdgym.core import LossTerm, ScoringView, Trajectory
from sdgym.errors import ConfigError

WORLD = "sdgym/Math-v0"


class SGSConfig(UpdateSettings):
    """Settings.

    Attributes:
        tries: k, attempts at each conjecture. words: most tokens of one.
        hardest: a solver learns from problems with a solve rate up to this. share: the lowest solve rates that pay.
        conjecturer_weight: factor on the conjecturer's term.
    """

    tries: PositiveInt = 8
    words: PositiveInt = 24
    hardest: float = Field(default=0.5, ge=0.0, le=1.0)
    share: float = Field(default=0.7, gt=0.0, le=1.0)
    conjecturer_weight: NonNegativeFloat = 1.0


class SGS(Algorithm):
    """Self-play with one policy: conjecturer and solver."""

    name = "sgs"
    Config = SGSConfig
    config: SGSConfig

    def __init__(self, config: SGSConfig) -> None:
        super().__init__(config)
        self.conjectures: list[tuple[int, np.ndarray, np.ndarray]] = []  # first row of the seed's group, prompt, what was written
        self.payoff = np.zeros(0)

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase; conjectures are made and tried after the rollouts."""
        return (self.config.phase(self.annotate, collect=self.play),)

    def play(self, batch: Batch, context: CollectContext) -> list[Trajectory]:
        """Have one problem per task made up, try those that can be read, and pay for them."""
        seeds = [(group[0], batch.rows[group[0]].task) for group in batch.groups]
        prompts = [context.chat.prompt_ids(request(task)) for _, task in seeds]
        written = context.draw.generate("conjecture", prompts, max_tokens=self.config.words)
        self.conjectures = [(row, prompt, sample.ids) for (row, _), prompt, sample in zip(seeds, prompts, written, strict=True)]
        found = [read(context.chat.decode_action(sample.ids), task) for (_, task), sample in zip(seeds, written, strict=True)]
        tasks = [made.task(task) for made, (_, task) in zip(found, seeds, strict=True) if made is not None]
        k = self.config.tries
        rows = context.draw.play("try", tasks, [context.chat.prompt_ids(list(task.messages)) for task in tasks], k) if tasks else []
        rates = iter([float(np.mean([row.success for row in rows[i : i + k]])) for i in range(0, len(rows), k)])
        solved = [float("nan") if made is None else next(rates) for made in found]
        self.payoff = conjecturer_rewards(solved, [0 if made is None else made.points for made in found], self.config.share)
        context.report("readable", len(tasks) / max(1, len(found)))
        context.report("solve_rate", sum(row.success for row in rows) / max(1, len(rows)))
        return [*batch.rows, *rows]

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the solver's and the conjecturer's REINFORCE."""
        c, solver, usable = self.config, [], set(usable_rows(batch))
        for group in batch.groups:
            members = [i for i in group if i in usable]
            if members and np.mean([batch.rows[i].success for i in members]) <= c.hardest:
                right = [i for i in members if batch.rows[i].success]
                solver += [judged_item(view, _worth(batch.rows[i])) for i in right for view in student_views(batch, i)]
        paid = self.payoff - self.payoff.mean() if len(self.payoff) else self.payoff
        written = [(_view(*made), a) for made, a in zip(self.conjectures, paid, strict=True) if len(made[2])]
        maker = [judged_item(view, float(a)) for view, a in written] if paid.any() and c.conjecturer_weight else []
        loss = PolicyGradientLoss("reinforce")
        return make_term("solver", loss, solver, batch, c) + make_term("conjecturer", loss, maker, batch, c, c.conjecturer_weight)

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse every world but the one whose judge can take a new problem."""
        if getattr(env, "env_id", "") != WORLD:
            raise ConfigError(f"sgs makes up arithmetic, which only {WORLD} can judge: use another algorithm in other worlds")


def _worth(row: Trajectory) -> float:
    limit = float(row.sampling.get("max_tokens", 0))
    return 1.0 + (overlong_penalty(row.action_length, limit, 0.2 * limit) if limit else 0.0)


def _view(row: int, prompt: np.ndarray, ids: np.ndarray) -> ScoringView:
    size = len(ids)
    return ScoringView(row, prompt, ids, np.ones(size, bool), np.full(size, -1, np.int64), provenance="rewritten", kind="conjecture")
