"""Answer somebody, or tell a group."""

from __future__ import annotations

from sdgym.envs.tools.apps.agenda import EVENT
from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.phone import TEXT
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import DISTRACTION, TEXTS, TOPICS
from sdgym.envs.tools.judge import Contains, created, updated


def easy(draw: Draw) -> Case:
    """Reply to one of several mails of the same sender."""
    person, topics, said = draw.pick(draw.people), draw.sample(TOPICS, 3), draw.pick(TEXTS)
    for topic in topics:
        row = {"sender": person.email, "recipients": [draw.me.email], "subject": topic.capitalize(), "body": draw.pick(DISTRACTION)}
        draw.add(MESSAGE, folder="inbox", **row, sent_at=draw.past(9))

    def oracle(api: Client) -> None:
        found = next(m for m in api.every("mail.list", sender=person.email) if m["subject"].lower() == topics[0])
        api("mail.reply", id=found["id"], body=said)
        api.finish()

    text = draw.say(
        "Reply to the message from {email} about the {topic}: '{said}'",
        "{email} wrote to me about the {topic}. Answer that mail with '{said}'",
        "Answer the {topic} mail of {email} in my inbox. The text is '{said}'",
        email=person.email,
        topic=topics[0],
        said=said,
    )
    values = {"recipients": [person.email], "subject": f"Re: {topics[0]}", "body": said}
    return draw.case(text, oracle, created(MESSAGE, "The right message is answered with the text.", folder="sent", **values))


def _event(draw: Draw, title: str, guests: int) -> tuple[int, str, list[str]]:
    """Plant an event three to four weeks ahead with guests and return its number, its day, and their addresses."""
    emails = [p.email for p in draw.persons(guests)]
    day = draw.day(draw.integer(22, 28))
    return draw.add(EVENT, title=title, start=f"{day} 10:00", end=f"{day} 11:30", attendees=emails, response="accepted"), day, emails


def medium(draw: Draw) -> Case:
    """Text everybody who comes to an event, in one message."""
    topic, said = draw.pick(TOPICS), draw.pick(TEXTS)
    _, _, emails = _event(draw, topic.capitalize(), draw.integer(2, 4))
    numbers = [p.phone for p in draw.people if p.email in emails]

    def oracle(api: Client) -> None:
        event = api("calendar.search", query=topic)["items"][0]
        api("phone.send", numbers=[api.contact(email)["phone"] for email in event["attendees"]], body=said)
        api.finish()

    text = draw.say(
        "Send one text message to all attendees of the event '{topic}' together: '{said}'",
        "Everybody who is invited to '{topic}' should get this in a single group text: '{said}'",
        "Text the guests of my calendar event '{topic}', all in one message, saying '{said}'",
        topic=topic,
        said=said,
    )
    return draw.case(text, oracle, created(TEXT, "One text message goes to exactly the attendees.", recipients=numbers, body=said))


def hard(draw: Draw) -> Case:
    """Move an event and tell its guests and somebody else."""
    topic, relation = draw.pick(TOPICS), draw.pick(("manager", "sister", "brother"))
    number, day, emails = _event(draw, topic.capitalize(), draw.integer(2, 3))
    hour = draw.integer(12, 15)
    start, end, outsider = f"{day} {hour}:00", f"{day} {hour + 1}:30", draw.alone(relation)

    def oracle(api: Client) -> None:
        event = api("calendar.search", query=topic)["items"][0]
        api("calendar.update", id=event["id"], start=start, end=end)
        api("mail.send", to=event["attendees"], subject="New time", body=f"It starts at {hour}:00.")
        api("phone.send", numbers=[api.contact(relation)["phone"]], body=f"New time: {hour}:00")
        api.finish()

    text = draw.say(
        "Move my event '{topic}' to {hour}:00 on the same day, as long as before. Mail all attendees with the subject 'New time' and the new start in the "
        "text, and send my {relation} a text message with the new start.",
        "'{topic}' has to start at {hour}:00 instead, same day and length. Change it, tell the attendees in one mail (subject 'New time', say the hour like "
        "{hour}:00) and text the hour to my {relation}.",
        "Shift '{topic}' to {hour}:00, keeping day and duration; write one mail 'New time' with that hour to its attendees, and a text with it to my {relation}.",
        topic=topic,
        hour=hour,
        relation=relation,
    )
    told = Contains(f"{hour}:00")
    return draw.case(
        text,
        oracle,
        updated(EVENT, number, "The event has the new start and the old length.", start=start, end=end),
        created(MESSAGE, "One mail tells all attendees.", folder="sent", recipients=emails, subject="New time", body=told),
        created(TEXT, "The text message goes to the right person.", recipients=[outsider.phone], body=told),
    )


FAMILY = (easy, medium, hard)
