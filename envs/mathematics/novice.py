"""The novice: a learner with systematic misconceptions, as an explicit distribution over actions.

Information about a task only removes candidates (ARCHITECTURE §6), so the posterior that a perfect reader
of the information would have can be computed exactly from this table.
"""

from __future__ import annotations

from sdgym.envs.mathematics.problem import Problem, boxed
from sdgym.verifiers.math_answer import judge
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_quick import Job

RIGHT = (0.62, 0.31, 0.12)
"""P(right) before slips, by ``Problem.ease``."""
SHARES = (0.75, 0.16, 0.09)
"""How the rest is divided among the mistakes, most tempting first."""
DIGIT_SLIPS = 0.04
NO_BOX = 0.01


def candidates(problem: Problem) -> list[tuple[str, float]]:
    """Return the novice's actions with probabilities that sum to 1; the right action comes first.

    Mistakes that coincide with the right answer or with each other are dropped and the others take their share.
    """
    gold = Gold(problem.answer, problem.answer_type, problem.tolerance, problem.form)
    mistakes: list[str] = []
    for text in problem.mistakes:
        if text not in mistakes and _is_wrong(gold, text):
            mistakes.append(text)
    slips = [text for text in _digit_slips(problem.answer) if text not in mistakes and _is_wrong(gold, text)]
    slip_mass = DIGIT_SLIPS if slips else 0.0
    kept = 1.0 - slip_mass - NO_BOX
    right = RIGHT[problem.ease] if mistakes else 1.0
    total = sum(SHARES[: len(mistakes)])
    table = [(boxed(problem.answer), kept * right)]
    table += [(boxed(text), kept * (1 - right) * share / total) for text, share in zip(mistakes, SHARES, strict=False)]
    table += [(boxed(text), slip_mass / len(slips)) for text in slips]
    return [*table, (problem.answer, NO_BOX)]


def _is_wrong(gold: Gold, text: str) -> bool:
    verdict = judge(gold, text)
    if isinstance(verdict, Job):  # mistakes are built to be different; only exact equality needs to be caught here
        return True
    return verdict.score == 0.0


def _digit_slips(answer: str) -> list[str]:
    """Return the answer with one of its last two digits off by one, never with a leading zero."""
    places = [i for i, char in enumerate(answer) if char.isdigit()][-2:]
    found = []
    for i in places:
        starts_number = i + 1 < len(answer) and answer[i + 1].isdigit() and not (i and answer[i - 1].isdigit())
        for digit in ((int(answer[i]) + 1) % 10, (int(answer[i]) - 1) % 10):
            if not (starts_number and digit == 0):
                found.append(f"{answer[:i]}{digit}{answer[i + 1 :]}")
    return found
