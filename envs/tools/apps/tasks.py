"""Tasks: to-do items in projects."""

from __future__ import annotations

from typing import Literal

from sdgym.envs.tools.api import ApiError, App, Day, Id, Json, Page, Short
from sdgym.envs.tools.apps.account import with_account
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.session import Call

tasks = with_account(App("tasks", "To-do items in projects."))
PROJECT = tasks.table("project", "owner name")
ITEM = tasks.table("task", "owner title project_id:int due priority done:bool assignee remark")

Priority = Literal["low", "normal", "high"]


@tasks.api
def projects(call: Call) -> Json:
    """List all projects."""
    return call.find(PROJECT, None, "name, id")


@tasks.api
def create_project(call: Call, name: Short) -> Json:
    """Start a project.

    name: its name
    """
    return call.insert(PROJECT, name=name)


@tasks.api
def list_(call: Call, project_id: int | None = None, done: bool | None = None, priority: Priority | None = None, page: Page = 1) -> Json:
    """List tasks by the day they are due.

    project_id: only those of this project
    done: true for finished ones only, false for open ones only
    priority: only those of this priority
    page: page of 8 tasks
    """
    return call.find(ITEM, page, "due, id", owner=call.me, project_id=project_id, done=done, priority=priority)


@tasks.api
def search(call: Call, query: Short, page: Page = 1) -> Json:
    """Find tasks by words in the title.

    query: text to look for
    page: page of 8 tasks
    """
    return call.find(ITEM, page, "due, id", "*", query, ("title",))


@tasks.api
def show(call: Call, id: Id) -> Json:
    """Show a task.

    id: number of the task
    """
    return call.get(ITEM, id)


@tasks.api
def create(call: Call, title: Short, project_id: Id, due: Day, priority: Priority = "normal") -> Json:
    """Add a task to a project.

    title: what is to be done
    project_id: number of the project
    due: day by which it must be done
    priority: how important it is
    """
    call.own(PROJECT, project_id)
    return call.insert(ITEM, title=title, project_id=project_id, due=due, priority=priority)


@tasks.api
def update(call: Call, id: Id, title: str | None = None, due: Day | None = None, priority: Priority | None = None) -> Json:
    """Change a task.

    id: number of the task
    title: new title
    due: new day
    priority: new priority
    """
    call.own(ITEM, id)
    return call.update(ITEM, id, title=title, due=due, priority=priority)


@tasks.api
def done(call: Call, id: Id) -> Json:
    """Mark an open task as done.

    id: number of the task
    """
    if call.own(ITEM, id)["done"]:
        raise ApiError(409, f"the task {id} is done already")
    return call.update(ITEM, id, done=True)


@tasks.api
def reopen(call: Call, id: Id) -> Json:
    """Open a task again that was done.

    id: number of the task
    """
    if not call.own(ITEM, id)["done"]:
        raise ApiError(409, f"the task {id} is open")
    return call.update(ITEM, id, done=False)


@tasks.api
def move_to(call: Call, id: Id, project_id: Id) -> Json:
    """Move a task to another project.

    id: number of the task
    project_id: number of the project
    """
    call.own(ITEM, id)
    call.own(PROJECT, project_id)
    return call.update(ITEM, id, project_id=project_id)


@tasks.api
def assign(call: Call, id: Id, email: Short) -> Json:
    """Give a task to somebody.

    id: number of the task
    email: e-mail address
    """
    call.own(ITEM, id)
    return call.update(ITEM, id, assignee=email)


@tasks.api
def remark(call: Call, id: Id, text: Short) -> Json:
    """Write a remark on a task (replaces an older one).

    id: number of the task
    text: the remark
    """
    call.own(ITEM, id)
    return call.update(ITEM, id, remark=text)


@tasks.api
def delete(call: Call, id: Id) -> Json:
    """Delete a task.

    id: number of the task
    """
    call.own(ITEM, id)
    call.db.delete(ITEM, id)
    return {"message": f"task {id} deleted"}


_TITLES = (
    "Water the plants",
    "Pay the electricity",
    "Call the plumber",
    "Write the report",
    "Fix the lamp",
    "Book the flight",
    "Clean the desk",
)


def seed(world: Builder) -> None:
    """Start five projects, one of them somebody else's, with two pages of tasks each."""
    for name in ("Home", "Office", "Errands", "Learning", "Club"):
        owner = world.people[0].email if name == "Club" else world.me.email
        project = world.add(PROJECT, owner=owner, name=name)
        for _ in range(int(world.rng.integers(8, 14))):
            due, priority = world.day(int(world.rng.integers(-15, 30))), world.pick(("low", "normal", "normal", "high"))
            row = {"owner": owner, "title": world.pick(_TITLES), "project_id": project, "due": due, "priority": priority}
            world.add(ITEM, **row, done=world.chance(0.3))
