"""Every error that sdgym raises on purpose: one base class, one subclass per boundary.

A message says what is wrong, why, and what to do about it. The command line prints the message alone and
exits with code 2 for a :class:`UserError` and 1 for the others; any other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SdgymError(Exception):
    """Base class of all errors raised by sdgym."""


class UserError(SdgymError):
    """Something the user wrote cannot work: a name, a key, a value, a path."""


class ConfigError(UserError):
    """A configuration key or value is not acceptable."""


class UnknownNameError(UserError):
    """A name is not in a registry; the message offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        super().__init__(f"there is no {kind} called {name!r}{suggest(name, self.known)}")

    def __reduce__(self) -> tuple[type, tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.kind, self.name, self.known)


class DataError(UserError):
    """A data set, level or trajectory file cannot be read or does not hold what it should."""


class RunFolderError(UserError):
    """A run folder is locked, not empty, missing or does not match the arguments."""


class CheckpointError(UserError):
    """A checkpoint is missing, truncated or was written by something incompatible: the user decides which one to go on from."""


class StorageError(UserError):
    """The file system refuses to write: full, read-only or forbidden. What was saved before is intact."""


class EnvError(SdgymError):
    """An environment broke its contract (not: the model acted badly)."""


class InfraError(SdgymError):
    """A grader or sandbox failed for reasons that are not the model's; never a reward of 0."""


class PolicyError(SdgymError):
    """A model or tokenizer cannot be loaded, scored or sampled."""


class AlignmentError(SdgymError):
    """Two views of a trajectory do not score the same tokens."""


class NumericalError(SdgymError):
    """A loss, gradient or weight became NaN or infinite."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``": did you mean 'x'? Known: …"`` for the names nearest to ``name``."""
    names = sorted(known)
    lowered = {n.lower(): n for n in names}
    near = [lowered[m] for m in difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)]
    hint = f": did you mean {near[0]!r}?" if near else "."
    return f"{hint} Known: {', '.join(names)}" if names else hint
