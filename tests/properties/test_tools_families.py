"""Every family at every difficulty, drawn many times: solvable, not by doing nothing, every step counts, the same everywhere."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sdgym.envs.tools.api import Json
from sdgym.envs.tools.apps import APPS
from sdgym.envs.tools.calls import COMPLETE, ToolCall
from sdgym.envs.tools.draws import find_task
from sdgym.envs.tools.env import ToolWorldEnv
from sdgym.envs.tools.families import FAMILIES, HELDOUT
from sdgym.envs.tools.families.base import Case, Client, Draw, replay
from sdgym.envs.tools.judge import judge, succeeded, updated
from sdgym.envs.tools.proof import UnprovedError, mattering, oracle_calls, prove
from sdgym.envs.tools.session import Episode, call_api
from sdgym.envs.tools.tiny import HELDOUT_SKILL, SKILLS
from sdgym.envs.tools.world import World, build_world
from sdgym.seeding import generator

CELLS = [(name, difficulty) for name in FAMILIES for difficulty in (1, 2, 3)]


def draw(name: str, difficulty: int, seed: int) -> tuple[World, Case]:
    world = build_world(seed % 3, "test")
    drawn = Draw(world, generator(seed, "parameters", name), generator(seed, "wording", name))
    try:
        return world, FAMILIES[name][difficulty - 1](drawn)
    finally:
        drawn.db.close()


def cases(name: str, difficulty: int, count: int) -> Iterator[tuple[World, Case]]:
    for seed in range(count):
        yield draw(name, difficulty, seed)


@pytest.mark.parametrize("name, difficulty", CELLS)
def test_the_proof_holds_and_the_difficulty_is_as_declared(name: str, difficulty: int) -> None:
    """``prove`` is: the oracle passes, doing nothing fails, any dropped call that writes or ends fails."""
    for world, case in cases(name, difficulty, 2):
        proof = prove(world, case)
        assert proof.calls[-1].tool == COMPLETE
        labels = {f.passed for f in proof.idle}
        assert labels == {True, False}, "some tests fail when nothing is done, and the collateral checks pass"
        assert sum(f.collateral for f in proof.idle) == sum(1 for app in APPS.values() if app.tables)
        if difficulty == 1:
            assert len(proof.apps) == 1 and proof.apis <= 4
        elif difficulty == 2:
            assert (len(proof.apps) == 2 or "tasks.list" in proof.tools) and proof.apis <= 8
        else:
            assert len(proof.apps) >= 3 and proof.apis >= 8


@pytest.mark.parametrize("name, difficulty", CELLS)
def test_any_side_effect_voids_success(name: str, difficulty: int) -> None:
    """After the oracle, one more change in an app that the task may or may not be about."""
    world, case = draw(name, difficulty, 5)
    calls, _ = oracle_calls(world, case)
    harm = {
        "notes": [ToolCall("notes.create", {"title": "stray"})],
        "mail": [ToolCall("mail.send", {"to": ["a@post.example"], "subject": "stray", "body": "stray"})],
    }
    for app, stray in harm.items():
        episode = replay(world, case, calls[:-1])
        episode.signed_in = True
        for call in (*stray, calls[-1]):
            assert "error" not in _call(episode, call)
        failed = [f for f in judge(case.goal, episode) if not f.passed]
        assert [f.said.split(":")[0] for f in failed] == [f"Something else was changed in {app}"]


def _call(episode: Episode, call: ToolCall) -> Json:
    return call_api(episode, APPS, call.tool, {k: v for k, v in call.args.items() if k != "access_token"})


@pytest.mark.parametrize("name, difficulty", CELLS)
def test_there_are_three_paraphrases_and_the_goal_does_not_depend_on_them(name: str, difficulty: int) -> None:
    world, texts, goals = build_world(0, "test"), set(), set()
    for wording in range(9):
        drawn = Draw(world, generator(1, "parameters", name), generator(wording, "wording"))
        case = FAMILIES[name][difficulty - 1](drawn)
        drawn.db.close()
        texts.add(case.instruction)
        goals.add(repr(case.goal.answer) + repr([(e.op, e.table.name, e.row_id, e.values) for e in case.goal.effects]))
    assert len(texts) == 3 and len(goals) == 1
    assert all("{" not in text and "  " not in text for text in texts)


def test_a_family_that_cannot_be_proved_is_refused() -> None:
    world, case = draw("bulk", 1, 0)
    kept = case.goal.effects
    message, number = kept[0].table, kept[0].row_id
    assert number is not None
    nothing = dataclasses.replace(case, goal=dataclasses.replace(case.goal, effects=()))
    already = dataclasses.replace(case, goal=dataclasses.replace(case.goal, effects=(updated(message, number, "x", folder="work"),)))
    for wrong, said in ((nothing, "the oracle fails"), (already, "the oracle fails")):
        with pytest.raises(UnprovedError, match=said):
            prove(world, wrong)
    idle = dataclasses.replace(nothing, oracle=lambda api: api.finish())
    with pytest.raises(UnprovedError, match="doing nothing passes"):
        prove(world, idle)

    def twice(api: Client) -> None:
        found = api.every("mail.list", sender=sender, unread=True, starred=False)
        for row in found:
            api("mail.star", id=row["id"])
        api("mail.star", id=found[0]["id"])
        api.finish()

    sender = case.instruction.split("@")[0].split()[-1] + "@post.example"
    with pytest.raises(UnprovedError, match="passes without the call"):
        prove(world, dataclasses.replace(case, oracle=twice))


def test_calls_that_only_read_do_not_matter() -> None:
    world, case = draw("lookup", 3, 0)
    calls, _ = oracle_calls(world, case)
    assert [calls[i].tool for i in mattering(world, case, calls)] == [COMPLETE]
    assert succeeded(judge(case.goal, replay(world, case, calls)))


@pytest.mark.slow
@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_tasks_of_every_family_are_solved(level: str) -> None:
    env, seen = ToolWorldEnv(level=level), {}
    for split in ("train", "test", "heldout"):
        for task in env.tasks(split, 11, 44):
            env.reset(options={"task": task})
            for action in env.oracle(task):
                *_, info = env.step(action)
            assert info["success"] == 1.0, task.task_id
            seen[task.meta["family"]] = seen.get(task.meta["family"], 0) + 1
    assert set(seen) == set(FAMILIES) and min(seen.values()) >= 2


def test_families_and_skills_are_all_drawn_and_the_held_out_ones_only_there() -> None:
    for level, known, apart in (("tiny", set(SKILLS), "heldout"), ("easy", set(FAMILIES) - {HELDOUT}, HELDOUT)):
        drawn = {find_task(level, "train", 3 * seed, lambda content: True)[1].family for seed in range(60)}
        assert drawn == known
        assert {find_task(level, "heldout", 3 * seed, lambda content: True)[1].family for seed in range(3)} == {apart}
    assert HELDOUT_SKILL.__name__ not in SKILLS


def test_scenarios_share_the_template_and_differ_in_the_parameters() -> None:
    for first, second, third in ToolWorldEnv(level="easy").scenarios("train", 0, 3):
        assert first.meta["scenario"] == second.meta["scenario"] == third.meta["scenario"]
        assert first.meta["family"] == second.meta["family"] == third.meta["family"]
        assert len({task.messages[-1]["content"] for task in (first, second, third)}) == 3


PRINT = """
from sdgym.envs.tools.world import build_world
from sdgym.envs.tools.env import ToolWorldEnv
import hashlib
print(hashlib.sha256(build_world(1, "val").blob).hexdigest(), build_world(1, "val").open().digest())
for level in ("tiny", "hard"):
    task = ToolWorldEnv(level=level).make_task(77, "val")
    print(task.task_id, task.privileged["answer"])
"""


def test_the_same_seed_gives_the_same_world_and_task_in_every_process() -> None:
    outputs = set()
    for salt in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": salt}
        outputs.add(subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(outputs) == 1 and len(outputs.pop().splitlines()) >= 4


def test_replaying_gives_the_same_state() -> None:
    world, case = draw("undo", 3, 2)
    calls, end = oracle_calls(world, case)
    again = replay(world, case, calls)
    assert end.db.digest() == again.db.digest() != world.open().digest()
