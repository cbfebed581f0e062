"""What a task family is made of: draws on top of a world, a goal, and an oracle that works through the public APIs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sdgym.envs.tools.api import Json
from sdgym.envs.tools.apps import APPS
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.calls import COMPLETE, ToolCall
from sdgym.envs.tools.judge import Goal
from sdgym.envs.tools.session import Episode, Person, call_api
from sdgym.envs.tools.tables import Row, Table
from sdgym.envs.tools.world import World
from sdgym.errors import EnvError

Plant = tuple[str, int, Mapping[str, Any]]
"""A row added to the world for one task: table, number, values."""


class OracleError(EnvError):
    """A call of an oracle was refused: the family, not the agent, is wrong."""


class Client:
    """The oracle's hands: calls APIs like an agent, keeps tokens, records what it called."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.calls: list[ToolCall] = []
        self._secrets: Json = {}
        self._tokens: dict[str, str] = {}

    def __call__(self, tool: str, **args: Any) -> Json:
        """Call an API, logging in to its app first if need be. Raises :class:`OracleError`."""
        app = APPS[tool.split(".")[0]]
        if app.auth and app.apis[tool.split(".")[1]].auth and not self.episode.signed_in:
            args["access_token"] = self._token(app.name)
        self.calls.append(ToolCall(tool, args))
        result = call_api(self.episode, APPS, tool, args)
        if "error" in result:
            raise OracleError(f"{tool}({args}): {result['error']['message']}")
        return result

    def secrets(self) -> Json:
        """Return passwords and PIN, asked for once."""
        if not self._secrets:
            self._secrets = self("supervisor.passwords")
        return self._secrets

    def _token(self, app: str) -> str:
        if app not in self._tokens:
            secrets = self.secrets()
            login = self(f"{app}.login", username=secrets["username"], password=secrets["passwords"][app])
            self._tokens[app] = login["access_token"]
        return self._tokens[app]

    def every(self, tool: str, **args: Any) -> list[Row]:
        """Return the items of all pages."""
        items: list[Row] = []
        page, pages = 1, 1
        while page <= pages:
            found = self(tool, **args, page=page)
            items, page, pages = items + found["items"], page + 1, found["pages"]
        return items

    def contact(self, query: str) -> Row:
        """Return the one contact found by ``query``."""
        items = self("phone.find_contact", query=query)["items"]
        if len(items) != 1:
            raise OracleError(f"{len(items)} contacts are found by {query!r}")
        found: Row = items[0]
        return found

    def finish(self, answer: Any = None, status: str = "success") -> None:
        """End the task."""
        self(COMPLETE, **({"answer": answer} if answer is not None else {}), **({"status": status} if status != "success" else {}))


@dataclasses.dataclass(frozen=True)
class Case:
    """One task, complete.

    Attributes:
        instruction: what the user asks for.
        goal: what must hold at the end.
        oracle: solves it through a :class:`Client`.
        plants: rows added to the world.
        facts: what the user tells when asked (keywords → sentence).
    """

    instruction: str
    goal: Goal
    oracle: Callable[[Client], None]
    plants: tuple[Plant, ...] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Draw(Builder):
    """A task being drawn: choices, rows added to a copy of the world, and a look at the result.

    Args:
        world: the world of the task.
        rng: source of the parameters.
        wording: source of the choice among templates, shared by the variants of a scenario.
    """

    def __init__(self, world: World, rng: np.random.Generator, wording: np.random.Generator) -> None:
        super().__init__(world.open(), rng, world.me, world.people, world.now)
        self.wording = wording
        self.plants: list[Plant] = []
        self.me_card = self.rows("SELECT id FROM supervisor_card WHERE verified")[0]["id"] if world.people else 0

    def add(self, table: Table, **values: Any) -> int:
        """Insert a row, remember it as a plant, and return its number."""
        number = super().add(table, **values)
        if table.owned:
            values.setdefault("owner", self.me.email)
        self.plants.append((table.name, number, values))
        return number

    def rows(self, sql: str, *values: Any) -> list[Row]:
        """Look at the world as it is with the rows added so far."""
        return self.db.rows(sql, *values)

    def integer(self, low: int, high: int) -> int:
        """Return an integer of [low, high]."""
        return int(self.rng.integers(low, high + 1))

    def persons(self, count: int, *relations: str) -> list[Person]:
        """Return different contacts, of these relations if any are given."""
        return self.sample([p for p in self.people if not relations or p.relation in relations], count)

    def alone(self, relation: str) -> Person:
        """Return the one contact of a relation that only one has (manager, sister, brother, dentist, landlord)."""
        return next(p for p in self.people if p.relation == relation)

    def say(self, *templates: str, **slots: Any) -> str:
        """Return one of the paraphrases, filled in."""
        if len(templates) < 3:
            raise EnvError("a family needs three paraphrases or more")
        return templates[int(self.wording.integers(len(templates)))].format(**slots)

    def case(
        self, instruction: str, oracle: Callable[[Client], None], *effects: Any, facts: Mapping[str, str] | None = None, **goal: Any
    ) -> Case:
        """Return the finished case: effects and further fields of :class:`Goal`."""
        return Case(instruction, Goal(tuple(effects), **goal), oracle, tuple(self.plants), facts or {})


Family = Callable[[Draw], Case]


def start(world: World, case: Case) -> Episode:
    """Return a fresh episode of ``case``."""
    episode = world.episode()
    tables = episode.db.tables
    for name, number, values in case.plants:
        episode.db.insert(tables[name], values, number)
    episode.db.record()
    episode.facts = case.facts
    return episode


def replay(world: World, case: Case, calls: Sequence[ToolCall]) -> Episode:
    """Return the episode after ``calls``, errors included."""
    episode = start(world, case)
    for call in calls:
        call_api(episode, APPS, call.tool, call.args)
    return episode
