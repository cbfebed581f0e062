"""docs/composition.md: its table is that of the presets, its links lead to code, its tutorial runs as written."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest

from sdgym.algos.composition.table import END, HEADER, NAMED, START, composition_of, markdown, rows, updated
from sdgym.algos.presets import build_algorithm, load_preset, preset_names

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "composition.md"
BLOCK = re.compile(r"<!-- executed -->\n```(bash|python)\n(.*?)```", re.DOTALL)


def test_the_table_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert updated(text) == text, "run: sdgym algos table --into docs/composition.md"
    stale = text.replace("| srpo", "| old", 1).replace("[srpo]", "[old]", 1)
    assert updated(stale) == text != stale
    with pytest.raises(ValueError, match="lacks the marks"):
        updated("no table here")


def test_every_preset_of_the_family_has_a_row_and_every_cell_that_does_something_a_link() -> None:
    found = {row[0].text: row for row in rows()}
    assert set(found) == {*NAMED, *(name for name in preset_names() if load_preset(name).algorithm == "compose")}
    assert all(len(row) == len(HEADER) for row in found.values())
    for name, row in found.items():
        for axis, cell in zip(HEADER, row, strict=True):
            linked = [cell, *cell.more]
            assert all((ROOT / part.path).is_file() if part.path else part.text == "–" for part in linked), (name, axis)
    cells = dict(zip(HEADER, found["srpo"], strict=True))
    assert cells["combination"].text == "shared" and cells["token weight"].path == "algos/composition/token_weights.py"
    assert markdown().count("\n") == len(found) + 1 and START in PAGE.read_text() and END in PAGE.read_text()


def test_methods_without_a_composition_have_none() -> None:
    assert composition_of(build_algorithm("vpd")) is None and composition_of(build_algorithm("opsd")) is not None


def test_each_preset_has_a_page_that_names_it_and_its_status() -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "algorithms").glob("*.md")}
    for name in preset_names():
        preset = load_preset(name)
        mine = [text for text in pages.values() if f"`{name}`" in text]
        assert mine, f"no page in docs/algorithms names `{name}`"
        status = "own construction" if preset.status == "own" else preset.status
        composed = preset.algorithm == "compose"
        assert any(status in text.lower() and (f"sdgym train --algo {name}" in text or not composed) for text in mine), name


@pytest.mark.slow
@pytest.mark.parametrize("language, code", BLOCK.findall(PAGE.read_text(encoding="utf-8")))
def test_the_tutorial_runs_as_written(language: str, code: str, tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
