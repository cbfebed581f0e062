"""Imports go downward only (contracts in pyproject.toml), and every module has its place in a layer."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tomllib


def test_layers_hold(root: pathlib.Path) -> None:
    linter = pathlib.Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_module_has_a_layer(root: pathlib.Path) -> None:
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c for c in contracts if c["type"] == "layers")["layers"]
    placed = {name.strip("() ") for layer in layers for name in layer.replace("|", ":").split(":")}
    modules = {
        f"sdgym.{p.stem if p.is_file() else p.name}"
        for p in (root / "sdgym").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").is_file()
    }
    assert modules - placed == {"sdgym.__init__", "sdgym.__main__"}
