"""``sdgym/Math-v0``: one question, one boxed answer, an exact grader that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sdgym.core import Outcome, Task, Verdict
from sdgym.envs.mathematics import novice
from sdgym.envs.mathematics.problem import Draw, Problem, boxed
from sdgym.envs.mathematics.tiny import TINY, TINY_HELDOUT
from sdgym.text_env import Information, Response, TextEnv
from sdgym.verifiers.math_answer import grade, judge_response
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_text import extract

INSTRUCTION = "Put the answer in \\boxed{}."


class MathEnv(TextEnv):
    r"""Mathematics with a boxed final answer; single-turn, reward 1 for a right answer and 0 otherwise.

    Level "tiny" needs at most 96 prompt and 24 action tokens; its canonical action is ``\boxed{85}`` alone.
    """

    env_id: ClassVar[str] = "sdgym/Math-v0"
    max_action_tokens: ClassVar[Mapping[str, int]] = {"tiny": 24, "easy": 512, "medium": 1024, "hard": 2048}

    def make_task(self, seed: int, split: str) -> Task:
        """Return the task of ``seed``: families, numbers and wording are drawn until the content belongs to ``split``."""
        problem = self._problem(seed, split)
        privileged = {"answer": problem.answer, "reference_solution": problem.solution}
        meta: dict[str, Any] = {"family": problem.family, "skill": problem.skill, "answer_type": problem.answer_type}
        if problem.form:
            meta["form"] = problem.form
        if problem.tolerance:
            meta["tolerance"] = problem.tolerance
        return self.finish_task(seed, split, f"{problem.text} {INSTRUCTION}", problem.canonical, privileged, meta)

    def _problem(self, seed: int, split: str) -> Problem:
        makers = TINY_HELDOUT if split == "heldout" else TINY

        def draw(rng: np.random.Generator) -> tuple[Any, Problem]:
            source = Draw(rng)
            problem = source.weighted(makers)(source)
            return problem.canonical, problem

        problem: Problem = self.draw_in_split(seed, split, draw)
        return problem

    async def respond(self, action: str) -> Response:
        """Grade the answer; the episode ends."""
        assert self.task is not None
        verdict = await grade(gold_of(self.task), action)
        success = verdict.outcome is Outcome.CORRECT
        return Response(
            observation="",
            reward=verdict.score or 0.0,
            terminated=True,
            outcome=verdict.outcome,
            feedback=verdict.feedback,
            success=success,
            valid_action=verdict.outcome not in (Outcome.NO_ANSWER, Outcome.UNPARSABLE),
            reward_components={"success": float(success)},
        )

    def oracle(self, task: Task) -> Sequence[str]:
        """Return the canonical right action."""
        return (boxed(task.privileged["answer"]),)

    def candidates(self, task: Task) -> list[tuple[str, float]]:
        """Return the novice's distribution over actions for ``task``, the right action first; sums to 1."""
        if self._table[0] != task.task_id:
            self._table = (task.task_id, novice.candidates(self._problem(task.seed, task.split)))
        return self._table[1]

    _table: tuple[str, list[tuple[str, float]]] = ("", [])  # demonstrate() asks many times about one task

    def novice(self, task: Task, rng: np.random.Generator) -> Sequence[str]:
        """Draw one attempt from :meth:`candidates`."""
        table = self.candidates(task)
        at = float(rng.random())
        for action, probability in table:
            at -= probability
            if at < 0:
                return (action,)
        return (table[0][0],)

    def consistent(self, task: Task, actions: Sequence[str], information: Information) -> bool:
        """Return whether ``actions`` could still be right given ``information``.

        Feedback: exactly those answers remain that, had they been the right one, would have earned the
        same words for the attempt. Outcome: all answers but the one tried, or only it if it was right.
        """
        gold = gold_of(task)
        if information.kind in ("reference", "peer"):
            return _is_right(gold, actions[0])
        supposed = _answer_of(actions[0])
        if supposed is None:
            return False
        attempt, as_gold = information.attempt[0], Gold(supposed, gold.type, gold.tolerance, gold.form)
        if information.kind == "outcome":
            return _is_right(as_gold, attempt) == _is_right(gold, attempt)
        verdict = judge_response(as_gold, attempt)
        return isinstance(verdict, Verdict) and verdict.score is not None and verdict.feedback == information.feedback[0]


def gold_of(task: Task) -> Gold:
    """Return the typed right answer of ``task``."""
    return Gold.of(task.privileged["answer"], task.meta)


def _is_right(gold: Gold, action: str) -> bool:
    verdict = judge_response(gold, action)
    return isinstance(verdict, Verdict) and verdict.outcome is Outcome.CORRECT


def _answer_of(action: str) -> str | None:
    return extract(action).answer
