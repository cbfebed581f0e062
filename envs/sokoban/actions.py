"""Reading moves from a model's text: a small grammar, refused rather than guessed at."""

from __future__ import annotations

import re

from sdgym.envs.sokoban.core import MOVES

GRAMMAR = "write moves only, as the words Up Down Left Right (or letters U D L R), separated by spaces, commas or ||, optionally inside <answer></answer>"

_WORDS = {name.lower(): index for index, name in enumerate(MOVES)}
_LETTERS = {name[0].lower(): index for index, name in enumerate(MOVES)}
_SEPARATORS = re.compile(r"[\s,|]+")


class ActionError(ValueError):
    """The text is not a list of moves; the message says why, without quoting it."""


def parse_moves(text: str, limit: int) -> tuple[int, ...]:
    """Return the directions written in ``text``.

    Anything up to the last ``</think>`` is dropped; of ``<answer>`` blocks the last one counts.

    Raises:
        ActionError: no moves, something that is not a move, or more than ``limit`` moves.
    """
    text = text.rpartition("</think>")[2]
    head, closing, _ = text.rpartition("</answer>")
    if closing:
        _, opening, text = head.rpartition("<answer>")
        if not opening:
            raise ActionError("there is an </answer> without <answer>")
    moves: list[int] = []
    for number, word in enumerate((w for w in _SEPARATORS.split(text.lower()) if w), 1):
        if word in _WORDS:
            moves.append(_WORDS[word])
        elif set(word) <= _LETTERS.keys():
            moves.extend(_LETTERS[letter] for letter in word[: limit + 1])
        else:
            raise ActionError(f"word {number} is not a move")
        if len(moves) > limit:
            raise ActionError(f"more than {limit} moves")
    if not moves:
        raise ActionError("no moves")
    return tuple(moves)
