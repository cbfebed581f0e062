"""The tables of docs/scale.md are what the commands above them print."""

from __future__ import annotations

import pathlib
import re
import shlex

import pytest

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text()
BLOCK = re.compile(r"<!-- simulated -->\n```bash\n(.*?)\n```\n```text\n(.*?)\n```", re.DOTALL)
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*")


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def test_the_page_has_its_tables() -> None:
    assert len(BLOCK.findall(PAGE)) == PAGE.count("<!-- simulated -->") >= 6


@pytest.mark.slow
@pytest.mark.parametrize("command, shown", BLOCK.findall(PAGE), ids=lambda text: text[:60] if text.startswith("python") else "")
def test_a_table_is_what_its_command_prints(
    command: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, root: pathlib.Path
) -> None:
    pytest.importorskip("simpy", reason="requires simpy")
    from sdgym.benchmarks.simulate.__main__ import main

    monkeypatch.chdir(root)
    assert main(shlex.split(command)[3:]) == 0
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines())
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    assert numbers(printed) == pytest.approx(numbers(shown), rel=0.02, abs=1.01)  # another version may round the last digit otherwise
