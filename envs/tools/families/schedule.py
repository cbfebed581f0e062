"""Find a time that is free."""

from __future__ import annotations

import datetime

from sdgym.envs.tools.apps.agenda import EVENT
from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.phone import TEXT
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import TOPICS
from sdgym.envs.tools.judge import Contains, created
from sdgym.envs.tools.session import Person


def _minutes(start: str, end: str) -> float:
    return (datetime.datetime.fromisoformat(end) - datetime.datetime.fromisoformat(start)).total_seconds() / 60


def _later(start: str, minutes: int) -> str:
    return f"{datetime.datetime.fromisoformat(start) + datetime.timedelta(minutes=minutes):%Y-%m-%d %H:%M}"


def easy(draw: Draw) -> Case:
    """The earliest free hour of a day."""
    topic, day = draw.pick(TOPICS), draw.day(draw.integer(22, 40))
    hours = [9, *draw.sample(range(10, 16), 3)]
    for hour in hours:
        draw.add(EVENT, title="Busy", start=f"{day} {hour:02}:00", end=f"{day} {hour + 1:02}:00", response="accepted")
    free = min(h for h in range(9, 18) if h not in hours)
    start = f"{day} {free:02}:00"

    def oracle(api: Client) -> None:
        slot = next(s["from"] for s in api("calendar.free", day=day)["free"] if _minutes(s["from"], s["until"]) >= 60)
        api("calendar.create", title=topic, start=slot, end=_later(slot, 60))
        api.finish()

    text = draw.say(
        "Create an event '{topic}' of one hour on {day}, at the earliest free time from 09:00 on.",
        "Find the first free hour on {day} (not before 09:00) and put '{topic}' there.",
        "I need an hour for '{topic}' on {day}: as early as my calendar allows, working day from 09:00.",
        topic=topic,
        day=day,
    )
    return draw.case(
        text, oracle, created(EVENT, "The event takes the earliest free hour.", title=topic, start=start, end=_later(start, 60))
    )


def _offer(draw: Draw, person: Person, topic: str) -> str:
    """Plant a mail with three possible times, two of them taken, and return the free one."""
    slots = [f"{draw.day(offset)} {draw.integer(10, 15)}:00" for offset in draw.sample(range(22, 40), 3)]
    for slot in slots[1:]:
        draw.add(EVENT, title="Busy", start=_later(slot, -30), end=_later(slot, 30), response="accepted")
    offered = ", ".join(sorted(slots))
    row = {"sender": person.email, "recipients": [draw.me.email], "subject": topic.capitalize(), "body": f"I can offer: {offered}"}
    draw.add(MESSAGE, folder="inbox", **row, sent_at=draw.past(5))
    return slots[0]


def _choose(api: Client, sender: str, topic: str) -> tuple[int, str]:
    """Return the number of the mail and the offered hour that is free."""
    found = next(m for m in api("mail.search", query=topic)["items"] if m["sender"] == sender)
    for slot in api("mail.show", id=found["id"])["body"].split(": ", 1)[1].split(", "):
        if any(s["from"] <= slot and _later(slot, 60) <= s["until"] for s in api("calendar.free", day=slot[:10])["free"]):
            return found["id"], slot
    raise AssertionError("one of the offered times is free")


def medium(draw: Draw) -> Case:
    """The one of three offered times that is free."""
    person, topic = draw.pick(draw.people), draw.pick(TOPICS)
    slot = _offer(draw, person, topic)

    def oracle(api: Client) -> None:
        _, chosen = _choose(api, person.email, topic)
        api("calendar.create", title=topic, start=chosen, end=_later(chosen, 60), attendees=[person.email])
        api.finish()

    text = draw.say(
        "{email} offered times for the {topic} by mail. Take the one at which I am free for an hour: create the event '{topic}' and invite {email}.",
        "Of the times that {email} mailed me for the {topic}, only one suits my calendar. Enter '{topic}' there (one hour) with {email} as attendee.",
        "Schedule '{topic}' with {email}, one hour, at whichever of the times in the mail about it I have free.",
        email=person.email,
        topic=topic,
    )
    event = {"title": topic, "start": slot, "end": _later(slot, 60), "attendees": [person.email]}
    return draw.case(text, oracle, created(EVENT, "The event is at the free one of the offered times, with the guest.", **event))


def hard(draw: Draw) -> Case:
    """The same, with an answer and a text message."""
    topic, relation = draw.pick(TOPICS), draw.pick(("manager", "sister", "brother"))
    person = draw.persons(1, "friend", "coworker")[0]
    slot = _offer(draw, person, topic)

    def oracle(api: Client) -> None:
        message, chosen = _choose(api, api.contact(person.name)["email"], topic)
        api("calendar.create", title=topic, start=chosen, end=_later(chosen, 60), attendees=[person.email])
        api("mail.reply", id=message, body=f"Let us take {chosen}.")
        api("phone.send", numbers=[api.contact(relation)["phone"]], body=f"{topic}: {chosen}")
        api.finish()

    text = draw.say(
        "{name} mailed me possible times for the {topic}. Create the event '{topic}' (one hour, {name} invited) at the one that is free, answer the mail with "
        "that time, and text it to my {relation} (write it like 2026-05-18 09:00).",
        "Pick the offered time from {name}'s mail about the {topic} that fits my calendar for an hour. Event '{topic}' with {name}; reply to the mail and text my "
        "{relation}, both with the chosen time in the form 2026-05-18 09:00.",
        "Arrange '{topic}' with {name}: one of the times in the mail is free for an hour. Enter it with {name} as attendee, reply with it, and send it to my "
        "{relation} by text, written like 2026-05-18 09:00.",
        name=person.name,
        topic=topic,
        relation=relation,
    )
    event = {"title": topic, "start": slot, "end": _later(slot, 60), "attendees": [person.email]}
    return draw.case(
        text,
        oracle,
        created(EVENT, "The event is at the free one of the offered times, with the guest.", **event),
        created(MESSAGE, "The mail is answered with the time.", folder="sent", recipients=[person.email], body=Contains(slot)),
        created(TEXT, "The time is texted to the right person.", recipients=[draw.alone(relation).phone], body=Contains(slot)),
    )


FAMILY = (easy, medium, hard)
