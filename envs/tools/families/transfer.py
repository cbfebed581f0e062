"""Create something from what is written in another app."""

from __future__ import annotations

from sdgym.envs.tools.apps.agenda import EVENT
from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.phone import TEXT
from sdgym.envs.tools.apps.tasks import ITEM
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import DISTRACTION, ITEMS, PLACES, TOPICS
from sdgym.envs.tools.judge import created


def easy(draw: Draw) -> Case:
    """Add a task that is described completely."""
    project = draw.pick(draw.rows("SELECT id, name FROM tasks_project WHERE owner = ? ORDER BY id", draw.me.email))
    title, due, priority = f"Prepare the {draw.pick(TOPICS)}", draw.day(draw.integer(1, 20)), draw.pick(("low", "normal", "high"))

    def oracle(api: Client) -> None:
        number = next(p["id"] for p in api("tasks.projects")["items"] if p["name"] == project["name"])
        api("tasks.create", title=title, project_id=number, due=due, priority=priority)
        api.finish()

    text = draw.say(
        "Add the task '{title}' to my project {name}, due {due}, {priority} priority.",
        "In the project {name} I need a new task '{title}' with {priority} priority; it is due on {due}.",
        "Create a {priority} priority task called '{title}' in {name}. It must be done by {due}.",
        title=title,
        name=project["name"],
        due=due,
        priority=priority,
    )
    task = created(
        ITEM, "The task is there with title, project, day and priority.", title=title, project_id=project["id"], due=due, priority=priority
    )
    return draw.case(text, oracle, task)


def medium(draw: Draw) -> Case:
    """Turn an appointment in a mail into an event."""
    person, (topic, other), place = draw.pick(draw.people), draw.sample(TOPICS, 2), draw.pick(PLACES)
    day, hour, minutes = draw.day(draw.integer(2, 20)), draw.integer(9, 16), draw.pick((30, 45, 60))
    body = "Your appointment is on {day} at {hour:02}:00 in {place} and takes {minutes} minutes."
    told = body.format(day=day, hour=hour, place=place, minutes=minutes)
    later = body.format(day=day, hour=hour + 1, place=place, minutes=minutes)
    rival = next(p for p in draw.persons(2) if p != person)
    for sender, about, text in ((person, topic, told), (person, other, later), (rival, topic, draw.pick(DISTRACTION))):
        row = {"sender": sender.email, "recipients": [draw.me.email], "subject": about.capitalize(), "body": text}
        draw.add(MESSAGE, folder="inbox", **row, sent_at=draw.past(9))
    end = f"{hour:02}:{minutes:02}" if minutes < 60 else f"{hour + 1:02}:00"
    event = {"title": topic, "start": f"{day} {hour:02}:00", "end": f"{day} {end}", "location": place}

    def oracle(api: Client) -> None:
        mails = (api("mail.show", id=m["id"])["body"] for m in api("mail.search", query=topic)["items"])
        assert told in mails, "the oracle reads the mail"
        api("calendar.create", **event)
        api.finish()

    text = draw.say(
        "{name} mailed me an appointment for the {topic}. Put it into my calendar as '{topic}', with place, start and end.",
        "Enter the appointment from {name}'s mail about the {topic} in the calendar: title '{topic}', right time, length and location.",
        "There is a mail by {name} with an appointment ({topic}). Create the calendar event '{topic}' at that time and place.",
        name=person.name,
        topic=topic,
    )
    return draw.case(text, oracle, created(EVENT, "The event is there with title, start, end and place.", **event))


def hard(draw: Draw) -> Case:
    """A text message becomes an event, a task and an answer."""
    person, rival = draw.persons(2, "friend")
    (place, elsewhere), (item, another) = draw.sample(PLACES, 2), draw.sample(ITEMS, 2)
    day, hour = draw.day(draw.integer(2, 20)), draw.integer(17, 20)
    body = f"Dinner at {place} on {day} at {hour}:30? Could you bring {item}?"
    number = draw.add(TEXT, sender=person.phone, recipients=[draw.me.phone], body=body, sent_at=draw.past(3))
    draw.add(
        TEXT,
        sender=rival.phone,
        recipients=[draw.me.phone],
        body=f"Dinner at {elsewhere} next week? Bring {another}.",
        sent_at=draw.past(3),
    )
    title, errands = f"Dinner with {person.name}", draw.rows("SELECT id FROM tasks_project WHERE name = 'Errands'")[0]["id"]
    event = {"title": title, "start": f"{day} {hour}:30", "end": f"{day} {hour + 2}:30", "location": place, "attendees": [person.email]}

    def oracle(api: Client) -> None:
        contact = api.contact(person.name)
        text = next(t for t in api("phone.messages", number=contact["phone"])["items"] if t["body"].startswith("Dinner"))
        assert text["id"] == number, "the oracle reads the text"
        api("calendar.create", **{**event, "attendees": [contact["email"]]})
        project = next(p["id"] for p in api("tasks.projects")["items"] if p["name"] == "Errands")
        api("tasks.create", title=f"Get {item}", project_id=project, due=day)
        api("phone.reply", id=text["id"], body="Confirmed")
        api.finish()

    text = draw.say(
        "{name} texted me about a dinner. Put it into the calendar as '{title}' (two hours, with the place, and invite {name} by e-mail address), add a "
        "task 'Get ...' for what I should bring to the project Errands, due that day, and answer the text with 'Confirmed'.",
        "See the dinner text from {name}: create the event '{title}' for two hours at that place with {name} as attendee, a task 'Get ...' (what I am "
        "asked to bring) in Errands for the same day, and reply 'Confirmed'.",
        "Handle {name}'s dinner invitation by text: calendar event '{title}', two hours, location, attendee {name}; task in Errands 'Get ...' with the "
        "thing to bring, due on the day; reply to the message: 'Confirmed'.",
        name=person.name,
        title=title,
    )
    return draw.case(
        text,
        oracle,
        created(EVENT, "The dinner is in the calendar with time, place and guest.", **event),
        created(
            ITEM,
            "The task names what to bring, in the right project and for the right day.",
            title=f"Get {item}",
            project_id=errands,
            due=day,
        ),
        created(TEXT, "The message is answered.", recipients=[person.phone], body="Confirmed"),
    )


FAMILY = (easy, medium, hard)
