"""Tier ``unsafe``: a child process with resource limits and nothing more. Chosen by name only.

For platforms without Linux's confinement and for code that you would run yourself. A submission can read
your files, use the network and kill what you own.
"""

from __future__ import annotations

from typing import ClassVar

from sdgym.verifiers.sandbox import interpreter
from sdgym.verifiers.sandbox.base import Started
from sdgym.verifiers.sandbox.process import ProcessChannel


class Unsafe:
    """See the module."""

    name: ClassVar[str] = "unsafe"

    def missing(self) -> str:
        """Return what this machine lacks, or nothing."""
        return "" if interpreter.find() is not None else interpreter.NONE

    def start(self) -> Started:
        """Start a runner."""
        python = interpreter.usable()
        return Started(ProcessChannel(python.command, group=True), python.runner, {"confined": False, "others": None})

    def close(self) -> None:
        """Nothing is held."""
