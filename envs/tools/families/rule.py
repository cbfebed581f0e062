"""Sort by a rule."""

from __future__ import annotations

from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.notes import NOTE
from sdgym.envs.tools.apps.tasks import ITEM
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import DISTRACTION, TOPICS
from sdgym.envs.tools.judge import Effect, created, updated
from sdgym.envs.tools.session import Person

FOLDERS = ("work", "family", "receipts", "archive")


def _mails(draw: Draw, person: Person, count: int) -> None:
    for _ in range(count):
        row = {"sender": person.email, "recipients": [draw.me.email], "subject": draw.pick(TOPICS), "body": draw.pick(DISTRACTION)}
        draw.add(MESSAGE, folder="inbox", **row, sent_at=draw.past(20))


def _moved(draw: Draw, email: str, folder: str, unread: bool) -> list[Effect]:
    sql = "SELECT id FROM mail_message WHERE folder = 'inbox' AND sender = ?" + (" AND NOT read" if unread else "")
    rows = draw.rows(sql, email)
    return [updated(MESSAGE, row["id"], "Every message that the rule is about is in its folder.", folder=folder) for row in rows]


def easy(draw: Draw) -> Case:
    """One sender, one folder."""
    person, folder = draw.pick(draw.people), draw.pick(FOLDERS)
    _mails(draw, person, 2)

    def oracle(api: Client) -> None:
        for message in api.every("mail.list", sender=person.email):
            api("mail.move", id=message["id"], folder=folder)
        api.finish()

    text = draw.say(
        "Move all messages from {email} in my inbox to the folder {folder}.",
        "Everything that {email} sent me and is in the inbox belongs into {folder}.",
        "Clear my inbox of {email}: put each of these messages into the folder {folder}.",
        email=person.email,
        folder=folder,
    )
    return draw.case(text, oracle, *_moved(draw, person.email, folder, unread=False))


def medium(draw: Draw) -> Case:
    """The rule is in a note: address by address."""
    title, people = draw.pick(TOPICS), draw.persons(3)
    rule = {person.email: folder for person, folder in zip(people, draw.sample(FOLDERS, 3), strict=True)}
    draw.add(NOTE, title=title.capitalize(), body="\n".join(f"{email} -> {folder}" for email, folder in rule.items()))
    for person in people:
        _mails(draw, person, 1)

    def oracle(api: Client) -> None:
        note = api("notes.show", id=api("notes.search", query=title)["items"][0]["id"])
        wanted = dict(line.split(" -> ") for line in note["body"].split("\n"))
        for message in api.every("mail.list"):
            if message["sender"] in wanted:
                api("mail.move", id=message["id"], folder=wanted[message["sender"]])
        api.finish()

    text = draw.say(
        "Sort my inbox by the rules in my note about the {title}: it says which sender goes into which folder.",
        "My {title} note maps senders to mail folders. Apply it to everything in the inbox.",
        "Move the inbox messages as the note about the {title} tells, sender by sender; leave all others.",
        title=title,
    )
    effects = [effect for email, folder in rule.items() for effect in _moved(draw, email, folder, unread=False)]
    return draw.case(text, oracle, *effects)


def hard(draw: Draw) -> Case:
    """The rule speaks of relations, holds for unread messages, and ends with a task."""
    title, due = draw.pick(TOPICS), draw.day(1)
    relations = draw.sample(("manager", "sister", "brother", "dentist", "landlord", "roommate"), 2)
    rule = dict(zip(relations, draw.sample(FOLDERS, 2), strict=True))
    draw.add(NOTE, title=title.capitalize(), body="\n".join(f"{relation} -> {folder}" for relation, folder in rule.items()))
    for person in draw.people:
        if person.relation in rule:
            _mails(draw, person, 1)
    project = draw.rows("SELECT id FROM tasks_project WHERE name = 'Office'")[0]["id"]

    def oracle(api: Client) -> None:
        note = api("notes.show", id=api("notes.search", query=title)["items"][0]["id"])
        for relation, folder in (line.split(" -> ") for line in note["body"].split("\n")):
            for contact in api.every("phone.contacts", relation=relation):
                for message in api.every("mail.list", sender=contact["email"], unread=True):
                    api("mail.move", id=message["id"], folder=folder)
        office = next(p["id"] for p in api("tasks.projects")["items"] if p["name"] == "Office")
        api("tasks.create", title="Check the folders", project_id=office, due=due)
        api.finish()

    text = draw.say(
        "My note about the {title} says which relation's mail goes into which folder. Apply it to the unread messages in my inbox, then add the task 'Check the "
        "folders' to Office, due {due}.",
        "Move unread inbox mail as the {title} note says (by the sender's relation to me, see my contacts), and create a task 'Check the folders' in the project "
        "Office for {due}.",
        "The note on the {title} has mail rules by relation. Sort all unread inbox messages with them; afterwards put 'Check the folders' on my Office list, due "
        "{due}.",
        title=title,
        due=due,
    )
    effects = [e for p in draw.people if p.relation in rule for e in _moved(draw, p.email, rule[p.relation], unread=True)]
    task = created(ITEM, "The task is there.", title="Check the folders", project_id=project, due=due)
    return draw.case(text, oracle, *effects, task)


FAMILY = (easy, medium, hard)
