"""docs/speed.md says what the recorded measurements say, missed bars included."""

from __future__ import annotations

import json
import pathlib
import shutil

from sdgym.benchmarks.speed import page
from sdgym.benchmarks.speed.machine import commit
from sdgym.envs import ENVIRONMENTS


def test_the_pages_hold_the_tables_of_the_records() -> None:
    assert len(page.pages()) == 1 + len(page.WORLDS)
    for path, text in page.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run python -m sdgym.benchmarks.speed.page: {path.name}"


def test_every_level_of_every_world_is_measured() -> None:
    rows = json.loads((page.RECORDS / "environments.json").read_text(encoding="utf-8"))["rows"]
    assert {row["env"] for row in rows} == set(ENVIRONMENTS) == {env_id for ids in page.WORLDS.values() for env_id in ids}
    assert all(len(page.worlds(ids).splitlines()) == 4 + 4 * len(ids) for ids in page.WORLDS.values()), "four levels each"


def test_a_number_on_the_wrong_side_of_its_bar_is_called_missed(tmp_path: pathlib.Path) -> None:
    shutil.copy(page.RECORDS / "sokoban.json", tmp_path)
    assert "missed" not in page.table(tmp_path)
    record = json.loads((tmp_path / "sokoban.json").read_text(encoding="utf-8"))
    record["steps_per_second"] = 1.9e6  # at least 2 million are wanted
    (tmp_path / "sokoban.json").write_text(json.dumps(record))
    assert page.table(tmp_path).count("missed") == 1 and "| 1.9 million **missed** | ≥ 2 |" in page.table(tmp_path)
    record["steps_per_second"], record["generation"]["6x6, 1 box, 3-6 pushes"]["median_ms"] = 2e6, 1.51  # at most 1.5 are wanted
    (tmp_path / "sokoban.json").write_text(json.dumps(record))
    assert "| 1.51 ms **missed** | ≤ 1.5 |" in page.table(tmp_path)


def test_outside_of_a_checkout_the_commit_is_unknown(tmp_path: pathlib.Path) -> None:
    assert commit(tmp_path) == "unknown"
