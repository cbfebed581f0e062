"""One episode inside the world: the state behind the APIs, and the dispatch of calls."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sdgym.envs.tools.api import Api, ApiError, App, Json
from sdgym.envs.tools.database import Database
from sdgym.envs.tools.tables import Row, Table

PAGE_SIZE = 8
User = Callable[[str, Mapping[str, str]], str]
"""Answers a question of the agent from the facts the user knows about the task (keyword → sentence)."""


def scripted_user(question: str, facts: Mapping[str, str]) -> str:
    """Answer with the first fact one of whose keywords (separated by ``|``) is in the question; else with no help."""
    asked = question.lower()
    for keywords, sentence in facts.items():
        if any(word in asked for word in keywords.split("|")):
            return sentence
    return "I cannot tell you more than I have already said; please look it up in the apps."


@dataclasses.dataclass(frozen=True)
class Person:
    """Somebody of the world."""

    name: str
    email: str
    phone: str
    relation: str


@dataclasses.dataclass
class Episode:
    """Everything that calls read and write; plain data, so that an episode can be pickled.

    Attributes:
        db: the database.
        me: the supervisor, for whom the agent acts.
        now: the frozen clock, ``YYYY-MM-DD HH:MM``.
        people: e-mail addresses of everybody with an account.
        facts: what the user can tell.
        tokens: access token → app.
        unlocked: ids of locked notes that were opened.
        done: whether ``complete_task`` was called, with ``answer`` and ``status``.
        trace: ``(tool, arguments, error code or 0)`` of every call.
    """

    db: Database
    me: Person
    now: str
    people: frozenset[str] = frozenset()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tokens: dict[str, str] = dataclasses.field(default_factory=dict)
    unlocked: set[int] = dataclasses.field(default_factory=set)
    done: bool = False
    answer: Any = None
    status: str = ""
    trace: list[tuple[str, Json, int]] = dataclasses.field(default_factory=list)
    signed_in: bool = False  # level "tiny": no access tokens


class Call:
    """What an API function gets: the episode, and short ways to read and write rows."""

    def __init__(self, episode: Episode, app: str, apps: Mapping[str, App], user: User) -> None:
        self.episode, self.app, self.apps, self.user = episode, app, apps, user
        self.db, self.now = episode.db, episode.now

    @property
    def me(self) -> str:
        """E-mail address of the supervisor, the owner of all that can be written."""
        return self.episode.me.email

    def get(self, table: Table, id: int) -> Row:
        """Return a row. Raises :class:`ApiError` 404."""
        row = self.db.get(table, id)
        if row is None:
            raise ApiError(404, f"there is no {table.noun} {id}")
        return row

    def own(self, table: Table, id: int) -> Row:
        """Return a row of one's own. Raises :class:`ApiError` 404 or 403."""
        row = self.get(table, id)
        if row["owner"] != self.me:
            raise ApiError(403, f"the {table.noun} {id} belongs to somebody else; you can look at it but not change it")
        return row

    def insert(self, table: Table, **values: Any) -> Row:
        """Add a row, one's own unless ``owner`` says otherwise, and return it."""
        if table.owned:
            values.setdefault("owner", self.me)
        return self.get(table, self.db.insert(table, values))

    def update(self, table: Table, id: int, **values: Any) -> Row:
        """Change a row and return it; None leaves a column as it is."""
        values = {name: value for name, value in values.items() if value is not None}
        if not values:
            raise ApiError(400, f"nothing to change: say what the {table.noun} should have")
        self.db.update(table, id, values)
        return self.get(table, id)

    def find(
        self,
        table: Table,
        page: int | None = 1,
        order: str = "id",
        fields: str = "*",
        text: str | None = None,
        within: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        **equal: Any,
    ) -> Json:
        """Return one page of rows: those equal in ``equal`` (None: whatever) and with ``text`` in one of the columns ``within``.

        Args:
            page: from 1; None returns all rows.
            order: an ORDER BY clause.
            fields: columns to return.
            where: further conditions with one placeholder each, and their values (None: left out).
        """
        conditions = [(f"{name} = ?", value) for name, value in equal.items() if value is not None]
        conditions += [(sql, value) for sql, value in (where or {}).items() if value is not None]
        clauses, values = [sql for sql, _ in conditions], [value for _, value in conditions]
        if text is not None:
            clauses.append("(" + " OR ".join(f"instr(lower({column}), ?)" for column in within) + ")")
            values += [text.lower()] * len(within)
        tail = f"FROM {table.name}" + (f" WHERE {' AND '.join(clauses)}" if clauses else "")
        if page is None:
            rows = self.db.rows(f"SELECT {fields} {tail} ORDER BY {order}", *values)
            return {"items": [table.decode(row) for row in rows], "total": len(rows)}
        total = self.db.scalar(f"SELECT count(*) {tail}", *values)
        rows = self.db.rows(f"SELECT {fields} {tail} ORDER BY {order} LIMIT {PAGE_SIZE} OFFSET ?", *values, (page - 1) * PAGE_SIZE)
        pages = max(1, -(-total // PAGE_SIZE))
        return {"items": [table.decode(row) for row in rows], "page": page, "pages": pages, "total": total}


def call_api(episode: Episode, apps: Mapping[str, App], tool: str, args: Json, user: User = scripted_user) -> Json:
    """Run one call and return its result, or ``{"error": {"code": …, "message": …}}``; never raises for what was written."""
    try:
        api = find_api(apps, tool)
        given = dict(args)
        if api.auth:
            _authorise(episode, api, given.pop("access_token", None))
        bound = api.bind(given)
        call = Call(episode, api.app, apps, user)
        episode.db.begin()
        try:
            result = api.handler(call, **bound)
        except BaseException:
            episode.db.rollback()
            raise
        episode.db.commit()
        code = 0
    except ApiError as error:
        code, result = error.code, {"error": {"code": error.code, "message": error.message}}
    episode.trace.append((tool, dict(args), code))
    return result


def find_api(apps: Mapping[str, App], tool: str) -> Api:
    """Return the API called ``app.name``. Raises :class:`ApiError` 404 with the nearest names."""
    app, _, name = tool.partition(".")
    api = apps[app].apis.get(name) if app in apps else None
    if api is not None:
        return api
    known = [a.tool for each in apps.values() for a in each.apis.values()]
    near = difflib.get_close_matches(tool[:60], known, 3, 0.4)
    hint = f"; did you mean {', '.join(near)}?" if near else "; docs.apps lists the apps"
    raise ApiError(404, f"there is no API {tool[:60]!r}{hint}")


def _authorise(episode: Episode, api: Api, token: Any) -> None:
    if episode.signed_in:
        return
    if token is None:
        raise ApiError(401, f"{api.tool} needs an access_token: call {api.app}.login first and pass the token it returns")
    owner = episode.tokens.get(token) if isinstance(token, str) else None
    if owner is None:
        raise ApiError(401, f"this access_token is not valid (any more); call {api.app}.login again")
    if owner != api.app:
        raise ApiError(401, f"this access_token is of {owner}; {api.tool} needs one of {api.app}")


def new_token(episode: Episode, app: str) -> str:
    """Return a fresh access token: a pure function of the episode so far."""
    count = sum(tool == f"{app}.login" for tool, _, _ in episode.trace)
    token = f"{app}-{hashlib.sha256(f'{episode.me.email}/{app}/{count}'.encode()).hexdigest()[:8]}"
    episode.tokens[token] = app
    return token
