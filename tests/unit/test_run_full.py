"""``make test-full`` finds its lanes: none found once passed for a success."""

from __future__ import annotations

import importlib.util
import pathlib
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run_full() -> types.ModuleType:
    """The script, which is in no package."""
    spec = importlib.util.spec_from_file_location("run_full", ROOT / "tests" / "run_full.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_with_a_slow_test_is_a_lane(run_full: types.ModuleType) -> None:
    assert run_full.lanes("tests/unit/test_soak.py", "tests/unit/test_run_full.py") == ["tests/unit/test_soak.py"]


def test_no_lane_at_all_is_no_success(run_full: types.ModuleType) -> None:
    with pytest.raises(SystemExit, match="no long lane was found"):
        run_full.lanes("tests/unit/test_run_full.py")


def test_the_closing_line_of_pytest_is_read(run_full: types.ModuleType) -> None:
    log = "..x\n\n3 passed, 1 skipped, 2 xfailed in 70.12s (0:01:10)\n"
    assert run_full.CLOSING.findall(log) == ["3 passed, 1 skipped, 2 xfailed"]
