"""The support matrix: requirements are judged under the Python in question, and the page says what the script would."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
import tomllib
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def matrix() -> Any:
    spec = importlib.util.spec_from_file_location("sdgym_support_matrix", ROOT / "tests" / "matrix.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_what_is_required_depends_on_the_python(matrix: Any) -> None:
    pins = {"a-b": "1.5", "new": "2.0rc1"}
    required = [
        "A_b>=1",
        "new>=2.0rc1; python_version >= '3.13'",
        "old; python_version < '3.12'",
        "gpu; extra == 'cuda'",
        "win; sys_platform == 'win32'",
    ]
    assert matrix.unmet("x", required, pins, "3.13.5") == []
    assert matrix.unmet("x", required, pins, "3.11.9") == ["x requires old, which is not pinned"]
    assert matrix.unmet("x", ["a.b<1.5"], pins, "3.12.9") == ["x requires a.b<1.5, the pin is 1.5"]
    assert matrix.unmet("x", ["gpu; python_full_version >= '3.11.5'"], pins, "3.11.4") == []


def test_pins_are_read_from_both_files_without_contradiction(matrix: Any) -> None:
    pins = matrix.read_pins(matrix.PINS)
    assert pins["torch"] == "2.13.0" and {"mkdocs-material", "gymnasium", "farama-notifications"} <= pins.keys()
    one, two = (matrix.read_pins([file]) for file in matrix.PINS)
    assert not one.keys() & two.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["optional-dependencies"]["docs"]:
        assert re.split(r"[<>=\[]", requirement)[0] in pins
    assert project["requires-python"] == f">={matrix.VERSIONS[0].rpartition('.')[0]}"


def test_a_table_says_no_where_something_is_missing(matrix: Any) -> None:
    text = matrix.table([matrix.Result("3.11.9", 5, [], []), matrix.Result("3.14.0", 4, ["torch==1"], [])], "linux")
    assert text.splitlines()[-2:] == ["| 3.11.9 | 5 | – | – | yes |", "| 3.14.0 | 4 | torch==1 | – | no |"]


def test_the_page_has_the_table_of_the_supported_versions(matrix: Any) -> None:
    page = (ROOT / "docs" / "support.md").read_text()
    rows = re.findall(
        r"^\| (3\.\d+\.\d+) \| (\d+) \|.*\| (yes|no) \|$", page[page.index(matrix.BEGIN) : page.index(matrix.END)], re.MULTILINE
    )
    assert [row[0] for row in rows] == list(matrix.VERSIONS) and {row[2] for row in rows} == {"yes"}
    assert {int(row[1]) for row in rows} == {len(matrix.read_pins(matrix.PINS))}, "the pins have changed: make the table anew"
