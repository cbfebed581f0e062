"""ToolWorld by Python cells: variables stay, calls reach the world through the pipe, and nothing of the world is inside."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from sdgym.core import Task
from sdgym.envs.tools.env import ToolWorldEnv
from sdgym.envs.tools.notebook import CALLS_PER_CELL
from sdgym.errors import ConfigError, UnknownNameError
from sdgym.testing import check_text_env
from sdgym.verifiers.sandbox import cells, choose, sandbox_available
from sdgym.verifiers.sandbox.cells import Cells


@pytest.fixture(autouse=True)
def confined() -> None:
    available, said = sandbox_available()
    if not available:
        pytest.skip(f"sandbox: {said}")


@pytest.fixture
def env() -> Iterator[ToolWorldEnv]:
    made = ToolWorldEnv("easy", syntax="python")
    yield made
    made.close()


@pytest.fixture
def task(env: ToolWorldEnv) -> Task:
    return next(iter(env.tasks("train", 0, 1)))


def shown(env: ToolWorldEnv, cell: str) -> str:
    """Play a turn; return what is shown of it."""
    return env.step(f"```python\n{cell}\n```")[0].rpartition("\n(")[0]


def test_variables_stay_and_errors_are_told(env: ToolWorldEnv, task: Task) -> None:
    env.reset(options={"task": task})
    assert "apis.APP.API" in task.messages[0]["content"] and env.tools is None
    assert shown(env, "import math\nname = apis.supervisor.profile()['name']\nprint(len(apis.docs.apps()['apps']))") == "10"
    assert env.episode is not None
    assert shown(env, "print(name, math.pi > 3)") == f"{env.episode.me.name} True"
    assert shown(env, "x = 1\nprint('before')\nprint(1 / 0)") == "before\nZeroDivisionError in line 3: division by zero"
    assert shown(env, "def f(:") == "SyntaxError in line 1: invalid syntax"
    caught = "try:\n    apis.mail.list()\nexcept ApiError as error:\n    print(error.code, x)"
    assert shown(env, caught) == "401 1"
    *_, info = env.step("apis.mail.lst()")
    assert (
        "ApiError in line 1: 404 there is no API 'mail.lst'; did you mean mail.list" in info["feedback"]
        and "1 of its calls" in info["feedback"]
    )


def test_a_cell_that_ends_its_process_loses_the_variables_and_not_the_world(env: ToolWorldEnv, task: Task) -> None:
    env.reset(options={"task": task})
    shown(env, "kept = 1")
    assert "All variables are gone." in shown(env, "import os\nos._exit(0)")
    assert shown(env, "print(kept)") == "NameError in line 1: name 'kept' is not defined"
    assert env.episode is not None and not env.episode.done


@pytest.mark.parametrize("level", ["easy", "medium"])
def test_the_oracle_solves_by_cells_what_it_solves_by_calls(level: str) -> None:
    env = ToolWorldEnv(level, syntax="python")
    for task in env.tasks("train", 2, 4):
        env.reset(options={"task": task})
        for cell in env.oracle(task):
            _, reward, terminated, _, info = env.step(cell)
        assert (reward, terminated, info["feedback"]) == (1.0, True, "Solved."), task.task_id
    env.close()


def test_nothing_of_the_world_is_in_the_sandbox_before_it_was_asked_for(env: ToolWorldEnv, task: Task) -> None:
    look = (
        "import gc, sys\n"
        "frame, seen = sys._getframe(), []\n"
        "while frame:\n    seen += [frame.f_globals, frame.f_locals]\n    frame = frame.f_back\n"
        "print(WORD in ' '.join(map(repr, [*seen, *gc.get_objects()])))"
    )
    env.reset(options={"task": task})
    assert env.episode is not None
    name = env.episode.me.name
    assert shown(env, look.replace("WORD", f"''.join([{name[:4]!r}, {name[4:]!r}])")) == "False"
    shown(env, "me = apis.supervisor.profile()")
    assert shown(env, look.replace("WORD", f"''.join([{name[:4]!r}, {name[4:]!r}])")) == "True", "the search finds what is there"
    assert shown(env, "print(open('/etc/passwd').read())").startswith(("PermissionError", "FileNotFoundError"))


def test_a_pickled_episode_goes_on_with_its_variables(env: ToolWorldEnv, task: Task) -> None:
    env.reset(options={"task": task})
    shown(env, "count = len(apis.docs.apps()['apps'])")
    copy: ToolWorldEnv = pickle.loads(pickle.dumps(env))
    assert shown(copy, "print(count)") == shown(env, "print(count)") == "10"
    assert copy.episode is not None and env.episode is not None and copy.episode.trace == env.episode.trace, "replayed cells call nothing"
    copy.close()


def test_calls_from_a_cell_are_as_bounded_as_calls_in_json(env: ToolWorldEnv, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    env.reset(options={"task": task})
    assert "400 the arguments are not plain data" in shown(env, "apis.docs.apis(app={1, 2})")
    assert "400 the arguments are not plain data" in shown(env, "apis.mail.show(id=10 ** 30)")
    many = f"for i in range({CALLS_PER_CELL + 1}):\n    apis.docs.apps()"
    assert shown(env, many) == f"ApiError in line 2: 429 a cell can make {CALLS_PER_CELL} calls"
    monkeypatch.setattr(cells, "CELL_SECONDS", 3.0)
    forged = "import os\nos.write(3, (2).to_bytes(4, 'big') + b'{}')\nprint('on')"
    assert "All variables are gone." in shown(env, forged)
    assert shown(env, "print('on')") == "on"


def test_a_cell_that_sleeps_is_ended_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "CELL_SECONDS", 3.0)
    with Cells(choose(), "") as notebook:
        assert notebook.execute("x = 1", lambda asked: None).lost == ""
        assert notebook.execute("import time\ntime.sleep(100)", lambda asked: None).lost == "it ran longer than 3 seconds"


@pytest.mark.slow
def test_cells_conform() -> None:
    only = ["gymnasium", "info", "text_space", "seeding", "garbage", "feedback", "oracle", "pickling", "asynchronous", "render"]
    check_text_env("sdgym/ToolWorld-v0", tasks=2, level="easy", syntax="python", only=only).raise_for_failures()


def test_where_cells_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    import sdgym.verifiers.sandbox as sandbox

    with pytest.raises(ConfigError, match="begin at level 'easy'"):
        ToolWorldEnv(syntax="python")
    with pytest.raises(UnknownNameError, match="did you mean 'python'"):
        ToolWorldEnv("easy", syntax="pyton")  # type: ignore[arg-type]
    monkeypatch.setattr(sandbox, "_probe", lambda name: sandbox.Probe(name, "install it"))
    nowhere: Any = ToolWorldEnv("easy", syntax="python")
    with pytest.raises(ConfigError, match="cannot be confined"):
        nowhere.reset(seed=0)
