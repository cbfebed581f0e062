"""Conversations with a model beside the rollouts: summaries (Skill-SD) and critiques (VPD)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sdgym.algos.base import CollectContext
from sdgym.core import Message

Ask = Callable[[Sequence[list[Message]], CollectContext], list[str | None]]
"""From conversations to a model's answers, in order; None where there is none."""

MAX_TOKENS = 256


def ask_policy(conversations: Sequence[list[Message]], context: CollectContext) -> list[str | None]:
    """Let the policy answer, with the rollouts' own sampling; the ledger is charged.

    A conversation that fills more than half of the context is not asked: there would be no room for the answer, nor later
    for the answer beside the task.
    """
    prompts = [context.chat.prompt_ids(messages) for messages in conversations]
    asked = [i for i, prompt in enumerate(prompts) if 2 * len(prompt) <= context.max_context]
    room = min(MAX_TOKENS, context.max_context // 2)
    samples = context.draw.generate("asked", [prompts[i] for i in asked], max_tokens=room) if asked else []
    answers: list[str | None] = [None] * len(prompts)
    for i, sample in zip(asked, samples, strict=True):
        answers[i] = context.chat.decode_action(sample.ids)
    return answers
