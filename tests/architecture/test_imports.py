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


def seconds_of(*arguments: str) -> float:
    """By the clock, or by the processor's time where other work keeps the program waiting."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    elapsed, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return min(elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def test_help_appears_within_half_a_second() -> None:
    """One good try is enough; on a slower machine, at most half as much again as the two libraries beneath cost alone."""
    tries = []
    for _ in range(10):
        ours, theirs = seconds_of("-m", "sdgym", "--help"), seconds_of("-c", "import gymnasium, typer")
        if ours < max(0.5, 1.5 * theirs):
            return
        tries.append(f"{ours:.2f} against {theirs:.2f}")
    pytest.fail(f"sdgym --help took, in seconds against the bare libraries: {', '.join(tries)}")


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
