"""Generated levels: what was asked for, the same everywhere, never in two splits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sdgym.envs.sokoban import generator
from sdgym.envs.sokoban.core import Level, run, solves
from sdgym.envs.sokoban.env import RULES, SokobanEnv
from sdgym.envs.sokoban.generator import Spec, cave, generate, two_rooms
from sdgym.envs.sokoban.solver import deadlock, reachable
from sdgym.errors import EnvError
from sdgym.text_env import SPLITS


@pytest.mark.parametrize("level, count", [("tiny", 150), ("easy", 30), ("medium", 4), ("hard", 1)])
@pytest.mark.parametrize("style", [cave, two_rooms])
def test_a_level_meets_its_spec_and_its_plan_solves_it(level: str, count: int, style: object) -> None:
    spec = RULES[level].spec if style is cave else RULES[level].heldout
    for seed in range(count):
        board, solution = generate(spec, cave if style is cave else two_rooms, seed)
        assert (board.height, board.width) == (spec.height, spec.width)
        assert spec.boxes[0] <= board.boxes.bit_count() == board.targets.bit_count() <= spec.boxes[1]
        assert not board.boxes & board.targets and deadlock(board) is None
        assert reachable(board.floor, board.player, board.width) == board.floor, "one connected room"
        assert spec.pushes[0] <= solution.pushes == len(run(board, solution.moves).pushes) <= spec.pushes[1]
        assert len(solution.moves) <= spec.moves and solves(board, solution.moves)
        assert Level.from_text(board.text()) == board


def test_tiny_holds_all_three_numbers_of_pushes() -> None:
    pushes = [generate(RULES["tiny"].spec, cave, seed)[1].pushes for seed in range(200)]
    assert min(pushes.count(n) for n in (1, 2, 3)) >= 20


def test_a_spec_that_cannot_be_met_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "MAX_DRAWS", 200)
    impossible = Spec(5, 5, boxes=(1, 1), pushes=(9, 20), wanted=(9, 9), floor=(0.9, 1.0), moves=60)
    with pytest.raises(EnvError, match="no Sokoban level meets"):
        generate(impossible, cave, 0)


def test_levels_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    program = (
        "from sdgym.envs.sokoban.env import SokobanEnv\n"
        "from sdgym.text_env import SPLITS\n"
        "for level, count in (('tiny', 8), ('easy', 1)):\n"
        "    env = SokobanEnv(level)\n"
        "    for split in SPLITS:\n"
        "        for task in env.tasks(split, 0, count):\n"
        "            print(task.task_id, task.meta['grid'], task.privileged['answer'], env.novice(task, __import__('numpy').random.default_rng(0)))\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] and outputs[0].count("tiny-") == 40


def test_a_pinned_level() -> None:
    """Recorded results name tasks by id: a change of the generator must be deliberate."""
    task = SokobanEnv().make_task(0, "train")
    assert (task.task_id, task.meta["grid"], task.privileged["answer"]) == PINNED


PINNED = ("tiny-train-0-0e21a1d7c53833e7", "######\n#----#\n#----#\n#-$-.#\n#--@-#\n######", "Left Left Up Right Right")


def test_symmetric_levels_share_their_split_and_splits_share_nothing() -> None:
    env, owner = SokobanEnv(), {}
    for split in SPLITS:
        for task in env.tasks(split, 1, 50):
            level = Level.from_text(task.meta["grid"])
            assert owner.setdefault(level.canonical(), split) == split
            mirrored = Level.from_text("\n".join(row[::-1] for row in task.meta["grid"].split("\n")))
            assert split == "heldout" or env.split_of(mirrored.canonical()) == split
            assert task.meta["family"] == ("two_rooms" if split == "heldout" else "cave")


def test_many_distinct_levels() -> None:
    """About 98,000 ± 7,000 levels of "tiny" exist up to symmetry (uniform sampling of floors and positions)."""
    env = SokobanEnv()
    assert len({task.task_id.rsplit("-", 1)[1] for task in env.tasks("pretrain", 0, 400)}) == 400
