"""What the learner saw token by token, kept for the batches whose trajectories are saved, so that people can look at it.

A :class:`Recorder` listens to one update; ``tokens/step_*.parquet`` then lies beside ``trajectories/step_*.parquet``, row
by row. It holds decoded text, so reading it needs no tokenizer. Nothing here changes a result.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sdgym.chat import ChatFormat
from sdgym.core import LossItem, LossTerm, ScoringView, Trajectory
from sdgym.files import replace_file
from sdgym.objective import LossInputs


@dataclasses.dataclass
class _Teacher:
    """One reference of one row: what it read, and what it thought of the row's tokens."""

    term: str
    views: list[ScoringView]
    logprobs: np.ndarray  # [T], NaN where it was not asked


class Recorder:
    """Per-token values of one batch, as they were when each view was trained for the first time.

    Args:
        rows: the batch's trajectories; views of other rows (a pool's, rewritten text) are passed over.
    """

    def __init__(self, rows: Sequence[Trajectory]) -> None:
        self.rows = rows
        self._student = [row.action_logprobs().copy() for row in rows]
        self._advantage: dict[int, np.ndarray] = {}
        self._teachers: dict[tuple[int, str, int], _Teacher] = {}
        self._seen: dict[int, LossItem] = {}  # by identity; holding the item keeps its id its own

    def add(self, term: LossTerm, items: Sequence[LossItem], inputs: LossInputs) -> None:
        """Take over what a loss was given for ``items``, which lie in ``inputs`` one after the other."""
        student, references = (t.detach().float().cpu().numpy() for t in (inputs.logprobs, inputs.reference_logprobs))
        start = 0
        for item in items:
            stop = start + len(item.weight)
            if id(item) not in self._seen and item.view.row < len(self.rows) and item.view.provenance != "rewritten":
                self._seen[id(item)] = item
                self._take(term, item, student[start:stop], references[:, start:stop])
            start = stop

    def _take(self, term: LossTerm, item: LossItem, student: np.ndarray, references: np.ndarray) -> None:
        row, length = item.view.row, self.rows[item.view.row].action_length
        found = item.view.index_map >= 0
        places = item.view.index_map[found]
        if item.view.provenance == "sampled" and item.view.weights == "policy":
            self._student[row][places] = student[found]
        if item.advantage is not None:
            values = self._advantage.setdefault(row, np.full(length, np.nan, np.float32))
            values[places] = np.where(item.weight[found] != 0, item.advantage[found], np.nan)
        for number, view in enumerate(item.references):
            teacher = self._teachers.setdefault((row, term.name, number), _Teacher(term.name, [], np.full(length, np.nan, np.float32)))
            teacher.views.append(view)
            teacher.logprobs[places] = references[number][found]

    def save(self, path: pathlib.Path, chat: ChatFormat) -> None:
        """Write one record per row as Parquet; ``chat`` spells the tokens."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        decode = functools.partial(_decode, chat)
        piece = functools.cache(lambda token: decode([token]))
        records = [self._record(row, decode, piece) for row in range(len(self.rows))]
        path.parent.mkdir(exist_ok=True)
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(records, schema=schema()), sink, compression="zstd")
        replace_file(path, sink.getvalue())

    def _record(self, index: int, decode: Any, piece: Any) -> dict[str, Any]:
        row, contexts, start = self.rows[index], [], 0
        for segment in row.segments:
            contexts.append({"token": start, "text": decode(segment.ids[: segment.prompt_length])})
            start += int(segment.action_mask.sum())
        advantage = self._advantage.get(index)
        return {
            "turns": row.turn_of_token().tolist(),
            "pieces": [piece(int(token)) for token in row.action_ids()],
            "student": self._student[index].tolist(),
            "advantage": None if advantage is None else advantage.tolist(),
            "contexts": contexts,
            "teachers": [_teacher(teacher, decode) for (row_, _, _), teacher in self._teachers.items() if row_ == index],
        }


def _teacher(teacher: _Teacher, decode: Any) -> dict[str, Any]:
    contexts, insertions = [], []
    for view in teacher.views:
        known = view.index_map >= 0
        contexts.append({"token": int(view.index_map[known][0]) if known.any() else 0, "text": decode(view.prefix_ids)})
        for offset, ids in view.insertions:
            before = int(view.loss_mask[:offset].sum())
            if before < len(view.index_map):
                insertions.append({"token": int(view.index_map[before]), "text": decode(ids)})
    first = teacher.views[0]
    told = {"term": teacher.term, "kind": first.kind, "source": first.source, "weights": first.weights}
    return {**told, "contexts": contexts, "insertions": insertions, "logprobs": teacher.logprobs.tolist()}


def _decode(chat: ChatFormat, ids: Sequence[int] | np.ndarray) -> str:
    """Return the text of ``ids`` with special tokens spelt out."""
    return str(chat.tokenizer.decode([int(i) for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False))


def schema() -> Any:
    """Return the Arrow schema of ``tokens/step_*.parquet``.

    Per row with T sampled tokens: ``turns``, ``pieces`` (decoded one by one), ``student`` (log-probs), ``advantage`` (null for
    methods without one, NaN on masked tokens), all ``[T]``; ``contexts``: what the student had read before token ``token``
    (one per segment); ``teachers``: per reference its contexts, the texts inserted before token ``token``, and its
    log-probs ``[T]`` of the student's tokens, NaN where it was not asked.
    """
    import pyarrow as pa

    text = pa.list_(pa.struct([("token", pa.int32()), ("text", pa.string())]))
    teacher = pa.struct(
        [
            ("term", pa.string()),
            ("kind", pa.string()),
            ("source", pa.string()),
            ("weights", pa.string()),
            ("contexts", text),
            ("insertions", text),
            ("logprobs", pa.list_(pa.float32())),
        ]
    )
    return pa.schema(
        [
            ("turns", pa.list_(pa.int32())),
            ("pieces", pa.list_(pa.string())),
            ("student", pa.list_(pa.float32())),
            ("advantage", pa.list_(pa.float32())),
            ("contexts", text),
            ("teachers", pa.list_(teacher)),
        ]
    )
