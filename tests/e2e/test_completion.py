"""Shell completion, asked for as the documentation says."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import pytest


def ask(**variables: str) -> str:
    command = [sys.executable, "-c", "from sdgym.cli import main; main()"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}).stdout


def test_a_script_for_each_shell_of_the_documentation(root: pathlib.Path) -> None:
    shells = re.findall(r"_SDGYM_COMPLETE=source_(\w+) sdgym", (root / "docs" / "operating.md").read_text())
    assert shells == ["bash", "zsh", "fish"]
    for shell in shells:
        assert f"complete_{shell}" in ask(_SDGYM_COMPLETE=f"source_{shell}"), shell


@pytest.mark.parametrize(("typed", "expected"), [("sdgym tr", "train"), ("sdgym envs ch", "check"), ("sdgym compare --eng", "--engine")])
def test_a_word_is_completed(typed: str, expected: str) -> None:
    words = typed.split()
    told = ask(_SDGYM_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1))
    assert expected in told.split()
