"""Calendar: one's own events, and those of others one is invited to."""

from __future__ import annotations

import datetime
from typing import Literal

from sdgym.envs.tools.api import ApiError, App, Day, Id, Json, Moment, Page, People, Short
from sdgym.envs.tools.apps.account import with_account
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.session import Call

calendar = with_account(App("calendar", "Events, invitations and free time."))
EVENT = calendar.table("event", "owner title start end location attendees:list response reminder:int")


@calendar.api
def list_(call: Call, since: Day | None = None, until: Day | None = None, page: Page = 1) -> Json:
    """List events by their start, those of other people one is invited to included.

    since: first day
    until: last day
    page: page of 8 events
    """
    return call.find(EVENT, page, "start, id", where={"start >= ?": since, "start <= ?": until and f"{until} 24:00"})


@calendar.api
def search(call: Call, query: Short, page: Page = 1) -> Json:
    """Find events by words in title or location.

    query: text to look for
    page: page of 8 events
    """
    return call.find(EVENT, page, "start, id", "*", query, ("title", "location"))


@calendar.api
def show(call: Call, id: Id) -> Json:
    """Show an event.

    id: number of the event
    """
    return call.get(EVENT, id)


def _in_order(start: str, end: str) -> None:
    if end <= start:
        raise ApiError(400, f"the event would end ({end}) before it starts ({start})")


@calendar.api
def create(call: Call, title: Short, start: Moment, end: Moment, location: str = "", attendees: list[str] | None = None) -> Json:
    """Create an event.

    title: what it is
    start: when it starts
    end: when it ends
    location: where it is
    attendees: e-mail addresses of the people to invite
    """
    _in_order(start, end)
    return call.insert(EVENT, title=title, start=start, end=end, location=location, attendees=attendees or [], response="accepted")


@calendar.api
def update(
    call: Call, id: Id, title: str | None = None, start: Moment | None = None, end: Moment | None = None, location: str | None = None
) -> Json:
    """Change an event of one's own.

    id: number of the event
    title: new title
    start: new start
    end: new end
    location: new location
    """
    event = call.own(EVENT, id)
    _in_order(start or event["start"], end or event["end"])
    return call.update(EVENT, id, title=title, start=start, end=end, location=location)


@calendar.api
def delete(call: Call, id: Id) -> Json:
    """Delete an event of one's own.

    id: number of the event
    """
    call.own(EVENT, id)
    call.db.delete(EVENT, id)
    return {"message": f"event {id} deleted"}


@calendar.api
def invite(call: Call, id: Id, attendees: People) -> Json:
    """Invite more people to an event of one's own.

    id: number of the event
    attendees: their e-mail addresses
    """
    event = call.own(EVENT, id)
    return call.update(EVENT, id, attendees=list(dict.fromkeys([*event["attendees"], *attendees])))


@calendar.api
def respond(call: Call, id: Id, response: Literal["accepted", "declined"]) -> Json:
    """Accept or decline an invitation.

    id: number of somebody else's event
    response: the answer
    """
    if call.get(EVENT, id)["owner"] == call.me:
        raise ApiError(409, f"the event {id} is your own; calendar.delete cancels it")
    return call.update(EVENT, id, response=response)


@calendar.api
def free(call: Call, day: Day) -> Json:
    """Show the free time of a day between 09:00 and 18:00; invitations that are not accepted do not count as busy.

    day: which day
    """
    rows = call.db.rows(
        f"SELECT start, end FROM {EVENT.name} WHERE start < ? AND end > ? AND response = 'accepted' ORDER BY start",
        f"{day} 18:00",
        f"{day} 09:00",
    )
    at, slots = f"{day} 09:00", []
    for row in rows:
        if row["start"] > at:
            slots.append({"from": at, "until": row["start"]})
        at = max(at, row["end"])
    if at < f"{day} 18:00":
        slots.append({"from": at, "until": f"{day} 18:00"})
    return {"day": day, "free": slots}


@calendar.api
def remind(call: Call, id: Id, minutes: int) -> Json:
    """Set a reminder some minutes before an event.

    id: number of the event
    minutes: how many, 0 for none
    """
    call.get(EVENT, id)
    if not 0 <= minutes <= 10_080:
        raise ApiError(400, "minutes must be between 0 and 10080 (a week)")
    return call.update(EVENT, id, reminder=minutes)


_TITLES = ("Stand-up", "Gym", "Piano lesson", "Design review", "Call with the bank", "Lunch", "Language class", "One-on-one")


def seed(world: Builder) -> None:
    """Fill two weeks back and three ahead with one to three events on most days; a fifth are other people's."""
    for offset in range(-14, 21):
        for hour in world.sample((9, 10, 11, 13, 15, 16, 17), int(world.rng.integers(0, 4))):
            start = datetime.datetime.fromisoformat(f"{world.day(offset)} {hour:02}:00")
            end = start + datetime.timedelta(minutes=world.pick((30, 60)))
            theirs = world.chance(0.2)
            owner = world.pick(world.people).email if theirs else world.me.email
            attendees = [world.me.email] if theirs else [p.email for p in world.sample(world.people, int(world.rng.integers(0, 3)))]
            times = {"start": f"{start:%Y-%m-%d %H:%M}", "end": f"{end:%Y-%m-%d %H:%M}"}
            world.add(EVENT, owner=owner, title=world.pick(_TITLES), **times, attendees=attendees, response="accepted")
