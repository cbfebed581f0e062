"""Building a world from a seed: people, a clock, and rows under numbers that tell nothing about their order."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from sdgym.envs.tools.database import Database
from sdgym.envs.tools.session import Person
from sdgym.envs.tools.tables import Table

T = TypeVar("T")

_FIRST = "Ada Ben Cleo Dan Elif Finn Gina Hugo Iris Jan Kira Leo Mona Nils Olga Paul Rosa Sam Tara Uma Vera Will Yara Zoe"
_LAST = "Abbot Brandt Costa Dorn Egede Falk Grant Holm Ivers Jansen Kovac Lund Moreau Novak Okafor Perez Quist Rossi Sato Toft"
RELATIONS = ("manager", *["coworker"] * 3, *["roommate"] * 2, *["friend"] * 4, "sister", "brother", "dentist", "landlord")


class Builder:
    """What ``seed`` functions and task families fill a world with.

    Args:
        db: where rows go.
        rng: source of all choices.
        me, people: the supervisor and his contacts.
        now: the frozen clock.
    """

    def __init__(self, db: Database, rng: np.random.Generator, me: Person, people: Sequence[Person], now: datetime.datetime) -> None:
        self.db, self.rng, self.me, self.people, self.clock = db, rng, me, list(people), now
        self.me_card = 0

    @property
    def now(self) -> str:
        """The frozen clock, ``YYYY-MM-DD HH:MM``."""
        return f"{self.clock:%Y-%m-%d %H:%M}"

    def pick(self, options: Sequence[T]) -> T:
        """Return one of ``options``."""
        return options[int(self.rng.integers(len(options)))]

    def sample(self, options: Iterable[T], count: int) -> list[T]:
        """Return ``count`` different ones of ``options`` in random order."""
        pool = list(options)
        return [pool[int(i)] for i in self.rng.permutation(len(pool))[:count]]

    def chance(self, probability: float) -> bool:
        """Return True with ``probability``."""
        return bool(self.rng.random() < probability)

    def day(self, offset: int) -> str:
        """Return the day ``offset`` days from now."""
        return f"{self.clock + datetime.timedelta(days=offset):%Y-%m-%d}"

    def past(self, days: int) -> str:
        """Return a moment of the last ``days`` days, never today."""
        return f"{self.day(-int(self.rng.integers(1, days + 1)))} {int(self.rng.integers(7, 22)):02}:{int(self.rng.integers(60)):02}"

    def add(self, table: Table, **values: Any) -> int:
        """Insert a row, the supervisor's unless ``owner`` says otherwise, and return its number, unused so far and random."""
        if table.owned:
            values.setdefault("owner", self.me.email)
        while True:
            number = int(self.rng.integers(100, 1000))
            if self.db.scalar(f"SELECT 1 FROM {table.name} WHERE id = ?", number) is None:
                return self.db.insert(table, values, number)


def cast(rng: np.random.Generator) -> tuple[Person, list[Person]]:
    """Return the supervisor and his fourteen contacts, all with different first and last names."""
    first, last = rng.permutation(_FIRST.split()), rng.permutation(_LAST.split())
    numbers = rng.permutation(9000)[: len(RELATIONS) + 1] + 1000
    people = [
        Person(f"{f} {s}", f"{f}.{s}@post.example".lower(), f"555-{n}", relation)
        for f, s, n, relation in zip(first, last, numbers, ("self", *RELATIONS), strict=False)
    ]
    return people[0], people[1:]
