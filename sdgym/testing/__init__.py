"""The conformance suite every environment must pass; a third party runs it on its own worlds.

``check_text_env("custom/Mine-v0", level="tiny").raise_for_failures()`` in a test, or ``sdgym envs check ID``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium

from sdgym.errors import ConfigError, EnvError, UnknownNameError
from sdgym.testing.checks import CHECKS, GARBAGE
from sdgym.testing.probe import Probe
from sdgym.text_env import TextEnv

__all__ = ["CHECKS", "GARBAGE", "Check", "ConformanceReport", "check_text_env"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was checked.
        passed: whether it holds.
        message: a finding, or what is wrong.
    """

    name: str
    passed: bool
    message: str


@dataclasses.dataclass(frozen=True)
class ConformanceReport:
    """The outcome of :func:`check_text_env`; printable."""

    env_id: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if not check.passed)

    def raise_for_failures(self) -> None:
        """Raise :class:`EnvError` that lists what does not hold, if anything does not."""
        if self.failures:
            raise EnvError(f"{self.env_id} breaks the contract of text environments:\n" + "\n".join(map(_line, self.failures)))

    def __str__(self) -> str:
        return "\n".join((self.env_id, *map(_line, self.checks)))


def _line(check: Check) -> str:
    return f"  {'ok  ' if check.passed else 'FAIL'} {check.name}: {check.message}"


def check_text_env(env_id: str, *, tasks: int = 40, only: Sequence[str] = (), **kwargs: Any) -> ConformanceReport:
    """Run the conformance suite.

    Args:
        env_id: a registered id, or ``module:id`` to import the module that registers it.
        tasks: how many tasks each sampling check looks at.
        only: names of checks to run (of :data:`CHECKS`); empty for all.
        **kwargs: passed to the environment (``level`` …).

    Returns:
        The report: a failed check is a line in it, never an exception.

    Raises:
        ConfigError: the id is not registered, or is no :class:`TextEnv`.
        UnknownNameError: ``only`` names no check; or an unknown level in ``kwargs``.
    """
    for name in only:
        if name not in CHECKS:
            raise UnknownNameError("conformance check", name, CHECKS)
    try:
        made = gymnasium.make(env_id, **kwargs).unwrapped
    except gymnasium.error.Error as error:
        raise ConfigError(f"the environment {env_id!r} cannot be made: {error}") from error
    if not isinstance(made, TextEnv):
        raise ConfigError(f"the environment {env_id!r} is a {type(made).__name__}, not an sdgym.TextEnv: the suite speaks of text worlds")
    probe = Probe(env_id, type(made), kwargs, tasks)
    return ConformanceReport(env_id, tuple(_run(name, check, probe) for name, check in CHECKS.items() if not only or name in only))


def _run(name: str, check: Callable[[Probe], str], probe: Probe) -> Check:
    try:
        return Check(name, True, check(probe))
    except Exception as error:  # a third party's code: any failure is a line of the report
        return Check(name, False, f"{'' if isinstance(error, AssertionError) else type(error).__name__ + ': '}{error}")
