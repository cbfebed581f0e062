r"""Grade a mathematical answer: strict extraction, exact fast path, computer algebra in killable workers.

>>> import asyncio
>>> asyncio.run(grade(Gold("85", "int"), "so \\boxed{75}")).feedback
'75 is wrong in the tens digit.'
"""

from __future__ import annotations

from sdgym.core import Outcome, Verdict
from sdgym.errors import InfraError
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_quick import quick
from sdgym.verifiers.math_text import extract


def grade_quick(gold: Gold, response: str) -> Verdict | None:
    """Judge a whole response without computer algebra; None if that is needed. Never raises."""
    found = extract(response)
    if found.answer is None:
        return Verdict(Outcome.UNPARSABLE if found.ambiguous else Outcome.NO_ANSWER, 0.0, found.problem)
    return quick(gold, found.answer)


async def grade(gold: Gold, response: str) -> Verdict:
    """Judge a whole response.

    Raises:
        InfraError: the workers could not be started or died for reasons that are not the answer's.
    """
    verdict = grade_quick(gold, response)
    if verdict is None:
        raise InfraError("no worker pool")
    return verdict
