"""Mail: folders, labels, stars, drafts; deleted messages rest in the trash first."""

from __future__ import annotations

from typing import Literal

from sdgym.envs.tools.api import ApiError, App, Id, Json, Page, People, Short
from sdgym.envs.tools.apps.account import with_account
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.session import Call

mail = with_account(App("mail", "Read, send and sort e-mail."))
MESSAGE = mail.table("message", "owner folder sender recipients:list subject body sent_at labels:list read:bool starred:bool")

Folder = Literal["inbox", "work", "family", "receipts", "archive", "sent", "drafts", "trash"]
Place = Literal["inbox", "work", "family", "receipts", "archive"]
_LINE = "id, folder, sender, subject, sent_at, labels, read, starred"


@mail.api
def list_(
    call: Call, folder: Folder = "inbox", sender: str | None = None, unread: bool | None = None, starred: bool | None = None, page: Page = 1
) -> Json:
    """List the messages of a folder, newest first, without their text.

    folder: which folder
    sender: only from this e-mail address
    unread: true for unread only, false for read only
    starred: true for starred only, false for the others only
    page: page of 8 messages
    """
    read = None if unread is None else not unread
    return call.find(MESSAGE, page, "sent_at DESC, id", _LINE, owner=call.me, folder=folder, sender=sender, read=read, starred=starred)


@mail.api
def search(call: Call, query: Short, page: Page = 1) -> Json:
    """Find messages in any folder by words in subject, text or sender, newest first.

    query: text to look for
    page: page of 8 messages
    """
    return call.find(MESSAGE, page, "sent_at DESC, id", _LINE, query, ("subject", "body", "sender"), owner=call.me)


@mail.api
def show(call: Call, id: Id) -> Json:
    """Show a message with its text.

    id: number of the message
    """
    return call.own(MESSAGE, id)


def _compose(call: Call, folder: str, to: list[str], subject: str, body: str) -> Json:
    for address in to:
        if "@" not in address:
            raise ApiError(400, f"{address[:40]!r} is not an e-mail address; phone.contacts has those of the contacts")
    sender, sent_at = call.me, call.now
    recipients = list(dict.fromkeys(to))
    return call.insert(MESSAGE, folder=folder, sender=sender, recipients=recipients, subject=subject, body=body, sent_at=sent_at, read=True)


@mail.api
def send(call: Call, to: People, subject: Short, body: str) -> Json:
    """Send a new message.

    to: e-mail addresses
    subject: subject line
    body: text
    """
    return _compose(call, "sent", to, subject, body)


@mail.api
def reply(call: Call, id: Id, body: str) -> Json:
    """Answer a message to its sender.

    id: number of the message to answer
    body: text
    """
    message = call.own(MESSAGE, id)
    return _compose(call, "sent", [message["sender"]], f"Re: {message['subject']}", body)


@mail.api
def forward(call: Call, id: Id, to: People) -> Json:
    """Forward a message with its text.

    id: number of the message
    to: e-mail addresses
    """
    message = call.own(MESSAGE, id)
    return _compose(call, "sent", to, f"Fwd: {message['subject']}", message["body"])


@mail.api
def move(call: Call, id: Id, folder: Place) -> Json:
    """Move a message to another folder (not into or out of sent, drafts or trash).

    id: number of the message
    folder: where to
    """
    if call.own(MESSAGE, id)["folder"] in ("sent", "drafts", "trash"):
        raise ApiError(
            409, f"the message {id} is in sent, drafts or trash and cannot be moved; mail.restore brings one back from the trash"
        )
    return call.update(MESSAGE, id, folder=folder)


@mail.api
def label(call: Call, id: Id, label: Short) -> Json:
    """Put a label on a message.

    id: number of the message
    label: the label
    """
    labels = call.own(MESSAGE, id)["labels"]
    return call.update(MESSAGE, id, labels=[*labels, label] if label not in labels else labels)


@mail.api
def star(call: Call, id: Id, starred: bool = True) -> Json:
    """Star a message or take its star away.

    id: number of the message
    starred: false to take the star away
    """
    call.own(MESSAGE, id)
    return call.update(MESSAGE, id, starred=starred)


@mail.api
def mark(call: Call, id: Id, read: bool = True) -> Json:
    """Mark a message as read or unread.

    id: number of the message
    read: false for unread
    """
    call.own(MESSAGE, id)
    return call.update(MESSAGE, id, read=read)


@mail.api
def delete(call: Call, id: Id) -> Json:
    """Move a message to the trash; one that is there already is gone for good.

    id: number of the message
    """
    message = call.own(MESSAGE, id)
    if message["folder"] != "trash":
        return call.update(MESSAGE, id, folder="trash")
    call.db.delete(MESSAGE, id)
    return {"message": f"message {id} deleted for good"}


@mail.api
def restore(call: Call, id: Id) -> Json:
    """Bring a message back from the trash into the inbox.

    id: number of the message
    """
    if call.own(MESSAGE, id)["folder"] != "trash":
        raise ApiError(409, f"the message {id} is not in the trash")
    return call.update(MESSAGE, id, folder="inbox")


@mail.api
def draft(call: Call, to: People, subject: Short, body: str) -> Json:
    """Write a message without sending it.

    to: e-mail addresses
    subject: subject line
    body: text
    """
    return _compose(call, "drafts", to, subject, body)


@mail.api
def send_draft(call: Call, id: Id) -> Json:
    """Send a draft.

    id: number of the draft
    """
    if call.own(MESSAGE, id)["folder"] != "drafts":
        raise ApiError(409, f"the message {id} is no draft")
    return call.update(MESSAGE, id, folder="sent", sent_at=call.now)


_TOPICS = ("Quarterly numbers", "Team lunch", "Parking permit", "Weekend plans", "Printer on floor 2", "Photos from Sunday", "Book club")
_BODIES = ("Could you have a look when you find the time?", "Just so that you know.", "See you soon!", "No hurry with this one.")


def seed(world: Builder) -> None:
    """Fill the mailbox: about five pages of inbox, and something in every other folder."""
    for folder, count in (("inbox", 38), ("work", 9), ("receipts", 6), ("archive", 12), ("trash", 4)):
        for _ in range(count):
            sender = world.pick(world.people).email
            row = {
                "folder": folder,
                "sender": sender,
                "recipients": [world.me.email],
                "subject": world.pick(_TOPICS),
                "body": world.pick(_BODIES),
            }
            world.add(MESSAGE, **row, sent_at=world.past(40), read=world.chance(0.7), starred=world.chance(0.1))
    for _ in range(7):
        to = [world.pick(world.people).email]
        row = {"sender": world.me.email, "recipients": to, "subject": world.pick(_TOPICS), "body": world.pick(_BODIES)}
        world.add(MESSAGE, folder="sent", **row, sent_at=world.past(40), read=True)
