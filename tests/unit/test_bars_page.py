"""docs/wind-tunnel.md says what the recorded bars say, missed ones included."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest

from sdgym.benchmarks.pretrain_tiny import page


def test_the_page_holds_the_tables_of_the_records() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.updated(text) == text, "run python -m sdgym.benchmarks.pretrain_tiny.page"
    assert {name for names in page.TABLES for name in names} == {path.stem for path in page.RECORDS.glob("*.json")}


@pytest.mark.parametrize(
    ("line", "change", "missed"),
    [
        ("greedy", {"greedy": 0.501}, True),
        ("greedy", {"greedy": 0.5}, False),
        ("greedy", {"greedy": 0.149}, True),
        ("reference", {"reference": 0.899}, True),
        ("reference", {"reference": 0.9}, False),
        ("own feedback", {"failed_plain": 0.3, "feedback": 0.39}, True),
        ("own feedback", {"failed_plain": 0.3, "feedback": 0.41}, False),
        ("own feedback", {"failed_plain": 0.3, "feedback": 0.86}, True),
        ("mismatched feedback", {"plain": 0.4, "failed_plain": 0.3, "mismatched_feedback": 0.34}, True),
        ("mismatched feedback", {"plain": 0.4, "failed_plain": 0.3, "mismatched_feedback": 0.28}, False),
        ("filler", {"plain": 0.4, "failed_plain": 0.3, "filler": 0.36}, True),
    ],
)
def test_a_rate_on_the_wrong_side_of_its_bar_is_called_missed(
    tmp_path: pathlib.Path, line: str, change: dict[str, float], missed: bool
) -> None:
    shutil.copy(page.RECORDS / "tiny.json", tmp_path)
    record = json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))
    first = record["bars"][0]
    for name, value in change.items():
        (first if name in first else first["blocks"])[name] = value
    (tmp_path / "tiny.json").write_text(json.dumps(record))
    row = next(row for row in page.table(["tiny"], tmp_path).splitlines() if row.startswith(f"| {line} |"))
    assert ("missed" in row.split("|")[3]) == missed
