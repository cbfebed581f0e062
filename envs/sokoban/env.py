"""``sdgym/Sokoban-v0``: push every box onto a target, by a whole plan or turn by turn."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from sdgym.core import Outcome, Task
from sdgym.envs.sokoban import boxoban
from sdgym.envs.sokoban.actions import GRAMMAR, ActionError, parse_moves
from sdgym.envs.sokoban.core import MOVES, PUSHED, Level, Trace, cells, plan_text, run
from sdgym.envs.sokoban.feedback import report
from sdgym.envs.sokoban.generator import Spec, cave, generate, two_rooms
from sdgym.envs.sokoban.novice import draw, plans
from sdgym.envs.sokoban.solver import SearchLimitError, Solution, distances, solve
from sdgym.errors import ConfigError, DataError, UnknownNameError
from sdgym.seeding import derive
from sdgym.text_env import Information, Response, TextEnv

Mode = Literal["plan", "multi_turn"]
MODES: tuple[Mode, ...] = ("plan", "multi_turn")


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """Limits of one level.

    Attributes:
        spec: the levels of the ordinary splits.
        heldout: the levels of the held-out family.
        mode: the default mode.
        turns: turns in ``multi_turn`` mode.
        moves: greatest number of moves in one turn of ``multi_turn`` mode.
        plan_moves: greatest number of moves in ``plan`` mode.
    """

    spec: Spec
    heldout: Spec
    mode: Mode
    turns: int
    moves: int
    plan_moves: int


_TINY = Spec(6, 6, boxes=(1, 1), pushes=(1, 3), wanted=(1, 2), floor=(0.55, 1.0), moves=9)
_EASY = Spec(6, 6, boxes=(1, 2), pushes=(3, 12), wanted=(3, 5), floor=(0.6, 1.0), moves=40)
_MEDIUM = Spec(8, 8, boxes=(2, 3), pushes=(6, 30), wanted=(6, 9), floor=(0.6, 0.95), moves=80)
_HARD = Spec(10, 10, boxes=(3, 4), pushes=(10, 40), wanted=(10, 14), floor=(0.65, 0.95), moves=160)
RULES: Mapping[str, Rules] = {
    "tiny": Rules(_TINY, _TINY, "plan", turns=3, moves=8, plan_moves=20),
    "easy": Rules(_EASY, dataclasses.replace(_EASY, width=8), "multi_turn", turns=8, moves=8, plan_moves=60),
    "medium": Rules(_MEDIUM, _MEDIUM, "multi_turn", turns=12, moves=10, plan_moves=120),
    "hard": Rules(_HARD, _HARD, "multi_turn", turns=20, moves=12, plan_moves=240),
}
_LEGEND = (
    "Sokoban. # wall, - floor, @ you, + you on a target, $ box, * box on a target, . target. "
    "Push every box onto a target; boxes cannot be pulled, and only one moves at a time. "
)


class SokobanEnv(TextEnv):
    """Sokoban with seeded, proved levels.

    In ``plan`` mode one turn holds the whole solution: every move must be possible and every box must stand
    on a target after the last one. In ``multi_turn`` mode a turn holds a few moves; it ends at the first
    blocked move, and the episode ends when the level is solved.

    Reward: 1 for solving the level, else 0. With ``shaping`` also the potential difference
    ``shaping · (Φ(after) − Φ(before))`` with Φ = −(lower bound of pushes left) and Φ = 0 once the episode is
    over (Ng, Harada & Russell 1999): its sum over an episode is the same whatever is done, so it moves
    credit between turns and changes no optimal policy.

    Args:
        level, split, privileged, render_mode: see :class:`TextEnv`.
        mode: ``plan`` or ``multi_turn``; None takes the level's default.
        shaping: coefficient of the potential, from 0.
        data: file of levels in Boxoban's format in place of generated ones; levels are divided by content.
        symbols: what boards are drawn with, of :data:`sdgym.envs.sokoban.boxoban.SYMBOLS`.
        coordinates: add a line with the places of player, boxes and targets.
        hints: add the next move of a shortest solution to what a turn shows, where one is found.

    Raises:
        UnknownNameError: an unknown level, split, mode or set of symbols.
        ConfigError: a negative ``shaping``.
        DataError: the file cannot be used, or holds no level of the split.
    """

    env_id: ClassVar[str] = "sdgym/Sokoban-v0"
    levels: ClassVar[Sequence[str]] = tuple(RULES)
    reward_keys: ClassVar[Sequence[str]] = ("success", "shaping")
    max_action_tokens: ClassVar[Mapping[str, int]] = {"tiny": 24, "easy": 128, "medium": 256, "hard": 512}

    def __init__(
        self,
        level: str = "tiny",
        split: str = "train",
        privileged: bool = False,
        render_mode: str | None = None,
        mode: Mode | None = None,
        shaping: float = 0.0,
        data: str | None = None,
        symbols: str = "xsb",
        coordinates: bool = False,
        hints: bool = False,
    ) -> None:
        super().__init__(level, split, privileged, render_mode)
        if mode is not None and mode not in MODES:
            raise UnknownNameError("Sokoban mode", mode, MODES)
        if shaping < 0:
            raise ConfigError(f"shaping is a coefficient from 0, got {shaping}: it is multiplied with the progress made")
        self.rules = RULES[level]
        self.mode: Mode = mode or self.rules.mode
        self.shaping = shaping
        self.max_turns = self.rules.turns if self.mode == "multi_turn" else 1  # type: ignore[misc]
        self.move_limit = self.rules.moves if self.mode == "multi_turn" else self.rules.plan_moves
        if symbols not in boxoban.SYMBOLS:
            raise UnknownNameError("set of Sokoban symbols", symbols, boxoban.SYMBOLS)
        self.symbols, self.coordinates, self.hints = symbols, coordinates, hints
        self.state: Level | None = None
        self._boards: dict[str, list[Level]] | None = None
        if data is not None:
            self._boards = {}
            for board in boxoban.load(data):
                self._boards.setdefault(self.split_of(board.canonical()), []).append(board)
            self._board(0, split)

    # ---- tasks ----------------------------------------------------------------------------------

    def make_task(self, seed: int, split: str) -> Task:
        """Return the task of ``seed``: levels of ``heldout`` have two rooms, which no other split has."""
        if self._boards is not None:
            board = self._board(seed, split)
            found = _solved(board.text())
            meta = {"family": "data", "grid": board.text(), "boxes": board.boxes.bit_count()}
            told = _privileged(board, found) if found is not None else {}
            return self.finish_task(seed, split, self._instruction() + "\n" + self._shown(board), board.canonical(), told, meta)
        stream = derive(seed, self.env_id, self.level, split)
        if split == "heldout":
            level, solution = generate(self.rules.heldout, two_rooms, stream)
        else:
            level, solution = generate(self.rules.spec, cave, stream, lambda canonical: self.split_of(canonical) == split)
        grid = level.text()
        meta = {"family": "two_rooms" if split == "heldout" else "cave", "grid": grid, "boxes": level.boxes.bit_count()}
        meta |= {"pushes": solution.pushes, "moves": len(solution.moves), "nodes": solution.nodes}
        return self.finish_task(
            seed, split, self._instruction() + "\n" + self._shown(level), level.canonical(), _privileged(level, solution), meta
        )

    def _board(self, seed: int, split: str) -> Level:
        assert self._boards is not None
        if split not in self._boards:
            sizes = ", ".join(f"{name} {len(boards)}" for name, boards in self._boards.items())
            raise DataError(f"the file of levels has none in split {split!r} (levels per split: {sizes}); choose another or add levels")
        return self._boards[split][seed % len(self._boards[split])]

    def _shown(self, level: Level) -> str:
        """Return the board as the student sees it."""
        parts = [boxoban.drawn(level, self.symbols)]
        if self.coordinates:
            parts.append(boxoban.coordinates(level))
        if self.hints and not level.solved:
            found = _solved(level.text())
            parts.append(f"Hint: {MOVES[found.moves[0]]}." if found is not None else "Hint: none is known.")
        return "\n".join(parts)

    def _instruction(self) -> str:
        return boxoban.in_symbols(self._words(), self.symbols)

    def _words(self) -> str:
        names = " ".join(MOVES)
        if self.mode == "plan":
            if self.level == "tiny":
                return f"Push box $ to target . as player @. Answer with {names}."
            return f"{_LEGEND}Answer with the whole plan, at most {self.move_limit} moves ({names})."
        if self.level == "tiny":
            return f"Push box $ to target . as player @. Answer with {names}, up to {self.move_limit} a turn."
        return (
            f"{_LEGEND}You have {self.max_turns} turns of up to {self.move_limit} moves each ({names}). Answer with the moves of this turn."
        )

    # ---- play -----------------------------------------------------------------------------------

    def begin(self, task: Task) -> None:
        """Set the board up."""
        self.state = _level(task.meta["grid"])

    async def respond(self, action: str) -> Response:
        """Execute the moves of one turn."""
        assert self.state is not None
        before = self.state
        last = self.mode == "plan" or self.turn >= self.max_turns
        try:
            moves = parse_moves(action, self.move_limit)
        except ActionError as error:
            outcome = Outcome.UNPARSABLE if action.strip() else Outcome.NO_ANSWER
            said = f"Not understood ({error}): {GRAMMAR}, at most {self.move_limit}."
            return self._response(before, before, said, outcome, last, valid=False)
        trace = run(before, moves, stop_when_solved=self.mode == "multi_turn")
        self.state = trace.level
        said = report(trace).text
        solved = trace.level.solved and (self.mode == "multi_turn" or trace.blocked is None)
        return self._response(before, trace.level, said, Outcome.CORRECT if solved else Outcome.WRONG, last or solved)

    def _response(self, before: Level, after: Level, said: str, outcome: Outcome, over: bool, valid: bool = True) -> Response:
        solved = outcome is Outcome.CORRECT
        parts = {"success": float(solved), "shaping": self.shaping * ((0.0 if over else _potential(after)) - _potential(before))}
        return Response(
            observation="" if over else f"{said}\n{self._shown(after)}",
            reward=sum(parts.values()),
            terminated=solved or self.mode == "plan",
            outcome=outcome,
            feedback=said,
            feedback_visible=not over,
            success=solved,
            valid_action=valid,
            reward_components=parts,
        )

    def render(self) -> str | None:
        """Return the board as it stands (``render_mode="ansi"``)."""
        if self.render_mode is None or self.state is None:
            return None
        return f"turn {self.turn}/{self.max_turns}\n{boxoban.drawn(self.state, self.symbols)}"

    # ---- oracle and novice ----------------------------------------------------------------------

    def oracle(self, task: Task) -> Sequence[str]:
        """Return the reference plan, cut into turns. Raises ConfigError for a level of a file that the search did not solve."""
        if "answer" not in task.privileged:
            raise ConfigError(f"no solution of the level {task.task_id} was found within the search's limit")
        words = task.privileged["answer"].split()
        return [" ".join(words[i : i + self.move_limit]) for i in range(0, len(words), self.move_limit)]

    def novice(self, task: Task, rng: np.random.Generator) -> Sequence[str]:
        """Draw turns from the novice until the level is solved or the turns are used up."""
        level = _level(task.meta["grid"])
        turns: list[str] = []
        while not level.solved and len(turns) < self.max_turns:
            plan = draw(level, self.move_limit, self.max_turns, rng)
            turns.append(plan_text(plan))
            level = self._play(level, plan).level
        return turns

    def answer_key(self, task: Task, actions: Sequence[str]) -> str:
        """Return what a vote counts: the moves of every turn, however they are written; "" for a turn that has none."""
        return "; ".join(_moves_or_nothing(action, self.move_limit) for action in actions)

    def candidates(self, task: Task) -> list[tuple[tuple[str, ...], float]]:
        """Return every attempt the novice can make with its probability (the turns' texts; sums to 1).

        The exact posterior under any :class:`Information` follows by restriction to the consistent ones. In
        ``multi_turn`` mode the number of attempts grows as the power of the turns: meant for "tiny".
        """
        found: list[tuple[tuple[str, ...], float]] = []
        stack: list[tuple[Level, tuple[str, ...], float]] = [(_level(task.meta["grid"]), (), 1.0)]
        while stack:
            level, turns, mass = stack.pop()
            if level.solved or len(turns) == self.max_turns:
                found.append((turns, mass))
                continue
            for plan, probability in plans(level, self.move_limit, self.max_turns):
                stack.append((self._play(level, plan).level, (*turns, plan_text(plan)), mass * probability))
        return found

    def consistent(self, task: Task, actions: Sequence[str], information: Information) -> bool:
        """Return whether the novice, told ``information`` about this task, could still answer ``actions``.

        ``reference`` and ``peer`` leave what solves the level; ``outcome`` (of a failure) leaves what differs
        from the attempt; ``feedback`` see :meth:`_heeds`, applied to the first turn.
        """
        if information.kind in ("reference", "peer"):
            return self.solved_by(task, actions)
        if information.kind == "outcome":
            return tuple(actions) != information.attempt
        if information.kind == "feedback":
            return self._heeds(task, actions, information.attempt)
        return True

    def solved_by(self, task: Task, actions: Sequence[str]) -> bool:
        """Return whether the turns solve the level under this mode's rules."""
        level = _level(task.meta["grid"])
        for action in actions[: self.max_turns]:
            try:
                trace = self._play(level, parse_moves(action, self.move_limit))
            except ActionError:
                continue
            level = trace.level
            if level.solved and (self.mode == "multi_turn" or trace.blocked is None):
                return True
        return False

    def _heeds(self, task: Task, actions: Sequence[str], attempt: Sequence[str]) -> bool:
        """Return whether the first turn that failed is mended where its feedback says that it failed.

        The feedback names a failing move k, or says that after the last move something is missing (k is then
        one past the end). If the reference plan shares the moves before k, exactly those are kept and move k
        is another one. If it does not (the attempt left the way earlier), moves that would earn the same
        words are ruled out. Either way the reference plan itself stays possible.
        """
        if tuple(actions) == tuple(attempt):
            return False
        level, right = _level(task.meta["grid"]), parse_moves(task.privileged["answer"], len(task.privileged["answer"]))
        for tried_text, offered_text in zip(attempt, actions, strict=False):
            try:
                tried, offered = parse_moves(tried_text, self.move_limit), parse_moves(offered_text, self.move_limit)
            except ActionError:
                return offered_text != tried_text
            if tried == right[: self.move_limit] != right:  # a full turn of the reference plan: the failure came later
                if offered != tried:
                    return False
                level, right = self._play(level, tried).level, right[self.move_limit :]
                continue
            found = report(self._play(level, tried))
            if found.failing is not None and right[: found.failing] == tried[: found.failing]:
                k = found.failing
                return offered[:k] == tried[:k] and offered[k : k + 1] != tried[k : k + 1]
            return report(self._play(level, offered)).text != found.text
        return True

    def _play(self, level: Level, moves: Sequence[int]) -> Trace:
        return run(level, moves, stop_when_solved=self.mode == "multi_turn")


@functools.lru_cache(16384)
def _level(grid: str) -> Level:
    return Level.from_text(grid)


@functools.lru_cache(4096)
def _solved(grid: str) -> Solution | None:
    """Return a solution, or None if there is none or the search gives up."""
    try:
        return solve(_level(grid))
    except SearchLimitError:
        return None


def _potential(level: Level) -> float:
    """Return minus the lower bound of pushes left; a box on a dead square counts as far as any box can be."""
    distance = distances(level)
    worst = max(distance.values()) + 1
    return -float(sum(distance.get(c, worst) for c in cells(level.boxes)))


def _privileged(level: Level, solution: Solution) -> dict[str, str]:
    answer, pushes = plan_text(solution.moves), run(level, solution.moves).pushes
    parts: list[str] = []
    events, last = run(level, solution.moves).events, -1
    for move, event in zip(solution.moves, events, strict=True):
        pushing = event == PUSHED
        parts.append(f"{'push' if pushing else 'walk'} {MOVES[move]}" if pushing != last else MOVES[move])
        last = pushing
    story = " ".join(parts).replace(" walk", ", walk").replace(" push", ", push")
    many = f"{solution.pushes} push{'es' if solution.pushes > 1 else ''}"
    return {
        "answer": answer,
        "reference_solution": f"{story[0].upper()}{story[1:]}: {answer}",
        "hint": f"It takes {many}; the first one is {MOVES[pushes[0]]}.",
    }


def _moves_or_nothing(action: str, limit: int) -> str:
    try:
        return plan_text(parse_moves(action, limit))
    except ActionError:
        return ""
