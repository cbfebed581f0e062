"""Whether an environment can be imported, made and reset without a network: tried in a process that has none."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from multiprocessing.connection import Connection
from typing import Any

from sdgym.text_env import TextEnv

SECONDS = 300.0
LOCAL = ("", "None", "localhost", "127.0.0.1", "::1")
"""This machine itself: a server that an environment drives may be here."""


def attempts(cls: type[TextEnv], settings: dict[str, Any]) -> list[str]:
    """Return the addresses beyond this machine that ``cls`` asks for, from its import to its first episode.

    Python's own sockets are watched, in a spawned process, where every such attempt fails.

    Raises:
        AssertionError: it cannot be made or reset there; the message says why.
    """
    import cloudpickle  # Gymnasium's own way to send a class to a worker

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_watched, args=(cloudpickle.dumps((cls, settings)), theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.poll(SECONDS), f"no episode begins within {SECONDS:g} seconds without a network"
        asked, problem = ours.recv()
    except EOFError:
        raise AssertionError("the process without a network ended") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    assert not problem or asked, f"without a network: {problem}"
    return list(asked)


def _watched(payload: bytes, answer: Connection) -> None:
    asked: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.getaddrinfo", "socket.gethostbyname"):
            host: object = arguments[0]
        elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
            host = arguments[1][0]
        else:
            return
        name = host.decode("utf-8", "replace") if isinstance(host, bytes) else str(host)
        if name not in LOCAL:
            asked.append(name)
            raise PermissionError(f"there is no network here, and {name} was asked for")

    sys.addaudithook(hook)
    problem = ""
    try:
        cls, settings = pickle.loads(payload)
        env = cls(**settings)
        env.reset(seed=0)
        env.close()
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    answer.send((asked, problem))
