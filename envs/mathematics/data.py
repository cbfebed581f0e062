"""Local problems from a JSON Lines or Parquet file."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from sdgym.core import Outcome, Verdict
from sdgym.envs.mathematics.problem import boxed
from sdgym.envs.records import read_records
from sdgym.errors import DataError, UserError, suggest
from sdgym.verifiers.math_answer import judge
from sdgym.verifiers.math_gold import Gold
from sdgym.verifiers.math_infer import infer_type
from sdgym.verifiers.math_text import extract

QUESTION_COLUMNS = ("problem", "question", "prompt")
OPTIONAL_COLUMNS = ("solution", "answer_type", "tolerance", "form", "unit")
SUFFIXES = (".jsonl", ".parquet")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One problem of a data file.

    Attributes:
        question: what the student reads.
        gold: the typed right answer.
        solution: a worked solution that ends in a boxed answer.
    """

    question: str
    gold: Gold
    solution: str


def load(path: str | pathlib.Path) -> list[Row]:
    r"""Read a data file: a column ``problem``, ``question`` or ``prompt``, a column ``answer``, optionally others.

    Optional columns: ``solution``, ``answer_type``, ``tolerance``, ``form``, ``unit``. A missing type is
    inferred. An answer may be wrapped in ``\boxed{}``, or follow ``####`` at the end of a worked solution.

    Raises:
        DataError: the file is missing, unreadable, empty or a row is not usable; the message names the row.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise DataError(f"there is no data file {str(file)!r}; give the path of a .jsonl or .parquet file")
    if file.suffix not in SUFFIXES:
        raise DataError(f"{str(file)!r} is not a .jsonl or .parquet file; other formats are not read")
    rows = [_row(record, f"{file.name}, row {i}") for i, record in enumerate(_records(file), start=1)]
    if not rows:
        raise DataError(f"{str(file)!r} holds no rows")
    return rows


def _records(file: pathlib.Path) -> Iterator[Mapping[str, Any]]:
    if file.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            yield from pyarrow.parquet.read_table(file).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{str(file)!r} cannot be read as Parquet: {error}") from error
        return
    yield from (record for _, record in read_records(file))


def _row(record: Mapping[str, Any], place: str) -> Row:
    column = next((name for name in QUESTION_COLUMNS if name in record), None)
    if column is None:
        found = ", ".join(map(str, record)) or "none"
        raise DataError(f"{place} has no column {', '.join(QUESTION_COLUMNS[:-1])} or {QUESTION_COLUMNS[-1]}; columns found: {found}")
    if record.get("answer") is None:
        raise DataError(f"{place} has no answer{suggest('answer', map(str, record))}")
    question, answer = record[column], record["answer"]
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{place}: {column} is empty or not a text")
    worked, _, last = str(answer).rpartition("####")
    answer = last.strip()
    inside = extract(answer)
    answer = inside.answer or answer
    if not answer:
        raise DataError(f"{place}: the answer is empty")
    options = {name: record[name] for name in OPTIONAL_COLUMNS[1:] if record.get(name) is not None}
    try:
        gold = Gold.of(answer, {"answer_type": infer_type(answer), **options})
    except (UserError, ValueError, TypeError) as error:
        raise DataError(f"{place}: {error}") from error
    verdict = judge(gold, answer)
    if isinstance(verdict, Verdict) and verdict.outcome is Outcome.GOLD_UNPARSABLE:
        raise DataError(f"{place}: the answer {answer!r} cannot be read as {gold.type}; correct it or set the column answer_type")
    return Row(question.strip(), gold, _solution(str(record.get("solution") or worked).strip(), answer))


def _solution(text: str, answer: str) -> str:
    """Return the worked solution with the answer boxed at its end."""
    if extract(text).answer is not None:
        return text
    return f"{text} So {boxed(answer)}.".strip()
