"""Saved episodes for the page's viewer: a small index of all of them, and their texts in compressed chunks.

The page inflates a chunk when one of its episodes is looked at, so ten thousand episodes open as fast as ten.
Log-probs are stored in hundredths of a nat.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdgym.errors import DataError
from sdgym.report.load import Run

MOST = 10_000
"""Episodes in one page; of more, whole groups are left out evenly over the saved batches."""
PER_CHUNK = 48
CLIP = 6000  # characters of any one text
PREVIEW = 60
COLUMNS = [
    "group_id",
    "member",
    "task_id",
    "observations",
    "actions",
    "turn_rewards",
    "feedback",
    "outcome",
    "reward",
    "success",
    "stop_reason",
    "error",
]


@dataclasses.dataclass(frozen=True)
class Saved:
    """The viewer's data.

    Attributes:
        index: columns with one entry per episode, and what their codes mean.
        chunks: :data:`PER_CHUNK` episodes each, as base64 of gzipped JSON.
        total: episodes that the run folders hold.
    """

    index: dict[str, Any]
    chunks: tuple[str, ...]
    total: int

    @property
    def shown(self) -> int:
        """Episodes in the page."""
        return len(self.index["columns"].get("run", ()))

    @property
    def size(self) -> int:
        """Bytes of all chunks."""
        return sum(map(len, self.chunks))


def collect(runs: Sequence[Run], most: int = MOST) -> Saved:
    """Read the saved episodes of ``runs``, at most about ``most`` of them. Raises :class:`DataError` for a damaged file."""
    files = [(number, path) for number, run in enumerate(runs) for path in sorted((run.folder / "trajectories").glob("step_*.parquet"))]
    total = sum(_count(path) for _, path in files)
    share = min(1.0, most / total) if total else 1.0
    index = _Index(runs)
    chunks: list[str] = []
    pending: list[dict[str, Any]] = []
    for number, path in files:
        step = int(path.stem.removeprefix("step_"))
        for record, tokens in _episodes(path, share):
            pending.append(episode(record, tokens))
            index.add(number, step, record, pending[-1])
            if len(pending) == PER_CHUNK:
                chunks.append(deflate(pending))
                pending = []
    if pending:
        chunks.append(deflate(pending))
    return Saved(index.tree(), tuple(chunks), total)


def deflate(data: Any) -> str:
    """Return base64 of gzipped JSON; equal data gives equal text."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), 9, mtime=0)).decode()


def _count(path: pathlib.Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{str(path)!r} is not a readable trajectory file: {error}") from None


def _episodes(path: pathlib.Path, share: float) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the records of the first ``share`` of a file's groups, each with its token record ({} where none was kept)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    beside = path.parents[1] / "tokens" / path.name
    try:
        records = pq.read_table(path, columns=COLUMNS).to_pylist()
        tokens = pq.read_table(beside).to_pylist() if beside.is_file() else []
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{str(path)!r} is not a readable trajectory file of this version: {error}") from None
    if len(tokens) != len(records):  # the run was killed between the two files
        tokens = [{}] * len(records)
    groups = list(dict.fromkeys(record["group_id"] for record in records))
    kept = set(groups[: max(1, round(share * len(groups)))])
    yield from ((r, t) for r, t in zip(records, tokens, strict=True) if r["group_id"] in kept)


def episode(record: Mapping[str, Any], tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the viewer shows of one episode; short keys, because there are ten thousand of them."""
    spans = _spans(tokens.get("turns") or [], len(record["actions"]))
    told: dict[str, Any] = {
        "turns": [
            {
                "o": clip(record["observations"][turn]),
                "a": clip(action),
                "r": record["turn_rewards"][turn],
                "f": [[f["kind"], clip(f["text"]), int(f["visible"])] for f in record["feedback"] if f["turn"] == turn and f["text"]],
                "n": spans[turn],
            }
            for turn, action in enumerate(record["actions"])
        ],
        "error": record["error"],
    }
    if tokens:
        student = _places(tokens["contexts"])
        told |= {"p": tokens["pieces"], "s": hundredths(tokens["student"]), "c": student}
        if tokens["advantage"] is not None:
            told["v"] = runs_of([None if math.isnan(v) else float(f"{v:.3g}") for v in tokens["advantage"]])
        told["t"] = [_teacher(teacher, student) for teacher in tokens["teachers"]]
    return told


def _teacher(teacher: Mapping[str, Any], student: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return a reference; its context as the part in common with the student's before and behind, and its own between."""
    contexts = []
    for token, text in _places(teacher["contexts"]):
        base = next((s for t, s in student if t == token), "")
        head = _common(base, text)
        tail = _common(base[head:][::-1], text[head:][::-1])
        contexts.append([token, head, text[head : len(text) - tail], tail])
    return {
        "term": teacher["term"],
        "kind": teacher["kind"],
        "source": teacher["source"],
        "c": contexts,
        "i": _places(teacher["insertions"]),
        "l": hundredths(teacher["logprobs"]),
    }


def _common(a: str, b: str) -> int:
    """Return the length of the common beginning."""
    length = min(len(a), len(b))
    return next((i for i in range(length) if a[i] != b[i]), length)


def _places(items: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    return [[item["token"], clip(item["text"])] for item in items]


def _spans(turns: Sequence[int], count: int) -> list[int]:
    """Return how many tokens each turn has."""
    return [sum(t == turn for t in turns) for turn in range(count)]


def hundredths(values: Sequence[float]) -> list[int | None]:
    """Round log-probs to hundredths of a nat; None where there is none."""
    return [None if not math.isfinite(v) else round(100 * v) for v in values]


def runs_of(values: Sequence[Any]) -> list[list[Any]]:
    """Return ``[value, times]`` pairs: advantages are constant over long stretches."""
    out: list[list[Any]] = []
    for value in values:
        if out and out[-1][0] == value:
            out[-1][1] += 1
        else:
            out.append([value, 1])
    return out


def peak(told: Mapping[str, Any]) -> tuple[int | None, int]:
    """Return the largest teacher − student log-ratio by size, in hundredths, and its token; (None, 0) without a teacher."""
    best: tuple[int | None, int] = (None, 0)
    for teacher in told.get("t", ()):
        for token, (own, other) in enumerate(zip(told["s"], teacher["l"], strict=True)):
            if own is not None and other is not None and (best[0] is None or abs(other - own) > abs(best[0])):
                best = (other - own, token)
    return best


def clip(text: str) -> str:
    """Return ``text``, cut in the middle beyond :data:`CLIP` characters."""
    return text if len(text) <= CLIP else f"{text[: CLIP // 2]}\n… {len(text) - CLIP} characters left out …\n{text[-CLIP // 2 :]}"


class _Index:
    """Columns, filled episode by episode; strings that repeat become codes."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = [{"arm": r.arm, "env": r.env, "level": r.level, "model": r.model, "seed": r.seed} for r in runs]
        self.columns: dict[str, list[Any]] = {}
        self.codes: dict[str, dict[str, int]] = {"task": {}, "stop": {}, "outcome": {}}

    def add(self, run: int, step: int, record: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        value, token = peak(told)
        last = record["actions"][-1] if record["actions"] else ""
        row = {
            "run": run,
            "step": step,
            "task": self._code("task", record["task_id"]),
            "member": record["member"],
            "reward": record["reward"],
            "success": int(record["success"]),
            "stop": self._code("stop", record["stop_reason"]),
            "outcome": self._code("outcome", record["outcome"] or record["stop_reason"]),
            "turns": len(record["actions"]),
            "tokens": len(told["p"]) if "p" in told else None,
            "peak": value,
            "at": token,
            "preview": " ".join(last.split())[:PREVIEW],
        }
        for name, entry in row.items():
            self.columns.setdefault(name, []).append(entry)

    def _code(self, name: str, text: str) -> int:
        return self.codes[name].setdefault(text, len(self.codes[name]))

    def tree(self) -> dict[str, Any]:
        """Return the index as plain data."""
        names = {name: list(codes) for name, codes in self.codes.items()}
        return {"runs": self.runs, "names": names, "columns": self.columns, "perChunk": PER_CHUNK}
