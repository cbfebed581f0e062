"""Notes: tags, pins, sharing; a locked note opens with the PIN of the notes app."""

from __future__ import annotations

from sdgym.envs.tools.api import ApiError, App, Id, Json, Page, People, Short
from sdgym.envs.tools.apps.account import with_account
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.session import Call
from sdgym.envs.tools.tables import Row

notes = with_account(App("notes", "Notes with tags; some are locked."))
NOTE = notes.table("note", "owner title body tags:list pinned:bool shared_with:list locked:bool")
_LINE = "id, owner, title, tags, pinned, locked"


def pin_code(email: str) -> str:
    """Return the PIN of an account's locked notes: four digits from the characters of the address."""
    return f"{sum((i + 3) * ord(c) for i, c in enumerate(email)) % 10_000:04}"


def _readable(call: Call, note: Row) -> Row:
    if note["locked"] and note["id"] not in call.episode.unlocked:
        raise ApiError(409, f"the note {note['id']} is locked: call notes.unlock with the PIN of the notes app (supervisor.passwords)")
    return note


@notes.api
def list_(call: Call, tag: str | None = None, pinned: bool | None = None, page: Page = 1) -> Json:
    """List the notes by title, without their text; other people's shared notes are listed too.

    tag: only notes with this tag
    pinned: true for pinned only, false for the others only
    page: page of 8 notes
    """
    where = {f"EXISTS (SELECT 1 FROM json_each({NOTE.name}.tags) WHERE value = ?)": tag}
    return call.find(NOTE, page, "title, id", _LINE, where=where, pinned=pinned)


@notes.api
def search(call: Call, query: Short, page: Page = 1) -> Json:
    """Find notes by words in the title, or in the text unless the note is locked.

    query: text to look for
    page: page of 8 notes
    """
    return call.find(NOTE, page, "title, id", _LINE, query, ("title", "CASE WHEN locked THEN '' ELSE body END"))


@notes.api
def show(call: Call, id: Id) -> Json:
    """Show a note with its text.

    id: number of the note
    """
    return _readable(call, call.get(NOTE, id))


@notes.api
def unlock(call: Call, id: Id, pin: Short) -> Json:
    """Open a locked note until the end of the session.

    id: number of the note
    pin: four digits
    """
    note = call.own(NOTE, id)
    if not note["locked"]:
        raise ApiError(409, f"the note {id} is not locked")
    if pin != pin_code(call.me):
        raise ApiError(401, "wrong PIN; supervisor.passwords has it")
    call.episode.unlocked.add(id)
    return {"message": f"note {id} can be read and changed now"}


@notes.api
def create(call: Call, title: Short, body: str = "", tags: list[str] | None = None) -> Json:
    """Write a new note.

    title: title
    body: text
    tags: tags
    """
    return call.insert(NOTE, title=title, body=body, tags=tags or [])


@notes.api
def update(call: Call, id: Id, title: str | None = None, body: str | None = None) -> Json:
    """Replace title or text of a note.

    id: number of the note
    title: new title
    body: new text
    """
    _readable(call, call.own(NOTE, id))
    return call.update(NOTE, id, title=title, body=body)


@notes.api
def append(call: Call, id: Id, line: Short) -> Json:
    """Add a line at the end of a note.

    id: number of the note
    line: the line
    """
    note = _readable(call, call.own(NOTE, id))
    return call.update(NOTE, id, body=f"{note['body']}\n{line}" if note["body"] else line)


@notes.api
def delete(call: Call, id: Id) -> Json:
    """Delete a note.

    id: number of the note
    """
    _readable(call, call.own(NOTE, id))
    call.db.delete(NOTE, id)
    return {"message": f"note {id} deleted"}


@notes.api
def pin(call: Call, id: Id, pinned: bool = True) -> Json:
    """Pin or unpin a note.

    id: number of the note
    pinned: false to unpin
    """
    call.own(NOTE, id)
    return call.update(NOTE, id, pinned=pinned)


@notes.api
def tag(call: Call, id: Id, tag: Short) -> Json:
    """Put a tag on a note.

    id: number of the note
    tag: the tag
    """
    tags = call.own(NOTE, id)["tags"]
    return call.update(NOTE, id, tags=[*tags, tag] if tag not in tags else tags)


@notes.api
def share(call: Call, id: Id, emails: People) -> Json:
    """Share a note with other people.

    id: number of the note
    emails: their e-mail addresses
    """
    note = call.own(NOTE, id)
    return call.update(NOTE, id, shared_with=list(dict.fromkeys([*note["shared_with"], *emails])))


_TITLES = (
    "Ideas",
    "Books to read",
    "Garden",
    "Recipe: soup",
    "Packing list",
    "Meeting minutes",
    "Gift ideas",
    "House rules",
    "Quotes",
    "Travel",
)


def seed(world: Builder) -> None:
    """Write two pages of notes; some belong to other people, some are locked."""
    for title in _TITLES + _TITLES[:6]:
        owner = world.pick(world.people).email if world.chance(0.2) else world.me.email
        body = f"Things about {title.lower()}."
        tags, locked = world.sample(("home", "work", "fun"), 1), owner == world.me.email and world.chance(0.15)
        world.add(NOTE, owner=owner, title=title, body=body, tags=tags, pinned=world.chance(0.15), locked=locked)
