"""What an import costs: no heavy library where none is needed, and a help page at once."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "transformers", "accelerate", "trl", "pandas", "pyarrow", "sympy", "math_verify", "docker", "plotly", "datasets")


def loaded_after(code: str) -> set[str]:
    """Return the top-level modules in ``sys.modules`` after ``code`` ran in a fresh interpreter."""
    code += "; import sys; print('\\n'.join({m.partition('.')[0] for m in sys.modules}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("module", ["sdgym", "sdgym.envs", "sdgym.verifiers", "sdgym.config", "sdgym.cli", "sdgym.stats", "sdgym.text_env"])
def test_light_modules_load_nothing_heavy(module: str) -> None:
    assert not loaded_after(f"import {module}") & set(HEAVY)


def test_making_and_stepping_an_environment_needs_no_torch() -> None:
    code = "import gymnasium, sdgym; e = gymnasium.make('sdgym/Math-v0'); e.reset(seed=0); e.step('1')"
    assert not loaded_after(code) & {"torch", "transformers", "trl"}


def test_help_appears_within_half_a_second() -> None:
    for _ in range(10):  # one good try is enough: the machine may be busy, the program must not be slow
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sdgym", "--help"], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        if seconds < 0.5:
            return
    pytest.fail(f"sdgym --help took {seconds:.2f} s")


@pytest.mark.parametrize("name", ["core", "errors", "seeding", "stats"])
def test_the_lowest_layer_uses_the_standard_library_and_numpy_alone(root: pathlib.Path, name: str) -> None:
    allowed = {*sys.stdlib_module_names, "numpy", "sdgym"}
    for node in ast.walk(ast.parse((root / "sdgym" / f"{name}.py").read_text())):
        modules = (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        assert all(m.partition(".")[0] in allowed for m in modules), modules
