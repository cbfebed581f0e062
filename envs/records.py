"""Reading a JSON Lines file of tasks; every complaint names file and line."""

from __future__ import annotations

import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from sdgym.errors import DataError


def read_records(file: pathlib.Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the objects of a ``.jsonl`` or ``.jsonl.gz`` file with their line numbers, from 1; blank lines are left out.

    Raises:
        DataError: the file cannot be read as UTF-8 text, or a line is not a JSON object.
    """
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        lines = data.decode("utf-8").split("\n")  # not splitlines: a JSON string may hold U+2028
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"the data file {str(file)!r} cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # the latter: brackets without end
                raise DataError(f"{file.name}, line {number} is not JSON: {getattr(error, 'msg', error)}") from error
            if not isinstance(record, dict):
                raise DataError(f"{file.name}, line {number} is not a JSON object with columns")
            yield number, record
