"""``sdgym/ToolWorld-v0``: carry out an instruction by calling the APIs of eight apps."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from sdgym.core import Message, Outcome, Task
from sdgym.envs.tools.apps import APPS
from sdgym.envs.tools.calls import CallSyntaxError, ToolCall, parse_calls
from sdgym.envs.tools.draws import VARIANTS, Drawn, draw_task, find_task
from sdgym.envs.tools.explain import CALLS, Attempt, attempt, explain
from sdgym.envs.tools.families.base import start
from sdgym.envs.tools.judge import dense, judge, succeeded
from sdgym.envs.tools.notebook import CALLS_PER_CELL, Notebook, cell_text
from sdgym.envs.tools.proof import Proof, mattering, oracle_calls
from sdgym.envs.tools.session import Episode, User, call_api, scripted_user
from sdgym.envs.tools.tiny import action_text, candidates
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.text_env import Information, Response, TextEnv
from sdgym.verifiers.code_judge import workers
from sdgym.verifiers.sandbox import choose

CALLS_PER_TURN = 10
RESULT_CHARS = 3_000
TURNS: Mapping[str, int] = {"tiny": 1, "easy": 8, "medium": 16, "hard": 24}
SYSTEM_PROMPT = """You carry out tasks in the apps of the person you act for, by calling APIs.
Write calls as JSON objects, up to {calls} a turn: {{"tool": "docs.apps", "args": {{}}}}. You get their results, then it is your turn again.
docs.apps lists the apps, docs.apis the APIs of an app, docs.show the arguments of an API. supervisor.profile and supervisor.passwords tell who you \
act for and how to log in; most calls need the access_token that the login of their app returns. Lists come in pages.
Change nothing that the task does not ask for. End with supervisor.complete_task, with an answer if one is asked for, or with status "fail" if the \
task cannot be done. You have {turns} turns."""
PYTHON_PROMPT = """You carry out tasks in the apps of the person you act for, by writing Python.
Each turn, write one cell in a fenced code block; variables stay for the next one. apis.APP.API(name=value) calls an API and returns a dict, or raises \
ApiError with code and message; print what you want to see. A cell can make {calls} calls.
apis.docs.apps() lists the apps, apis.docs.apis(app=...) the APIs of an app, apis.docs.show(...) the arguments of an API. apis.supervisor.profile() and \
apis.supervisor.passwords() tell who you act for and how to log in; most calls need the access_token that the login of their app returns. Lists come in pages.
Change nothing that the task does not ask for. End with apis.supervisor.complete_task(), with an answer if one is asked for, or with status="fail" if \
the task cannot be done. You have {turns} turns."""
Syntax = Literal["json", "python"]
SYNTAXES: tuple[Syntax, ...] = ("json", "python")
Reward = Literal["success", "dense"]
REWARDS: tuple[Reward, ...] = ("success", "dense")


class ToolWorldEnv(TextEnv):
    """Tasks in a world of eight apps with about 120 documented APIs.

    An action holds one or several tool calls as JSON (:mod:`sdgym.envs.tools.calls`), or a cell of Python; the
    observation holds their results or what the cell printed. What counts at the end is the state of the world, whichever way it came about: every
    required change is there, nothing else has changed, the answer is right. Level "tiny" shows the rows that
    matter and wants a single call.

    Reward, at the end of the episode: 1 if every state test holds, else 0. With ``reward="dense"`` the share
    of tests passed among those that fail when nothing is done, or 0 if anything else was changed. The
    component ``milestones`` (the share of the oracle's tools that were called with success) is for analysis
    and pays nothing.

    Args:
        level, split, privileged, render_mode: see :class:`TextEnv`.
        reward: ``success`` or ``dense``.
        reveal: let the final feedback give the wanted values (flagged ``reveals_answer``).
        native: observations as messages of role ``tool``, for chat templates with native tool calls.
        user: answers ``supervisor.ask_user``, given the question and what the user knows; by default a script.
        syntax: ``json`` calls, or ``python`` cells in a sandbox (not at "tiny"); see :mod:`sdgym.envs.tools.notebook`.
        sandbox: of the cells; see :func:`sdgym.verifiers.sandbox.choose`.

    Raises:
        UnknownNameError: an unknown level, split, reward or syntax.
        ConfigError: cells at "tiny"; at the first reset, if nothing here confines them.
    """

    env_id: ClassVar[str] = "sdgym/ToolWorld-v0"
    reward_keys: ClassVar[Sequence[str]] = ("success", "dense", "milestones", "collateral")
    max_action_tokens: ClassVar[Mapping[str, int]] = {"tiny": 24, "easy": 384, "medium": 512, "hard": 768}
    tools: ClassVar[Sequence[dict[str, Any]] | None] = [api.schema() for name in ("docs", "supervisor") for api in APPS[name].apis.values()]

    def __init__(
        self,
        level: str = "tiny",
        split: str = "train",
        privileged: bool = False,
        render_mode: str | None = None,
        reward: Reward = "success",
        reveal: bool = False,
        native: bool = False,
        user: User = scripted_user,
        syntax: Syntax = "json",
        sandbox: str = "auto",
    ) -> None:
        super().__init__(level, split, privileged, render_mode)
        if reward not in REWARDS:
            raise UnknownNameError("reward", reward, REWARDS)
        if syntax not in SYNTAXES:
            raise UnknownNameError("ToolWorld syntax", syntax, SYNTAXES)
        if syntax == "python" and level == "tiny":
            raise ConfigError("level 'tiny' takes a single call as JSON; Python cells begin at level 'easy'")
        self.reward, self.reveal, self.native, self.user, self.sandbox = reward, reveal, native, user, sandbox
        self.max_turns = TURNS[level]  # type: ignore[misc]  # per level, not per class
        if level == "tiny" or syntax == "python":
            self.tools = None  # type: ignore[misc]
        if level != "tiny":
            prompt, calls = (SYSTEM_PROMPT, CALLS_PER_TURN) if syntax == "json" else (PYTHON_PROMPT, CALLS_PER_CELL)
            self.system_prompt = prompt.format(calls=calls, turns=self.max_turns)  # type: ignore[misc]
        self.notebook = Notebook(sandbox) if syntax == "python" else None
        self.episode: Episode | None = None

    # ---- tasks ----------------------------------------------------------------------------------

    def make_task(self, seed: int, split: str) -> Task:
        """Return the task of ``seed``, with its proof done (:mod:`sdgym.envs.tools.proof`)."""
        return self._found(seed, split)[0]

    def _found(self, seed: int, split: str) -> tuple[Task, Proof]:
        index, drawn, proof = find_task(self.level, split, seed, lambda content: split == "heldout" or self.split_of(content) == split)
        meta = {
            "family": drawn.family,
            "scenario": f"{self.level}-{split}-{seed // VARIANTS}",
            "attempt": index,
            "tools": list(proof.tools),
            "calls": len(proof.calls),
            "apps": list(proof.apps),
            "apis": proof.apis,
            "tests": [[f.said, "passes_on_no_op" if f.passed else "fails_on_no_op"] for f in proof.idle],
        }
        if drawn.screen is not None:
            answer = action_text(drawn.screen.right)
            solution = f"The right call is {answer}"
        else:
            answer = "\n".join(self._turns(proof.calls))
            solution = "\n".join(call.text() for call in proof.calls)
        user = drawn.case.instruction if self.level == "tiny" else f"{_greeting(drawn)}\n{drawn.case.instruction}"
        privileged = {"answer": answer, "reference_solution": solution}
        return self.finish_task(seed, split, user, drawn.canonical(), privileged, meta), proof

    def scenarios(self, split: str, seed: int, count: int) -> Iterator[tuple[Task, ...]]:
        """Yield ``count`` scenarios: three tasks each with the same template and different parameters."""
        for task in self.tasks(split, seed, count):
            first = task.seed - task.seed % VARIANTS
            yield tuple(self.make_task(first + i, split) for i in range(VARIANTS))

    def _turns(self, calls: Sequence[ToolCall]) -> list[str]:
        """Return calls as actions, as many in a turn as JSON allows."""
        parts = [calls[i : i + CALLS_PER_TURN] for i in range(0, len(calls), CALLS_PER_TURN)]
        return [cell_text(part) if self.notebook is not None else "\n".join(c.text() for c in part) for part in parts]

    def _drawn(self, task: Task) -> Drawn:
        return draw_task(self.level, task.split, task.seed, task.meta["attempt"])

    # ---- play -----------------------------------------------------------------------------------

    def begin(self, task: Task) -> None:
        """Clone the world of the task. Raises ConfigError if there are to be cells and nothing here confines them."""
        if self.notebook is not None:
            choose(self.sandbox)
            self.notebook.close()
        if self.episode is not None:
            self.episode.db.close()
        drawn = self._drawn(task)
        self.episode = start(drawn.world, drawn.case)

    async def respond(self, action: str) -> Response:
        """Carry out the calls of one turn."""
        assert self.task is not None and self.episode is not None
        if self.notebook is not None:
            return await asyncio.get_running_loop().run_in_executor(workers(), self._cell, self.notebook, action)
        tiny = self.level == "tiny"
        try:
            calls = parse_calls(action, CALLS if tiny else CALLS_PER_TURN)
        except CallSyntaxError as error:
            said = f'Not understood: {error}. Write a call like {{"tool": "docs.apps", "args": {{}}}}.'
            return self._end(action, valid=False) if self._last() else self._next([said], said, valid=False)
        results, refused = [], []
        for call in calls:
            if self.episode.done:
                break
            result = call_api(self.episode, APPS, call.tool, call.args, self.user)
            results.append(f"[{call.tool}] {_result_text(result)}")
            if "error" in result:
                refused.append(f"{call.tool[:60]}: {result['error']['message']}")
        if self.episode.done or self._last():
            return self._end(action, valid=True)
        said = f"{len(calls) - len(refused)} of {len(calls)} calls were carried out."
        return self._next(results, " ".join([said, *(f"Refused: {r}." for r in refused)]), valid=True)

    def _cell(self, notebook: Notebook, action: str) -> Response:
        """Run the cell of one turn."""
        assert self.episode is not None
        episode = self.episode

        def caller(tool: str, args: dict[str, Any]) -> dict[str, Any]:
            if episode.done:
                return {"error": {"code": 409, "message": "the task has been reported; nothing can be done any more"}}
            return call_api(episode, APPS, tool, args, self.user)

        try:
            said, refused = notebook.run(action, caller)
        except CallSyntaxError as error:
            told = f"Not understood: {error}. Write one cell of Python in a fenced code block."
            return self._end(action, valid=False) if self._last() else self._next([told], told, valid=False)
        if episode.done or self._last():
            notebook.close()
            return self._end(action, valid=True)
        lost = f"The cell was ended: {said.lost}. All variables are gone." if said.lost else ""
        shown = "\n".join(part for part in (_cut(said.printed.rstrip()), said.failure, lost) if part) or "(no output)"
        ran = f"The cell ran{' and failed' if said.failure or lost else ''}; {refused} of its calls were refused."
        told = " ".join(part for part in (ran, said.failure, lost) if part)
        return self._next([shown], told, valid=True)

    def close(self) -> None:
        """End the cells and free the world."""
        if self.notebook is not None:
            self.notebook.close()
        super().close()

    def _last(self) -> bool:
        return self.turn >= self.max_turns

    def _next(self, results: Sequence[str], said: str, valid: bool) -> Response:
        left = f"({self.max_turns - self.turn} turns left)"
        messages: tuple[Message, ...] | None = None
        if self.native:
            messages = tuple({"role": "tool", "content": text} for text in (*results[:-1], f"{results[-1]}\n{left}"))
        observation, parts = "\n".join([*results, left]), {"milestones": self._milestones()}
        return Response(
            observation, 0.0, False, Outcome.NONE if valid else Outcome.UNPARSABLE, said, "runtime",
            feedback_visible=True, valid_action=valid, reward_components=parts, messages=messages,
        )  # fmt: skip

    def _end(self, action: str, valid: bool) -> Response:
        """Judge the episode and say which tests failed."""
        assert self.task is not None and self.episode is not None
        drawn = self._drawn(self.task)
        findings = judge(drawn.case.goal, self.episode)
        solved = succeeded(findings)
        shares = {"success": float(solved), "dense": dense(findings, drawn.idle)}
        collateral = any(f.collateral and not f.passed for f in findings)
        failed = [f for f in findings if not f.passed]
        if self.level == "tiny":
            said = explain(drawn.case, _tried(self.level, self.task, action), _tried(self.level, self.task, self.task.privileged["answer"]))
        else:
            said = "Solved." if solved else "Not solved. These tests fail: " + " ".join(dict.fromkeys(f.said for f in failed))
        told = "; ".join(dict.fromkeys(f.gold for f in failed if f.gold)) if self.reveal else ""
        return Response(
            observation="",
            reward=shares[self.reward],
            terminated=self.episode.done or self.level == "tiny",
            outcome=Outcome.CORRECT if solved else Outcome.WRONG if valid else Outcome.UNPARSABLE if action.strip() else Outcome.NO_ANSWER,
            feedback=f"{said} Wanted: {told}." if told else said,
            reveals_answer=bool(told),
            success=solved,
            valid_action=valid,
            reward_components={**shares, "milestones": self._milestones(), "collateral": float(collateral)},
        )

    def _milestones(self) -> float:
        """Return the share of the oracle's tools that were called with success."""
        assert self.task is not None and self.episode is not None
        reached = {tool for tool, _, code in self.episode.trace if code == 0}
        return len(reached.intersection(self.task.meta["tools"])) / len(self.task.meta["tools"])

    # ---- oracle and novice ----------------------------------------------------------------------

    def oracle(self, task: Task) -> Sequence[str]:
        """Return the calls of the oracle program, in turns."""
        if self.level == "tiny":
            return (task.privileged["answer"],)
        drawn = self._drawn(task)
        return self._turns(oracle_calls(drawn.world, drawn.case)[0])

    def candidates(self, task: Task) -> list[tuple[tuple[str, ...], float]]:
        """Return every attempt of the novice with its probability, the right one first; sums to 1.

        At "tiny" these are misconceptions (:mod:`sdgym.envs.tools.tiny`); above, the oracle's calls without
        one that matters.
        """
        drawn = self._drawn(task)
        if drawn.screen is not None:
            return [((text,), p) for text, p in candidates(drawn.screen)]
        calls = oracle_calls(drawn.world, drawn.case)[0]
        gaps = mattering(drawn.world, drawn.case, calls)[:-1] or [len(calls) - 1]
        wrong = [tuple(self._turns(calls[:i] + calls[i + 1 :])) for i in gaps]
        return [(tuple(self._turns(calls)), 0.35), *((actions, 0.65 / len(wrong)) for actions in wrong)]

    def novice(self, task: Task, rng: np.random.Generator) -> Sequence[str]:
        """Draw one attempt from :meth:`candidates`."""
        at, table = float(rng.random()), self.candidates(task)
        for actions, probability in table:
            at -= probability
            if at < 0:
                return actions
        return table[0][0]

    def consistent(self, task: Task, actions: Sequence[str], information: Information) -> bool:
        """Return whether ``actions`` could still be right given ``information``.

        At "tiny" exactly those calls remain that, had they been right, would have earned the same words (or,
        for an outcome, would have made the attempt wrong). Above, only the attempt itself is ruled out.
        """
        right = self.oracle(task)
        if self.level != "tiny":
            return tuple(actions) == tuple(right) if information.kind in ("reference", "peer") else tuple(actions) != information.attempt
        supposed = _tried(self.level, task, actions[0])
        if information.kind in ("reference", "peer"):
            return not supposed.refused and supposed.outcome() == _tried(self.level, task, right[0]).outcome()
        if supposed.refused or not (supposed.changes or supposed.answer is not None):
            return False
        attempted = _tried(self.level, task, information.attempt[0])
        if information.kind == "outcome":
            return attempted.refused != "" or supposed.outcome() != attempted.outcome()
        return explain(self._drawn(task).case, attempted, supposed) == information.feedback[0]


def _greeting(drawn: Drawn) -> str:
    world = drawn.world
    return f"I am {world.me.name} ({world.me.email}, {world.me.phone}). It is {world.now:%A, %Y-%m-%d %H:%M}."


def _result_text(result: Mapping[str, Any]) -> str:
    return _cut(json.dumps(result, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= RESULT_CHARS else f"{text[:RESULT_CHARS]} … ({len(text) - RESULT_CHARS} more characters)"


def _tried(level: str, task: Task, action: str) -> Attempt:
    return _attempt(level, task.split, task.seed, task.meta["attempt"], action[:2_000])


@functools.lru_cache(16_384)
def _attempt(level: str, split: str, seed: int, index: int, action: str) -> Attempt:
    drawn = draw_task(level, split, seed, index)
    return attempt(drawn.world, drawn.case, action)
