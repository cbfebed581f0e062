"""Find everything that fits a filter, and change all of it."""

from __future__ import annotations

from sdgym.envs.tools.apps.mail import MESSAGE
from sdgym.envs.tools.apps.music import LIKE, PLAYLIST
from sdgym.envs.tools.apps.notes import NOTE
from sdgym.envs.tools.apps.phone import TEXT
from sdgym.envs.tools.apps.tasks import ITEM
from sdgym.envs.tools.families.base import Case, Client, Draw
from sdgym.envs.tools.families.words import DISTRACTION, TOPICS
from sdgym.envs.tools.judge import Contains, created, updated


def easy(draw: Draw) -> Case:
    """Star the unread mails of one sender."""
    person = draw.pick(draw.people)
    for index in range(draw.integer(3, 5)):
        row = {"sender": person.email, "recipients": [draw.me.email], "subject": draw.pick(TOPICS), "body": draw.pick(DISTRACTION)}
        draw.add(MESSAGE, folder="inbox", **row, sent_at=draw.past(20), read=index == 0)
    sql = "SELECT id FROM mail_message WHERE folder = 'inbox' AND sender = ? AND NOT read AND NOT starred"
    effects = [
        updated(MESSAGE, row["id"], "Every unread message of the sender is starred.", starred=True) for row in draw.rows(sql, person.email)
    ]

    def oracle(api: Client) -> None:
        for message in api.every("mail.list", sender=person.email, unread=True, starred=False):
            api("mail.star", id=message["id"])
        api.finish()

    text = draw.say(
        "Star all unread messages from {email} in my inbox.",
        "Put a star on each unread inbox message that {email} sent me.",
        "In my inbox, every message by {email} that is still unread should get a star.",
        email=person.email,
    )
    return draw.case(text, oracle, *effects)


def medium(draw: Draw) -> Case:
    """Finish the overdue tasks of a project, over several pages."""
    project = draw.pick(draw.rows("SELECT id, name FROM tasks_project WHERE owner = ? ORDER BY id", draw.me.email))
    today = draw.now[:10]
    for offset in draw.sample(range(-20, 0), 3):
        draw.add(ITEM, title=draw.pick(TOPICS).capitalize(), project_id=project["id"], due=draw.day(offset), priority="normal")
    sql = "SELECT id FROM tasks_task WHERE project_id = ? AND NOT done AND due < ?"
    effects = [
        updated(ITEM, row["id"], "Every overdue task of the project is done.", done=True) for row in draw.rows(sql, project["id"], today)
    ]

    def oracle(api: Client) -> None:
        chosen = next(p for p in api("tasks.projects")["items"] if p["name"] == project["name"])
        for task in api.every("tasks.list", project_id=chosen["id"], done=False):
            if task["due"] < today:
                api("tasks.done", id=task["id"])
        api.finish()

    text = draw.say(
        "Mark all open tasks of the project {name} that were due before {today} as done.",
        "Everything open in my project {name} with a due date before {today} is finished: check it off.",
        "In the task project {name}, set each open task that was due before {today} to done.",
        name=project["name"],
        today=today,
    )
    return draw.case(text, oracle, *effects)


def hard(draw: Draw) -> Case:
    """Like the songs of one genre in a friend's playlist that a note names, and report how many."""
    title, (friend, reader) = draw.pick(TOPICS), draw.persons(2, "friend")
    songs = draw.sample(draw.rows("SELECT id, genre FROM music_song ORDER BY id"), 12)
    genre, name = songs[0]["genre"], f"{draw.pick(TOPICS).title()} set"
    draw.add(PLAYLIST, owner=friend.email, name=name, song_ids=[s["id"] for s in songs])
    draw.add(NOTE, title=title.capitalize(), body=f"Playlist: {name}\nGenre: {genre}")
    liked = {row["song_id"] for row in draw.rows("SELECT song_id FROM music_like WHERE owner = ?", draw.me.email)}
    new = [s["id"] for s in songs if s["genre"] == genre and s["id"] not in liked]

    def oracle(api: Client) -> None:
        note = api("notes.search", query=title)["items"][0]
        playlist, wanted = (line.split(": ")[1] for line in api("notes.show", id=note["id"])["body"].split("\n"))
        listed = next(p for p in api("music.playlists", mine=False)["items"] if p["name"] == playlist)
        already = {row["song_id"] for row in api.every("music.likes")}
        chosen = [s["id"] for s in api("music.show_playlist", id=listed["id"])["songs"] if s["genre"] == wanted and s["id"] not in already]
        for song in chosen:
            api("music.like", song_id=song)
        api("phone.send", numbers=[api.contact(reader.name)["phone"]], body=f"{len(chosen)} new songs")
        api.finish()

    text = draw.say(
        "My note about the {title} names a playlist and a genre. Like each song of this genre in that playlist (of {friend}) that I do not like yet, "
        "then text {reader} how many songs you liked.",
        "See my note on the {title}: from {friend}'s playlist named there, like all songs of the genre named there, except those I like already. Send "
        "{reader} a text with the number of new likes.",
        "Like all songs that are in the playlist of {friend} and of the genre written in my note about the {title}; skip what is liked. Text the count "
        "of new likes to {reader}.",
        title=title,
        friend=friend.name,
        reader=reader.name,
    )
    effects = [created(LIKE, "Every song of the genre is liked.", song_id=song) for song in new]
    report = created(TEXT, "The number of songs is texted to the right person.", recipients=[reader.phone], body=Contains(len(new)))
    return draw.case(text, oracle, *effects, report)


FAMILY = (easy, medium, hard)
