"""VPD: the teacher, the policy told feedback on an attempt, is itself refined; then the student follows it.

Paper: arXiv 2605.15113. Target π*(y|x) ∝ π_θ(y|x)·e^{r/β}, teacher q_θ(y|x,C): the same weights, told C.
    E, every F-th step:  r̃ = β·Σ_t [log q_θ(y_t|x,C,y_<t) − sg log π_θ(y_t|x,y_<t)],  δ = ½(mean r̃(D+) + mean r̃(D−))
                         L_E = −mean_{D+} log σ(r̃−δ) − mean_{D−} log σ(δ−r̃)
    M, every step:       L_M = Σ_t KL( π_θ(·|x,y_<t) ‖ sg q_θ(·|x,C,y_<t) )
The prior of E is the current student: a trust region that slides along with it. C is the environment's verdict on the
attempt, a sibling that ended the other way, or the model's own critique.
Status: reconstruction from third-party notes (body and code were not available); abstract read.
Deviations: 1. A second coefficient λ, .1 or .01 in the notes, of unknown role: here the factor on L_E (``e_weight``).
2. M's support, aggregation and importance factor are SDPO's. 3. r̃ sums over tokens; ``e_length: mean`` is the other
reading. 4. E and M use the same rollouts and optimizer, E first. 5. A batch without successes or without failures has
no E-step, unless ``one_sided``: then δ is that of the last two-sided one. 6. A success is told that it was right.
7. An attempt without C has no part in either step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat

from sdgym.algos.asking import ask_policy
from sdgym.algos.base import Algorithm, AnnotateContext, Batch, CollectContext, Interleaved, Phase, student_views
from sdgym.algos.conditioning.base import Conditioner
from sdgym.algos.conditioning.verdict import Contrast, Critique, Verdict, critique_request, gives_feedback
from sdgym.algos.preference import bco_terms
from sdgym.algos.settings import ContextSettings, DistillSettings, TeacherSettings, UpdateSettings
from sdgym.algos.terms import build_items, make_term, skip_first, usable_rows
from sdgym.core import LossTerm, Trajectory
from sdgym.errors import ConfigError

CONTEXTS: Mapping[str, type[Conditioner]] = {"feedback": Verdict, "contrast": Contrast, "critique": Critique}


class VPDConfig(UpdateSettings, TeacherSettings, ContextSettings, DistillSettings):
    """Settings; the update, the teacher and the divergence are those of the M-step.

    Attributes:
        context: what C is. e_every: F; 0 leaves the E-step out. beta, e_weight: β, λ. e_length: r̃ is a sum or a mean.
        one_sided: the E-step also runs on successes or failures alone.
    """

    context: Literal["feedback", "contrast", "critique"] = "feedback"
    e_every: NonNegativeInt = 5
    beta: PositiveFloat = 0.1
    e_length: Literal["sum", "mean"] = "sum"
    e_weight: NonNegativeFloat = 1.0
    one_sided: bool = False


class VPD(Algorithm):
    """Variational policy distillation: E-steps teach the teacher to use feedback, M-steps teach the student without it."""

    name = "vpd"
    Config = VPDConfig
    supervision = "feedback"
    config: VPDConfig

    def __init__(self, config: VPDConfig) -> None:
        super().__init__(config)
        if config.e_every and config.teacher in ("frozen", "phase_start", "external"):
            raise ConfigError(f"teacher={config.teacher} never learns from the E-step: use teacher=live, or e_every=0 for no E-step")
        self.loss, self.shift = config.distill_loss(), 0.0
        self.conditioner = CONTEXTS[config.context](**config.conditioner_arguments())
        self.conditioners, self.teacher_weights = (self.conditioner,), config.teacher_weights()
        self.supervision = self.conditioner.needs

    @property
    def phases(self) -> Sequence[Phase]:
        """M-steps, before every F-th an E-step on the same rollouts; critiques are written right after these."""
        steps = [Interleaved("e_step", self.refine, self.config.e_every)] if self.config.e_every else []
        asks = self.criticise if isinstance(self.conditioner, Critique) else None
        return (self.config.phase(self.annotate, collect=asks, interleaved=steps),)

    def criticise(self, batch: Batch, context: CollectContext) -> Sequence[Trajectory]:
        """Let the policy criticise its attempts; the rows stay as they are."""
        assert isinstance(self.conditioner, Critique)
        rows = [batch.rows[i] for i in usable_rows(batch)]
        answers = ask_policy([critique_request(row) for row in rows], context)
        self.conditioner.notes = {(row.group_id, row.member): said for row, said in zip(rows, answers, strict=True) if said}
        return batch.rows

    def annotate(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the M-step: the distillation term over the rows that have a C."""
        weight = skip_first(batch.rows, self.config.skip_first)
        items = build_items(batch, context, usable_rows(batch), references=[self.conditioner.views(batch, context)], weight=weight)
        return make_term("distill", self.loss, items, batch, self.config)

    def refine(self, batch: Batch, context: AnnotateContext) -> list[LossTerm]:
        """Return the E-step: successes and failures, each told its C, against the student as prior."""
        teachers = self.conditioner.views(batch, context)
        told = [v and [dataclasses.replace(x, weights="policy", grad=True, provenance="reprompted") for x in v] for v in teachers]
        prior = [[dataclasses.replace(v, grad=False, kind="prior") for v in student_views(batch, i)] for i in range(len(batch.rows))]
        good, bad = ([i for i in usable_rows(batch) if batch.rows[i].success is success] for success in (True, False))
        accepted = build_items(batch, context, good, views=told, references=[prior], label=1, ratios=False)
        rejected = build_items(batch, context, bad, views=told, references=[prior], label=-1, ratios=False)
        c = self.config
        spare = self.shift if c.one_sided else None
        terms, shift = bco_terms(accepted, rejected, context, beta=c.beta, length=c.e_length, coefficient=c.e_weight, shift=spare)
        self.shift = self.shift if shift is None else shift
        return terms

    def validate(self, env: Any, settings: Mapping[str, Any]) -> None:
        """Refuse a world that says nothing, and a sibling in a group of one."""
        if self.config.context == "feedback" and not gives_feedback(env.unwrapped):
            raise ConfigError(f"{env.unwrapped.env_id} gives no feedback on a wrong answer: use context=contrast or context=critique")
        if self.config.context == "contrast" and settings.get("group_size", 2) < 2:
            raise ConfigError("a sibling to contrast with needs group_size of at least 2: or use context=feedback")

    def state_dict(self) -> dict[str, Any]:
        """Return δ of the last two-sided E-step."""
        return {"shift": self.shift}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over :meth:`state_dict`."""
        self.shift = float(state["shift"])
