"""The tests can fail: see ``tests/mutants.py``."""

from __future__ import annotations

import pathlib
import runpy
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture(scope="module")
def table(root: pathlib.Path) -> dict[str, Any]:
    return runpy.run_path(str(root / "tests/mutants.py"))


def test_every_mutant_still_has_its_line_and_its_test(table: dict[str, Any], root: pathlib.Path) -> None:
    assert table["problems"](root) == []
    names = [m.name for m in table["MUTANTS"]]
    assert len(names) == len(set(names)) >= 20


def test_a_stale_mutant_is_noticed(table: dict[str, Any], root: pathlib.Path) -> None:
    gone = table["Mutant"]("gone", "sdgym/core.py", "a line that is nowhere", "", "tests/mutants.py::test_nothing")
    assert len(table["problems"](root, [gone])) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_mutant_turns_its_test_red(root: pathlib.Path) -> None:
    done = subprocess.run([sys.executable, str(root / "tests/mutants.py")], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
