"""The proof that goes with every task: it can be solved, doing nothing fails, and every step counts."""

from __future__ import annotations

import dataclasses

from sdgym.envs.tools.apps import APPS
from sdgym.envs.tools.calls import COMPLETE, ToolCall
from sdgym.envs.tools.families.base import Case, Client, replay, start
from sdgym.envs.tools.judge import Finding, judge, succeeded
from sdgym.envs.tools.session import Episode, call_api
from sdgym.envs.tools.world import World


class UnprovedError(Exception):
    """A drawn case is not a proper task; the message says why. Draws that coincide with the world's own rows may."""


@dataclasses.dataclass(frozen=True)
class Proof:
    """What the proof found out.

    Attributes:
        calls: the oracle's calls.
        idle: the findings when nothing is done but ``complete_task``: tests that pass there are never paid for.
        tools: the distinct tools of the oracle, in order: the milestones.
    """

    calls: tuple[ToolCall, ...]
    idle: tuple[Finding, ...]
    tools: tuple[str, ...]

    @property
    def apps(self) -> tuple[str, ...]:
        """The apps it needs, supervisor and docs apart."""
        return tuple(dict.fromkeys(tool.split(".")[0] for tool in self.tools if tool.split(".")[0] in _APPS))

    @property
    def apis(self) -> int:
        """How many different APIs of these apps it needs."""
        return sum(tool.split(".")[0] in _APPS for tool in self.tools)


_APPS = tuple(name for name, app in APPS.items() if app.auth)


def oracle_calls(world: World, case: Case) -> tuple[tuple[ToolCall, ...], Episode]:
    """Run the oracle; return its calls and the episode it leaves."""
    client = Client(start(world, case))
    case.oracle(client)
    return tuple(client.calls), client.episode


def idle(world: World, case: Case) -> list[Finding]:
    """Return the findings on the untouched world, with the task reported as done where it must be reported."""
    return judge(case.goal, replay(world, case, [ToolCall(COMPLETE, {})] if case.goal.ends else []))


def prove(world: World, case: Case) -> Proof:
    """Prove a case.

    The oracle passes every test; the untouched world fails one, also if it is reported as done; a replay of
    the oracle's calls fails as soon as one that matters (:func:`mattering`) is dropped.

    Raises:
        UnprovedError: one of these does not hold.
    """
    calls, end = oracle_calls(world, case)
    findings = judge(case.goal, end)
    if not succeeded(findings):
        raise UnprovedError(f"the oracle fails: {next(f for f in findings if not f.passed)}")
    untouched = idle(world, case)
    if succeeded(untouched) or succeeded(judge(case.goal, start(world, case))):
        raise UnprovedError("doing nothing passes")
    for index in mattering(world, case, calls):
        if succeeded(judge(case.goal, replay(world, case, calls[:index] + calls[index + 1 :]))):
            raise UnprovedError(f"passes without the call {calls[index]}")
    return Proof(calls, tuple(untouched), tuple(dict.fromkeys(call.tool for call in calls)))


def mattering(world: World, case: Case, calls: tuple[ToolCall, ...]) -> list[int]:
    """Return the indices of the calls that write to the database or end the task.

    The others read, log in or unlock: whoever knows what they tell can do without them.
    """
    episode, found = start(world, case), []
    before = _state(episode)
    for index, call in enumerate(calls):
        call_api(episode, APPS, call.tool, call.args)
        after = _state(episode)
        if after != before:
            found.append(index)
        before = after
    return found


def _state(episode: Episode) -> tuple[object, ...]:
    return episode.db.scalar("SELECT count(*) FROM change_log"), episode.done
