"""Tables of the world: declared in one line each, with typed columns and triggers that log changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
_SQL = {"text": "TEXT", "int": "INTEGER", "bool": "INTEGER", "list": "TEXT"}
_EMPTY: dict[str, Any] = {"text": "", "int": 0, "bool": False, "list": ()}

LOG = "CREATE TABLE change_log (seq INTEGER PRIMARY KEY, tbl TEXT, row_id INTEGER, before TEXT, after TEXT)"
"""Written by triggers alone: every insert, update and delete of every table, with the row as JSON."""


class Table:
    """A table with an integer primary key ``id``.

    Args:
        app: name of the app it belongs to; the table is called ``app_noun``.
        noun: what a row is, for messages.
        columns: names separated by blanks, each with an optional kind: ``read:bool labels:list due``.
            Kinds are text (default), int, bool and list (of texts or integers, kept as JSON). A column
            ``owner`` makes rows readable by everybody and writable by their owner alone.
    """

    def __init__(self, app: str, noun: str, columns: str) -> None:
        self.app, self.noun, self.name = app, noun, f"{app}_{noun}"
        self.kinds = {name: kind or "text" for name, _, kind in (c.partition(":") for c in columns.split())}
        self.owned = "owner" in self.kinds
        self._special = tuple((name, kind) for name, kind in self.kinds.items() if kind in ("bool", "list"))

    def ddl(self) -> str:
        """Return the statement that creates the table."""
        columns = ", ".join(f"{name} {_SQL[kind]} NOT NULL" for name, kind in self.kinds.items())
        return f"CREATE TABLE {self.name} (id INTEGER PRIMARY KEY, {columns})"

    def triggers(self) -> list[str]:
        """Return the statements that create the three triggers which write the change log."""
        statements = []
        for event, before, after in (("INSERT", None, "NEW"), ("UPDATE", "OLD", "NEW"), ("DELETE", "OLD", None)):
            values = f"'{self.name}', {after or before}.id, {self._json(before)}, {self._json(after)}"
            statements.append(
                f"CREATE TRIGGER {self.name}_{event.lower()} AFTER {event} ON {self.name} BEGIN "
                f"INSERT INTO change_log (tbl, row_id, before, after) VALUES ({values}); END"
            )
        return statements

    def _json(self, alias: str | None) -> str:
        if alias is None:
            return "NULL"
        pairs = ", ".join(f"'{name}', {alias}.{name}" for name in self.kinds)
        return f"json_object({pairs})"

    def filled(self, values: Mapping[str, Any]) -> Row:
        """Return ``values`` with the empty value of its kind for every column left out."""
        return {name: values.get(name, _EMPTY[kind]) for name, kind in self.kinds.items()}

    def encode(self, values: Mapping[str, Any]) -> Row:
        """Return column values as SQLite stores them."""
        return {name: json.dumps(list(v)) if self.kinds[name] == "list" else v for name, v in values.items()}

    def decode(self, row: Row) -> Row:
        """Turn stored values into JSON types, in place, and return the row."""
        for name, kind in self._special:
            if name in row:
                value = row[name]
                row[name] = bool(value) if kind == "bool" else [] if value == "[]" else json.loads(value)
        return row
