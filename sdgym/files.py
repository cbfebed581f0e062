"""Writing so that no reader ever sees half a file, locking a folder, and saying in one sentence what the disk refused."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
import re
import shutil
from types import TracebackType

from sdgym.errors import RunFolderError, StorageError

WRITING = ".writing"
"""Ends the name of everything that is not complete yet; its name starts with a dot."""

_REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR})
_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_RUST = re.compile(r"(?:os error |code: )(\d+)")  # how safetensors spells an errno


def replace_file(path: pathlib.Path, data: bytes | str) -> None:
    """Write ``data`` beside ``path`` and put it in its place at once: killed at any moment, the old file or the new one is there."""
    temporary = unfinished(path)
    try:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def unfinished(path: pathlib.Path) -> pathlib.Path:
    """Return the name under which ``path`` is written before it is complete."""
    return path.with_name(f".{path.name}{WRITING}")


def is_unfinished(path: pathlib.Path) -> bool:
    """Whether ``path`` was left by a process that died while it wrote."""
    return path.name.startswith(".") and WRITING in path.name


def drop_unfinished(folder: pathlib.Path) -> None:
    """Delete what a killed process left half written directly in ``folder``."""
    for path in folder.glob(f".*{WRITING}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def storage_error(error: BaseException, where: str | pathlib.Path) -> StorageError | None:
    """Return the sentence for a refusal by the file system (full, read-only, forbidden), None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and type(error).__name__ in ("SafetensorError", "ArrowInvalid", "OSError"):
        found = _RUST.search(str(error))
        number = int(found[1]) if found else None
    if number not in _REFUSALS or number is None:
        return None
    place = getattr(error, "filename", None) or where
    advice = "make room" if number in _ROOM else "make it writable"
    return StorageError(
        f"{str(place)!r} cannot be written ({os.strerror(number)}): {advice} and continue with --resume; what was saved before is intact"
    )


class FolderLock:
    """A lock on a folder that the operating system releases when the process dies, however it dies.

    Args:
        folder: must exist.
        doing: for the message, for example ``comparing``.

    Raises:
        RunFolderError: another process holds it, or the folder cannot be written.
    """

    def __init__(self, folder: pathlib.Path, doing: str) -> None:
        try:
            self._file = open(folder / f"{doing}.lock", "a")  # noqa: SIM115  held until __exit__
        except OSError as error:
            raise RunFolderError(f"the folder {str(folder)!r} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise RunFolderError(f"another process is {doing} in {str(folder)!r}; wait for it or take another --out") from None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
