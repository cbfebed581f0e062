"""Levels from files, other symbols, coordinates and hints."""

from __future__ import annotations

import pathlib
import re

import pytest

from sdgym.envs.sokoban.boxoban import SYMBOLS, in_symbols, load
from sdgym.envs.sokoban.env import SokobanEnv
from sdgym.errors import DataError, UnknownNameError

BOARD = "######\n#    #\n# @$.#\n#    #\n######"


@pytest.fixture
def file(tmp_path: pathlib.Path) -> str:
    """Thirty different levels: the room grows, as in Boxoban's files with a numbered head before each."""
    boards = []
    for number in range(30):
        width, left = 6 + number % 6, number // 6
        rows = ["#" * (width + left), *["#" + " " * (width + left - 2) + "#"] * 3, "#" * (width + left)]
        rows[2] = "#" + " " * left + "@$." + " " * (width - 5) + "#"
        boards.append(f"; {number}\n" + "\n".join(rows))
    path = tmp_path / "000.txt"
    path.write_text("\n\n".join(boards) + "\n")
    return str(path)


def test_levels_of_a_file_are_played_and_solved(file: str) -> None:
    assert len(load(file)) == 30
    env = SokobanEnv("easy", data=file)
    for task in env.tasks("train", 0, 3):
        assert env.task_from_id(task.task_id) == task and task.meta["family"] == "data"
        env.reset(options={"task": task})
        assert [env.step(action) for action in env.oracle(task)][-1][1] == 1.0


def test_boards_as_boxoban_ships_them_are_the_same_puzzles(tmp_path: pathlib.Path) -> None:
    """Ten by ten with several boxes, floor as blanks that some editors strip, a numbered head before each board."""
    hard = SokobanEnv("hard", split="test")
    tasks = list(hard.tasks("test", 0, 2))
    (tmp_path / "000.txt").write_text("".join(f"; {i}\n{task.meta['grid'].replace('-', ' ')}\n\n" for i, task in enumerate(tasks)))
    boards = load(str(tmp_path / "000.txt"))
    assert [board.text() for board in boards] == [task.meta["grid"] for task in tasks]
    env = SokobanEnv("hard", split="test", data=str(tmp_path / "000.txt"))
    for task in env.tasks("test", 0, 2):
        assert task.meta["grid"] in {t.meta["grid"] for t in tasks} and task.meta["boxes"] >= 3
        env.reset(options={"task": task})
        assert [env.step(action) for action in env.oracle(task)][-1][1] == 1.0


def test_files_that_cannot_be_used_are_explained(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load(str(tmp_path / "none.txt"))
    for content, said in (
        ("\n", "holds no levels"),
        ("; 0\n####\n#@$#\n####", "level 0: a Sokoban level has one player"),
        (f"; 0\n{BOARD}\n; 1\n#?#", "level 1"),
    ):
        (tmp_path / "bad.txt").write_text(content)
        with pytest.raises(DataError, match=said):
            load(str(tmp_path / "bad.txt"))
    (tmp_path / "one.txt").write_text(BOARD)
    with pytest.raises(DataError, match="has none in split"):
        for split in ("train", "val", "test"):
            SokobanEnv("easy", data=str(tmp_path / "one.txt"), split=split)


@pytest.mark.parametrize("symbols", sorted(SYMBOLS))
def test_a_board_is_the_same_puzzle_in_any_symbols(symbols: str) -> None:
    plain, other = SokobanEnv("easy"), SokobanEnv("easy", symbols=symbols)
    task, drawn = plain.make_task(3, "train"), other.make_task(3, "train")
    assert task.task_id == drawn.task_id and task.privileged == drawn.privileged
    legend, _, board = drawn.messages[-1]["content"].partition("\n")
    assert board.translate(str.maketrans(SYMBOLS[symbols], SYMBOLS["xsb"])) == task.meta["grid"]
    assert f"Sokoban. {SYMBOLS[symbols][0]} wall, {SYMBOLS[symbols][1]} floor" in legend and f" {SYMBOLS[symbols][2]} target." in legend
    other.reset(options={"task": drawn})
    assert [other.step(action) for action in other.oracle(drawn)][-1][1] == 1.0
    assert (
        len(set(SYMBOLS[symbols])) == 7
        and in_symbols("Push box $ to target . as player @.", "xsb") == "Push box $ to target . as player @."
    )


def test_coordinates_are_those_of_the_board() -> None:
    env = SokobanEnv("medium", coordinates=True)
    for seed in range(3):
        *board, places = env.reset(seed=seed)[0].split("\n")[1:]
        found = {
            name: {(int(row), int(column)) for row, column in re.findall(r"\((\d+),(\d+)\)", part)}
            for part in places.split("; ")
            for name in [part.split()[0]]
        }
        cells = {(r, c): cell for r, line in enumerate(board) for c, cell in enumerate(line)}
        wanted = {"player": "@+", "boxes": "$*", "targets": ".*+"}
        assert found == {name: {at for at, cell in cells.items() if cell in symbols} for name, symbols in wanted.items()}
        assert len(found["boxes"]) == len(found["targets"]) >= 2


def test_who_follows_the_hints_needs_no_push_too_many() -> None:
    env = SokobanEnv("easy", hints=True)
    env.max_turns = 200  # type: ignore[misc]
    for seed in range(3):
        observation, reward, terminated, pushes = env.reset(seed=seed)[0], 0.0, False, 0
        assert env.task is not None and env.state is not None
        while not terminated and env.turn < 200:
            before = env.state.boxes
            observation, reward, terminated, *_ = env.step(observation.rpartition("Hint: ")[2].rstrip("."))
            pushes += env.state.boxes != before
        assert (reward, pushes) == (1.0, env.task.meta["pushes"])


def test_wrong_symbols_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ragen'"):
        SokobanEnv(symbols="ragn")
