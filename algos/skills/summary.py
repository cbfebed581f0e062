"""From a finished attempt to a skill: what worked, what went wrong, and how it should go (algorithms-core §6b).

A summariser is a function from rows to summaries. :class:`TemplateSummariser` needs no model; the others ask one with
:func:`summary_request` and read its answer with :func:`parse_summary`, which takes any text for what it is worth.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from sdgym.algos.asking import Ask
from sdgym.algos.base import CollectContext
from sdgym.algos.conditioning.frames import attempt_text
from sdgym.core import Message, Trajectory

FIELDS = ("what_worked", "what_went_wrong", "ideal_workflow")
MAX_CHARS = 1_200
"""Longest field; a longer one is cut. What a model wrote is stored, shown to teachers and saved in checkpoints."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """A skill's three fields; empty ones are left out of the text."""

    worked: str = ""
    wrong: str = ""
    workflow: str = ""

    def text(self) -> str:
        """Return what the teacher reads: one sentence per field that says something."""
        labelled = (("What worked", self.worked), ("What went wrong", self.wrong), ("How to do it", self.workflow))
        return " ".join(f"{label}: {said.rstrip('.')}." for label, value in labelled if (said := " ".join(value.split())))


Summariser = Callable[[Sequence[Trajectory], CollectContext], list[Summary | None]]
"""From N finished rows to N summaries, None where there is nothing to say; in order, and without touching the rows."""


class ModelSummariser:
    """Asks a model about each row.

    Args:
        ask: an :data:`sdgym.algos.asking.Ask`: :func:`sdgym.algos.asking.ask_policy` or an
            :class:`sdgym.algos.skills.ChatEndpoint`.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    def __call__(self, rows: Sequence[Trajectory], context: CollectContext) -> list[Summary | None]:
        """Return one summary per row, None where the model said nothing."""
        answers = self.ask([summary_request(row) for row in rows], context)
        return [None if answer is None else parse_summary(answer) for answer in answers]


class TemplateSummariser:
    """Fills the fields from what the environment said and paid, turn by turn."""

    def __call__(self, rows: Sequence[Trajectory], context: CollectContext) -> list[Summary | None]:
        """Return one summary per row."""
        return [self._of(row) for row in rows]

    @staticmethod
    def _of(row: Trajectory) -> Summary | None:
        if not row.actions:
            return None
        several = len(row.actions) > 1

        def turn(number: int) -> str:
            return f"turn {number + 1} ({attempt_text([row.actions[number]])})" if several else attempt_text([row.actions[number]])

        said = {f.turn: f.text.strip() for f in row.feedback if f.text.strip() and f.turn < len(row.actions)}
        paid = [number for number, reward in enumerate(row.turn_rewards[: len(row.actions)]) if reward > 0]
        if row.success:
            workflow = "Take these steps in this order: " + attempt_text(row.actions)
            return Summary(", ".join(turn(n) for n in paid), "", workflow)
        wrong = " ".join(f"{turn(n)} was told: {text}" for n, text in sorted(said.items()))
        first = min(said, default=None)
        workflow = "" if first is None else f"Change {turn(first)}" if several else "Give another answer"
        return Summary(", ".join(turn(n) for n in paid), wrong or f"{attempt_text(row.actions)} did not solve the task", workflow)


def summary_request(row: Trajectory) -> list[Message]:
    """Return the conversation that asks a model for a skill; only what the attempt itself saw and earned is in it."""
    lines = [f"Task: {row.task.messages[-1]['content']}"]
    said = {f.turn: f.text.strip() for f in row.feedback}
    for number, action in enumerate(row.actions):
        if number:
            lines.append(f"The environment answered: {row.observations[number]}")
        lines.append(f"Attempt, turn {number + 1}: {action}")
        if said.get(number):
            lines.append(f"Verdict on turn {number + 1}: {said[number]}")
    lines.append(f"In the end the attempt {'succeeded' if row.success else 'failed'}.")
    lines.append(
        "Write down what somebody who tries such a task again should know. Answer with one JSON object and nothing else; "
        f"its keys are {', '.join(FIELDS)}, its values short texts."
    )
    return [{"role": "user", "content": "\n".join(lines)}]


def parse_summary(text: str) -> Summary | None:
    """Read a model's answer: the first JSON object with one of the fields, else the bare text as the workflow.

    Never raises. Reasoning before a closing think tag is dropped, long fields are cut, and None means that
    nothing was said.
    """
    said = text.rsplit("</think>", 1)[-1].strip()
    found = _first_object(said)
    values = [said if key == "ideal_workflow" else "" for key in FIELDS] if found is None else [_plain(found.get(key)) for key in FIELDS]
    summary = Summary(*(value[:MAX_CHARS].encode("utf-8", "replace").decode().strip() for value in values))  # no lone surrogates
    return summary if summary.text() else None


def _first_object(text: str) -> dict[str, Any] | None:
    decoder, at = json.JSONDecoder(), text.find("{")
    for _ in range(20):  # a few braces may stand before it; a text of braces alone must not cost quadratic time
        if at < 0:
            return None
        try:
            value = decoder.raw_decode(text, at)[0]
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and any(key in value for key in FIELDS):
            return value
        at = text.find("{", at + 1)
    return None


def _plain(value: Any) -> str:
    """Return a field as text: a list of texts is joined, anything else than texts and numbers is empty."""
    parts = value if isinstance(value, list) else [value]
    return " ".join(str(part) for part in parts if isinstance(part, str | int | float))
