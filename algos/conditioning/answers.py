"""Privileged texts of the wider family: answers right and wrong, parts of a solution, follow-ups, hints, rules, examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sdgym.algos.base import Batch
from sdgym.algos.conditioning.base import Conditioner, Told, outcome_word
from sdgym.algos.conditioning.frames import attempt_text
from sdgym.algos.conditioning.verdict import Verdict
from sdgym.errors import ConfigError
from sdgym.verifiers.math_text import extract

FALLBACK = 50
"""Characters of an attempt that stand for its answer where nothing is boxed (CEPO's ray_trainer.py)."""


class Answer(Conditioner):
    """The task's final answer alone, ``privileged["answer"]`` (RLSD, CEPO's r⁺, AVSD's third view)."""

    kind = "answer"
    needs = "reference"

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the answer, in the frame of a correct attempt; None for a task without one."""
        text = batch.rows[index].task.privileged.get("answer", "").strip()
        return Told((("peer", text),), "answer") if text else None


class WrongAnswer(Conditioner):
    """The final answer of the group's lowest-scoring failure (CEPO's r⁻); None in a group without a failure below ½.

    It stands in the frame of :class:`Answer`, so that a contrast of the two is one of answers and not of wordings.
    """

    kind = "wrong_answer"
    siblings = True

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the answer: what is boxed, else the first words of the attempt."""
        scored = [(row.reward, j) for j in group if (row := batch.rows[j]).usable and row.reward is not None and row.reward < 0.5]
        if not scored:
            return None
        worst = min(scored)[1]
        said = attempt_text(batch.rows[worst].actions)
        text = (extract(said).answer or said[:FALLBACK]).strip()
        return Told((("peer", text),), f"row {worst}") if text else None


class WrongPeer(Conditioner):
    """The first failed attempt of the group that is not one's own, called a failure (UniSD's wrong demonstration)."""

    kind = "wrong_peer"
    siblings = True

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the attempt, or None where nobody else failed."""
        for j in group:
            if j != index and batch.rows[j].usable and not batch.rows[j].success and (text := attempt_text(batch.rows[j].actions)):
                return Told((("contrast", text),), f"row {j}")
        return None


class PartialReference(Conditioner):
    """The first part of the reference solution (AVSD's second view).

    Args:
        share: how much of it, by characters, cut back to a whole word where there is one.
        **settings: see :class:`sdgym.algos.conditioning.base.Conditioner`.
    """

    kind = "partial_reference"
    needs = "reference"
    options: ClassVar[tuple[str, ...]] = ("share",)

    def __init__(self, share: float = 0.5, **settings: Any) -> None:
        super().__init__(**settings)
        if not 0.0 < share <= 1.0:
            raise ConfigError(f"the share of a partial reference must lie in (0, 1], not {share}")
        self.share = share

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the part, or None for a task without a reference."""
        whole = batch.rows[index].task.privileged.get("reference_solution", "").strip()
        cut = whole[: max(1, round(self.share * len(whole)))]
        if len(cut) < len(whole) and " " in cut and not whole[len(cut)].isspace():
            cut = cut.rpartition(" ")[0]
        return Told((("reference", cut.strip()),), "reference") if whole else None


class FollowUp(Verdict):
    """What the user wrote next; where no user spoke, the environment stands in: right attempts hear so, wrong ones its feedback."""

    kind = "follow_up"

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the follow-up on row ``index``, or None."""
        said = " ".join(f.text.strip() for f in batch.rows[index].feedback if f.kind == "user" and f.text.strip())
        return Told((("feedback", said),), f"row {index}") if said else super().tell(index, batch, group)


class OutcomeHint(Conditioner):
    """A hint that depends on the outcome: a success hears that it was one, a failure also the task's hint, where it has one (TT-OPD)."""

    kind = "outcome_hint"
    needs = "reference"

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told:
        """Return the outcome of row ``index`` and perhaps a hint."""
        row = batch.rows[index]
        hint = "" if row.success else row.task.privileged.get("hint", "").strip()
        return Told((("outcome", outcome_word(row)), *([("reference", hint)] if hint else [])), f"row {index}")


class Plain(Conditioner):
    """Nothing: the teacher reads what the student read, and differs by its weights alone (Uni-OPD; a KL to a reference policy)."""

    kind = "plain"
    needs = "none"

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told:
        """Return no text."""
        return Told((), "")


class Rule(Conditioner):
    """One instruction for all tasks, nothing about this one (Many Faces: shared rules work where instance texts fail).

    Args:
        rule: the instruction.
        **settings: see :class:`sdgym.algos.conditioning.base.Conditioner`.
    """

    kind = "rule"
    needs = "none"
    options: ClassVar[tuple[str, ...]] = ("rule",)

    def __init__(self, rule: str = "Check every step before you give the answer.", **settings: Any) -> None:
        super().__init__(**settings)
        self.rule = rule

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told:
        """Return the rule."""
        return Told((("rule", self.rule),), "rule")


class Example(Conditioner):
    """The reference solution after one solved task of another group (UniSD's few-shot contexts); None in a batch of one task.

    Args:
        shift: how many groups further the example is taken from; different shifts are different contexts.
        **settings: see :class:`sdgym.algos.conditioning.base.Conditioner`.
    """

    kind = "example"
    needs = "reference"
    options: ClassVar[tuple[str, ...]] = ("shift",)

    def __init__(self, shift: int = 1, **settings: Any) -> None:
        super().__init__(**settings)
        self.shift = shift

    def tell(self, index: int, batch: Batch, group: Sequence[int]) -> Told | None:
        """Return the example and the reference of row ``index``."""
        place = next(k for k, members in enumerate(batch.groups) if index in members)
        others = [members[0] for k, members in enumerate(batch.groups) if k != place]
        own = batch.rows[index].task.privileged.get("reference_solution", "").strip()
        if not others or not own:
            return None
        task = batch.rows[others[(place + self.shift - 1) % len(others)]].task
        solved = f"{task.messages[-1]['content']} {task.privileged.get('reference_solution', '')}"
        return Told((("example", solved), ("reference", own)), f"example {task.task_id}")
