"""The commands of README and CONTRIBUTING that are marked ``<!-- executed -->`` run as written; links and names hold."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from sdgym.commands.scaffold import identifier
from sdgym.model_store import local_path

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- executed -->\n```(bash|python)\n(.*?)```", re.DOTALL)
PAGES = ["README.md", "CONTRIBUTING.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")))]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return (language, code) of the marked blocks."""
    return BLOCK.findall((ROOT / page).read_text())


MARKED = [
    pytest.param(*block, id=f"{page}-{number}") for page in ("README.md", "CONTRIBUTING.md") for number, block in enumerate(blocks(page))
]


@pytest.mark.parametrize("language, code", MARKED)
def test_marked_commands_run_as_written(language: str, code: str, tmp_path: pathlib.Path) -> None:
    if local_path("tiny") is None:
        pytest.skip("requires tiny: the embedded policy is not in this checkout")
    environment = {**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_the_first_minute_and_a_new_world_are_among_the_marked_commands() -> None:
    readme, guide = ("".join(code for _, code in blocks(page)) for page in ("README.md", "CONTRIBUTING.md"))
    for command in ("sdgym train", "sdgym report", "sdgym eval", "sdgym envs new", "sdgym envs check", "pytest -q", "sdgym.make"):
        assert command in readme, command
    assert "sdgym envs new" in guide and "sdgym algos new" in guide


def sdgym_lines() -> list[tuple[str, str]]:
    """Return every ``sdgym …`` line in the code blocks of the documentation, under a launcher or not."""
    found = []
    for page in PAGES:
        for code in re.findall(r"```(?:ba)?sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
            lines = code.replace("\\\n", " ").splitlines()  # a backslash continues a line
            commands = [re.match(r"(?:\.venv/bin/|accelerate launch .* -m )?(sdgym .*)", line.strip()) for line in lines]
            found += [(page, match[1]) for match in commands if match]
    return found


@pytest.mark.parametrize("page, line", sdgym_lines())
def test_every_documented_command_and_option_exists(page: str, line: str) -> None:
    import typer

    from sdgym.cli import app

    words = [w for w in shlex.split(line, comments=True)[1:] if w != "…"]
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"{page}: {line}"
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    assert all(w.split("=")[0] in options for w in words if w.startswith("--")), f"{page}: {line}"


def anchors(page: pathlib.Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            file = (ROOT / page).parent / name if name else ROOT / page
            assert file.exists(), f"{page} links to {target}"
            assert not anchor or anchor in anchors(file), f"{page} links to {target}"


def test_the_line_counts_of_the_algorithm_table_are_true() -> None:
    stated = re.findall(r"\[(\d+)\]\((algos/\w+\.py)\)", (ROOT / "README.md").read_text())
    assert len(stated) >= 20
    actual = {file: str(len((ROOT / file).read_text().splitlines())) for _, file in stated}
    assert {file: lines for lines, file in stated} == actual


def test_make_targets_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text()):
            assert target in targets, f"{page} names make {target}"


def test_names_become_module_and_class() -> None:
    assert identifier("WordCount") == ("word_count", "WordCount") == identifier("word-count")
    assert identifier("best_of_group") == ("best_of_group", "BestOfGroup")
