"""B-STaR: rejection fine-tuning that keeps choosing how hot to sample and how strictly to select, by one balance score.

Paper: arXiv 2412.17256; repository hkust-nlp/B-STaR @ a0f5d95, determine_hyper.py.
    per query: min(n⁺/8, 1)·(n⁺/n),   n selected, n⁺ of them right and different; maximise its mean over (temperature, threshold)
    selection score: outcome reward + process reward / 5; thresholds −1 … 1 in steps of .01
Status: code-read for score and grid. Deviations: 1. The verifier stands in for the outcome reward model (2r − 1) and the mean probability
of the answer's own tokens for the process reward model. 2. The grid is searched every ``every`` steps on that step's tasks, all of whose
samples are charged; the source searches once per round of data. 3. One update per batch from the current policy. 4. With a verifier that
is never wrong, thresholds between −.8 and .8 select the same answers, and it is the temperature that is learnt; of equally good thresholds
that next to 0 is taken. 5. A search that finds no right answer leaves the choice as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from sdgym.algos.balance import best_threshold, selection_score
from sdgym.algos.base import Batch, CollectContext, Phase, student_views
from sdgym.algos.rft import RFT, RFTConfig
from sdgym.core import ScoringView, Trajectory
from sdgym.errors import ConfigError


class BStarConfig(RFTConfig):
    """Settings of RFT, and of the choice.

    Attributes:
        temperatures: the grid. every: steps between searches. wanted: n*, right answers per query that are enough.
        step: grid of thresholds in [−1, 1]. confidence: factor on the policy's own opinion.
    """

    temperatures: list[PositiveFloat] = Field(default=[0.5, 0.7, 0.9, 1.1], min_length=1)
    every: PositiveInt = 10
    wanted: PositiveInt = 8
    step: PositiveFloat = Field(default=0.01, le=1.0)
    confidence: NonNegativeFloat = 0.2


class BStar(RFT):
    """Rejection fine-tuning that balances exploration and precision."""

    name = "bstar"
    Config = BStarConfig
    config: BStarConfig

    def __init__(self, config: BStarConfig) -> None:
        super().__init__(config)
        if config.collect_steps:
            raise ConfigError("bstar samples in every step: use collect_steps=0, or rft for a pool from the start")
        self.samples, self.temperature, self.threshold = 8, config.temperatures[0], 0.0

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase that samples at its own temperature."""
        return (self.config.phase(self.annotate, rollouts=False, collect=self.sample),)

    def sample(self, batch: Batch, context: CollectContext) -> list[Trajectory]:
        """Sample the step's tasks; when it is due, at every temperature, and go on with the best."""
        tasks = context.draw.tasks()
        prompts = [context.chat.prompt_ids(list(task.messages)) for task in tasks]
        due = context.step % self.config.every == 0
        found: dict[float, list[Trajectory]] = {}
        for temperature in self.config.temperatures if due else (self.temperature,):
            found[temperature] = context.draw.play(f"t{temperature:g}", tasks, prompts, self.samples, temperature)
        if due:
            self._choose(found, context)
        rows = found[self.temperature]
        context.report("temperature", self.temperature)
        context.report("threshold", self.threshold)
        context.report("success", sum(row.success for row in rows) / max(1, len(rows)))
        return rows

    def _choose(self, found: Mapping[float, Sequence[Trajectory]], context: CollectContext) -> None:
        c, count = self.config, round(2 / self.config.step)
        thresholds = [-1.0 + i * c.step for i in range(count + 1)]
        scores = {}
        for temperature, rows in found.items():
            groups = [rows[i : i + self.samples] for i in range(0, len(rows), self.samples)]
            scores[temperature] = best_threshold(groups, thresholds, c.wanted, c.confidence)
        chosen = max(scores, key=lambda temperature: scores[temperature][1])
        threshold, best = scores[chosen]
        if best > 0.0:  # without a right answer there is nothing to choose by
            self.temperature, self.threshold = chosen, threshold
        context.report("balance", best)

    def imitated(self, batch: Batch, index: int) -> list[ScoringView] | None:
        """Return the views of a row whose selection score passes the threshold."""
        passed = selection_score(batch.rows[index], self.config.confidence) > self.threshold
        return student_views(batch, index) if passed else None

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Learn the run's group size."""
        self.samples = int(settings.get("group_size", self.samples))

    def state_dict(self) -> dict[str, Any]:
        """Return the choice in force."""
        return {"temperature": self.temperature, "threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        self.temperature, self.threshold = float(state["temperature"]), float(state["threshold"])
