"""What an import costs: no heavy library where none is needed, and a help page at once."""

from __future__ import annotations

import ast
import pathlib
import resource
import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "transformers", "accelerate", "trl", "pandas", "pyarrow", "sympy", "math_verify", "docker", "plotly", "datasets", "scipy")


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
    """By the clock, or by the processor's time where other work keeps the program waiting; one good try is enough."""
    for _ in range(10):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "sdgym", "--help"], check=True, capture_output=True)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if min(seconds, worked) < 0.5:
            return
    pytest.fail(f"sdgym --help took {seconds:.2f} s, {worked:.2f} s of them at work")


@pytest.mark.parametrize("name", ["core.py", "errors.py", "seeding.py", "stats"])
def test_the_lowest_layer_uses_the_standard_library_and_numpy_alone(root: pathlib.Path, name: str) -> None:
    """SciPy is the statistics' own, and loaded only inside the functions that need it."""
    allowed = {*sys.stdlib_module_names, "numpy", "sdgym"}
    path = root / "sdgym" / name
    for file in [path] if path.is_file() else path.glob("*.py"):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            modules = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            inner = {"scipy"} if name == "stats" and node not in tree.body else set()
            assert all(m.partition(".")[0] in allowed | inner for m in modules), (file.name, modules)
