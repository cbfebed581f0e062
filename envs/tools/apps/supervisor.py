"""Supervisor: who the agent works for, with passwords and cards; questions to him, and the end of the task."""

from __future__ import annotations

import datetime
from typing import Any, Literal

from sdgym.envs.tools.api import ApiError, App, Json, Short
from sdgym.envs.tools.apps.account import password_of
from sdgym.envs.tools.apps.notes import pin_code
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.session import Call

supervisor = App("supervisor", "The person you act for: profile, passwords, cards, questions, and the end of the task.", auth=False)
ADDRESS = supervisor.table("address", "owner label street city")
CARD = supervisor.table("card", "owner label last_digits code verified:bool")


@supervisor.api
def profile(call: Call) -> Json:
    """Show name, e-mail address, phone number, and the time now."""
    me, now = call.episode.me, datetime.datetime.fromisoformat(call.now)
    return {"name": me.name, "email": me.email, "phone": me.phone, "now": call.now, "weekday": f"{now:%A}"}


@supervisor.api
def passwords(call: Call) -> Json:
    """Show the user name and the password of every app, and the PIN of locked notes."""
    apps = {name: password_of(name, call.me) for name, app in call.apps.items() if app.auth}
    return {"username": call.me, "passwords": apps, "notes_pin": pin_code(call.me)}


@supervisor.api
def addresses(call: Call) -> Json:
    """List the postal addresses."""
    return call.find(ADDRESS, None, owner=call.me)


@supervisor.api
def cards(call: Call) -> Json:
    """List the payment cards with their security codes."""
    return call.find(CARD, None, owner=call.me)


@supervisor.api
def ask_user(call: Call, question: Short) -> Json:
    """Ask the supervisor something that the apps cannot tell.

    question: the question
    """
    return {"reply": call.user(question, call.episode.facts)}


@supervisor.api
def complete_task(call: Call, answer: Any = None, status: Literal["success", "fail"] = "success") -> Json:
    """End the task.

    answer: the answer, if the task asks for one (a text, a number or a list)
    status: fail if the task cannot be done
    """
    if call.episode.done:
        raise ApiError(409, "the task is over")
    call.episode.done, call.episode.answer, call.episode.status = True, answer, status
    return {"message": "the task is over"}


def seed(world: Builder) -> None:
    """Write down two addresses and two cards, one of them not verified yet."""
    world.add(ADDRESS, label="home", street=f"{int(world.rng.integers(1, 99))} Mill Lane", city="Northwick")
    world.add(ADDRESS, label="work", street=f"{int(world.rng.integers(1, 99))} Station Road", city="Northwick")
    for label, verified in (("everyday", True), ("travel", False)):
        digits, code = (f"{int(world.rng.integers(0, 10**n)):0{n}}" for n in (4, 3))
        card = world.add(CARD, label=label, last_digits=digits, code=code, verified=verified)
        if verified:
            world.me_card = card
