"""Fixtures and the rule of ``SDGYM_REQUIRE``; importable helpers live in :mod:`sdgym.testing`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Generator

import pytest

# Spinning OpenMP threads and several BLAS threads slow a small machine down; set before torch is loaded. The bar is off as the
# command line has it: transformers reads that once, and a test that loads a policy may run before one that loads the command line.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}.items():
    os.environ.setdefault(_name, _value)

ROOT = pathlib.Path(__file__).resolve().parents[1]


def required(reason: str, setting: str) -> bool:
    """Whether a skip for ``reason`` is a failure: ``SDGYM_REQUIRE`` is ``all`` or lists a word of it."""
    wanted = {word.strip() for word in setting.split(",") if word.strip()}
    return "all" in wanted or any(word in reason for word in wanted)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where ``SDGYM_REQUIRE`` demands what the test lacks."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if required(reason, os.environ.get("SDGYM_REQUIRE", "")):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped ({reason}), and SDGYM_REQUIRE={os.environ['SDGYM_REQUIRE']} makes that a failure"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself (``pytest.importorskip``)."""
    report = yield
    if report.outcome == "skipped" and required(str(report.longrepr), os.environ.get("SDGYM_REQUIRE", "")):
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped ({report.longrepr}), and SDGYM_REQUIRE makes that a failure"
    return report


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """Return the checkout's top folder."""
    return ROOT
