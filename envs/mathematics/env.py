"""``sdgym/Math-v0``: one question, one boxed answer, an exact grader that says what is wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sdgym.core import Outcome, Task, Verdict
from sdgym.envs.mathematics import data as data_files
from sdgym.envs.mathematics import novice
from sdgym.envs.mathematics.easy import EASY, EASY_HELDOUT
from sdgym.envs.mathematics.hard import HARD, HARD_HELDOUT
from sdgym.envs.mathematics.medium import MEDIUM, MEDIUM_HELDOUT
from sdgym.envs.mathematics.problem import Draw, Maker, Problem, boxed
from sdgym.envs.mathematics.tiny import TINY, TINY_HELDOUT
from sdgym.errors import ConfigError, DataError
from sdgym.text_env import Information, Response, TextEnv
from sdgym.verifiers.math_answer import grade, judge_response
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_quick import Job
from sdgym.verifiers.math_text import extract

INSTRUCTION = "Put the answer in \\boxed{}."
SYSTEM_PROMPT = "You solve mathematics problems. Reason step by step, then give one final answer in \\boxed{}."

FAMILIES: dict[str, tuple[Sequence[tuple[Maker, int]], Sequence[tuple[Maker, int]]]] = {
    "tiny": (TINY, TINY_HELDOUT),
    "easy": (EASY, EASY_HELDOUT),
    "medium": (MEDIUM, MEDIUM_HELDOUT),
    "hard": (HARD, HARD_HELDOUT),
}


class MathEnv(TextEnv):
    r"""Mathematics with a boxed final answer; single-turn, reward 1 for a right answer and 0 otherwise.

    Eight procedural families at four levels, geometry held out (split ``heldout``). Level "tiny" needs at
    most 96 prompt and 24 action tokens; its canonical action is ``\boxed{85}`` alone. With ``data`` the
    problems come from a local file instead and ``level`` only chooses the prompt (see
    :func:`sdgym.envs.mathematics.data.load`); splits are by hash of the question.

    Args:
        level, split, privileged, render_mode: see :class:`TextEnv`.
        data: path of a ``.jsonl`` or ``.parquet`` file.

    Raises:
        DataError: the file cannot be used, or holds no problem of the split.
    """

    env_id: ClassVar[str] = "sdgym/Math-v0"
    max_action_tokens: ClassVar[Mapping[str, int]] = {"tiny": 24, "easy": 512, "medium": 1024, "hard": 2048}

    def __init__(
        self, level: str = "tiny", split: str = "train", privileged: bool = False, render_mode: str | None = None, data: str | None = None
    ) -> None:
        super().__init__(level, split, privileged, render_mode)
        if level != "tiny":
            self.system_prompt = SYSTEM_PROMPT  # type: ignore[misc]  # per level, not per class
        self._rows: dict[str, list[data_files.Row]] | None = None
        self._table: tuple[str, list[tuple[tuple[str, ...], float]]] = ("", [])  # demonstrate() asks many times about one task
        if data is not None:
            self._rows = {}
            for row in data_files.load(data):
                self._rows.setdefault(self.split_of([row.question]), []).append(row)
            self._rows_of(split)

    # ---- tasks ----------------------------------------------------------------------------------

    def make_task(self, seed: int, split: str) -> Task:
        """Return the task of ``seed``: families, numbers and wording are drawn until the content belongs to ``split``."""
        if self._rows is not None:
            return self._data_task(seed, split)
        problem = self._problem(seed, split)
        privileged = {"answer": problem.answer, "reference_solution": problem.solution}
        meta: dict[str, Any] = {"family": problem.family, "skill": problem.skill, "answer_type": problem.answer_type}
        if problem.form:
            meta["form"] = problem.form
        if problem.tolerance:
            meta["tolerance"] = problem.tolerance
        return self.finish_task(seed, split, f"{problem.text} {INSTRUCTION}", problem.canonical, privileged, meta)

    def _problem(self, seed: int, split: str) -> Problem:
        makers = FAMILIES[self.level][split == "heldout"]

        def draw(rng: np.random.Generator) -> tuple[Any, Problem]:
            source = Draw(rng)
            problem = source.weighted(makers)(source)
            return problem.canonical, problem

        problem: Problem = self.draw_in_split(seed, split, draw)
        return problem

    def _rows_of(self, split: str) -> list[data_files.Row]:
        assert self._rows is not None
        if split not in self._rows:
            sizes = ", ".join(f"{name} {len(rows)}" for name, rows in self._rows.items())
            raise DataError(
                f"the data file has no problem in split {split!r} (problems per split: {sizes}); choose another or add problems"
            )
        return self._rows[split]

    def _data_task(self, seed: int, split: str) -> Task:
        rows = self._rows_of(split)
        row = rows[seed % len(rows)]
        gold = row.gold
        meta = {"family": "data", "skill": "data", "answer_type": gold.type}
        meta |= {name: value for name, value in dataclasses.asdict(gold).items() if name in ("form", "tolerance", "unit") and value}
        privileged = {"answer": gold.text, "reference_solution": row.solution}
        return self.finish_task(seed, split, f"{row.question} {INSTRUCTION}", [row.question], privileged, meta)

    # ---- episode --------------------------------------------------------------------------------

    async def respond(self, action: str) -> Response:
        """Grade the answer; the episode ends."""
        assert self.task is not None
        return Response.of(await grade(gold_of(self.task), action))

    # ---- demonstrations -------------------------------------------------------------------------

    def oracle(self, task: Task) -> Sequence[str]:
        """Return the canonical right action."""
        return (boxed(task.privileged["answer"]),)

    def answer_key(self, task: Task, actions: Sequence[str]) -> str:
        """Return what a vote counts: the text inside the box, "" where there is none."""
        return (extract(actions[-1]).answer or "") if actions else ""

    def candidates(self, task: Task) -> list[tuple[tuple[str, ...], float]]:
        """Return the novice's distribution over attempts for ``task``, the right one first; sums to 1.

        Raises:
            ConfigError: the problems come from a file: nothing is known about misconceptions there.
        """
        if self._rows is not None:
            raise ConfigError("local problems have no novice: misconceptions are known for the procedural levels only; leave out data=")
        if self._table[0] != task.task_id:
            table = novice.candidates(self._problem(task.seed, task.split))
            self._table = (task.task_id, [((action,), probability) for action, probability in table])
        return self._table[1]

    def novice(self, task: Task, rng: np.random.Generator) -> Sequence[str]:
        """Draw one attempt from :meth:`candidates`."""
        table = self.candidates(task)
        at = float(rng.random())
        for actions, probability in table:
            at -= probability
            if at < 0:
                return actions
        return table[0][0]

    def consistent(self, task: Task, actions: Sequence[str], information: Information) -> bool:
        """Return whether ``actions`` could still be right given ``information``.

        Feedback: exactly those answers remain that, had they been the right one, would have earned the
        same words for the attempt. Outcome: all answers but the one tried, or only it if it was right.
        """
        gold = gold_of(task)
        if information.kind in ("reference", "peer"):
            return _presumed(gold, actions[0]).outcome is Outcome.CORRECT
        supposed = extract(actions[0]).answer
        if supposed is None:
            return False
        attempt, as_gold = information.attempt[0], dataclasses.replace(gold, text=supposed)
        if _presumed(as_gold, actions[0]).outcome is not Outcome.CORRECT:
            return False  # an answer in a form that is never accepted cannot be the right one
        earned = _presumed(as_gold, attempt)
        if information.kind == "outcome":
            return (earned.outcome is Outcome.CORRECT) == (_presumed(gold, attempt).outcome is Outcome.CORRECT)
        return earned.score is not None and earned.feedback == information.feedback[0]


def gold_of(task: Task) -> Gold:
    """Return the typed right answer of ``task``."""
    return Gold.of(task.privileged["answer"], task.meta)


def _presumed(gold: Gold, action: str) -> Verdict:
    """Judge at once, without computer algebra: expressions that are not provably equal count as different."""
    verdict = judge_response(gold, action)
    return verdict.finish(["different"] * len(verdict.pairs)) if isinstance(verdict, Job) else verdict
