"""Where submissions run: one file per tier, one protocol, and the choice among them."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import threading
from collections.abc import Mapping

from sdgym.errors import ConfigError, UnknownNameError
from sdgym.verifiers.sandbox.base import Limits, Result, SandboxError, Tier
from sdgym.verifiers.sandbox.session import Session

__all__ = ["AUTO", "TIERS", "Limits", "Probe", "Result", "SandboxError", "Session", "Tier", "choose", "probes", "sandbox_available"]

TIERS: Mapping[str, str] = {
    "bwrap": "sdgym.verifiers.sandbox.bwrap:Bwrap",
    "landlock": "sdgym.verifiers.sandbox.landlock:Landlock",
    "docker": "sdgym.verifiers.sandbox.docker:Docker",
    "unsafe": "sdgym.verifiers.sandbox.unsafe:Unsafe",
}
AUTO = ("bwrap", "landlock", "docker")
"""Tried in this order, the quickest first; all must pass the same self-test. ``unsafe`` is chosen by name only."""
_lock = threading.RLock()


@dataclasses.dataclass(frozen=True)
class Probe:
    """What was found out about one tier.

    Attributes:
        name: of :data:`TIERS`.
        problem: why it cannot be used here and what to do, or nothing.
    """

    name: str
    problem: str


@functools.cache
def _tier(name: str) -> Tier:
    module, _, attribute = TIERS[name].partition(":")
    tier: Tier = getattr(importlib.import_module(module), attribute)()
    return tier


@functools.cache
def _probe(name: str) -> Probe:
    from sdgym.verifiers.sandbox.attacks import verdict

    with _lock:
        return Probe(name, verdict(_tier(name)))


def probes() -> list[Probe]:
    """Try every tier that may be chosen automatically. Takes a second; remembered by this process."""
    return [_probe(name) for name in AUTO]


def choose(name: str = "auto") -> Tier:
    """Return the tier ``name``, or the first of :data:`AUTO` that passes its self-test.

    Raises:
        UnknownNameError: no such tier.
        ConfigError: it fails its self-test here, or all do; the message says what to install.
    """
    if name == "unsafe":
        return _tier(name)
    if name != "auto" and name not in TIERS:
        raise UnknownNameError("sandbox", name, [*TIERS, "auto"])
    with _lock:
        for candidate in AUTO if name == "auto" else (name,):
            if not _probe(candidate).problem:
                return _tier(candidate)
        reasons = "; ".join(f"{c}: {_probe(c).problem}" for c in (AUTO if name == "auto" else (name,)))
    raise ConfigError(f"submissions cannot be confined on this machine ({reasons}); `sdgym doctor` shows the same")


def sandbox_available() -> tuple[bool, str]:
    """Return whether ``auto`` finds a tier, and its name or the reason why not."""
    try:
        return True, choose().name
    except ConfigError as error:
        return False, str(error)
