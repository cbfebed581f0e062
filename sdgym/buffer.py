"""``RolloutBuffer``: finished trajectories as ragged rows, by group, with lossless Parquet storage."""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from sdgym.core import Feedback, Outcome, Segment, StopReason, Task, Trajectory, TurnSpan
from sdgym.errors import DataError
from sdgym.files import replace_file


class RolloutBuffer:
    """An append-only list of trajectories that knows its groups.

    Args:
        rows: initial content.
    """

    def __init__(self, rows: Iterable[Trajectory] = ()) -> None:
        self.rows: list[Trajectory] = []
        self.cursor = 0
        self._groups: dict[str, list[int]] = {}
        self.add(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, rows: Iterable[Trajectory]) -> None:
        """Append ``rows``; those with the same ``group_id`` form a group."""
        for row in rows:
            self._groups.setdefault(row.group_id, []).append(len(self.rows))
            self.rows.append(row)

    def groups(self) -> list[list[int]]:
        """Return row indices per group, groups in the order of their first row, members in order."""
        return [sorted(indices, key=lambda i: (self.rows[i].member, i)) for indices in self._groups.values()]

    def batches(self, count: int, rng: np.random.Generator | None = None) -> Iterator[list[int]]:
        """Cut the buffer into ``count`` batches of whole groups, as even as whole groups allow.

        With ``rng`` the groups are shuffled first. Fewer groups than ``count`` give fewer batches.
        ``cursor`` counts the batches handed out of this pass; it starts again with the next pass.
        """
        groups = self.groups()
        order = rng.permutation(len(groups)) if rng is not None else np.arange(len(groups))
        self.cursor = 0
        for part in np.array_split(order, max(1, min(count, len(groups)))):
            if len(part):
                self.cursor += 1
                yield [index for g in part for index in groups[int(g)]]

    def clear(self) -> None:
        """Forget every row."""
        self.rows, self._groups, self.cursor = [], {}, 0

    # ---- storage --------------------------------------------------------------------------------

    def save(self, path: str | pathlib.Path) -> None:
        """Write the rows as Parquet (zstd); :meth:`load` gives equal rows back."""
        replace_file(pathlib.Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | pathlib.Path) -> RolloutBuffer:
        """Read what :meth:`save` wrote. Raises :class:`DataError` for a file that is not that."""
        try:
            data = pathlib.Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"the trajectory file {str(path)!r} cannot be read: {error.strerror}") from None
        return cls.from_bytes(data, str(path))

    def to_bytes(self) -> bytes:
        """Return the Parquet file's bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        table = pa.Table.from_pylist([_pack(row) for row in self.rows], schema=_schema())
        pq.write_table(table, sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "trajectories") -> RolloutBuffer:
        """Inverse of :meth:`to_bytes`; ``name`` is for the message of a :class:`DataError`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(io.BytesIO(data))
            if table.schema != _schema():
                missing = sorted(set(_schema().names) - set(table.schema.names))
                raise DataError(f"{name!r} is Parquet but not a trajectory file of this version (missing columns: {missing})")
            return cls(_unpack(record) for record in table.to_pylist())
        except (pa.ArrowException, json.JSONDecodeError, OSError) as error:
            raise DataError(f"{name!r} is not a readable trajectory file: {error}") from None

    def state_dict(self) -> dict[str, Any]:
        """Return the rows (Parquet bytes as uint8) and the cursor."""
        return {"rows": np.frombuffer(self.to_bytes(), np.uint8).copy(), "cursor": self.cursor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the content by :meth:`state_dict`'s."""
        self.clear()
        self.add(self.from_bytes(np.asarray(state["rows"], np.uint8).tobytes(), "checkpoint").rows)
        self.cursor = int(state["cursor"])


def _schema() -> Any:
    import pyarrow as pa

    span = pa.struct([("turn", pa.int32()), ("start", pa.int32()), ("end", pa.int32())])
    segment = pa.struct(
        [
            ("ids", pa.list_(pa.int64())),
            ("action_mask", pa.list_(pa.bool_())),
            ("logprobs", pa.list_(pa.float32())),
            ("spans", pa.list_(span)),
            ("prompt_length", pa.int32()),
        ]
    )
    feedback = pa.struct(
        [("kind", pa.string()), ("text", pa.string()), ("turn", pa.int32()), ("reveals_answer", pa.bool_()), ("visible", pa.bool_())]
    )
    return pa.schema(
        [
            ("group_id", pa.string()),
            ("member", pa.int32()),
            ("task_id", pa.string()),
            ("task", pa.string()),  # JSON: messages, split, seed, privileged, meta
            ("segments", pa.list_(segment)),
            ("observations", pa.list_(pa.string())),
            ("actions", pa.list_(pa.string())),
            ("turn_rewards", pa.list_(pa.float64())),
            ("feedback", pa.list_(feedback)),
            ("outcome", pa.string()),
            ("reward", pa.float64()),
            ("success", pa.bool_()),
            ("stop_reason", pa.string()),
            ("error", pa.string()),
            ("policy_version", pa.int64()),
            ("key", pa.string()),  # JSON: mixed strings and integers
            ("sampling", pa.string()),  # JSON
            ("truncated_tokens", pa.bool_()),
        ]
    )


_SAME = (
    "group_id",
    "member",
    "observations",
    "actions",
    "turn_rewards",
    "reward",
    "success",
    "error",
    "policy_version",
    "truncated_tokens",
)


def _pack(row: Trajectory) -> dict[str, Any]:
    task = row.task
    body = [list(task.messages), task.split, task.seed, dict(task.privileged), dict(task.meta)]
    return {
        **{name: getattr(row, name) for name in _SAME},
        "task_id": task.task_id,
        "task": json.dumps(body),
        "segments": [_pack_segment(segment) for segment in row.segments],
        "feedback": [dataclasses.asdict(item) for item in row.feedback],
        "outcome": str(row.outcome),
        "stop_reason": str(row.stop_reason),
        "key": json.dumps(list(row.key)),
        "sampling": json.dumps(dict(row.sampling)),
    }


def _pack_segment(segment: Segment) -> dict[str, Any]:
    return {
        "ids": segment.ids.tolist(),
        "action_mask": segment.action_mask.tolist(),
        "logprobs": segment.logprobs.tolist(),
        "spans": [{"turn": span.turn, "start": span.start, "end": span.end} for span in segment.spans],
        "prompt_length": segment.prompt_length,
    }


def _unpack(record: Mapping[str, Any]) -> Trajectory:
    messages, split, seed, privileged, meta = json.loads(record["task"])
    return Trajectory(
        **{name: record[name] for name in _SAME},
        task=Task(record["task_id"], tuple(messages), split, seed, privileged, meta),
        segments=[_unpack_segment(segment) for segment in record["segments"]],
        feedback=[Feedback(**item) for item in record["feedback"]],
        outcome=Outcome(record["outcome"]),
        stop_reason=StopReason(record["stop_reason"]),
        key=tuple(json.loads(record["key"])),
        sampling=json.loads(record["sampling"]),
    )


def _unpack_segment(record: Mapping[str, Any]) -> Segment:
    return Segment(
        np.asarray(record["ids"], np.int64),
        np.asarray(record["action_mask"], bool),
        np.asarray(record["logprobs"], np.float32),
        tuple(TurnSpan(**span) for span in record["spans"]),
        record["prompt_length"],
    )
