"""What the page of ToolWorld promises about the world as a whole: apps, pages of lists, the clock, the log, the user, scenarios."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest

from sdgym.envs.tools.api import Json
from sdgym.envs.tools.apps import APPS, TABLES
from sdgym.envs.tools.env import ToolWorldEnv
from sdgym.envs.tools.families import FAMILIES
from sdgym.envs.tools.families.base import Case, Draw, start
from sdgym.envs.tools.proof import oracle_calls
from sdgym.envs.tools.scores import goal_completion
from sdgym.envs.tools.session import PAGE_SIZE, Episode, call_api
from sdgym.envs.tools.world import World, build_world
from sdgym.seeding import generator


def drawn(family: str, difficulty: int, seed: int) -> tuple[World, Case]:
    world = build_world(seed % 3, "test")
    draw = Draw(world, generator(seed, "parameters", family), generator(seed, "wording", family))
    try:
        return world, FAMILIES[family][difficulty - 1](draw)
    finally:
        draw.db.close()


def fresh(seed: int = 0) -> Episode:
    episode = build_world(seed, "test").episode()
    episode.signed_in = True
    episode.db.record()
    return episode


def ask(episode: Episode, tool: str, **args: Any) -> Json:
    result = call_api(episode, APPS, tool, args)
    assert "error" not in result, (tool, args, result)
    return result


def rows_of(episode: Episode) -> dict[tuple[str, int], Any]:
    return {(t.name, row["id"]): t.decode(row) for t in TABLES for row in episode.db.rows(f"SELECT * FROM {t.name}")}


def test_twelve_families_of_three_difficulties_and_eight_apps_beside_two() -> None:
    assert len(FAMILIES) == 12 and all(len(family) == 3 for family in FAMILIES.values())
    assert {name for name, app in APPS.items() if not app.auth} == {"supervisor", "docs"} and len(APPS) == 10
    assert all({"login", "logout", "account"} <= set(app.apis) for app in APPS.values() if app.auth)
    page = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "environments" / "toolworld.md").read_text(encoding="utf-8")
    said = re.search(r": (\d+) APIs, each documented", page)
    assert said and int(said[1]) == sum(len(app.apis) for app in APPS.values())


LISTS = sorted(api.tool for app in APPS.values() for api in app.apis.values() if "page" in api.params)


@pytest.mark.parametrize("tool", LISTS)
def test_every_list_comes_in_pages_that_cover_it_once(tool: str) -> None:
    episode = fresh()
    api = APPS[tool.split(".")[0]].apis[tool.split(".")[1]]
    needed = {p.name: "e" if p.schema.get("type") == "string" else 1 for p in api.params.values() if p.required}
    first = ask(episode, tool, **needed)
    pages = [ask(episode, tool, **needed, page=page)["items"] for page in range(1, first["pages"] + 1)]
    rows = [json.dumps(row, sort_keys=True) for page in pages for row in page]
    assert [len(page) for page in pages[:-1]] == [PAGE_SIZE] * (len(pages) - 1) and len(pages[-1]) <= PAGE_SIZE
    assert len(rows) == len(set(rows)) == first["total"]
    assert ask(episode, tool, **needed, page=first["pages"] + 1)["items"] == [] and not episode.db.changes()


def test_most_lists_need_several_pages() -> None:
    plain = [tool for tool in LISTS if not any(p.required for p in APPS[tool.split(".")[0]].apis[tool.split(".")[1]].params.values())]
    pages = {tool: ask(fresh(), tool)["pages"] for tool in plain}
    assert len(LISTS) == 20 and sum(count > 1 for count in pages.values()) >= 10, pages


def test_the_clock_stands_still_and_belongs_to_the_world() -> None:
    one, other = fresh(0), fresh(1)
    now = ask(one, "supervisor.profile")["now"]
    assert now != ask(other, "supervisor.profile")["now"], "each world has its own, in the same process"
    friend = ask(one, "phone.contacts", relation="friend")["items"][0]
    for _ in range(3):
        stamps = [
            ask(one, "mail.send", to=[friend["email"]], subject="x", body="y")["sent_at"],
            ask(one, "phone.send", numbers=[friend["phone"]], body="x")["sent_at"],
            ask(one, "pay.send", to=friend["email"], amount=1)["sent_at"],
            ask(one, "pay.request", payer=friend["email"], amount=1)["made_at"],
        ]
        assert stamps == [now] * 4
    assert ask(one, "supervisor.profile")["now"] == now
    assert ask(fresh(0), "supervisor.profile")["now"] == now, "and again in the next episode"


def test_episodes_of_one_world_do_not_see_each_other() -> None:
    one, other = fresh(), fresh()
    before = other.db.digest()
    number = ask(one, "notes.create", title="mine")["id"]
    assert one.db.digest() != before == other.db.digest() == build_world(0, "test").open().digest()
    assert call_api(other, APPS, "notes.show", {"id": number})["error"]["code"] == 404


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_writes_the_log(table: Any) -> None:
    episode = fresh()
    column, kind = next(iter(table.kinds.items()))
    number = episode.db.insert(table, {})
    assert [(c.op, c.table, c.row_id) for c in episode.db.changes()] == [("create", table, number)]
    episode.db.update(table, number, {column: {"int": 7, "bool": True, "list": ["x"]}.get(kind, "x")})
    assert [c.op for c in episode.db.changes()] == ["create"]
    episode.db.delete(table, number)
    assert episode.db.changes() == [] and episode.db.scalar("SELECT count(*) FROM change_log") == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_log_of_an_oracle_is_the_difference_of_all_rows(family: str) -> None:
    for difficulty in (1, 2, 3):
        world, case = drawn(family, difficulty, 7)
        before, (_, end) = rows_of(start(world, case)), oracle_calls(world, case)
        after = rows_of(end)
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert {(c.table.name, c.row_id) for c in end.db.changes()} == changed


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_hard_task_changes_lies_among_rows_that_must_stay(family: str) -> None:
    """Distractors: every table of which a row is to be changed has others, those apart that hold one row a person."""
    world, case = drawn(family, 3, 4)
    episode, meant = start(world, case), {(e.table.name, e.row_id) for e in case.goal.effects if e.row_id is not None}
    for name in {name for name, _ in meant} - {"pay_purse", "shop_cart"}:
        others = {(name, row["id"]) for row in episode.db.rows(f"SELECT id FROM {name}")} - meant
        assert others, f"nothing else is in {name}"


def test_the_user_knows_what_no_app_tells_and_nothing_more() -> None:
    """The family in which something is missing from the instruction: the reply has it, or says that there is none."""
    ends = set()
    for seed in range(12):
        world, case = drawn("impossible", 2, seed)
        episode = start(world, case)
        reply = ask(episode, "supervisor.ask_user", question="How much is it?")["reply"]
        wanted = [e.values["amount"] for e in case.goal.effects if "amount" in e.values]
        assert [int(word) for word in re.findall(r"\d+", reply)] == wanted
        assert not re.search(r"\d", case.instruction), "the sum is not in the instruction"
        assert (case.goal.status == "success") == bool(wanted)
        for question in ("What is the answer?", "Which calls do I have to make?", "Tell me the solution."):
            assert "cannot tell you more" in ask(episode, "supervisor.ask_user", question=question)["reply"]
        assert any(call.tool == "supervisor.ask_user" for call in oracle_calls(world, case)[0])
        assert not episode.db.changes(), "a question changes nothing"
        ends.add(case.goal.status)
    assert ends == {"success", "fail"}


def test_a_scenario_counts_as_its_worst_task() -> None:
    """Nine tasks of three scenarios, one of them failed: TGC 8/9, SGC 2/3."""
    env, rows = ToolWorldEnv(level="easy"), []
    for number, tasks in enumerate(env.scenarios("train", 3, 3)):
        for variant, task in enumerate(tasks):
            env.reset(options={"task": task})
            actions = ['{"supervisor.complete_task": {"status": "fail", "answer": "?"}}'] if number == variant == 1 else env.oracle(task)
            for action in actions:
                *_, info = env.step(action)
            rows.append((str(task.meta["scenario"]), info["success"]))
    assert len({scenario for scenario, _ in rows}) == 3
    assert goal_completion(rows) == pytest.approx((8 / 9, 2 / 3))
