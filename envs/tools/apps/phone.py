"""Phone: contacts with their relation, and text messages."""

from __future__ import annotations

from sdgym.envs.tools.api import ApiError, App, Id, Json, Page, People, Short
from sdgym.envs.tools.apps.account import with_account
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.session import Call

phone = with_account(App("phone", "Contacts and text messages."))
CONTACT = phone.table("contact", "owner name phone email relation birthday blocked:bool")
TEXT = phone.table("text", "owner sender recipients:list body sent_at")


@phone.api
def contacts(call: Call, relation: str | None = None, page: Page = 1) -> Json:
    """List the contacts by name.

    relation: only this relation, for example friend, sibling, coworker, roommate
    page: page of 8 contacts
    """
    return call.find(CONTACT, page, "name, id", owner=call.me, relation=relation)


@phone.api
def find_contact(call: Call, query: Short) -> Json:
    """Find contacts by a part of name, number, e-mail address or relation.

    query: text to look for
    """
    return call.find(CONTACT, 1, "name, id", "*", query, ("name", "phone", "email", "relation"), owner=call.me)


@phone.api
def show_contact(call: Call, id: Id) -> Json:
    """Show a contact.

    id: number of the contact
    """
    return call.own(CONTACT, id)


@phone.api
def add_contact(call: Call, name: Short, phone: Short, email: str = "", relation: str = "") -> Json:
    """Add a contact.

    name: full name
    phone: phone number
    email: e-mail address
    relation: for example friend
    """
    return call.insert(CONTACT, name=name, phone=phone, email=email, relation=relation)


@phone.api
def update_contact(
    call: Call, id: Id, name: str | None = None, phone: str | None = None, email: str | None = None, relation: str | None = None
) -> Json:
    """Change a contact.

    id: number of the contact
    name: new name
    phone: new phone number
    email: new e-mail address
    relation: new relation
    """
    call.own(CONTACT, id)
    return call.update(CONTACT, id, name=name, phone=phone, email=email, relation=relation)


@phone.api
def delete_contact(call: Call, id: Id) -> Json:
    """Delete a contact.

    id: number of the contact
    """
    call.own(CONTACT, id)
    call.db.delete(CONTACT, id)
    return {"message": f"contact {id} deleted"}


@phone.api
def block(call: Call, id: Id, blocked: bool = True) -> Json:
    """Block a contact or let it through again.

    id: number of the contact
    blocked: false to let it through again
    """
    call.own(CONTACT, id)
    return call.update(CONTACT, id, blocked=blocked)


@phone.api
def messages(call: Call, number: str | None = None, page: Page = 1) -> Json:
    """List text messages, newest first.

    number: only those from this phone number
    page: page of 8 messages
    """
    return call.find(TEXT, page, "sent_at DESC, id", owner=call.me, sender=number)


@phone.api
def search(call: Call, query: Short, page: Page = 1) -> Json:
    """Find text messages by words in them, newest first.

    query: text to look for
    page: page of 8 messages
    """
    return call.find(TEXT, page, "sent_at DESC, id", "*", query, ("body",), owner=call.me)


def _text(call: Call, numbers: list[str], body: str) -> Json:
    for number in numbers:
        row = call.find(CONTACT, None, owner=call.me, phone=number)["items"]
        if not row:
            raise ApiError(404, f"{number[:40]!r} is not the phone number of a contact")
        if row[0]["blocked"]:
            raise ApiError(409, f"the contact {row[0]['id']} is blocked; phone.block with blocked=false lets it through again")
    return call.insert(TEXT, sender=call.episode.me.phone, recipients=list(dict.fromkeys(numbers)), body=body, sent_at=call.now)


@phone.api
def send(call: Call, numbers: People, body: Short) -> Json:
    """Send one text message to one or several contacts.

    numbers: their phone numbers
    body: text
    """
    return _text(call, numbers, body)


@phone.api
def reply(call: Call, id: Id, body: Short) -> Json:
    """Answer a text message to its sender.

    id: number of the message
    body: text
    """
    return _text(call, [call.own(TEXT, id)["sender"]], body)


@phone.api
def delete(call: Call, id: Id) -> Json:
    """Delete a text message.

    id: number of the message
    """
    call.own(TEXT, id)
    call.db.delete(TEXT, id)
    return {"message": f"message {id} deleted"}


_TEXTS = (
    "On my way.",
    "Call me when you are free.",
    "Did you see the game?",
    "Thanks again for yesterday!",
    "Running late, sorry.",
    "Sounds good.",
)


def seed(world: Builder) -> None:
    """Add everybody as a contact, and some chat with each."""
    for person in world.people:
        birthday = world.day(-int(world.rng.integers(7_000, 20_000)))
        row = {"name": person.name, "phone": person.phone, "email": person.email, "relation": person.relation}
        world.add(CONTACT, **row, birthday=birthday)
        for _ in range(3):
            mine = world.chance(0.4)
            sender, to = (world.me.phone, person.phone) if mine else (person.phone, world.me.phone)
            world.add(TEXT, sender=sender, recipients=[to], body=world.pick(_TEXTS), sent_at=world.past(30))
