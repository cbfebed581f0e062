"""Worlds: a seed gives a database, kept as a blob from which every episode starts."""

from __future__ import annotations

import dataclasses
import datetime
import functools

from sdgym.envs.tools.apps import SEEDS, TABLES
from sdgym.envs.tools.builder import Builder, cast
from sdgym.envs.tools.database import Database
from sdgym.envs.tools.session import Episode, Person
from sdgym.seeding import generator

WORLDS = 8
"""Worlds per split; tasks are drawn on top of them."""


@dataclasses.dataclass(frozen=True)
class World:
    """The start of an episode, before a task adds rows of its own.

    Attributes:
        blob: the database.
        me, people: the supervisor and his contacts.
        now: the frozen clock.
        signed_in: no call needs an access token.
    """

    blob: bytes
    me: Person
    people: tuple[Person, ...]
    now: datetime.datetime
    signed_in: bool = False

    def open(self) -> Database:
        """Return a fresh copy of the database."""
        return Database(TABLES, self.blob)

    def episode(self) -> Episode:
        """Return a fresh episode."""
        people = frozenset(p.email for p in (self.me, *self.people))
        return Episode(self.open(), self.me, f"{self.now:%Y-%m-%d %H:%M}", people, signed_in=self.signed_in)


@functools.lru_cache(64)
def build_world(seed: int, split: str) -> World:
    """Return the world of ``seed``: the same on every machine and in every process."""
    rng = generator(seed, "tool-world", split)
    me, people = cast(rng)
    now = datetime.datetime(2026, 5, 4, 9, 0) + datetime.timedelta(days=int(rng.integers(0, 60)))
    db = Database(TABLES)
    builder = Builder(db, rng, me, people, now)
    for seed_app in SEEDS:
        seed_app(builder)
    world = World(db.blob(), me, tuple(people), now)
    db.close()
    return world


@functools.lru_cache(1)
def empty_world() -> World:
    """Return a world without rows, for tasks that bring all their own."""
    db = Database(TABLES)
    me = Person("Max", "max@post.example", "555-1000", "self")
    world = World(db.blob(), me, (), datetime.datetime(2026, 5, 18, 9, 0), signed_in=True)
    db.close()
    return world
