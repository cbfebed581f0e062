"""Sample episodes for reading: solved and unsolved ones of the last saved batch of each method's first seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sdgym.core import Feedback, Trajectory
from sdgym.report.load import Run

PER_RUN = 6
CLIP = 4000  # characters of any one text


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn: what was shown, what the policy wrote, what came back."""

    observation: str
    action: str
    reward: str
    feedback: tuple[Feedback, ...]


@dataclasses.dataclass(frozen=True)
class Transcript:
    """One episode."""

    env: str
    arm: str
    step: int
    success: bool
    outcome: str
    reward: str
    turns: tuple[Turn, ...]


def transcripts(runs: Sequence[Run]) -> list[Transcript]:
    """Return up to :data:`PER_RUN` episodes per (environment, method), failures first, from the latest saved batch."""
    found: list[Transcript] = []
    seen: set[tuple[str, str, str]] = set()
    for run in runs:
        key = (run.env, run.level, run.arm)
        files = sorted((run.folder / "trajectories").glob("*.parquet"))
        if key in seen or not files:
            continue
        seen.add(key)
        found += _of_run(run, files)
    return found


def _of_run(run: Run, files: Sequence[object]) -> list[Transcript]:
    from sdgym.buffer import RolloutBuffer

    path = str(files[-1])
    rows = RolloutBuffer.load(path).rows
    first_of_task = list({row.task.task_id: row for row in reversed(rows)}.values())[::-1]
    failed = [row for row in first_of_task if not row.success][: PER_RUN // 2]
    solved = [row for row in first_of_task if row.success][: PER_RUN - len(failed)]
    step = int("".join(c for c in path.rsplit("/", 1)[-1] if c.isdigit()) or 0)
    return [transcript(run, row, step) for row in (*failed, *solved)]


def transcript(run: Run, row: Trajectory, step: int) -> Transcript:
    """Turn a trajectory into text, clipped."""
    turns = tuple(
        Turn(
            clip(row.observations[t]),
            clip(action),
            f"{row.turn_rewards[t]:g}",
            tuple(dataclasses.replace(f, text=clip(f.text)) for f in row.feedback if f.turn == t and f.text),
        )
        for t, action in enumerate(row.actions)
    )
    outcome = str(row.outcome) or str(row.stop_reason)
    return Transcript(run.env, run.arm, step, row.success, outcome, "masked" if row.reward is None else f"{row.reward:g}", turns)


def clip(text: str) -> str:
    """Return ``text``, cut in the middle beyond :data:`CLIP` characters."""
    return text if len(text) <= CLIP else f"{text[: CLIP // 2]}\n… {len(text) - CLIP} characters left out …\n{text[-CLIP // 2 :]}"
