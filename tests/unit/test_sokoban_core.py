"""Rules, boards, symmetries and the grammar of moves."""

from __future__ import annotations

import pytest

from sdgym.envs.sokoban.actions import ActionError, parse_moves
from sdgym.envs.sokoban.core import (
    BOX_AT_BOX,
    BOX_AT_WALL,
    DOWN,
    HIT_WALL,
    LEFT,
    MOVED,
    PUSHED,
    RIGHT,
    UP,
    Level,
    plan_text,
    run,
    solves,
)

ROOM = "######\n#.-$-#\n#--$@#\n#.---#\n######"


def rotated(text: str) -> str:
    return "\n".join("".join(row) for row in zip(*text.split("\n")[::-1], strict=True))


def flipped(text: str) -> str:
    return "\n".join(row[::-1] for row in text.split("\n"))


def test_text_round_trip_with_every_symbol() -> None:
    text = "######\n#.*-$#\n#-+$-#\n######"
    level = Level.from_text(text)
    assert level.text() == text
    assert (level.height, level.width) == (4, 6)
    assert Level.from_text(text.replace("-", " ")) == level == Level.from_text(text.replace("-", "_"))


@pytest.mark.parametrize(
    "text, said",
    [
        ("####\n#@x#\n####", "unknown symbol 'x'"),
        ("####\n#@-#\n####", "as many targets as boxes"),
        ("#####\n#@@$.#\n#####", "one player"),
        ("#####\n#@$.-\n#####", "outer ring"),
        ("", "one player"),
    ],
)
def test_a_bad_level_says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Level.from_text(text)


def test_each_event() -> None:
    level = Level.from_text(ROOM)
    assert run(level, [DOWN]).events == (MOVED,)
    assert run(level, [RIGHT]).events == (HIT_WALL,)
    assert run(level, [LEFT]).level.text() == "######\n#.-$-#\n#-$@-#\n#.---#\n######"
    assert run(level, [LEFT, LEFT, LEFT]).events == (PUSHED, PUSHED, BOX_AT_WALL)
    assert run(level, [DOWN, LEFT, UP]).events == (MOVED, MOVED, BOX_AT_BOX)


def test_a_blocked_move_changes_nothing_and_ends_the_run() -> None:
    level = Level.from_text(ROOM)
    trace = run(level, [RIGHT, LEFT])
    assert trace.level == level and trace.blocked == 0


def test_a_plan_must_be_executable_and_end_solved() -> None:
    level = Level.from_text("#####\n#@$.#\n#---#\n#####")
    assert solves(level, [RIGHT]) and solves(level, [RIGHT, LEFT])
    assert not solves(level, [RIGHT, RIGHT]), "the box stands on its target, but the last move is impossible"
    assert run(level, [RIGHT, RIGHT], stop_when_solved=True).events == (PUSHED,)


def test_canonical_text_is_shared_by_exactly_the_symmetric_levels() -> None:
    images, text = set(), "######\n#.-$-#\n#---@#\n#-##-#\n######"
    for _ in range(4):
        images |= {text, flipped(text)}
        text = rotated(text)
    assert len(images) == 8
    assert len({Level.from_text(image).canonical() for image in images}) == 1
    other = text.replace("@", "-").replace("$-", "$@")
    assert Level.from_text(other).canonical() not in {Level.from_text(image).canonical() for image in images}


@pytest.mark.parametrize(
    "text",
    [
        "Up Left Down Right",
        "up, LEFT,down,right",
        "u l d r",
        "ULDR",
        "Up || Left || Down || Right",
        "<think>Up? no: Down</think> <answer>Up Left\nDown Right</answer>",
        "<answer>Right</answer> or rather <answer>Up Left DR</answer>",
        "It goes up first.</think>ul dr",
    ],
)
def test_grammar_accepts(text: str) -> None:
    assert parse_moves(text, 10) == (UP, LEFT, DOWN, RIGHT)
    assert plan_text(parse_moves(text, 10)) == "Up Left Down Right"


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no moves"),
        ("<answer> </answer>", "no moves"),
        ("Up then Left", "word 2 is not a move"),
        ("I would go Up", "word 1"),
        ("Up</answer>", "without <answer>"),
        ("U" * 11, "more than 10"),
        ("Up " * 11, "more than 10"),
        ("udlr" * 250_000, "more than 10"),
        ("Ｕｐ", "word 1"),
    ],
)
def test_grammar_refuses_without_guessing_or_quoting(text: str, said: str) -> None:
    with pytest.raises(ActionError, match=said):
        parse_moves(text, 10)
