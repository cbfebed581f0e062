"""``sdgym/Dataset-v0``: any local file of questions with any grader.

Importing this module registers the id: ``sdgym.envs.dataset:sdgym/Dataset-v0`` does both.
"""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium

from sdgym.core import Task
from sdgym.envs.records import read_records
from sdgym.errors import ConfigError, DataError, InfraError, UserError
from sdgym.text_env import Response, TextEnv
from sdgym.verifiers.graders import Grader, grade, graders

QUESTIONS = ("question", "prompt", "problem", "text")


class DatasetEnv(TextEnv):
    """Questions from a JSON Lines file, one a line, judged by a grader; one turn, reward = score.

    A row has a statement (``question``, ``prompt``, ``problem`` or ``text``) and whatever its grader reads;
    ``answer`` and ``solution``, where they are there, are what teachers may be told.

    Args:
        level, split, privileged, render_mode: see :class:`TextEnv`; rows are divided by their text.
        data: path of the ``.jsonl`` file.
        grader: name in :data:`sdgym.verifiers.graders.graders`, ``package.module:function``, or the function itself.
        system: system prompt.

    Raises:
        ConfigError: no file given.
        DataError: the file cannot be used, or holds no row of the split.
        UnknownNameError: no such grader.
    """

    env_id: ClassVar[str] = "sdgym/Dataset-v0"
    levels: ClassVar[Sequence[str]] = ("data",)
    max_action_tokens: ClassVar[Mapping[str, int]] = {"data": 512}

    def __init__(
        self,
        level: str = "data",
        split: str = "train",
        privileged: bool = False,
        render_mode: str | None = None,
        data: str = "",
        grader: str | Grader = "exact",
        system: str = "",
    ) -> None:
        super().__init__(level, split, privileged, render_mode)
        if not data:
            raise ConfigError("a world of local data needs data=FILE.jsonl")
        self.grader: Grader = graders.get(grader) if isinstance(grader, str) else grader
        self.system_prompt = system  # type: ignore[misc]  # per file, not per class
        self._rows: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for text, row in _load(pathlib.Path(data)):
            self._rows.setdefault(self.split_of([text]), []).append((text, row))
        self._row(0, split)

    def _row(self, seed: int, split: str) -> tuple[str, Mapping[str, Any]]:
        if split not in self._rows:
            sizes = ", ".join(f"{name} {len(rows)}" for name, rows in self._rows.items())
            raise DataError(f"the data file has no task in split {split!r} (tasks per split: {sizes}); choose another or add tasks")
        return self._rows[split][seed % len(self._rows[split])]

    def make_task(self, seed: int, split: str) -> Task:
        """Return the row of ``seed``."""
        text, row = self._row(seed, split)
        answer = str(row.get("answer", ""))
        known = {"reference_solution": str(row.get("solution") or answer), "answer": answer}
        privileged = {kind: text for kind, text in known.items() if text}
        return self.finish_task(seed, split, text, [text], privileged, {"family": "data", "skill": "data"})

    async def respond(self, action: str) -> Response:
        """Let the grader judge, on a thread of its own."""
        assert self.task is not None
        row = self._row(self.task.seed, self.task.split)[1]
        try:
            verdict = await asyncio.to_thread(grade, self.grader, action, row)
        except UserError:
            raise
        except Exception as error:  # a third party's code: the row is masked under its name
            raise InfraError(f"the grader raised {type(error).__name__}: {error}") from error
        return Response.of(verdict)

    def oracle(self, task: Task) -> Sequence[str]:
        """Return the row's answer. Raises ConfigError where it has none."""
        if "answer" not in task.privileged:
            raise ConfigError(f"the task {task.task_id} of the data file has no answer; add a column 'answer'")
        return (task.privileged["answer"],)

    def answer_key(self, task: Task, actions: Sequence[str]) -> str:
        """Return what a vote counts: the answer without its reasoning."""
        return actions[-1].rpartition("</think>")[2].strip() if actions else ""


def _load(file: pathlib.Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the statement of every row, and the row. Raises :class:`DataError` for one without, and for a file without rows."""
    number = 0
    for number, row in read_records(file.expanduser()):
        text = next((row[name] for name in QUESTIONS if isinstance(row.get(name), str) and row[name].strip()), None)
        if text is None:
            raise DataError(f"{file.name}, line {number} has no statement: a column {', '.join(QUESTIONS[:-1])} or {QUESTIONS[-1]}")
        yield text.strip(), row
    if not number:
        raise DataError(f"{str(file)!r} holds no rows")


if DatasetEnv.env_id not in gymnasium.registry:
    gymnasium.register(id=DatasetEnv.env_id, entry_point=f"{__name__}:DatasetEnv", disable_env_checker=True, order_enforce=False)
