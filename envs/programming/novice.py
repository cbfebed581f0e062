"""The novice: a learner with systematic misconceptions, as an explicit distribution over programs.

Information about a task only removes candidates (ARCHITECTURE §6), so the posterior that a perfect reader
of the information would have can be computed exactly from this table.
"""

from __future__ import annotations

import re

from sdgym.envs.programming.problem import Problem, behaviours
from sdgym.verifiers.code_feedback import report

RIGHT = (0.62, 0.31, 0.12)
"""P(right) before slips, by ``Problem.ease``."""
SHARES = (0.75, 0.16, 0.09)
"""How the rest is divided among the mistakes, most tempting first."""
NUMBER_SLIPS, BROKEN = 0.04, 0.02


def candidates(problem: Problem) -> list[tuple[str, float]]:
    """Return the novice's programs with probabilities that sum to 1; the right one comes first.

    A slip changes the last number of the program by one, or forgets its first colon.
    """
    mistakes = problem.mistakes[: len(SHARES)]
    slips = [text for text in _number_slips(problem.source) if text not in problem.mistakes and _fails(problem, text)]
    slip_mass = NUMBER_SLIPS if slips else 0.0
    kept = 1.0 - slip_mass - BROKEN
    right = RIGHT[problem.ease] if mistakes else 1.0
    total = sum(SHARES[: len(mistakes)])
    table = [(problem.source, kept * right)]
    table += [(text, kept * (1 - right) * share / total) for text, share in zip(mistakes, SHARES, strict=False)]
    table += [(text, slip_mass / len(slips)) for text in slips]
    return [*table, (problem.source.replace(":", "", 1), BROKEN)]


def _fails(problem: Problem, text: str) -> bool:
    return report(problem.suite, behaviours(text, problem.suite)).score == 0.0


def _number_slips(source: str) -> list[str]:
    found = re.search(r"\d+(?!.*\d)", source, re.DOTALL)
    if found is None:
        return []
    values = (int(found[0]) + 1, int(found[0]) - 1)
    return [f"{source[: found.start()]}{value}{source[found.end() :]}" for value in values if value >= 0]
