"""Music: a catalogue of songs, likes, and playlists, those of other people to look at."""

from __future__ import annotations

from sdgym.envs.tools.api import ApiError, App, Id, Json, Page, Short
from sdgym.envs.tools.apps.account import with_account
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.session import Call
from sdgym.envs.tools.tables import Row

music = with_account(App("music", "Songs, likes and playlists."))
SONG = music.table("song", "title artist genre year:int seconds:int plays:int")
LIKE = music.table("like", "owner song_id:int")
PLAYLIST = music.table("playlist", "owner name song_ids:list")


@music.api
def songs(call: Call, genre: str | None = None, artist: str | None = None, page: Page = 1) -> Json:
    """List the songs of the catalogue by title.

    genre: only this genre
    artist: only this artist
    page: page of 8 songs
    """
    return call.find(SONG, page, "title, id", genre=genre, artist=artist)


@music.api
def search(call: Call, query: Short, page: Page = 1) -> Json:
    """Find songs by words in title or artist.

    query: text to look for
    page: page of 8 songs
    """
    return call.find(SONG, page, "title, id", "*", query, ("title", "artist"))


@music.api
def show(call: Call, id: Id) -> Json:
    """Show a song.

    id: number of the song
    """
    return call.get(SONG, id)


@music.api
def likes(call: Call, page: Page = 1) -> Json:
    """List the numbers of the liked songs.

    page: page of 8 songs
    """
    return call.find(LIKE, page, "song_id", "song_id", owner=call.me)


def _like(call: Call, song_id: int) -> Row | None:
    call.get(SONG, song_id)
    found = call.find(LIKE, None, owner=call.me, song_id=song_id)["items"]
    return found[0] if found else None


@music.api
def like(call: Call, song_id: Id) -> Json:
    """Like a song.

    song_id: number of the song
    """
    if _like(call, song_id):
        raise ApiError(409, f"the song {song_id} is liked already")
    return call.insert(LIKE, song_id=song_id)


@music.api
def unlike(call: Call, song_id: Id) -> Json:
    """Take back a like.

    song_id: number of the song
    """
    row = _like(call, song_id)
    if row is None:
        raise ApiError(409, f"the song {song_id} is not liked")
    call.db.delete(LIKE, row["id"])
    return {"message": f"song {song_id} no longer liked"}


@music.api
def playlists(call: Call, mine: bool = True) -> Json:
    """List playlists by name.

    mine: false to list those of other people
    """
    where = {("owner = ?" if mine else "owner != ?"): call.me}
    return call.find(PLAYLIST, None, "name, id", "id, owner, name", where=where)


@music.api
def show_playlist(call: Call, id: Id) -> Json:
    """Show a playlist with its songs in order.

    id: number of the playlist
    """
    playlist = call.get(PLAYLIST, id)
    return {**playlist, "songs": [call.get(SONG, song) for song in playlist["song_ids"]]}


@music.api
def create_playlist(call: Call, name: Short) -> Json:
    """Start an empty playlist.

    name: its name
    """
    return call.insert(PLAYLIST, name=name)


@music.api
def rename_playlist(call: Call, id: Id, name: Short) -> Json:
    """Rename a playlist.

    id: number of the playlist
    name: new name
    """
    call.own(PLAYLIST, id)
    return call.update(PLAYLIST, id, name=name)


@music.api
def delete_playlist(call: Call, id: Id) -> Json:
    """Delete a playlist.

    id: number of the playlist
    """
    call.own(PLAYLIST, id)
    call.db.delete(PLAYLIST, id)
    return {"message": f"playlist {id} deleted"}


@music.api
def add(call: Call, playlist_id: Id, song_id: Id) -> Json:
    """Add a song at the end of a playlist.

    playlist_id: number of the playlist
    song_id: number of the song
    """
    songs = call.own(PLAYLIST, playlist_id)["song_ids"]
    call.get(SONG, song_id)
    if song_id in songs:
        raise ApiError(409, f"the song {song_id} is in the playlist already")
    return call.update(PLAYLIST, playlist_id, song_ids=[*songs, song_id])


@music.api
def remove(call: Call, playlist_id: Id, song_id: Id) -> Json:
    """Take a song out of a playlist.

    playlist_id: number of the playlist
    song_id: number of the song
    """
    songs = call.own(PLAYLIST, playlist_id)["song_ids"]
    if song_id not in songs:
        raise ApiError(409, f"the song {song_id} is not in the playlist")
    return call.update(PLAYLIST, playlist_id, song_ids=[s for s in songs if s != song_id])


GENRES = ("jazz", "rock", "folk", "soul", "electronic")
_FIRST = ("Blue", "Slow", "Golden", "Silent", "Broken", "Morning", "Paper", "Electric", "Hidden", "Northern")
_SECOND = ("River", "Train", "Lights", "Garden", "Signal", "Harbour", "Letters", "Road")
ARTISTS = ("The Lanterns", "Mira Holt", "Oak & Ember", "Juno Vale", "Static Bloom", "Ida Sund")


def seed(world: Builder) -> None:
    """Fill the catalogue with 48 songs, like a few, and make playlists for oneself and others."""
    titles = world.sample([f"{a} {b}" for a in _FIRST for b in _SECOND], 48)
    ids = []
    for title in titles:
        numbers = {
            "year": int(world.rng.integers(1965, 2026)),
            "seconds": int(world.rng.integers(120, 420)),
            "plays": int(world.rng.integers(0, 300)),
        }
        ids.append(world.add(SONG, title=title, artist=world.pick(ARTISTS), genre=world.pick(GENRES), **numbers))
    for song in world.sample(ids, 10):
        world.add(LIKE, song_id=song)
    for name in ("Focus", "Running", "Dinner"):
        world.add(PLAYLIST, name=name, song_ids=world.sample(ids, 7))
    for person in world.people[:3]:
        world.add(PLAYLIST, owner=person.email, name=f"{person.name.split()[0]}'s mix", song_ids=world.sample(ids, 8))
