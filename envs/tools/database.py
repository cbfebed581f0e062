"""One episode's database: SQLite in memory, cloned from a blob, with a log of every change.

Names of tables and columns come from :mod:`sdgym.envs.tools.tables` alone; whatever an agent wrote is
bound as a parameter.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from sdgym.envs.tools.tables import LOG, Row, Table

Op = Literal["create", "update", "delete"]


@dataclasses.dataclass(frozen=True)
class Change:
    """What became of one row from the start of the episode until now; ``before`` or ``after`` is None for a new or deleted row."""

    table: Table
    row_id: int
    before: Row | None
    after: Row | None

    @property
    def op(self) -> Op:
        """What happened to the row."""
        return "create" if self.before is None else "delete" if self.after is None else "update"

    def columns(self) -> set[str]:
        """Return the columns that differ (all of them for a new or deleted row)."""
        if self.before is None or self.after is None:
            return set(self.table.kinds)
        return {name for name in self.table.kinds if self.before[name] != self.after[name]}


class Database:
    """A connection of its own to a private in-memory database.

    Args:
        tables: all tables of the world.
        blob: a serialised database to start from; None creates empty tables.
    """

    def __init__(self, tables: Iterable[Table], blob: bytes | None = None) -> None:
        self.tables = {table.name: table for table in tables}
        self._recording, self._watched, self._watched_before = False, frozenset[str](), frozenset[str]()
        self._open(blob)

    def _open(self, blob: bytes | None) -> None:
        # One episode is played by one thread at a time, not always by the same one.
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if blob is not None:
            self._connection.deserialize(blob)
        else:
            for statement in (LOG, *(table.ddl() for table in self.tables.values())):
                self._connection.execute(statement)

    def blob(self) -> bytes:
        """Return the whole database as bytes."""
        return self._connection.serialize()

    def close(self) -> None:
        """Free the memory."""
        self._connection.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**{k: v for k, v in vars(self).items() if k != "_connection"}, "blob": self.blob()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        blob = state.pop("blob")
        vars(self).update(state)
        self._open(blob)

    # ---- rows -----------------------------------------------------------------------------------

    def rows(self, sql: str, *values: Any) -> list[Row]:
        """Return the rows of a query as plain dictionaries, values as stored."""
        cursor = self._connection.execute(sql, values)
        names = [d[0] for d in cursor.description]
        return [dict(zip(names, row, strict=False)) for row in cursor.fetchall()]

    def scalar(self, sql: str, *values: Any) -> Any:
        """Return the first value of the first row, or None."""
        row = self._connection.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def get(self, table: Table, row_id: int) -> Row | None:
        """Return one row in JSON types, or None."""
        found = self.rows(f"SELECT * FROM {table.name} WHERE id = ?", row_id)
        return table.decode(found[0]) if found else None

    def insert(self, table: Table, values: Mapping[str, Any], row_id: int | None = None) -> int:
        """Add a row (columns left out are empty) and return its id."""
        self._watch(table)
        row = table.encode(table.filled(values))
        cursor = self._connection.execute(_insert_sql(table), (row_id, *row.values()))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def update(self, table: Table, row_id: int, values: Mapping[str, Any]) -> None:
        """Set columns of one row."""
        self._watch(table)
        row = table.encode(values)
        assignments = ", ".join(f"{name} = ?" for name in row)
        self._connection.execute(f"UPDATE {table.name} SET {assignments} WHERE id = ?", (*row.values(), row_id))

    def delete(self, table: Table, row_id: int) -> None:
        """Remove one row."""
        self._watch(table)
        self._connection.execute(f"DELETE FROM {table.name} WHERE id = ?", (row_id,))

    def begin(self) -> None:
        """Start a transaction: all or nothing until :meth:`commit` or :meth:`rollback`."""
        self._connection.execute("BEGIN")
        self._watched_before = self._watched

    def commit(self) -> None:
        """Keep what was done since :meth:`begin`."""
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Forget what was done since :meth:`begin`."""
        self._connection.execute("ROLLBACK")
        self._watched = self._watched_before

    # ---- what changed ---------------------------------------------------------------------------

    def record(self) -> None:
        """Take the present state as the start: from now on every change is logged."""
        self._recording = True

    def _watch(self, table: Table) -> None:
        """Create the triggers of a table before it is written to for the first time.

        A connection parses every trigger there is when it opens; most episodes write to one table or two.
        """
        if self._recording and table.name not in self._watched:
            for statement in table.triggers():
                self._connection.execute(statement)
            self._watched |= {table.name}

    def changes(self) -> list[Change]:
        """Return the net change of every row that is not as it was, in order of the first touch."""
        first: dict[tuple[str, int], str | None] = {}
        last: dict[tuple[str, int], str | None] = {}
        for name, row_id, before, after in self._connection.execute("SELECT tbl, row_id, before, after FROM change_log ORDER BY seq"):
            first.setdefault((name, row_id), before)
            last[name, row_id] = after
        return [
            Change(table := self.tables[name], row_id, _row(table, before), _row(table, last[name, row_id]))
            for (name, row_id), before in first.items()
            if before != last[name, row_id]
        ]

    def digest(self) -> str:
        """Return the SHA-256 of all rows of all tables, the log apart."""
        content = {name: self.rows(f"SELECT * FROM {name} ORDER BY id") for name in sorted(self.tables)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@functools.cache
def _insert_sql(table: Table) -> str:
    return f"INSERT INTO {table.name} (id, {', '.join(table.kinds)}) VALUES (?{', ?' * len(table.kinds)})"


def _row(table: Table, text: str | None) -> Row | None:
    return None if text is None else table.decode(json.loads(text))
